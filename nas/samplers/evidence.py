"""What a study holds for the model, read anew only where it changed."""

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

# The user attribute of a trial that was given up before it was evaluated: it tells nothing, but is
# not proposed again. Its state would be that of a failure.
DROPPED = "dropped"
# Another: the places of the objectives that were not measured, as a constraint was broken before;
# the values there are the worst that there are.
LACKING = "lacking"


@dataclass(frozen=True, slots=True)
class Finished:
    """One finished trial: its row, its minimised values and its constraints. None: it failed; NaN:
    not measured, as a constraint was broken before."""

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
    """What a study holds: finished trials, the rows being evaluated, the directions' signs, and the
    keys of what was finished or given up."""

    encoding: Encoding
    finished: tuple[Finished, ...]
    pending: Floats
    signs: Floats
    tried: frozenset[bytes] = frozenset()

    @cached_property
    def taken(self) -> frozenset[bytes]:
        """What is never proposed again."""
        return self.tried.union(keys(self.pending))


@dataclass(frozen=True)
class Reading:
    """A study's ``trials`` when it was last read; by number, what the finished ones gave and the
    rows of those that run; the keys of what was finished or given up."""

    source: Any = None
    trials: Sequence[FrozenTrial] = ()
    finished: Mapping[int, Finished] = field(default_factory=dict)
    running: Mapping[int, Floats] = field(default_factory=dict)
    tried: frozenset[bytes] = frozenset()

    def again(self, trials: Sequence[FrozenTrial], encoding: Encoding, signs: Floats) -> Reading:
        """What is another object than it was is read, and that alone: of 20,000 trials one ask
        finds a few, and to look at each took 30 ms."""
        finished, running, tried = dict(self.finished), dict(self.running), set[bytes]()
        for t, was in zip_longest(trials, self.trials):
            if t is was or t is None:
                continue
            running.pop(t.number, None)
            if t.state.is_finished():
                told = finished_of(t, encoding, signs)
                tried.add(told.key)
                if DROPPED not in t.user_attrs:
                    finished[t.number] = told
            elif t.state == TrialState.RUNNING and t.params:
                running[t.number] = encoding.row(t.params)
        return Reading(self.source, trials, finished, running, self.tried | tried)


def finished_of(trial: FrozenTrial, encoding: Encoding, signs: Floats) -> Finished:
    """A trial that gave no values, or values that are no numbers, has failed."""
    values = None
    if trial.state == TrialState.COMPLETE and np.isfinite(trial.values).all():
        values = np.array(trial.values) * signs
        values[trial.user_attrs.get(LACKING, [])] = np.nan
    return Finished(encoding.row(trial.params), values, trial.constraints)
