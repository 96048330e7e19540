"""An architecture as an SVG of publication quality.

Above, the network from left to right: a column per element, its height for the map's side and its
width for the channels, both on log2 scales; under each stage (elements of one map size) its params
and MACs. Below, the inside of each form of block: branches side by side, and the skips of sums.
Depends on the architecture alone, and is deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from nas.language.drawing.blocks import Part, figure, form
from nas.language.drawing.canvas import Canvas, breadth
from nas.language.drawing.columns import Column, Item, Repeated, columns, flat
from nas.language.expression import Node, Shape, show

if TYPE_CHECKING:
    from nas.language.elements import Step

PAGE = 840  # a row's width, in px: printed 7 inches wide, its letters are of 6.6 points
MARGIN = 14
HEADINGS = 46  # left of a row, for map, params, MACs
ROOM = PAGE - HEADINGS - 2 * MARGIN
TALL, LOW = 124, 9  # the height of columns of the largest map, and of a 1x1 map
BESIDE, APART = 24, 10  # least gap between two columns, and between the texts under them
NARROW = 47  # the width of 224×224
LINE = 13
REPEAT = 18  # the height of the bracket over a repeat


class Drawn(Protocol):
    """What is read of an architecture, whose own drawing calls this module."""

    @property
    def input(self) -> Shape: ...
    @property
    def steps(self) -> tuple[Step, ...]: ...
    @property
    def classes(self) -> int: ...
    @property
    def params(self) -> int: ...
    @property
    def aux_params(self) -> int: ...
    @property
    def macs(self) -> int: ...
    @property
    def shapes(self) -> tuple[Shape, ...]: ...


def svg(architecture: Drawn, title: str = "") -> str:
    """The text of an SVG file; ``title`` is written above the drawing."""
    channels = architecture.input[0]
    items = (
        Column((("input", True), (str(channels), False)), architecture.input, "input"),
        *columns(architecture.steps),
    )
    letters = _letters(flat(items))
    canvas = Canvas()
    top = float(MARGIN)
    if title:
        canvas.text(MARGIN, top + 12, title, size=15, anchor="start", bold=True)
        top += 22
    sizes = (
        f"{show(architecture.input).replace('x', '×')} in, {architecture.classes} classes  ·  "
        f"{architecture.params:,} params  ·  {architecture.macs:,} MACs"
    )
    if architecture.aux_params:
        sizes += f"  ·  auxiliary classifiers, in training only: {architecture.aux_params:,} params"
    canvas.text(MARGIN, top + 10, sizes, ink="faint", anchor="start")
    top += 30
    width = MARGIN + breadth(sizes, 11)
    tallest = max(max(shape[1:], default=1) for shape in architecture.shapes)
    for row in _rows(items):
        right, top = _draw_row(canvas, row, letters, top, tallest)
        width = max(width, right)
        top += 18
    right, top = _draw_blocks(canvas, flat(items), letters, top)
    width = max(width, right)
    legend = (
        "Height: the map's side; width: the channels; one step for each doubling. /2: stride 2."
    )
    if any(column.skip for column in flat(items)):
        legend += " Arcs: shortcuts, dashed with a projection."
    canvas.text(MARGIN, top + 8, legend, size=9.5, ink="faint", anchor="start")
    width = max(width, MARGIN + breadth(legend, 9.5))
    return canvas.svg(width + MARGIN, top + 8 + MARGIN, title or "architecture", str(architecture))


# --- the network ---------------------------------------------------------------------------------


def _height(shape: Shape, tallest: int) -> float:
    side = shape[1] if len(shape) == 3 else 1
    return LOW + (TALL - LOW) * math.log2(side) / max(1.0, math.log2(tallest))


def _width(shape: Shape) -> float:
    return 6 + 4.2 * math.log2(shape[0])


def _room(column: Column) -> float:
    labels = (breadth(text, 11 if head else 10) for text, head in column.lines)
    return max(_width(column.shape) + BESIDE, APART + max(NARROW, *labels))


@dataclass(frozen=True, slots=True)
class _Piece:
    """The columns of a stage, or those that fit a row, and the text under them (``told``)."""

    columns: list[Column]
    told: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """Pieces side by side, and their repeats: (first, last, count, nesting depth)."""

    pieces: list[_Piece]
    repeats: list[tuple[int, int, int, int]]

    @property
    def columns(self) -> list[Column]:
        return [column for piece in self.pieces for column in piece.columns]


def _rows(items: Sequence[Item]) -> Iterator[_Row]:
    """Rows within the page's width, as even as possible, broken between stages where they fit."""
    stages = _stages(items)
    atoms: list[tuple[int, list[Item]]] = []
    for n, stage in enumerate(stages):
        atoms += [(n, stage)] if _breadth(stage) <= ROOM else [(n, [item]) for item in stage]
    shown = -1
    for row in _even(atoms):
        pieces: list[_Piece] = []
        found: list[tuple[int, int, int, int]] = []
        at = 0
        for n, run in groupby(row, lambda atom: atom[0]):
            part = [item for _, own in run for item in own]
            captions = _costs(flat(stages[n])) if n > shown else (_map(part), "continued")
            shown = n
            pieces.append(_Piece(flat(part), captions))
            _find(part, at, 0, found)
            at += len(flat(part))
        yield _Row(pieces, found)


