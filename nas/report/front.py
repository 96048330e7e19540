"""The front of a study as a picture: ``nas pareto -f svg`` and ``-f png``."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from textwrap import wrap

from nas.artifacts import replace
from nas.driver.tradeoffs import feasible, networks, nondominated, pareto
from nas.errors import NasError, StudyError
from nas.metrics import METRICS, Direction, metric, shown
from nas.report import fonts
from nas.report.plot import Axis, Box, Point, circle, fill, line, n, picture, stroke, text, tidy
from nas.report.trials import caveats
from nas.store import StudyRow, TrialRow
from nas.text import counted

WIDTH, HEIGHT = 820, 470
BOX = Box(left=74, top=64, right=WIDTH - 40, bottom=HEIGHT - 56)
FAMILIES = ("DejaVu Sans", "Liberation Sans", "Noto Sans", "Roboto", "Ubuntu", "Arial", "Helvetica")
LINE = 16  # height of a note's line
LETTER = 5.9  # mean width of a label's letter in pixels, at size 11

# The corners of the marks, relative to their centres.
DIAMOND: Sequence[Point] = ((0, -6), (6, 0), (0, 6), (-6, 0))
TRIANGLE: Sequence[Point] = ((0, -6), (6, 5), (-6, 5))

Area = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing: the text of an ``svg`` file, which a notebook shows by itself."""

    svg: str

    def save(self, file: str | Path) -> None:
        """Writes an SVG, or a PNG if the name ends in .png. Raises NasError."""
        ending = Path(file).suffix.lower()
        if ending not in (".svg", ".png"):
            raise NasError(f"{file}: a picture's name must end in .svg or .png")
        replace(Path(file), png(self.svg) if ending == ".png" else self.svg.encode())

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        title = re.search("<title>(.*?)</title>", self.svg)
        return f"Picture({unescape(title[1]) if title else ''!r})"


@dataclass(frozen=True, slots=True)
class Mark:
    """A labelled point: where it lies, its shape, and the ink of its label."""

    at: Point
    drawn: str
    label: str
    ink: str = "beside"


def axes(study: StudyRow) -> tuple[str, str]:
    """The metrics of the x and y axes: the gain is drawn over its cost."""
    names = [name for name, _ in study.objectives]
    if not names:
        raise StudyError(f"study {study.name!r} has no objectives: there is no front to draw")
    beside = [*names[1:], *(name for name in METRICS if name != names[0])]
    return beside[0], names[0]


def directions(study: StudyRow, *names: str) -> list[Direction]:
    senses = dict(study.objectives)
    return [senses.get(name, metric(name).direction) for name in names]


def stairs(study: StudyRow, rows: Sequence[TrialRow], x: str, y: str) -> list[TrialRow]:
    """The nondominated feasible trials in these two metrics alone, the cheapest first; with more
    objectives, the front of the study has further trials."""
    rows = [row for row in rows if feasible(study, row)]
    both = directions(study, x, y)
    kept = nondominated(rows, (x, y), both)
    return sorted(kept, key=lambda row: row.value(x), reverse=both[0] == "max")


def stair_line(study: StudyRow, x: str, points: Sequence[Point]) -> list[Point]:
    """The step line through the points of ``stairs``, on to the frame."""
    corners = [corner for a, b in pairwise(points) for corner in (a, (b[0], a[1]))]
    end = BOX.right if directions(study, x) == ["min"] else BOX.left
    return [*corners, points[-1], (end, points[-1][1])]


