"""What the record says of a study's trade-offs: constraints kept or broken, and the front."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nas.pareto import Direction, front
from nas.space import read_bound
from nas.store import StudyRow, TrialRow


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


def pareto(study: StudyRow, rows: Sequence[TrialRow]) -> tuple[TrialRow, ...]:
    """The feasible trials that no other dominates, the best by the first objective first."""
    if not study.objectives:
        return ()
    rows = [row for row in rows if feasible(study, row)]
    points = [[row.value(name) for name, _ in study.objectives] for row in rows]
    directions: list[Direction] = ["max" if d == "max" else "min" for _, d in study.objectives]
    best = [rows[i] for i in front(points, directions)]
    name, direction = study.objectives[0]
    return tuple(sorted(best, key=lambda r: r.value(name), reverse=direction == "max"))
