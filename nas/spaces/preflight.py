"""Examines a space before any training: how many networks, their sizes, how many meet the
constraints, which parameters have no effect."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas import metrics
from nas.errors import NasError, NothingFound, ShapeError
from nas.language.architecture import Architecture
from nas.metrics import arithmetic, located, precise
from nas.spaces.bounds import far
from nas.spaces.draws import Chosen, Draw
from nas.spaces.space import Space

DRAWS = 2_000  # random draws that all break a constraint, before a space counts as infeasible
ENUMERATED = 20_000  # most settings that are counted by enumeration
FEW = 1_000  # most settings that a search enumerates (0.2 ms each), to know which are left
ELEMENTS = 400_000  # most elements, each 20 us, of all networks that are enumerated
LONG, LEAST = 400, 10  # elements of a draw, each 20 us, beyond which there are fewer; but so many
FLIPS = 40  # changes of a parameter without effect, before it counts as idle
PLACES = 32  # repetitions, evenly spread, at which a parameter of each is examined
LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its standard error; 0: exact."""

    value: float
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """The distribution of a metric over the draws: its quantiles at ``LEVELS``, and a histogram by
    half decades, keyed by the exponent of ten at which each begins."""

    quantiles: tuple[float, ...]
    histogram: Mapping[float, int]


