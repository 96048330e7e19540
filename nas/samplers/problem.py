"""What a caller may tell the sampler of a study beforehand."""

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

# Sets weighed by an ask where the problem does not say.
PROPOSALS = 1500


def nothing(_: Params) -> Mapping[int, float]:
    """What is known of a set where nothing is. No lambda: a sampler can be pickled."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What the caller knows of the objective function before any evaluation.

    ``distributions``
        of every parameter that a set may hold; None: those that the study's trials have asked for.
    ``known``
        the objectives known for a parameter set, by index, in the study's own units; None where
        arithmetic rejects the set, which is then never proposed.
    ``complete``
        given some parameters and a source of chance, a whole set: the values that are asked for
        kept, the missing ones drawn, the others dropped. ``complete({}, rng)`` is a draw. Without
        it every set holds every parameter.
    ``proposals``
        how many sets an ask weighs; fewer make an ask faster where ``complete`` and ``known`` are
        slow.
    ``older``
        older studies of such networks, as related tasks.
    """

    distributions: Mapping[str, BaseDistribution] | None = None
    known: Callable[[Params], Mapping[int, float] | None] = nothing
    complete: Callable[[Params, random.Random], Params] | None = None
    proposals: int = PROPOSALS
    older: tuple[Older, ...] = ()

    @cached_property
    def settled(self) -> Params:
        """The parameters that have one value."""
        return {name: only(d) for name, d in (self.distributions or {}).items() if d.single()}

    def whole(self, params: Params, chance: random.Random) -> Params:
        """The set that some parameters are completed to, as ``known`` takes it."""
        return self.complete(params, chance) if self.complete else params | self.settled

    def costs(self, params: Params, signs: Floats) -> Floats | None:
        """The known objectives of a whole set, times ``signs`` (objectives,), NaN for the others;
        None for a set that is rejected."""
        known = self.known(params)
        if known is None:
            return None
        costs = np.full(len(signs), np.nan)
        for k, value in known.items():
            costs[k] = value * signs[k]
        return costs