def _even(atoms: Sequence[tuple[int, list[Item]]]) -> list[Sequence[tuple[int, list[Item]]]]:
    """Breaks unbreakable pieces into rows with the least sum of squared free space; a piece wider
    than the page has a row of its own."""
    widths = [_breadth(own) for _, own in atoms]
    best: list[tuple[float, int]] = [(0.0, 0)]  # up to each atom: least sum, first of its row
    for end in range(1, len(atoms) + 1):
        free = ROOM - widths[end - 1]
        found = [(best[end - 1][0] + free**2, end - 1)]
        for first in range(end - 2, -1, -1):
            free -= widths[first]
            if free < 0:
                break
            found.append((best[first][0] + free**2, first))
        best.append(min(found))
    rows: list[Sequence[tuple[int, list[Item]]]] = []
    end = len(atoms)
    while end:
        rows.insert(0, atoms[best[end][1] : end])
        end = best[end][1]
    return rows


def _find(
    items: Sequence[Item], at: int, depth: int, found: list[tuple[int, int, int, int]]
) -> None:
    for item in items:
        n = len(flat([item]))
        if isinstance(item, Repeated):
            found.append((at, at + n - 1, item.count, depth))
            _find(item.items, at, depth + 1, found)
        at += n


def _breadth(items: Sequence[Item]) -> float:
    return sum(map(_room, flat(items)))


def _stages(items: Sequence[Item]) -> list[list[Item]]:
    """Runs of one size of map."""
    return [list(stage) for _, stage in groupby(items, _map)]


def _map(items: Item | Sequence[Item]) -> str:
    item = items if isinstance(items, (Column, Repeated)) else items[0]
    return "×".join(map(str, flat([item])[0].shape[1:])) or "features"


def _costs(stage: Sequence[Column]) -> tuple[str, ...]:
    """Map, params and MACs."""
    params = sum(column.params for column in stage)
    macs = sum(column.macs for column in stage)
    return _map(stage), _short(params), _short(macs)


def _draw_row(
    canvas: Canvas, row: _Row, letters: dict[object, str], top: float, tallest: int
) -> tuple[float, float]:
    """Returns the right edge and the bottom."""
    deepest = max((depth for *_, depth in row.repeats), default=-1)
    heights = [_height(c.shape, tallest) + 20 * bool(c.skip or not _slab(c)) for c in row.columns]
    tall = max(heights)
    axis = top + REPEAT * (deepest + 1) + tall / 2
    x = float(MARGIN + HEADINGS)
    centres: list[float] = []
    for column in row.columns:
        centres.append(x + _room(column) / 2)
        x += _room(column)
    right = x
    edges = [
        (c - _slab(column) / 2, c + _slab(column) / 2)
        for c, column in zip(centres, row.columns, strict=True)
    ]
    begin = edges[0][0] - (0 if row.columns[0].ink == "input" else 18)
    starts, ends = [begin, *(far for _, far in edges)], [*(near for near, _ in edges), right]
    for start, end in zip(starts, ends, strict=True):
        if start < end:
            canvas.line([(start, axis), (end, axis)], arrow=True)
    for column, centre in zip(row.columns, centres, strict=True):
        _draw_column(canvas, column, centre, axis, tallest, _letter(letters, column))
    for first, last, count, depth in row.repeats:
        y = axis - max(heights[first : last + 1]) / 2 - 5 - REPEAT * (deepest - depth)
        left, far = edges[first][0] - 9, edges[last][1] + 9
        canvas.line([(left, y + 4), (left, y), (far, y), (far, y + 4)], bend=2)
        canvas.text((left + far) / 2, y - 3, f"×{count}", size=10, bold=True)
    bottom = axis + tall / 2 + 8
    for column, centre in zip(row.columns, centres, strict=True):
        for i, (text, head) in enumerate(column.lines):
            ink = "ink" if head else "faint"
            y = bottom + LINE * (i + 1)
            canvas.text(centre, y, text, size=11 if head else 10, ink=ink)
    bottom += LINE * max(len(column.lines) for column in row.columns) + 12
    return right, _draw_costs(canvas, row, centres, bottom)


