"""Chooses a cascade: which networks, and how confident each must be to answer.

An image stops at the first member whose confidence, its largest calibrated probability, reaches
that member's threshold; the last member answers the rest. Members are ordered by cost. The search
is exhaustive over pairs, triples and thresholds, on images that no training has seen; choosing
among so many overfits, and ``cross_validate`` estimates by how much.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from nas.training.predict import LEAST, Probabilities

Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MOST = 3  # members
FOLDS = 5
MARGINS = (0.0, 0.0025, 0.005, 0.01, 0.02, np.inf)  # of accuracy; inf: as accurate as possible


@dataclass(frozen=True, slots=True)
class Demand:
    """Either the lowest cost at an ``accuracy``, or the highest accuracy at a mean cost of
    ``budget`` per image; the other is None."""

    accuracy: float | None = None
    budget: float | None = None


MOST_RIGHT = Demand(budget=np.inf)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A network's logits (images, classes), up to a constant per image, its cost per image, and
    the temperature that calibrates it."""

    logits: Floats
    cost: float
    temperature: float = 1.0

    @classmethod
    def of(cls, probabilities: Probabilities, cost: float) -> Candidate:
        return cls(np.log(np.maximum(probabilities.astype(float), LEAST)), cost)

    def calibrated(self, labels: Labels) -> Candidate:
        """With the temperature that minimises the negative log-likelihood of ``labels`` (Guo et al.
        2017, section 4.2)."""
        rows = np.arange(len(labels))

        def loss(logarithm: float) -> float:
            scaled = self.logits / np.exp(logarithm)
            return float(np.mean(logsumexp(scaled, axis=1) - scaled[rows, labels]))

        found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
        return replace(self, temperature=float(np.exp(found.x)))

    def on(self, rows: npt.NDArray[np.int64]) -> Candidate:
        return replace(self, logits=self.logits[rows])

    @property
    def confidence(self) -> Floats:
        """The largest probability of each image."""
        found: Floats = softmax(self.logits / self.temperature, axis=1).max(axis=1)
        return found

    def right(self, labels: Labels) -> Bools:
        return np.asarray(self.logits.argmax(1) == labels)


@dataclass(frozen=True, slots=True)
class Choice:
    """A cascade: ``members`` are indices of candidates, with ``thresholds`` for all but the last.
    ``accuracy``, the mean ``cost`` per image and the ``shares`` of images that stop at each member
    are those of the images on which it was chosen or scored."""

    members: tuple[int, ...]
    thresholds: tuple[float, ...]
    accuracy: float
    cost: float
    shares: tuple[float, ...]

    def mean_cost(self, costs: Sequence[float], shares: Sequence[float] = ()) -> float:
        """The mean cost per image for other ``costs`` of the candidates, or other ``shares``: each
        member costs for the images that reach it."""
        shares = shares or self.shares
        reaching = [1 - sum(shares[:k]) for k in range(len(shares))]
        return sum(share * costs[i] for share, i in zip(reaching, self.members, strict=True))


def tried(
    candidates: Sequence[Candidate],
    members: Sequence[int],
    thresholds: Sequence[float],
    labels: Labels,
) -> Choice:
    """A cascade scored on images."""
    return answered(candidates, members, thresholds, labels)[0]


def answered(
    candidates: Sequence[Candidate],
    members: Sequence[int],
    thresholds: Sequence[float],
    labels: Labels,
) -> tuple[Choice, Bools]:
    """A cascade scored on images, and which of them it classifies right."""
    left, right = np.ones(len(labels), bool), np.zeros(len(labels), bool)
    cost, shares = 0.0, []
    for member, threshold in zip(members, [*thresholds, -np.inf], strict=True):
        candidate = candidates[member]
        stops = left & (candidate.confidence >= threshold)
        cost += candidate.cost * left.mean()
        right |= candidate.right(labels) & stops
        shares.append(float(stops.mean()))
        left &= ~stops
    accuracy = float(right.mean())
    return Choice(tuple(members), tuple(thresholds), accuracy, float(cost), tuple(shares)), right


def choose(
    candidates: Sequence[Candidate], labels: Labels, demand: Demand, size: int
) -> Choice | None:
    """The best cascade of ``size`` members, 1 to 3; None where none meets the demand."""
    order = sorted(range(len(candidates)), key=lambda i: candidates[i].cost)
    best: tuple[tuple[float, float], tuple[int, ...], tuple[float, ...]] | None = None
    prepared = {i: _Sorted.of(candidates[i], labels) for i in order}
    for members in itertools.combinations(order, size):
        own = [prepared[i] for i in members]
        costs = [candidates[i].cost for i in members]
        for merit, thresholds in _SWEEPS[size](own, costs, demand, best[0] if best else None):
            if best is None or merit > best[0]:
                best = (merit, members, thresholds)
    return best and tried(candidates, best[1], best[2], labels)