@dataclass(frozen=True, slots=True)
class Preflight:
    """Statistics of a space over random draws.

    ``draws`` were examined of the ``requested``, fewer where networks are long. ``valid`` is the
    fraction of draws that fit the data. ``settings`` counts the valid settings of
    the parameters, exactly or by Knuth's estimate. Different settings may give one network:
    ``networks`` is the exact number of networks if all settings were enumerated, else None, and it
    lies between ``seen``, the different networks among the draws, and ``settings``.

    ``asked`` are the fewest and the most parameters of a draw. ``sizes`` has the distribution of
    each arithmetic metric. ``fits`` is the fraction of valid draws that meet all arithmetic
    constraints, ``shares`` that for each constraint. ``idle`` are parameters whose change never
    changed the network; ``unasked`` are domains that no draw used.
    """

    draws: int
    requested: int
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
    """Computes the statistics of a space, over fewer ``draws`` where the networks have more than
    ``LONG`` elements each. Settings are enumerated where all their networks have no more than
    ``ELEMENTS`` (4,096 settings of up to 4,096 elements took minutes), else estimated. Raises
    SpaceError where no draw fits the data."""
    rng, requested = random.Random(seed), draws
    valid: list[tuple[Draw, Architecture]] = []
    used: set[str] = set()
    room = LONG * draws
    for number in range(draws):
        if room <= 0 and len(valid) >= LEAST:
            draws = number
            break
        if number == 100 and not valid:
            space.draw(rng)  # raises, unless one of another 100 is valid
        draw = Draw(rng)
        chooser = Chosen(space.domains, space.elements, draw)
        try:
            valid.append((draw, space.chosen(chooser)))
        except ShapeError:
            continue
        used |= chooser.used
        room -= len(valid[-1][1].steps)
    if not valid:
        space.draw(rng)  # raises, with the reason
    architectures = [architecture for _, architecture in valid]
    settings = _knuth([draw.odds for draw, _ in valid], draws)
    elements = _knuth([draw.odds * len(network.steps) for draw, network in valid], draws)
    networks = None
    few_enough = settings.value <= 2 * ENUMERATED and elements.value <= 2 * ELEMENTS
    if few_enough and (known := _enumerate(space, ENUMERATED)):
        settings, networks = Estimate(known[0]), len(known[1])
    seen = len(set(architectures)) if networks is None else networks
    excesses = [space.excess(architecture) for architecture in architectures]
    sizes = [arithmetic(architecture) for architecture in architectures]
    bounds = [metric for metric in space.constraints if metric in sizes[0]]
    asked = [len(draw.params) for draw, _ in valid]
    result = Preflight(
        draws=draws,
        requested=requested,
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
    return dataclasses.replace(result, warnings=(*_warnings(result), *_unmeasured(space)))


def few(space: Space) -> frozenset[str] | None:
    """The fingerprints of all networks of a space that meet its arithmetic constraints; None where
    it has more than ``FEW`` settings, of more than ``ELEMENTS`` in all, or searches the recipe."""
    if len(space.fixed) < len(space.recipe):
        return None
    rng, estimate = random.Random(0), 0.0  # as in ``_knuth``
    for _ in range(20):
        draw = Draw(rng)
        with contextlib.suppress(ShapeError):
            space.suggest(draw)
            estimate += draw.odds / 20
        if estimate > 2 * FEW:
            return None
    if not (known := _enumerate(space, FEW)):
        return None
    return frozenset(each.fingerprint for each in known[1] if not space.excess(each))


def refuse_empty(space: Space) -> None:
    """Raises NothingFound where no draw of a space meets its arithmetic constraints."""
    rng = random.Random(0)
    missed = []
    for _ in range(DRAWS):
        over = space.excess(space.draw(rng)[1])
        if not over:
            return
        missed.append(over)
    raise nothing_meets(space, missed)


def nothing_meets(space: Space, missed: Sequence[Mapping[str, float]]) -> NothingFound:
    """The error where all draws break a constraint; ``missed`` has each draw's excess by metric. It
    names the nearest draw and, unless a latency profile predicts the metric, the command that
    examines the space."""
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


def _unmeasured(space: Space) -> Iterator[str]:
    for where, names in (("objective", space.objectives), ("constraint", space.constraints)):
        for name in names:
            try:
                metrics.check([name], where)
            except NasError as error:
                yield f"without an --evaluator: {error}"


# --- counting ------------------------------------------------------------------------------------


def _knuth(odds: Sequence[float], draws: int) -> Estimate:
    """The estimated number of leaves of the tree of choices (Knuth 1975, "Estimating the efficiency
    of backtrack programs", theorem 1): one over the probability of a random path is an unbiased
    estimate. Draws that do not fit the data count 0."""
    most = max(odds, default=0.0)
    if math.isinf(most):
        return Estimate(math.inf, math.inf)
    parts = [odd / most for odd in odds]  # their squares do not overflow
    mean = sum(parts) / draws
    squares = sum((part - mean) ** 2 for part in parts) + (draws - len(parts)) * mean**2
    return Estimate(most * mean, most * math.sqrt(squares / max(1, draws - 1) / draws))


class _Path:
    """A trial that takes the given branches, then always the first, and records the number of
    branches at each choice."""

    def __init__(self, branches: Sequence[int]) -> None:
        self.branches = branches
        self.taken: list[tuple[int, int]] = []
        self.real = False  # whether a float was sampled, so that branches cannot be counted

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
        """The branches of the next path; None after the last."""
        taken = list(self.taken)
        while taken and taken[-1][0] == taken[-1][1] - 1:
            taken.pop()
        return [*(b for b, _ in taken[:-1]), taken[-1][0] + 1] if taken else None


def _enumerate(space: Space, most: int) -> tuple[int, set[Architecture]] | None:
    """The number of valid settings and the different networks; None for more than ``most``, or
    ``ELEMENTS`` in all."""
    settings, networks, room = 0, set[Architecture](), ELEMENTS
    branches: list[int] = []
    for _ in range(most):
        path = _Path(branches)
        try:
            network = space.suggest(path)
            networks.add(network)
            settings += 1
            room -= len(network.steps)
        except ShapeError:
            pass
        if path.real or room < 0:
            return None
        following = path.next()
        if following is None:
            return settings, networks
        branches = following
    return None


# --- sizes ---------------------------------------------------------------------------------------


def _spread(sizes: Sequence[float]) -> Spread:
    ordered = sorted(sizes)
    bins = Counter(math.floor(2 * math.log10(max(1, size))) / 2 for size in sizes)
    return Spread(
        tuple(ordered[round(level * (len(ordered) - 1))] for level in LEVELS),
        dict(sorted(bins.items())),
    )


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


# --- idle parameters -----------------------------------------------------------------------------


def _idle(
    space: Space, valid: Sequence[tuple[Draw, Architecture]], rng: random.Random
) -> Iterator[str]:
    """The parameters without effect: in none of ``FLIPS`` draws that have it does setting it to
    another draw's value change the network. Of a parameter with more than ``PLACES`` values, one
    per repetition, that many are examined: each costs a network as long as the repetitions."""
    values: dict[str, set[Any]] = {}
    for draw, _ in valid:
        for name, value in draw.params.items():
            values.setdefault(name, set()).add(value)
    alike: dict[str, list[str]] = {}
    for name in values:
        alike.setdefault(name.partition("[")[0], []).append(name)
    for name in itertools.chain(*(each[:: -(-len(each) // PLACES)] for each in alike.values())):
        known = values[name]
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
