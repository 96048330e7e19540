"""A study's trials as the model needs them, reading only what changed since the last ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from nas.samplers.encoding import Encoding, keys

Floats = NDArray[np.float64]

# User attribute of a trial that was dropped before its evaluation: it is neither an observation nor
# proposed again. Its state alone would say that it failed.
DROPPED = "dropped"
# User attribute: the indices of objectives that were not measured, as a constraint was broken
# first; Optuna is given the worst values for them.
LACKING = "lacking"


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished trial: its row (parameters,), its minimised values (objectives,) and constraints.
    Values None: it failed; NaN: not measured, as a constraint was broken first."""

    row: Floats
    values: Floats | None
    constraints: Mapping[str, float]

    @property
    def key(self) -> bytes:
        return keys(self.row[None])[0]

    @property
    def feasible(self) -> bool:
        return self.whole and all(c <= 0 for c in self.constraints.values())

    @property
    def whole(self) -> bool:
        """Whether all objectives were measured."""
        return self.values is not None and bool(np.isfinite(self.values).all())


@dataclass(frozen=True)
class Evidence:
    """A study's finished trials, the rows being evaluated, the signs that minimise its objectives
    (objectives,), and the keys of all rows finished or dropped."""

    encoding: Encoding
    finished: tuple[Finished, ...]
    pending: Floats
    signs: Floats
    tried: frozenset[bytes] = frozenset()

    @cached_property
    def taken(self) -> frozenset[bytes]:
        """The keys of rows that are not proposed again."""
        return self.tried.union(keys(self.pending))


@dataclass(frozen=True)
class Reading:
    """A study's ``trials`` when last read: the finished ones and the rows of running ones, by
    number, and the keys of all rows finished or dropped."""

    source: Any = None
    trials: Sequence[FrozenTrial] = ()
    finished: Mapping[int, Finished] = field(default_factory=dict)
    running: Mapping[int, Floats] = field(default_factory=dict)
    tried: frozenset[bytes] = frozenset()

    def again(self, trials: Sequence[FrozenTrial], encoding: Encoding, signs: Floats) -> Reading:
        """Reads only the trials that are other objects than before: of 20,000, one ask finds a few,
        and parsing all took 30 ms."""
        finished, running, tried = dict(self.finished), dict(self.running), set[bytes]()
        for t, was in zip_longest(trials, self.trials):
            if t is was or t is None:
                continue
            running.pop(t.number, None)
            if t.state.is_finished():
                read = finished_of(t, encoding, signs)
                tried.add(read.key)
                if DROPPED not in t.user_attrs:
                    finished[t.number] = read
            elif t.state == TrialState.RUNNING and t.params:
                running[t.number] = encoding.row(t.params)
        return Reading(self.source, trials, finished, running, self.tried | tried)


def finished_of(trial: FrozenTrial, encoding: Encoding, signs: Floats) -> Finished:
    """A trial without finite values has failed."""
    values = None
    if trial.state == TrialState.COMPLETE and np.isfinite(trial.values).all():
        values = np.array(trial.values) * signs
        values[trial.user_attrs.get(LACKING, [])] = np.nan
    return Finished(encoding.row(trial.params), values, trial.constraints)
