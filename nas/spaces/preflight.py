"""Examines a space before any training: how many networks, their sizes, which fit, what is idle."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.errors import NothingFound, ShapeError
from nas.language.architecture import Architecture
from nas.metrics import arithmetic, located, precise
from nas.spaces.bounds import far
from nas.spaces.space import Chosen, Draw, Space

DRAWS = 2_000  # random ones that break a constraint each, before nothing is said to meet them
ENUMERATED = 20_000  # up to so many settings are counted by enumeration
FLIPS = 40  # changes of a parameter without effect, after which it is called idle
LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its standard error, which is 0 where the number is exact."""

    value: float
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """How a size is spread over the draws: its quantiles at ``LEVELS``, and how many draws lie in
    each half decade, by the exponent of ten at which that begins."""

    quantiles: tuple[float, ...]
    histogram: Mapping[float, int]


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a number of random draws tell of a space.

    ``valid`` is the share of draws that fit the data. ``settings`` counts the valid settings of
    the parameters, exactly or by Knuth's estimate. Different settings may give one network:
    ``networks`` is the exact number of networks where all settings were tried, else None, and then
    it lies between ``seen``, the different networks among the draws, and ``settings``.

    ``asked`` is the fewest and the most parameters of a draw. ``sizes`` spreads each metric that
    arithmetic knows. ``fits`` is the share of valid draws
    within all constraints of arithmetic, ``shares`` within each. ``idle`` are parameters whose
    change never changed the network; ``unasked`` domains that gave no draw a value.
    """

    draws: int
    valid: float
    settings: Estimate
    networks: int | None
    seen: int
    asked: tuple[int, int]
    sizes: Mapping[str, Spread]
    fits: float
    shares: Mapping[str, float]
    idle: tuple[str, ...]
    unasked: tuple[str, ...]
    warnings: tuple[str, ...]


def check(space: Space, draws: int = 1_000, seed: int = 0) -> Preflight:
    """Draws architectures of a space and takes stock. Raises SpaceError where none fits."""
    rng = random.Random(seed)
    valid: list[tuple[Draw, Architecture]] = []
    used: set[str] = set()
    for _ in range(draws):
        draw = Draw(rng)
        chooser = Chosen(space, draw)
        try:
            valid.append((draw, space.chosen(chooser)))
        except ShapeError:
            continue
        used |= chooser.used
    if not valid:
        space.draw(rng)  # says what does not fit
    architectures = [architecture for _, architecture in valid]
    settings = _knuth([draw.odds for draw, _ in valid], draws)
    networks = None
    if settings.value <= 2 * ENUMERATED and (known := _enumerate(space)):
        settings, networks = Estimate(known[0]), known[1]
    seen = len(set(architectures)) if networks is None else networks
    excesses = [space.excess(architecture) for architecture in architectures]
    sizes = [arithmetic(architecture) for architecture in architectures]
    bounds = [metric for metric in space.constraints if metric in sizes[0]]
    asked = [len(draw.params) for draw, _ in valid]
    result = Preflight(
        draws=draws,
        valid=len(valid) / draws,
        settings=settings,
        networks=networks,
        seen=seen,
        asked=(min(asked), max(asked)),
        sizes={metric: _spread([size[metric] for size in sizes]) for metric in sizes[0]},
        fits=_share([not excess for excess in excesses]),
        shares={metric: _share([metric not in e for e in excesses]) for metric in bounds},
        idle=tuple(_idle(space, valid, rng)),
        unasked=tuple(name for name in space.domains if name not in used),
        warnings=(),
    )
    return dataclasses.replace(result, warnings=tuple(_warnings(result)))


def refuse_empty(space: Space) -> None:
    """Raises NothingFound where no draw of a space meets what bounds it before any training."""
    rng = random.Random(0)
    missed = []
    for _ in range(DRAWS):
        over = space.excess(space.draw(rng)[1])
        if not over:
            return
        missed.append(over)
    raise nothing_meets(space, missed)


def nothing_meets(space: Space, missed: Sequence[Mapping[str, float]]) -> NothingFound:
    """The error where all draws break a constraint; ``missed`` has each draw's excess by metric.
    Names the nearest draw, and where to look further, unless a latency profile predicts it."""
    bounds = space.constraints
    nearest = min(missed, key=lambda over: far(over, bounds))
    values = {n: bounds[n].limit + (by if bounds[n].upper else -by) for n, by in nearest.items()}
    bounds_text = ", ".join(f"{metric} {bound}" for metric, bound in bounds.items())
    has = ", ".join(f"{name} {precise(value)}" for name, value in values.items())
    look = "" if all(map(located, nearest)) else "; `nas space check` of it shows what it holds"
    return NothingFound(
        f"none of {len(missed)} draws of {space.name} meets the constraints ({bounds_text}): "
        f"the nearest has {has}{look}"
    )


def _warnings(result: Preflight) -> Iterator[str]:
    if result.valid < 0.99:
        yield f"{result.valid:.1%} of the draws fit the data: should be at least 99%"
    if result.networks is not None and result.networks < 20:
        yield f"different networks in the whole space: {result.networks}, fewer than 20"
    if result.fits < 0.05:
        yield f"{result.fits:.1%} of the draws are within the constraints: should be at least 5%"
    for name in result.idle:
        yield f"{name} never changes the network"
    for name in result.unasked:
        yield f"where.{name} was never asked for: another has its place, or none of it matters"


# --- how many ------------------------------------------------------------------------------------


def _knuth(odds: Sequence[float], draws: int) -> Estimate:
    """The number of leaves of the tree of choices (Knuth 1975, "Estimating the efficiency of
    backtrack programs", theorem 1): one over the probability of a random path is right on average.
    Draws that do not fit count as none."""
    if math.inf in odds:
        return Estimate(math.inf, math.inf)
    mean = sum(odds) / draws
    squares = sum((odd - mean) ** 2 for odd in odds) + (draws - len(odds)) * mean**2
    return Estimate(mean, math.sqrt(squares / max(1, draws - 1) / draws))


class _Path:
    """A trial that takes given branches, then the first ones, and remembers how many there were."""

    def __init__(self, branches: Sequence[int]) -> None:
        self.branches = branches
        self.taken: list[tuple[int, int]] = []
        self.real = False  # a real parameter was sampled: the branches cannot be counted

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[self._branch(len(choices))]

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        values = range(low, high + 1, step)
        return values[self._branch(len(values))]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.real = True
        return low

    def _branch(self, size: int) -> int:
        at = len(self.taken)
        branch = self.branches[at] if at < len(self.branches) else 0
        self.taken.append((branch, size))
        return branch

    def next(self) -> list[int] | None:
        """The branches of the path after this one, or None after the last."""
        taken = list(self.taken)
        while taken and taken[-1][0] == taken[-1][1] - 1:
            taken.pop()
        return [*(b for b, _ in taken[:-1]), taken[-1][0] + 1] if taken else None


def _enumerate(space: Space) -> tuple[int, int] | None:
    """The number of valid settings and of different networks; None where there are too many."""
    settings, networks = 0, set()
    branches: list[int] = []
    for _ in range(ENUMERATED):
        path = _Path(branches)
        try:
            networks.add(space.suggest(path))
            settings += 1
        except ShapeError:
            pass
        if path.real:
            return None
        following = path.next()
        if following is None:
            return settings, len(networks)
        branches = following
    return None


# --- what it takes -------------------------------------------------------------------------------


def _spread(sizes: Sequence[float]) -> Spread:
    ordered = sorted(sizes)
    bins = Counter(math.floor(2 * math.log10(max(1, size))) / 2 for size in sizes)
    return Spread(
        tuple(ordered[round(level * (len(ordered) - 1))] for level in LEVELS),
        dict(sorted(bins.items())),
    )


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


# --- what does not matter ------------------------------------------------------------------------


def _idle(
    space: Space, valid: Sequence[tuple[Draw, Architecture]], rng: random.Random
) -> Iterator[str]:
    """The parameters that change nothing, in ``FLIPS`` draws that have them, to a value that
    another draw has."""
    values: dict[str, set[Any]] = {}
    for draw, _ in valid:
        for name, value in draw.params.items():
            values.setdefault(name, set()).add(value)
    for name, known in values.items():
        having = ((d.params, a) for d, a in valid if name in d.params)
        if len(known) > 1 and not any(
            _changes(space, params, name, value, architecture, rng)
            for params, architecture in itertools.islice(having, FLIPS)
            for value in known - {params[name]}
        ):
            yield name


def _changes(
    space: Space,
    params: Mapping[str, Any],
    name: str,
    value: Any,
    architecture: Architecture,
    rng: random.Random,
) -> bool:
    try:
        return space.suggest(Draw(rng, {**params, name: value})) != architecture
    except ShapeError:
        return True