def _slab(column: Column) -> float:
    return 0.0 if column.ink == "auxiliary" else _width(column.shape)


def _draw_column(
    canvas: Canvas, column: Column, centre: float, axis: float, tallest: int, letter: str
) -> None:
    width, height = _width(column.shape), _height(column.shape, tallest)
    left, top = centre - width / 2, axis - height / 2
    if column.ink == "auxiliary":  # beside the main path
        canvas.line([(centre, axis), (centre, top + 8)], arrow=True, dashed=True)
        canvas.rectangle(centre - 13, top - 10, 26, 18, "auxiliary", dashed=True)
        canvas.text(centre, top + 3, letter, size=10, bold=True)
        return
    if column.skip:
        y, far = top - 9, width / 2 + 6
        around = [(centre - far, axis), (centre - far, y), (centre + far, y), (centre + far, axis)]
        canvas.line(around, dashed=column.skip == "projection")
    canvas.rectangle(left, top, width, height, column.ink)
    at = left
    for share in column.shares[:-1]:
        at += width * share / sum(column.shares)
        canvas.line([(at, top), (at, top + height)], thin=True)
    if letter:
        canvas.badge(centre, axis, letter)


def _draw_costs(canvas: Canvas, row: _Row, centres: Sequence[float], top: float) -> float:
    """Under each stage its map, params and MACs."""
    for i, heading in enumerate(("map", "params", "MACs")):
        y = top + 12 + LINE * i
        canvas.text(MARGIN, y, heading, size=10, ink="faint", anchor="start")
    at = 0
    for piece in row.pieces:
        own = piece.columns
        left = centres[at] - (_room(own[0]) - APART) / 2
        at += len(own)
        right = centres[at - 1] + (_room(own[-1]) - APART) / 2
        canvas.line([(left, top - 3), (left, top), (right, top), (right, top - 3)], bend=2)
        for i, text in enumerate(piece.told):
            canvas.text((left + right) / 2, top + 12 + LINE * i, text, size=10)
    return top + 12 + LINE * 2 + 4


def _short(value: int) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:  # 999,500 is 1M
            return f"{value / size:.3g}{unit}"
    return str(value or "–")


# --- the blocks ----------------------------------------------------------------------------------


def _letters(drawn: Sequence[Column]) -> dict[object, str]:
    """A letter for each form of block, in the order in which they come."""
    found: dict[object, str] = {}
    for column in drawn:
        if column.blocks:
            found.setdefault(form(*column.blocks[0]), _alphabetic(len(found)))
    return found


def _alphabetic(n: int) -> str:
    return (_alphabetic(n // 26 - 1) if n >= 26 else "") + chr(ord("A") + n % 26)


def _letter(letters: dict[object, str], column: Column) -> str:
    return letters[form(*column.blocks[0])] if column.blocks else ""


def _draw_blocks(
    canvas: Canvas, drawn: Sequence[Column], letters: dict[object, str], top: float
) -> tuple[float, float]:
    """The inside of each form, in rows; returns the right edge and the bottom."""
    alike: dict[str, list[tuple[Node, Shape]]] = {letter: [] for letter in letters.values()}
    names: dict[str, str] = {}
    for column in drawn:
        if letter := _letter(letters, column):
            alike[letter] += column.blocks
            names[letter] = column.lines[0][0]
    x, right, bottom = float(MARGIN), 0.0, top
    for letter, blocks in alike.items():
        part = figure(blocks)
        if part is None:
            continue
        width = max(part.left + part.right, 21 + breadth(names[letter], 11, bold=True))
        if x > MARGIN and x + width > PAGE - MARGIN:
            x, top = float(MARGIN), bottom + 22
        bottom = max(bottom, _draw_block(canvas, part, letter, names[letter], x, top))
        x += width + 34
        right = max(right, x - 34)
    return right, bottom + (14 if alike else 0)


def _draw_block(canvas: Canvas, part: Part, letter: str, name: str, x: float, top: float) -> float:
    canvas.badge(x + 8, top + 7, letter)
    canvas.text(x + 21, top + 11, name, anchor="start", bold=True)
    axis = x + part.left
    canvas.line([(axis, top + 18), (axis, top + 30)], arrow=not part.forks)
    part.draw(canvas, axis, top + 30)
    bottom = top + 30 + part.height
    canvas.line([(axis, bottom), (axis, bottom + 12)], arrow=True)
    return bottom + 12
