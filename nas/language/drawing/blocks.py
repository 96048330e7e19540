"""Draws the inside of a block: layers from top to bottom, branches and skips side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nas.language.drawing.canvas import Canvas, breadth
from nas.language.drawing.labels import follows, label, span
from nas.language.expression import Aux, Concat, Leaf, Node, Seq, Shape, Sum

LINE = 14  # line height, in px as all lengths here
GAP = 14  # between two boxes: the length of an arrow
BESIDE = 12  # between two branches
JOIN = 16  # the height of a sum's circle and a concatenation's bar

# Blocks of one form with their input shapes: they share one drawing.
Alike = Sequence[tuple[Node, Shape]]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a figure around a vertical axis, along which the feature map enters and leaves."""

    left: float
    right: float
    height: float
    draw: Callable[[Canvas, float, float], None]  # takes the x of the axis and the y of the top
    forks: bool = False  # whether it begins with a fork instead of a box


def inside(node: Node, x: Shape) -> list[tuple[Node, Shape]]:
    """A combinator's items, each with its input shape."""
    match node:
        case Seq(items):
            found = []
            for item in items:
                found.append((item, x))
                x = item.cost(x).shape
            return found
        case Sum(items) | Concat(items):
            return [(item, x) for item in items]
        case Aux(head):
            return [(head, x)]
    raise TypeError(f"{node!r} is no combinator")


def form(node: Node, x: Shape) -> object:
    """A key that is equal for blocks that can share one figure: all but the widths."""
    if isinstance(node, Leaf):
        title, _, rest = label(node, x)
        return title, rest
    return type(node), *(form(item, at) for item, at in inside(node, x))


def figure(alike: Alike) -> Part | None:
    """The figure of blocks of one form; None for the identity."""
    first, x = alike[0]
    if isinstance(first, Leaf):
        return _box([(_line(alike), True)], _ink(first, x))
    parts = list(zip(*(inside(node, at) for node, at in alike), strict=True))
    if isinstance(first, Seq):
        return _sequence(parts)
    found = [figure(part) for part in parts]
    if isinstance(first, Aux):
        return found[0]
    return (_sum if isinstance(first, Sum) else _concatenation)(found)


def _sequence(items: Sequence[Alike]) -> Part | None:
    """A layer that follows another (``labels.follows``) is written into its box."""
    parts: list[Part] = []
    lines: list[tuple[str, bool]] = []
    ink = ""
    for alike in items:
        node, x = alike[0]
        if isinstance(node, Leaf) and follows(node, x):
            if lines and not lines[-1][1]:
                lines[-1] = (f"{lines[-1][0]}, {_line(alike)}", False)
            else:
                lines.append((_line(alike), False))
            continue
        if lines:
            parts.append(_box(lines, ink))
            lines, ink = [], ""
        if isinstance(node, Leaf):
            lines, ink = [(_line(alike), True)], _ink(node, x)
        elif part := figure(alike):
            parts.append(part)
    if lines:
        parts.append(_box(lines, ink))
    return _stack(parts) if parts else None


def _line(alike: Alike) -> str:
    """A layer's label on one line: conv 3x3, 64-128, /2."""
    labels = [label(node, x) for node, x in alike if isinstance(node, Leaf)]
    amounts = [each.amount for each in labels if each.amount is not None]
    return ", ".join([labels[0].title, *([span(amounts)] if amounts else []), *labels[0].rest])


def _ink(node: Leaf, x: Shape) -> str:
    shape, _, macs = node.cost(x)
    return ink_of(x, shape, macs)


def ink_of(x: Shape, y: Shape, macs: int) -> str:
    """A layer's colour, by its kind."""
    if len(y) == 1 and macs:
        return "features"
    if macs:
        return "convolution"
    return "layer" if x == y else "resampling"


# --- parts ---------------------------------------------------------------------------------------


def _box(lines: Sequence[tuple[str, bool]], ink: str) -> Part:
    width = 14 + max(breadth(text, 11 if head else 10) for text, head in lines)
    height = LINE * len(lines) + 6

    def draw(canvas: Canvas, axis: float, top: float) -> None:
        canvas.rectangle(axis - width / 2, top, width, height, ink or "layer")
        for i, (text, head) in enumerate(lines):
            y = top + 14 + LINE * i
            canvas.text(axis, y, text, size=11 if head else 10)

    return Part(width / 2, width / 2, height, draw)


