"""The sampler's ``Problem`` of a search space."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from nas.errors import NasError
from nas.language.architecture import Architecture
from nas.language.domains import PRESENCE, Choice, Domain, Floats, Ints, Progression
from nas.metrics import arithmetic, scaled
from nas.samplers.problem import Problem
from nas.spaces.draws import Draw
from nas.spaces.space import Space

# Sets scored by an ask: drawing one and computing its costs takes about 0.4 ms.
PROPOSALS = 400


class _Costs(NamedTuple):
    """The arithmetic of a set: known objectives by index, and MACs per image."""

    objectives: Mapping[int, float]
    macs: int


def problem(
    space: Space,
    objectives: Sequence[str],
    expected: Callable[[int], float | None] | None = None,
) -> Problem:
    """The problem: the distributions of all parameters, the arithmetic objectives of a set (scaled
    as in trade-offs), and the completion of a partial set. With a time budget, ``expected`` gives
    the cost of a training by its MACs, in any unit (None: unknown yet)."""
    costs: dict[tuple[Any, ...], _Costs | None] = {}

    def complete(params: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
        # A complete set is looked up: with 1,000 running trials that saves 0.2 s per ask.
        if _key(params) in costs:
            return dict(params)
        trial = Draw(rng, params)
        architecture = _suggest(space, trial)
        space.suggest_recipe(trial)
        costs[_key(trial.params)] = _known(space, objectives, architecture)
        return trial.params

    def of(params: Mapping[str, Any]) -> _Costs | None:
        key = _key(params)
        if key not in costs:
            architecture = _suggest(space, Draw(random.Random(0), params))
            costs[key] = _known(space, objectives, architecture)
        if len(costs) > 20_000:
            costs.clear()
            return of(params)
        return costs[key]

    def known(params: Mapping[str, Any]) -> Mapping[int, float] | None:
        found = of(params)
        return found.objectives if found else None

    def seconds(params: Mapping[str, Any]) -> float:
        found = of(params)
        return (found and expected and expected(found.macs)) or 1.0

    return Problem(
        distributions=dict(distributions(space)),
        known=known,
        complete=complete,
        proposals=PROPOSALS,
        seconds=seconds if expected else None,
    )


def _key(params: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(params.items()))


def _suggest(space: Space, trial: Draw) -> Architecture | None:
    """The architecture; None where the draw does not fit the data."""
    try:
        return space.suggest(trial)
    except NasError:
        return None


def _known(
    space: Space, objectives: Sequence[str], architecture: Architecture | None
) -> _Costs | None:
    if architecture is None or space.excess(architecture):
        return None
    computed = arithmetic(architecture, objectives)
    places = {i: name for i, name in enumerate(objectives) if name in computed}
    known = {i: scaled(name, computed[name]) for i, name in places.items()}
    return _Costs(known, architecture.macs)


def distributions(space: Space) -> Iterator[tuple[str, BaseDistribution]]:
    """Every parameter that a draw of the space may ask for, with its distribution."""
    # Sorted: draws depend on the order, and that of a set varies between processes.
    options = {key: PRESENCE for key in sorted(space.open_keys()) if key.endswith("?")}
    domains = {**options, **space.domains}
    for key, domain in domains.items():
        turns = [range(1, _most(space, name) + 1) for name in domain.per]
        for index in itertools.product(*turns):
            suffix = f"[{','.join(map(str, index))}]" if index else ""
            yield from _distributions(key, suffix, domain)
    for key, domain in space.recipe.items():
        yield from _distributions(f"recipe.{key}", "", domain)


def _most(space: Space, count: str) -> int:
    return max(int(value) for value in space.domains[count].values.some())


def _distributions(key: str, index: str, domain: Domain) -> Iterator[tuple[str, BaseDistribution]]:
    match domain.values:
        case Choice(values) if len(values) > 1:
            yield key + index, CategoricalDistribution(values)
        case Ints(low, high, step, log) if high > low:
            yield key + index, IntDistribution(low, high, log=log, step=step)
        case Floats(low, high, log) if high > low:
            yield key + index, FloatDistribution(low, high, log=log)
        case Progression(start, times):
            if len(start) > 1:
                yield key + index, CategoricalDistribution(start)
            if len(times) > 1:
                yield f"{key}.times{index}", CategoricalDistribution(times)