# A sweep yields ever better thresholds for given members, each with its merit: (-cost, accuracy) or
# (accuracy, -cost), as the demand asks.
Merit = tuple[float, float]
Found = Iterator[tuple[Merit, tuple[float, ...]]]


@dataclass(frozen=True, slots=True, eq=False)
class _Sorted:
    """A candidate's images in descending confidence. ``stops`` are the numbers of images that can
    stop there (ties stop together); ``thresholds`` lie half way to the next confidence."""

    order: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    thresholds: Floats

    @classmethod
    def of(cls, candidate: Candidate, labels: Labels) -> _Sorted:
        confidence = candidate.confidence
        order = np.argsort(-confidence, kind="stable")
        sure = confidence[order]
        stops = np.flatnonzero(np.diff(sure) < 0) + 1
        middle = (sure[stops - 1] + sure[stops]) / 2  # of adjacent floats it is one of them
        thresholds = np.where(middle > sure[stops], middle, sure[stops - 1])
        return cls(order, candidate.right(labels).astype(np.int64), stops, thresholds)


def _merit(right: float, cost: float, images: int, demand: Demand) -> Merit | None:
    """None where the demand is not met. Of counts, not fractions, so that equals compare equal."""
    if demand.accuracy is not None:
        return (-cost, right) if right >= demand.accuracy * images - 1e-9 else None
    assert demand.budget is not None
    return (right, -cost) if cost <= demand.budget * images * (1 + 1e-12) else None


def _single(
    own: Sequence[_Sorted], costs: Sequence[float], demand: Demand, best: Merit | None
) -> Found:
    images = len(own[0].right)
    merit = _merit(float(own[0].right.sum()), images * costs[0], images, demand)
    if merit:
        yield merit, ()


def _pair(
    own: Sequence[_Sorted], costs: Sequence[float], demand: Demand, best: Merit | None
) -> Found:
    """All thresholds at once, by cumulative sums in descending confidence."""
    first, second = own
    images = len(first.right)
    gained = np.cumsum((first.right - second.right)[first.order])
    right = second.right.sum() + gained[first.stops - 1]
    cost = images * costs[0] + (images - first.stops) * costs[1]
    at = _best_of(right, cost, images, demand)
    if at is not None:
        merit = _merit(float(right[at]), float(cost[at]), images, demand)
        assert merit
        yield merit, (float(first.thresholds[at]),)


def _triple(
    own: Sequence[_Sorted], costs: Sequence[float], demand: Demand, best: Merit | None
) -> Found:
    """For each threshold of the first, all of the second at once.

    Of the images that have not stopped at the first, ``right[m]`` are classified right and
    ``left[m]`` reach the third if the second's m most confident ones stop. One more image that
    stops at the first changes a slice of both: images² additions in all.
    """
    first, second, third = own
    images = len(first.right)
    place = np.empty(images, np.int64)
    place[second.order] = np.arange(images)
    apart = (second.right - third.right)[second.order]
    right = np.concatenate([[0], np.cumsum(apart)]) + third.right.sum()
    left = np.arange(images, -1, -1)
    stops, done = second.stops, 0
    for number, count in enumerate(first.stops):
        for image in first.order[done:count]:
            at = place[image]
            right[at + 1 :] -= second.right[image] - third.right[image]
            right += first.right[image] - third.right[image]
            left[: at + 1] -= 1
        done = count
        fixed = images * costs[0] + (images - count) * costs[1]
        if demand.accuracy is not None and best and -fixed <= best[0]:
            continue  # already dearer than the best
        cost = fixed + left[stops] * costs[2]
        k = _best_of(right[stops], cost, images, demand)
        if k is None:
            continue
        merit = _merit(float(right[stops[k]]), float(cost[k]), images, demand)
        if merit and (best is None or merit > best):
            best = merit
            yield merit, (float(first.thresholds[number]), float(second.thresholds[k]))


def _best_of(
    right: npt.NDArray[np.int64], cost: npt.NDArray[Any], images: int, demand: Demand
) -> int | None:
    """The index of the best of cascades in descending cost."""
    if demand.accuracy is not None:
        (met,) = np.nonzero(right >= demand.accuracy * images - 1e-9)
        return int(met[-1]) if len(met) else None
    assert demand.budget is not None
    (met,) = np.nonzero(cost <= demand.budget * images * (1 + 1e-12))
    if not len(met):
        return None
    tail = right[met[0] :]
    return int(met[0] + len(tail) - 1 - np.argmax(tail[::-1]))  # of equals the cheapest