def svg(
    study: StudyRow, rows: Sequence[TrialRow], cascades: Sequence[Mapping[str, float]] = ()
) -> str:
    """All trials with a result as faint points, hollow where they break a constraint; the front as
    a step line with labelled points; baselines with their names, distilled and pruned networks as
    triangles; ``cascades``, each by its accuracy and costs, as squares.

    Raises StudyError where no trial has both metrics, or a cascade lacks one.
    """
    x, y = axes(study)
    rows = [row for row in rows if row.evaluated]
    rows = [row for row in rows if math.isfinite(row.value(x)) and math.isfinite(row.value(y))]
    if not rows:
        raise StudyError(f"study {study.name!r} has no finished trial with {x} and {y} to draw")
    for name in (x, y):
        if any(name not in each for each in cascades):
            raise StudyError(f"a cascade has no {name}, by which study {study.name!r} is drawn")
    across = Axis.of(x, [*(row.value(x) for row in rows), *(each[x] for each in cascades)])
    up = Axis.of(y, [*(row.value(y) for row in rows), *(each[y] for each in cascades)])

    def place(value: Callable[[str], float]) -> Point:
        return BOX.place(across.at(value(x)), up.at(value(y)))

    best = pareto(study, rows)
    top = [_top(study, row, place(row.value), x) for row in best if not row.baseline]
    beside = [_beside(row, place(row.value)) for row in rows if row.baseline]
    for each in cascades:
        at = place(each.__getitem__)
        beside.append(Mark(at, _square(*at), f"cascade: {tidy(shown(y, each[y]))}"))
    numbers = {row.number for row in best}
    others = [row for row in rows if row.number not in numbers and not row.baseline]
    drawn = BOX.frame(across.ticks, up.ticks)
    for row in others:
        paint = fill("dots") if feasible(study, row) else stroke("dots")
        drawn.append(circle(*place(row.value), 3, f'{paint} opacity="0.7"', _about(study, row)))
    steps = [place(row.value) for row in stairs(study, rows, x, y)]
    if steps:
        steps = stair_line(study, x, steps)
        drawn.append(line(steps, "front", 1.8))
    drawn += [mark.drawn for mark in (*top, *beside)]
    marks = [*beside, *top]
    taken = [around(mark.at, mark.at, 5) for mark in marks]
    lesser = [around(at, at, 3) for at in (place(row.value) for row in others)]
    lesser += [around(a, b, 1) for a, b in pairwise(steps)]
    drawn += labels(marks, taken, lesser)
    count = len(networks(rows))
    title = f"{study.searched}: {counted(count, 'network')}, a front of {len(best)}"
    key = _legend(study, rows, bool(cascades))
    return captioned(title, drawn, key, across, up, caveats(study, rows))


def _label(study: StudyRow, row: TrialRow, x: str) -> str:
    values = [tidy(shown(name, row.value(name))) for name, _ in study.objectives if name != x]
    return f"{row.number}: {', '.join(values)}"


def _about(study: StudyRow, row: TrialRow) -> str:
    names = dict.fromkeys([*dict(study.objectives), *axes(study)])
    values = (f"{metric(name).title} {shown(name, row.value(name))}" for name in names)
    network = f"{row.baseline}: {row.pattern}" if row.made else row.baseline or row.pattern
    return f"trial {row.number}: {', '.join(values)}\n{network}"


def _top(study: StudyRow, row: TrialRow, at: Point, x: str) -> Mark:
    dot = circle(*at, 4.5, fill("front"), _about(study, row))
    return Mark(at, dot, _label(study, row, x), "ink")


def _beside(row: TrialRow, at: Point) -> Mark:
    """The mark of a baseline, or of a network made of another."""
    if row.made:
        return Mark(at, _polygon(TRIANGLE, at), f"{row.number}: {row.baseline}")
    return Mark(at, _polygon(DIAMOND, at), row.baseline)


def _polygon(corners: Sequence[Point], at: Point) -> str:
    points = " ".join(f"{n(at[0] + x)},{n(at[1] + y)}" for x, y in corners)
    return f'<polygon points="{points}" {fill("beside")}/>'


def _square(x: float, y: float) -> str:
    place = f'x="{n(x - 4.5)}" y="{n(y - 4.5)}" width="9" height="9"'
    return f"<rect {place} {fill('beside')}/>"


def _legend(study: StudyRow, rows: Sequence[TrialRow], cascades: bool) -> list[str]:
    entries = [
        ("front", circle(0, -4, 4.5, fill("front"))),
        ("other", circle(0, -4, 3, fill("dots"))),
    ]
    if not all(feasible(study, row) for row in rows if not row.baseline):
        entries.append(("breaks a constraint", circle(0, -4, 3, stroke("dots"))))
    if any(row.baseline and not row.made for row in rows):
        entries.append(("baseline", _polygon(DIAMOND, (0, -4))))
    made = sorted({row.made for row in rows if row.made})
    if made:
        entries.append((" or ".join(made), _polygon(TRIANGLE, (0, -4))))
    if cascades:
        entries.append(("cascade", _square(0, -4)))
    drawn, x = legend(entries)
    caption = ", ".join(
        metric(name).title for name, _ in study.objectives if name != axes(study)[0]
    )
    return [*drawn, text(x, 48, f"labelled by trial: {caption}")]


