"""The fronts of several devices in one picture: a metric of each device across, on one axis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise

from nas.errors import StudyError
from nas.metrics import Located, located, shown
from nas.report.front import BOX, Mark, around, captioned, labels, legend, stair_line, stairs
from nas.report.plot import Axis, Point, circle, fill, line
from nas.report.trials import caveats
from nas.store import StudyRow, TrialRow

# Each device's ink, line width and point radius: where fronts coincide, each is visible beneath the
# next. More devices are not drawn.
LINES = (("front", 3.4, 6.0), ("beside", 2.4, 4.6), ("ink", 1.5, 3.2), ("faint", 0.8, 2.0))


def of_devices(study: StudyRow) -> list[str]:
    """The objectives that are one metric on several devices; empty if there are fewer than two."""
    places = {name: at for name, _ in study.objectives if (at := located(name))}
    same = {at.metric for at in places.values()}
    return list(places) if len(places) > 1 and len(same) == 1 else []


def svg(study: StudyRow, rows: Sequence[TrialRow]) -> str:
    """For each device the front, as a step line, in the first objective and the metric on that
    device. Raises StudyError where a device has no value to draw."""
    names, y = of_devices(study), study.objectives[0][0]
    if y in names:
        raise StudyError(
            f"the first objective is {y}: fronts of devices are drawn of what is gained"
        )
    if len(names) > len(LINES):
        raise StudyError(f"{len(names)} devices: at most {len(LINES)} are drawn at once")
    rows = [row for row in rows if math.isfinite(row.value(y))]
    fronts = {name: stairs(_on(study, y, name), rows, name, y) for name in names}
    for name, best in fronts.items():
        if not best:
            raise StudyError(
                f"study {study.name!r} has no feasible trial with {name} and {y} to draw"
            )
    base = (located(names[0]) or Located(names[0], "")).metric
    across = Axis.of(base, (row.value(name) for name in names for row in rows))
    up = Axis.of(y, (row.value(y) for best in fronts.values() for row in best))
    drawn = BOX.frame(across.ticks, up.ticks)
    entries, marks, lesser = [], [], []
    for name, (ink, width, radius) in zip(names, LINES, strict=False):

        def place(row: TrialRow, name: str = name) -> Point:
            return BOX.place(across.at(row.value(name)), up.at(row.value(y)))

        steps = stair_line(study, name, [place(row) for row in fronts[name]])
        drawn.append(line(steps, ink, width))
        lesser += [around(a, b, 1) for a, b in pairwise(steps)]
        for row in fronts[name]:
            values = f"{shown(y, row.value(y))}, {shown(name, row.value(name))}"
            about = f"trial {row.number}: {values}\n{row.pattern}"
            dot = circle(*place(row), radius, fill(ink), about)
            marks.append(Mark(place(row), dot, str(row.number), ink))
        entries.append((name.partition("@")[2], circle(0, -4, radius, fill(ink))))
    drawn += [mark.drawn for mark in marks]
    drawn += labels(marks, [around(mark.at, mark.at, 6) for mark in marks], lesser)
    title = f"{study.searched}: the fronts of {len(names)} devices"
    shown_rows = {row.number: row for best in fronts.values() for row in best}
    notes = caveats(study, [*shown_rows.values()])
    return captioned(title, drawn, legend(entries)[0], across, up, notes)


def _on(study: StudyRow, y: str, name: str) -> StudyRow:
    both = [pair for pair in study.objectives if pair[0] in (y, name)]
    return dataclasses.replace(study, objectives=tuple(both))