_SWEEPS = {1: _single, 2: _pair, 3: _triple}


# --- how much of it is overfitting ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class CrossValidation:
    """A choice, cross-validated: its mean accuracy on the folds by which it was ``chosen``, and on
    the held-out folds the mean ``cost`` and which images are ``right``."""

    chosen: float
    cost: float
    right: Bools

    @property
    def held_out(self) -> float:
        """The accuracy on the held-out folds."""
        return float(self.right.mean())

    def keeps(self, target: float | CrossValidation) -> bool:
        """Whether the held-out accuracy is below ``target``, or that of another choice on the same
        images, by no more than one standard error of the difference."""
        other = target.right if isinstance(target, CrossValidation) else target
        difference = self.right.astype(float) - other
        error = float(difference.std(ddof=1)) / len(difference) ** 0.5
        return bool(difference.mean() >= -error - 1e-12)


def cross_validate(
    candidates: Sequence[Candidate],
    labels: Labels,
    demand: Demand,
    size: int,
    best_single: bool = False,
    margin: float = 0.0,
    seed: int = 0,
) -> CrossValidation | None:
    """Calibrates and chooses on four of five folds and scores the choice on the fifth, each in
    turn. With ``best_single`` the accuracy demanded is that of the best network on the four, plus
    ``margin``. None where there are too few candidates."""
    parts = np.array_split(np.random.RandomState(seed).permutation(len(labels)), FOLDS)
    folds, right = [], np.zeros(len(labels), bool)
    for held_out in parts:
        own = np.setdiff1d(np.arange(len(labels)), held_out)
        fitted = [c.on(own).calibrated(labels[own]) for c in candidates]
        asked = demand
        if demand.accuracy is not None:
            best = max(float(c.right(labels[own]).mean()) for c in fitted)
            asked = Demand(accuracy=(best if best_single else demand.accuracy) + margin)
        # The demand may be out of reach on four folds: then the most accurate.
        found = choose(fitted, labels[own], asked, size)
        if found is None and demand.accuracy is not None:
            found = choose(fitted, labels[own], MOST_RIGHT, size)
        if found is None:
            return None
        there = [
            replace(f, logits=c.logits[held_out]) for f, c in zip(fitted, candidates, strict=True)
        ]
        there_labels = labels[held_out]
        trial, right[held_out] = answered(there, found.members, found.thresholds, there_labels)
        folds.append((found.accuracy, trial.cost))
    chosen, cost = np.mean(folds, axis=0)
    return CrossValidation(float(chosen), float(cost), right)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The best ``single`` network that meets the demand, and the best ``cascade`` (None: there is
    none); both ``cross_validated``, by their number of members."""

    candidates: tuple[Candidate, ...]
    single: Choice | None
    cascade: Choice | None
    cross_validated: dict[int, CrossValidation | None]


def decide(
    candidates: Sequence[Candidate], labels: Labels, demand: Demand, best_single: bool = False
) -> Verdict:
    """Calibrates the candidates and chooses among cascades of two and three.

    At an accuracy, the demand is raised by the smallest of a few margins with which the choice,
    cross-validated, keeps what was demanded (``CrossValidation.keeps``): the accuracy, or with
    ``best_single`` the held-out accuracy of the best single network; and the cascade must be
    cheaper than that network. At a budget it must be more accurate, held out. Of those that remain
    the cheapest, or the most accurate.
    """
    fitted = tuple(c.calibrated(labels) for c in candidates)
    single = choose(fitted, labels, demand, 1)
    validated = {1: cross_validate(candidates, labels, demand, 1, best_single)}
    alone = validated[1]
    found: list[tuple[Merit, Choice]] = []
    for size in range(2, min(MOST, len(fitted)) + 1):
        for margin in MARGINS if demand.accuracy is not None else (0.0,):
            asked = demand
            if demand.accuracy is not None:
                most = margin == np.inf
                asked = MOST_RIGHT if most else Demand(accuracy=demand.accuracy + margin)
            chosen = choose(fitted, labels, asked, size)
            if chosen is None:
                continue
            of = cross_validate(candidates, labels, demand, size, best_single, margin)
            if of is None:
                continue
            validated[size] = of
            if demand.accuracy is None:
                if alone is None or of.held_out > alone.held_out:
                    found.append(((of.held_out, -chosen.cost), chosen))
            elif single and of.cost >= single.cost:
                continue
            elif of.keeps(alone if best_single and alone else demand.accuracy):
                found.append(((-chosen.cost, chosen.accuracy), chosen))
                break
    best = max(found, key=lambda pair: pair[0])[1] if found else None
    if best and single and demand.accuracy is not None and best.cost >= single.cost:
        best = None  # one network does as well
    return Verdict(fitted, single, best, validated)
