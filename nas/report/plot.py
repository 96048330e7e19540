"""Building blocks of plots: axes that know their metric, and SVG as text in a few inks.

A plot is plain text, deterministic in its trials. Each shape has its light colour as an attribute,
for any SVG viewer; on a dark page a browser uses the dark one of the style sheet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from nas.metrics import metric, scaled

Point = tuple[float, float]

FONT = "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"

# Colours on a light page and on a dark one.
INKS: Mapping[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14181d"),
    "ink": ("#1f2933", "#e6edf3"),
    "faint": ("#5f6b78", "#9aa5b1"),
    "grid": ("#e4e7eb", "#2b323b"),
    "dots": ("#9aa5b1", "#78838f"),
    "front": ("#c2410c", "#fb923c"),
    "beside": ("#1d4ed8", "#7aa7ff"),
}

MARGIN = 0.04  # of an axis, so that no point lies on the frame
FEWEST = 4  # ticks at least, even if less round


def style(dark: bool) -> str:
    """The inks as a style sheet: ``.f-INK`` fills and ``.s-INK`` draws lines."""
    rules = (
        f".f-{name}{{fill:{both[dark]}}}.s-{name}{{stroke:{both[dark]}}}"
        for name, both in INKS.items()
    )
    return "".join(rules)


# --- axes ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Axis:
    """A metric's values as positions from 0 to 1, on a log scale where the metric has one. ``low``
    and ``high`` are the ends on that scale."""

    name: str
    low: float
    high: float

    @classmethod
    def of(cls, name: str, values: Iterable[float]) -> Axis:
        """The axis that spans all finite ``values``, with a margin; equal values get a span about
        them, as far as the metric goes."""
        known = [scaled(name, value) for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(known), max(known)
        if low == high:
            span = 0.5 * (abs(low) or 1.0)
            least, most = _bounds(name)
            low, high = max(low - span, min(low, least)), min(high + span, max(high, most))
        margin = MARGIN * (high - low)
        return cls(name, low - margin, high + margin)

    def at(self, value: float) -> float:
        return (scaled(self.name, value) - self.low) / (self.high - self.low)

    @property
    def title(self) -> str:
        known = metric(self.name)
        return f"{known.title}, logarithmic" if known.logarithmic else known.title

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """The positions and labels of round values, with more digits where rounded labels would
        coincide."""
        values = self._round()
        labels = [tidy(metric(self.name).shown(value)) for value in values]
        if len(set(labels)) < len(labels):
            labels = [f"{value:.10g}" for value in values]
        return [(self.at(value), text) for value, text in zip(values, labels, strict=True)]

    def _round(self) -> list[float]:
        if not metric(self.name).logarithmic:
            least, most = _bounds(self.name)  # the margin may lie beyond
            low, high = max(self.low, least), min(self.high, most)
            # Neither for values of a record older than the metric's range.
            return steps(low, high) if low < high else steps(self.low, self.high)
        low, high = 10**self.low, 10**self.high
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        for leading in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):
            found = [n * 10.0**e for e in decades for n in leading if low <= n * 10.0**e <= high]
            if len(found) >= FEWEST:
                return found
        return steps(low, high)


def _bounds(name: str) -> tuple[float, float]:
    """The least and greatest value of a metric, on its scale."""
    known = metric(name)
    return scaled(name, known.least), scaled(name, known.most)


def steps(low: float, high: float, most: int = 6) -> list[float]:
    """At most ``most`` round values from ``low`` to ``high``."""
    rough = (high - low) / most
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(n * size for n in (1, 2, 2.5, 5, 10) if n * size >= rough)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first
    return [round((first + i) * step, 12) for i in range(count + 1)]


def tidy(text: str) -> str:
    """92.00 % as 92 %, 1.50M as 1.5M, 1.00M as 1M."""
    return re.sub(r"\.(?!\d)", "", re.sub(r"(\.\d*?)0+(?!\d)", r"\1", text))


# --- shapes --------------------------------------------------------------------------------------


def n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def fill(ink: str) -> str:
    return f'class="f-{ink}" fill="{INKS[ink][0]}"'


def stroke(ink: str, width: float = 1.0) -> str:
    return f'class="s-{ink}" fill="none" stroke="{INKS[ink][0]}" stroke-width="{width:g}"'


def text(
    x: float, y: float, words: str, *, ink: str = "faint", size: float = 12, anchor: str = "start",
    more: str = "",
) -> str:  # fmt: skip
    place = f'x="{n(x)}" y="{n(y)}" font-size="{size:g}" text-anchor="{anchor}"'
    return f"<text {place} {fill(ink)}{more}>{escape(words)}</text>"


def line(points: Sequence[Point], ink: str, width: float = 1.0, more: str = "") -> str:
    joined = " ".join(f"{n(x)},{n(y)}" for x, y in points)
    return f'<polyline points="{joined}" {stroke(ink, width)}{more}/>'


def circle(x: float, y: float, radius: float, paint: str, title: str = "") -> str:
    place = f'cx="{n(x)}" cy="{n(y)}" r="{radius:g}"'
    inside = f"<title>{escape(title)}</title>" if title else ""
    return f"<circle {place} {paint}>{inside}</circle>" if title else f"<circle {place} {paint}/>"


@dataclass(frozen=True, slots=True)
class Box:
    """The plotting area in a picture, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def place(self, x: float, y: float) -> Point:
        """The pixel coordinates of a point of the unit square, whose origin is the lower left."""
        return (
            self.left + x * (self.right - self.left),
            self.bottom - y * (self.bottom - self.top),
        )

    def frame(
        self, x: Iterable[tuple[float, str]], y: Iterable[tuple[float, str]], size: float = 12
    ) -> list[str]:
        """Grid lines and labels of the ticks, each a position from 0 to 1 and its text."""
        drawn = []
        for at, label in x:
            across = self.place(at, 0)[0]
            drawn.append(line([(across, self.top), (across, self.bottom)], "grid"))
            drawn.append(text(across, self.bottom + 1.5 * size, label, size=size, anchor="middle"))
        for at, label in y:
            up = self.place(0, at)[1]
            drawn.append(line([(self.left, up), (self.right, up)], "grid"))
            drawn.append(text(self.left - 8, up + 0.35 * size, label, size=size, anchor="end"))
        return drawn


def picture(width: float, height: float, title: str, drawn: Iterable[str], about: str = "") -> str:
    """A whole SVG file, for light and dark pages."""
    dark = f"@media (prefers-color-scheme:dark){{{style(dark=True)}}}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {n(width)} {n(height)}" '
            f'width="{n(width)}" height="{n(height)}" font-family="{escape(FONT)}" role="img">',
            f"<title>{escape(title)}</title>",
            *([f"<desc>{escape(about)}</desc>"] if about else []),
            f"<style>{dark}</style>",
            f'<rect width="100%" height="100%" {fill("paper")}/>',
            *drawn,
            "</svg>",
            "",
        ]
    )
