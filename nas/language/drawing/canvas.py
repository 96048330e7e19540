"""An SVG under construction: shapes and text in a few colours, for light and dark pages.

Each element has its light colour as an attribute, which every SVG reader supports; browsers on dark
pages take the dark ones from the style sheet. There are no fonts, scripts or links.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

Point = tuple[float, float]

FONT = "Helvetica, Arial, sans-serif"

# Colours on a light and a dark page: Okabe and Ito's hues, which the colour-blind distinguish.
INKS: Mapping[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#0d1117"),
    "ink": ("#1f2328", "#e6edf3"),
    "faint": ("#59636e", "#9198a1"),
    "line": ("#6e7781", "#8b949e"),
    "input": ("#d8dce1", "#484f58"),
    "convolution": ("#a6cee8", "#1f5f8b"),
    "resampling": ("#f0b895", "#9c4a14"),
    "features": ("#dcb9d3", "#7d4570"),
    "layer": ("#d8dce1", "#484f58"),
    "sum": ("#9fd9c6", "#0f6b52"),
    "concatenation": ("#f3dc96", "#7d6110"),
    "auxiliary": ("#ffffff", "#0d1117"),
}

# Character widths in em, as in DejaVu Sans, the widest font that browsers fall back to.
_WIDTHS: Mapping[str, float] = {
    letter: width
    for width, letters in (
        (0.33, "ijl.,:;'|!· "),
        (0.41, "frt()[]/-"),
        (0.79, "ABCDEFGHJKLNOPQRSTUVXYZ"),
        (0.84, "×+="),
        (1.0, "mwMW%@"),
    )
    for letter in letters
}  # fmt: skip


def breadth(text: str, size: float, bold: bool = False) -> float:
    """An upper bound on a text's width."""
    return size * sum(_WIDTHS.get(c, 0.64) for c in text) * (1.1 if bold else 1.0)


class Canvas:
    def __init__(self) -> None:
        self.elements: list[str] = []

    def rectangle(
        self, x: float, y: float, width: float, height: float, ink: str, *, dashed: bool = False
    ) -> None:
        box = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="2"'
        self.elements.append(f"<rect {box} {_paint(ink, dashed)}/>")

    def circle(self, x: float, y: float, radius: float, ink: str) -> None:
        ring = f'cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"'
        self.elements.append(f"<circle {ring} {_paint(ink)}/>")

    def line(
        self,
        points: Sequence[Point],
        *,
        arrow: bool = False,
        dashed: bool = False,
        thin: bool = False,
        bend: float = 5,
    ) -> None:
        """A path through the points with rounded corners; ``arrow`` adds a head at its end."""
        path = [f"M{_n(points[0][0])} {_n(points[0][1])}"]
        for before, corner, after in zip(points, points[1:], points[2:], strict=False):
            for near, sign in ((before, "L"), (after, "Q")):
                x, y = _towards(corner, near, bend)
                through = f"{_n(corner[0])} {_n(corner[1])} " if sign == "Q" else ""
                path.append(f"{sign}{through}{_n(x)} {_n(y)}")
        end = points[-1]
        fine = ' stroke-width="0.5"' if thin else ""
        path.append(f"L{_n(end[0])} {_n(end[1])}")
        self.elements.append(f'<path d="{"".join(path)}" {_paint(dashed=dashed)}{fine}/>')
        if arrow:
            tail = _towards(end, points[-2], 1)
            dx, dy = end[0] - tail[0], end[1] - tail[1]
            back = (end[0] - 5 * dx, end[1] - 5 * dy)
            corners = [
                end,
                (back[0] - 2.7 * dy, back[1] + 2.7 * dx),
                (back[0] + 2.7 * dy, back[1] - 2.7 * dx),
            ]
            corners_text = " ".join(f"{_n(x)},{_n(y)}" for x, y in corners)
            self.elements.append(f'<polygon points="{corners_text}" {_fill("line")}/>')

    def badge(self, x: float, y: float, letter: str) -> None:
        """A bold letter on a disc, legible on any background."""
        self.circle(x, y, 8, "paper")
        self.text(x, y + 3.5, letter, size=10, bold=True)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 11,
        ink: str = "ink",
        anchor: str = "middle",
        bold: bool = False,
    ) -> None:
        """One line of text; ``y`` is its baseline."""
        weight = ' font-weight="bold"' if bold else ""
        style = f'font-size="{_n(size)}" text-anchor="{anchor}"{weight}'
        escaped = escape(text, quote=False)
        self.elements.append(f'<text x="{_n(x)}" y="{_n(y)}" {_fill(ink)} {style}>{escaped}</text>')

    def svg(self, width: float, height: float, title: str, about: str) -> str:
        dark = "".join(f".nas-{name}{{fill:{ink}}}" for name, (_, ink) in INKS.items())
        dark += f".nas-stroke{{stroke:{INKS['line'][1]}}}"
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" '
                f'height="{_n(height)}" viewBox="0 0 {_n(width)} {_n(height)}" '
                f'font-family="{FONT}" role="img">',
                f"<title>{escape(title)}</title>",
                f"<desc>{escape(about)}</desc>",
                f"<style>@media screen and (prefers-color-scheme:dark){{{dark}}}</style>",
                f'<rect width="100%" height="100%" {_fill("paper")}/>',
                *self.elements,
                "</svg>",
                "",
            ]
        )


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _fill(ink: str) -> str:
    return f'class="nas-{ink}" fill="{INKS[ink][0]}"'


def _paint(ink: str = "", dashed: bool = False) -> str:
    """The attributes of an outline, filled where ``ink`` is given."""
    dash = ' stroke-dasharray="3 2"' if dashed else ""
    fill = INKS[ink][0] if ink else "none"
    names = f"nas-{ink} nas-stroke" if ink else "nas-stroke"
    return f'class="{names}" fill="{fill}" stroke="{INKS["line"][0]}"{dash}'


def _towards(start: Point, goal: Point, step: float) -> Point:
    """The point ``step`` from ``start`` towards ``goal``, at most half way."""
    dx, dy = goal[0] - start[0], goal[1] - start[1]
    length = max(abs(dx), abs(dy))  # all lines are vertical or horizontal
    part = min(step / length, 0.5) if length else 0.0
    return start[0] + dx * part, start[1] + dy * part
