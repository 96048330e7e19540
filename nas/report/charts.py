"""The static plots of the report's page: lines over trials, seconds and epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

from nas.job import Epoch
from nas.metrics import ACCURACY, count, percent
from nas.report.insight import Growth
from nas.report.plot import Axis, Box, line, n, steps, text, tidy
from nas.store import StudyRow, TrialRow
from nas.text import counted

WIDTH, HEIGHT = 460, 270  # about a phone's width, so that fonts there have their size
BOX = Box(left=62, top=20, right=WIDTH - 24, bottom=HEIGHT - 46)
LETTER = 5.6  # mean width of a letter in pixels, at size 10

SHARES = tuple((fifth / 5, f"{20 * fifth} %") for fifth in range(6))


def grown(growth: Growth, *, seconds: bool) -> str:
    """The hypervolume over trials, or over device-seconds."""
    unit, size = "s", 1.0
    across: Sequence[float] = range(1, len(growth.seconds) + 1)
    if seconds:
        across = growth.seconds
        unit, size = next(u for u in _UNITS if across[-1] >= u[2] * u[1])[:2]
    end = max(across[-1] / size, 1e-9)
    ticks = [(at / end, tidy(f"{at:,.2f}") if end < 3 else count(at)) for at in steps(0, end)]
    points = [BOX.place(0, 0)]
    for at, level in zip(across, growth.hypervolume, strict=True):
        here = BOX.place(at / size / end, level)
        points += [(here[0], points[-1][1]), here]
    kept = [
        points[0],
        *(b for a, b in pairwise(points) if (n(a[0]), n(a[1])) != (n(b[0]), n(b[1]))),
    ]
    unit_text = f"device time, {unit}" if seconds else "trials ended"
    drawn = [*_frame(ticks, unit_text, SHARES, "hypervolume"), line(kept, "front", 2)]
    return _chart(f"hypervolume over {unit_text}", drawn)


_UNITS = (("h", 3600.0, 2), ("min", 60.0, 5), ("s", 1.0, 0))


def curves(
    study: StudyRow,
    rows: Sequence[TrialRow],
    found: Mapping[int, Sequence[Epoch]],
    best: Sequence[TrialRow],
) -> str:
    """The accuracy by epoch of every trial with a curve, those of the front on top;
    dashed lines mark the rungs. ``found`` has the curves by a trial's id."""
    drawn = [row for row in rows if found.get(row.id)]
    values = [epoch.accuracy for row in drawn for epoch in found[row.id]]
    up = Axis.of(ACCURACY, values)
    last = max(epoch.epoch for row in drawn for epoch in found[row.id])
    first = 1 if last > 1 else 0
    width = last - first

    def x(epoch: float) -> float:
        return (epoch - first) / width

    ticks = [(x(e), f"{e:g}") for e in steps(first, last) if float(e).is_integer()]
    parts = _frame(
        ticks, "epoch", up.ticks, up.title if study.evaluator else f"validation {up.title}"
    )
    free = BOX.left  # above the frame, where no curve crosses a label
    for rung in study.settings.get("rungs", [])[:-1]:
        if rung <= last:
            ends = [BOX.place(x(rung), 0), BOX.place(x(rung), 1)]
            parts.append(line(ends, "beside", 1, ' stroke-dasharray="4 4"'))
            label = f"rung {rung}"
            wide = LETTER * len(label)
            if ends[1][0] - wide / 2 >= free:
                at = ends[1][0], BOX.top - 6
                parts.append(text(*at, label, ink="beside", size=10, anchor="middle"))
                free = ends[1][0] + wide / 2 + 4
    numbers = {row.number for row in best}
    for row in sorted(drawn, key=lambda row: row.number in numbers):
        ahead = row.number in numbers
        points = [
            BOX.place(x(epoch.epoch), up.at(epoch.accuracy))
            for epoch in found[row.id]
            if math.isfinite(epoch.accuracy)
        ]
        if not points:
            continue
        end = found[row.id][-1]
        reached = f"{percent(end.accuracy)} after {counted(end.epoch, 'epoch')}"
        title = f"<title>{escape(f'trial {row.number}: {reached}')}</title>"
        ink, breadth, opacity = ("front", 1.6, 0.9) if ahead else ("dots", 1.0, 0.35)
        shape = line(points, ink, breadth, f' opacity="{opacity}"')
        parts.append(shape.replace("/>", f">{title}</polyline>"))
    return _chart("accuracy by epoch", parts)


def _frame(
    x: Sequence[tuple[float, str]], across: str, y: Sequence[tuple[float, str]], up: str
) -> list[str]:
    center, middle = (BOX.left + BOX.right) / 2, (BOX.top + BOX.bottom) / 2
    turned = f' transform="rotate(-90 14 {n(middle)})"'
    return [
        *BOX.frame(x, y, size=11),
        text(center, HEIGHT - 8, across, anchor="middle", size=12),
        text(14, middle, up, anchor="middle", size=12, more=turned),
    ]


def _chart(label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
