"""What the record says of a study's trade-offs: constraints kept or broken, and the front."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from nas.metrics import ACCURACY, Direction, scaled
from nas.pareto import front, hypervolume, reference_point
from nas.spaces.space import read_bound
from nas.store import StudyRow, TrialRow

MARGIN = 0.1  # of an objective's range


def excess(study: StudyRow, row: TrialRow) -> dict[str, float]:
    """By how much a finished trial is on the wrong side of each constraint; 0 or less: it holds.

    A metric that was not measured is left out.
    """
    bounds = {metric: read_bound(text, metric) for metric, text in study.constraints.items()}
    over = {metric: bound.excess(row.value(metric)) for metric, bound in bounds.items()}
    return {metric: by for metric, by in over.items() if by == by}


def feasible(study: StudyRow, row: TrialRow) -> bool:
    """Whether a trial was trained to its end and meets every constraint, as far as is known: what
    was not measured meets none."""
    if row.state not in ("finished", "reused"):
        return False
    over = excess(study, row)
    return over.keys() == study.constraints.keys() and all(by <= 0 for by in over.values())


def bar(study: StudyRow, front: Sequence[TrialRow], row: TrialRow) -> float:
    """The accuracy that a trial must surpass to be part of the front, its other objectives being
    as they are: the best of the front that costs no more. Infinite where it breaks a constraint
    that is not about the accuracy."""
    best = 0.0
    for metric, by in excess(study, row).items():
        if metric == ACCURACY:
            best = max(best, row.value(metric) + by)
        elif by > 0:
            return math.inf
    signs = [(n, 1 if d == "max" else -1) for n, d in study.objectives if n != ACCURACY]
    for member in front:
        if all(sign * member.value(name) >= sign * row.value(name) for name, sign in signs):
            best = max(best, member.value(ACCURACY))
    return best


def gains(
    study: StudyRow, ahead: Sequence[TrialRow], rows: Sequence[tuple[TrialRow, Collection[float]]]
) -> list[float]:
    """The hypervolume that each of ``rows`` is expected to add to those ``ahead``, where it comes
    to one of its accuracies as likely as to another."""
    directions = _directions(study)

    def point(row: TrialRow, accuracy: float | None = None) -> list[float]:
        values = {n: scaled(n, row.value(n)) for n, _ in study.objectives}
        return list((values if accuracy is None else values | {ACCURACY: accuracy}).values())

    before = [point(row) for row in ahead]
    possible = [[point(row, accuracy) for accuracy in some] for row, some in rows]
    seen = [*before, *(p for some in possible for p in some)]
    reference = reference_point(seen, directions, MARGIN)
    level = hypervolume(before, reference, directions)
    return [
        sum(hypervolume([*before, p], reference, directions) - level for p in some) / len(some)
        for some in possible
    ]


def pareto(study: StudyRow, rows: Sequence[TrialRow]) -> tuple[TrialRow, ...]:
    """The feasible trials that no other dominates, the best by the first objective first."""
    if not study.objectives:
        return ()
    rows = [row for row in rows if feasible(study, row)]
    points = [[row.value(name) for name, _ in study.objectives] for row in rows]
    best = [rows[i] for i in front(points, _directions(study))]
    name, direction = study.objectives[0]
    return tuple(sorted(best, key=lambda r: r.value(name), reverse=direction == "max"))


def _directions(study: StudyRow) -> list[Direction]:
    return [direction for _, direction in study.objectives]
