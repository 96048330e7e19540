"""What the record says of a study's trade-offs: constraints kept or broken, and the front."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from nas.pareto import Direction, front, hypervolume, reference_point
from nas.spaces.space import read_bound
from nas.store import StudyRow, TrialRow

COSTS = frozenset({"params", "macs", "latency_ms"})
LEAST = 1e-6  # of a cost that is 0
MARGIN = 0.1  # of an objective's range


def excess(study: StudyRow, row: TrialRow) -> dict[str, float]:
    """By how much a finished trial is on the wrong side of each constraint; 0 or less: it holds.

    A metric that was not measured holds no constraint.
    """
    bounds = {metric: read_bound(text, metric) for metric, text in study.constraints.items()}
    over = {metric: bound.excess(row.value(metric)) for metric, bound in bounds.items()}
    return {metric: by for metric, by in over.items() if by == by}


def feasible(study: StudyRow, row: TrialRow) -> bool:
    return row.state in ("finished", "reused") and all(
        by <= 0 for by in excess(study, row).values()
    )


def bar(study: StudyRow, front: Sequence[TrialRow], row: TrialRow) -> float:
    """The accuracy that a trial must surpass to be part of the front, its other objectives being
    as they are: the best of the front that costs no more. Infinite where it breaks a constraint
    that is not about the accuracy."""
    best = 0.0
    for metric, by in excess(study, row).items():
        if metric == "accuracy":
            best = max(best, row.value(metric) + by)
        elif by > 0:
            return math.inf
    signs = [(n, 1 if d == "max" else -1) for n, d in study.objectives if n != "accuracy"]
    for member in front:
        if all(sign * member.value(name) >= sign * row.value(name) for name, sign in signs):
            best = max(best, member.value("accuracy"))
    return best


def scaled(objective: str, value: float) -> float:
    """An objective as its trade-offs are weighed: a cost by its logarithm, so that half the
    parameters are worth as much to a small network as to a large one (as in LEMONADE, Elsken et al.
    2019). In plain units all below a tenth of the largest network would be a tenth of the front."""
    return math.log10(max(value, LEAST)) if objective in COSTS else value


def gains(
    study: StudyRow, ahead: Sequence[TrialRow], rows: Sequence[tuple[TrialRow, Collection[float]]]
) -> list[float]:
    """The hypervolume that each of ``rows`` is expected to add to those ``ahead``, where it comes
    to one of its accuracies as likely as to another."""
    directions = _directions(study)

    def point(row: TrialRow, accuracy: float | None = None) -> list[float]:
        values = {n: scaled(n, row.value(n)) for n, _ in study.objectives}
        return list((values if accuracy is None else values | {"accuracy": accuracy}).values())

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
    return ["max" if direction == "max" else "min" for _, direction in study.objectives]