def _stack(parts: Sequence[Part]) -> Part:
    def draw(canvas: Canvas, axis: float, top: float) -> None:
        for i, part in enumerate(parts):
            if i:
                canvas.line([(axis, top), (axis, top + GAP)], arrow=not part.forks)
                top += GAP
            part.draw(canvas, axis, top)
            top += part.height

    height = sum(part.height for part in parts) + GAP * (len(parts) - 1)
    left, right = max(p.left for p in parts), max(p.right for p in parts)
    return Part(left, right, height, draw, parts[0].forks)


def _axes(branches: Sequence[Part | None]) -> list[float]:
    """The x of each branch's axis, from the first one's."""
    axes, edge = [0.0], branches[0].right if branches[0] else 0.0
    for branch in branches[1:]:
        axes.append(edge + BESIDE + (branch.left if branch else 4))
        edge = axes[-1] + (branch.right if branch else 4)
    return axes


def _branches(
    canvas: Canvas,
    branches: Sequence[Part | None],
    axes: Sequence[float],
    axis: float,
    top: float,
    bottom: float,
) -> list[tuple[float, float]]:
    """Draws the fork and the branches; returns the point where each ends. The identity is a
    line."""
    ends = []
    for branch, at in zip(branches, axes, strict=True):
        fork = [(axis, top), (axis, top + GAP / 2), (at, top + GAP / 2), (at, top + GAP)]
        if at == axis:
            fork = [fork[0], fork[-1]]
        if branch is None:
            ends.append((at, bottom))
            canvas.line([*fork, (at, bottom)])
            continue
        canvas.line(fork, arrow=True)
        branch.draw(canvas, at, top + GAP)
        ends.append((at, top + GAP + branch.height))
    return ends


def _sum(branches: Sequence[Part | None]) -> Part:
    """The first branch is on the axis, the others to its right."""
    offsets = _axes(branches)
    inside = max(branch.height if branch else 0 for branch in branches)
    height = GAP + inside + GAP + JOIN

    def draw(canvas: Canvas, axis: float, top: float) -> None:
        axes = [axis + offset for offset in offsets]
        middle = top + height - JOIN / 2
        ends = _branches(canvas, branches, axes, axis, top, top + GAP + inside)
        for i, (x, y) in enumerate(ends):
            if i == 0:
                canvas.line([(x, y), (x, middle - JOIN / 2)], arrow=True)
            else:
                canvas.line([(x, y), (x, middle), (axis + JOIN / 2, middle)], arrow=True)
        canvas.circle(axis, middle, JOIN / 2, "sum")
        canvas.line([(axis - 4, middle), (axis + 4, middle)])
        canvas.line([(axis, middle - 4), (axis, middle + 4)])

    left = max(b.left - o if b else 4 - o for b, o in zip(branches, offsets, strict=True))
    right = max(o + (b.right if b else 4) for b, o in zip(branches, offsets, strict=True))
    return Part(max(left, JOIN / 2), max(right, JOIN / 2), height, draw, forks=True)


def _concatenation(branches: Sequence[Part | None]) -> Part:
    """The branches are centred on the axis, above a bar that joins them."""
    offsets = _axes(branches)
    middle = offsets[-1] / 2
    offsets = [offset - middle for offset in offsets]
    inside = max(branch.height if branch else 0 for branch in branches)
    height = GAP + inside + GAP + JOIN
    bar = max(offsets[-1] + 10, breadth("concatenation", 10) / 2 + 7)

    def draw(canvas: Canvas, axis: float, top: float) -> None:
        axes = [axis + offset for offset in offsets]
        upper = top + height - JOIN
        for x, y in _branches(canvas, branches, axes, axis, top, top + GAP + inside):
            canvas.line([(x, y), (x, upper)], arrow=True)
        canvas.rectangle(axis - bar, upper, 2 * bar, JOIN, "concatenation")
        canvas.text(axis, upper + 12, "concatenation", size=10)

    left = max((b.left if b else 4) - o for b, o in zip(branches, offsets, strict=True))
    right = max((b.right if b else 4) + o for b, o in zip(branches, offsets, strict=True))
    return Part(max(left, bar), max(right, bar), height, draw, forks=True)
