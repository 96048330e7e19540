"""What the sampler may know about a problem before any evaluation."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution

from nas.samplers.encoding import only
from nas.samplers.related import Older

Floats = NDArray[np.float64]
Params = dict[str, Any]
Noise = Callable[[int, Floats], Floats | None]  # see Problem.noise

# Default number of parameter sets that an ask scores.
PROPOSALS = 1500


def nothing(_: Params) -> Mapping[int, float]:
    """The default of ``Problem.known``. No lambda: a sampler can be pickled."""
    return {}


def unknown(_: int, values: Floats) -> None:
    """The default of ``Problem.noise``."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What the caller knows of the objective function before any evaluation.

    ``distributions``
        of every parameter a set may have; None: those that the study's trials have asked for.
    ``known``
        maps a parameter set to its known objectives, by index, in the study's units; None rejects
        the set, which is then never proposed.
    ``complete``
        maps a partial set and a random generator to a complete one: keeps values that apply, draws
        missing ones, drops the rest. ``complete({}, rng)`` is a draw. Without it every set has
        every parameter.
    ``proposals``
        how many sets an ask scores; fewer make it faster where ``complete`` and ``known`` are slow.
    ``older``
        older studies to transfer from.
    ``seconds``
        the expected cost of evaluating a complete set, above 0; None: cost does not matter.
    ``noise``
        the variances (n,) of an evaluation's noise where an objective, by index, has the values
        (n,), in the study's units; None: unknown.
    """

    distributions: Mapping[str, BaseDistribution] | None = None
    known: Callable[[Params], Mapping[int, float] | None] = nothing
    complete: Callable[[Params, random.Random], Params] | None = None
    proposals: int = PROPOSALS
    older: tuple[Older, ...] = ()
    seconds: Callable[[Params], float] | None = None
    noise: Noise = unknown

    @cached_property
    def settled(self) -> Params:
        """The parameters with a single value."""
        return {name: only(d) for name, d in (self.distributions or {}).items() if d.single()}

    def whole(self, params: Params, chance: random.Random) -> Params:
        """The complete set for some parameters, as ``known`` takes it."""
        return self.complete(params, chance) if self.complete else params | self.settled

    def costs(self, params: Params, signs: Floats) -> Floats | None:
        """The known objectives of a complete set times ``signs`` (objectives,), NaN for the others;
        None for a rejected set."""
        known = self.known(params)
        if known is None:
            return None
        costs = np.full(len(signs), np.nan)
        for k, value in known.items():
            costs[k] = value * signs[k]
        return costs
