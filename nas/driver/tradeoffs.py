"""A study's trade-offs: constraints met or broken, and the Pareto front."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.errors import NothingFound
from nas.metrics import ACCURACY, Direction, metric, precise, scaled
from nas.pareto import front, reference_point
from nas.spaces.bounds import Bound, far, read_bound
from nas.store import ENDED, StudyRow, TrialRow

Floats = NDArray[np.float64]

MARGIN = 0.1  # of an objective's range


def excess(study: StudyRow, row: TrialRow) -> dict[str, float]:
    """By how much a finished trial exceeds each constraint, at most 0 where it is met. Metrics that
    were not measured are left out."""
    over = {name: bound.excess(row.value(name)) for name, bound in bounds_of(study).items()}
    return {name: by for name, by in over.items() if by == by}


def bounds_of(study: StudyRow) -> Mapping[str, Bound]:
    """The constraints of a study, cached: parsing two takes 6 us, checking a trial 2."""
    return _bounds(tuple(study.constraints.items()))


@functools.lru_cache(maxsize=64)
def _bounds(constraints: tuple[tuple[str, str], ...]) -> Mapping[str, Bound]:
    return {name: read_bound(text, name) for name, text in constraints}


def breaks(study: StudyRow, row: TrialRow) -> bool:
    """Whether a trial breaks a constraint on a metric that was measured."""
    return any(by > 0 for by in excess(study, row).values())


def feasible(study: StudyRow, row: TrialRow) -> bool:
    """Whether a trial has a full evaluation that meets every constraint; a constraint on a metric
    that was not measured is not met."""
    if not row.evaluated:
        return False
    over = excess(study, row)
    return over.keys() == study.constraints.keys() and all(by <= 0 for by in over.values())


def nothing_found(study: StudyRow, rows: Sequence[TrialRow]) -> NothingFound:
    """The error for a study without a front: the commonest failure, or the unmet constraints and
    the nearest trial."""
    whole = [row for row in rows if row.evaluated or row.state == "refused"]
    if not whole:
        ended = [row for row in rows if row.state in ENDED]
        if not ended:
            return NothingFound(f"no candidate of study {study.name} has finished yet")
        reasons = Counter(f"{row.failure}: {row.reason}" for row in ended if row.failure)
        reason, times = next(iter(reasons.most_common(1)), ("being stopped at a rung", len(ended)))
        return NothingFound(
            f"no candidate of study {study.name} finished; {times} of {len(ended)} by {reason}"
        )
    bounds = bounds_of(study)
    asked = ", ".join(f"{name} {bound}" for name, bound in bounds.items())
    sentence = f"no finished candidate of study {study.name} meets the constraints ({asked})"
    if refused := sum(row.state == "refused" for row in whole):
        sentence = f"{sentence}, {refused} broke the latency bound before training"
    measured = [row for row in whole if breaks(study, row)]
    if not measured:
        return NothingFound(f"{sentence}: for none was everything they ask for measured")
    nearest = min(measured, key=lambda row: far(excess(study, row), bounds))
    over = [name for name, by in excess(study, nearest).items() if by > 0]
    has = ", ".join(f"{name} {precise(nearest.value(name))}" for name in over)
    return NothingFound(f"{sentence}; the nearest is {nearest.called}, with {has}")


def bars(study: StudyRow, front: Sequence[TrialRow], rows: Sequence[TrialRow]) -> Floats:
    """The accuracy (n,) that each of ``rows`` must exceed to join the front, given its other
    objectives: the best of the front at no higher cost. Infinite where it breaks a constraint on
    another metric."""
    signs = {name: 1 if d == "max" else -1 for name, d in study.objectives if name != ACCURACY}

    def merits(of: Sequence[TrialRow]) -> Floats:
        values = [[sign * row.value(name) for name, sign in signs.items()] for row in of]
        return np.array(values).reshape(len(of), len(signs))

    least = np.array([_least(study, row) for row in rows])
    if not front:
        return least
    no_dearer = (merits(front)[None] >= merits(rows)[:, None]).all(axis=2)
    accuracies = np.array([member.value(ACCURACY) for member in front])
    best: Floats = np.where(no_dearer, accuracies, 0.0).max(axis=1)
    return np.asarray(np.maximum(least, best))


def _least(study: StudyRow, row: TrialRow) -> float:
    """The accuracy that the constraints demand of a trial."""
    least = 0.0
    for name, by in excess(study, row).items():
        if name == ACCURACY:
            least = max(least, row.value(name) + by)
        elif by > 0:
            return math.inf
    return least


def gains(
    study: StudyRow, ahead: Sequence[TrialRow], rows: Sequence[tuple[TrialRow, ArrayLike]]
) -> Floats:
    """The expected hypervolume improvement (n,) of each of ``rows`` over those ``ahead``, each with
    the same number of equally likely final accuracies."""
    from nas.samplers.acquisition import gain

    directions = _directions(study)
    signs = np.array([1.0 if direction == "min" else -1.0 for direction in directions])
    names = [name for name, _ in study.objectives]

    def points(of: Sequence[TrialRow]) -> Floats:
        values = [[scaled(name, row.value(name)) for name in names] for row in of]
        return np.array(values).reshape(len(of), len(names))

    before, asked = points(ahead), points([row for row, _ in rows])
    ends = np.array([some for _, some in rows], dtype=float)
    place = names.index(ACCURACY)
    possible = np.repeat(asked, ends.shape[1], axis=0)
    possible[:, place] = ends.ravel()
    reference = reference_point([*before, *possible], directions, MARGIN) * signs
    possible = (possible * signs).reshape(*ends.shape, len(names))

    def under(levels: Floats, objective: int) -> Floats:
        short: Floats = np.maximum(levels - possible[:, :, objective, None], 0.0).mean(axis=1)
        return short

    shortfalls = [functools.partial(under, objective=k) for k in range(len(names))]
    added = gain(before[front(before, directions)] * signs, reference, shortfalls)
    return np.nan_to_num(added)  # a row that lacks an objective adds nothing


def network(row: TrialRow) -> tuple[str, str]:
    """Identifies a network with its recipe: the same for all its trainings, whatever the seed."""
    return row.fingerprint, row.job_key


def networks(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """One row per ``network`` with a full evaluation: its first trial, with the mean metrics of all
    its seeds. Other trials and baselines are left as they are."""
    alike: dict[Any, dict[int, TrialRow]] = {}
    for row in sorted(rows, key=lambda row: row.number):
        whole = row.evaluated and not row.baseline
        key = network(row) if whole else row.id
        alike.setdefault(key, {}).setdefault(row.seed, row)
    return [_mean([*each.values()]) for each in alike.values()]


def _mean(rows: Sequence[TrialRow]) -> TrialRow:
    first = rows[0]
    if len(rows) == 1:
        return first
    values = {name: [row.value(name) for row in rows] for name in first.metrics}
    means = {name: float(np.mean(own)) for name, own in values.items()}
    accuracy = first.accuracy if first.accuracy is None else means.get(ACCURACY, first.accuracy)
    return dataclasses.replace(first, metrics=means, accuracy=accuracy, trainings=len(rows))


def pareto(study: StudyRow, rows: Iterable[TrialRow]) -> tuple[TrialRow, ...]:
    """The nondominated feasible ``networks``, the best by the first objective first."""
    if not study.objectives:
        return ()
    rows = [row for row in networks(rows) if feasible(study, row)]
    best = nondominated(rows, [name for name, _ in study.objectives], _directions(study))
    name, direction = study.objectives[0]
    return tuple(sorted(best, key=lambda r: r.value(name), reverse=direction == "max"))


def nondominated(
    rows: Iterable[TrialRow], names: Sequence[str], directions: Sequence[Direction]
) -> list[TrialRow]:
    """The front of ``rows`` over the metrics ``names``. Of equals the network with the fewest
    parameters counts, and of those the first, in whichever order they ended."""
    rows = sorted(rows, key=lambda row: (row.params, row.number))
    return [rows[i] for i in front([[row.value(n) for n in names] for row in rows], directions)]


def uncertain(study: StudyRow) -> str:
    """The objective that depends on the luck of a training: the first that is neither arithmetic
    nor measured on a device; empty where there is none."""
    own = (n for n, _ in study.objectives if not (metric(n).arithmetic or metric(n).device))
    return next(own, "")


def _directions(study: StudyRow) -> list[Direction]:
    return [direction for _, direction in study.objectives]