def legend(entries: Iterable[tuple[str, str]]) -> tuple[list[str], float]:
    """Captions and their marks, in a row above the frame, and where the next would begin."""
    drawn, x = [], BOX.left + 4
    for caption, mark in entries:
        drawn.append(f'<g transform="translate({n(x)} 48)">{mark}{text(10, 0, caption)}</g>')
        x += 34 + 6.4 * len(caption)
    return drawn, x


def captioned(
    title: str,
    drawn: Sequence[str],
    legend: Sequence[str],
    across: Axis,
    up: Axis,
    notes: Sequence[str],
) -> str:
    """The picture of all that is drawn in the frame, with the texts around it, ``notes`` below."""
    center, middle = (BOX.left + BOX.right) / 2, (BOX.top + BOX.bottom) / 2
    turned = f' transform="rotate(-90 18 {n(middle)})"'
    around_it = [
        text(BOX.left, 26, title, ink="ink", size=15, more=' font-weight="600"'),
        *legend,
        text(center, HEIGHT - 14, across.title, anchor="middle", size=13),
        text(18, middle, up.title, anchor="middle", size=13, more=turned),
    ]
    lines = [part for each in notes for part in wrap(each, int((BOX.right - BOX.left) / LETTER))]
    below = [
        text(BOX.left, HEIGHT + LINE * place, part, size=11) for place, part in enumerate(lines, 1)
    ]
    height = HEIGHT + (LINE * len(lines) + LINE / 2 if lines else 0)
    return picture(WIDTH, height, title, [*drawn, *around_it, *below])


def labels(marks: Iterable[Mark], taken: Sequence[Area], lesser: Sequence[Area]) -> list[str]:
    """The marks' labels beside them where there is free space, avoiding also areas of ``lesser``
    importance if possible; a label without space is left out."""
    taken = list(taken)
    drawn = []
    for mark in marks:
        (x, y), wide = mark.at, LETTER * len(mark.label)
        free: list[tuple[bool, Area, float, float]] = []
        for dx, dy in [(8, 15), (-8 - wide, -8), (8, -8), (-8 - wide, 15), (-wide / 2, 22)]:
            box = (x + dx, y + dy - 10, x + dx + wide, y + dy + 3)
            inside = box[0] >= BOX.left and box[2] <= BOX.right
            inside = inside and box[1] >= BOX.top - 10 and box[3] <= BOX.bottom
            if inside and not _meets(box, taken):
                free.append((_meets(box, lesser), box, x + dx, y + dy))
        if free:
            _, box, across, up = min(free, key=itemgetter(0))
            taken.append(box)
            drawn.append(text(across, up, mark.label, ink=mark.ink, size=11))
    return drawn


def around(a: Point, b: Point, by: float) -> Area:
    (left, right), (top, bottom) = sorted([a[0], b[0]]), sorted([a[1], b[1]])
    return left - by, top - by, right + by, bottom + by


def _meets(a: Area, others: Sequence[Area]) -> bool:
    return any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in others)


def png(drawn: str, zoom: int = 2) -> bytes:
    """Renders an SVG as a light PNG, with ``zoom`` pixels per unit. Raises NasError where the
    package for it, or a font, is missing."""
    try:
        import resvg_py
    except ImportError:
        raise NasError(
            "a PNG needs resvg-py, which is not installed: pip install 'nas-patterns[plot]'; "
            "an SVG needs nothing"
        ) from None
    own = fonts.file()  # matplotlib's, on a machine that has no font
    render = functools.partial(resvg_py.svg_to_bytes, font_files=[str(own)] if own else [])
    letter = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{}</svg>'
    written = letter.format('<text y="9" font-family="sans-serif">M</text>')
    empty = render(svg_string=letter.format(""))
    for family in FAMILIES:  # resvg ignores fontconfig, and omits text without a font
        if render(svg_string=written, sans_serif_family=family) != empty:
            return bytes(render(svg_string=drawn, zoom=zoom, sans_serif_family=family))
    raise NasError(
        f"a PNG needs a font, one of {', '.join(FAMILIES)}, and this machine has none (Debian: "
        "fonts-dejavu-core); an SVG needs none"
    )
