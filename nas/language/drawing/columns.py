"""A network as columns: one for each named element, with repeats kept as repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from nas.language.drawing.blocks import form, ink_of, inside
from nas.language.drawing.canvas import breadth
from nas.language.drawing.labels import follows, label, readable
from nas.language.elements import Step
from nas.language.expression import Aux, Concat, Leaf, Node, Seq, Shape, Sum, identity
from nas.language.pattern import repeats

LONG = 64  # a longer name is broken into two lines


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a drawing: an element, or several as one. ``blocks``: the blocks in it, each with
    its input shape; ``shares``: the channels of each branch that a concatenation joins; ``skip``:
    the kind of shortcut around a sum."""

    lines: tuple[tuple[str, bool], ...]  # each with whether it is the name
    shape: Shape
    ink: str
    params: int = 0
    macs: int = 0
    blocks: tuple[tuple[Node, Shape], ...] = ()
    shares: tuple[int, ...] = ()
    skip: str = ""


@dataclass(frozen=True, slots=True)
class Repeated:
    """Columns repeated ``count`` times, at one map size."""

    items: tuple[Column | Repeated, ...]
    count: int


Item = Column | Repeated


def columns(steps: Sequence[Step]) -> tuple[Item, ...]:
    items: list[Item] = []
    at = 0
    for period, count in repeats([str(step) for step in steps]):
        body = steps[at : at + period * count]
        at += len(body)
        if count == 1:
            _add(items, body[0])
            continue
        rounds = [body[i : i + period] for i in range(0, len(body), period)]
        for _, run in groupby(enumerate(rounds), lambda numbered: _alike(*numbered)):
            drawn = [columns(steps) for _, steps in run]
            items += drawn[0] if len(drawn) == 1 else [Repeated(_together(drawn), len(drawn))]
    return tuple(items)


def _alike(number: int, steps: Sequence[Step]) -> object:
    """A key that is equal for rounds of a repeat that can be drawn as one: of one map size and one
    form. The text is not enough: the first of ResNet-50's RESIDUAL*3 has a projection."""
    maps = {step.cost.shape[1:] for step in steps}
    if len(maps) > 1:
        return number
    return maps, [form(step.node, step.x) for step in steps]


def _add(items: list[Item], step: Step) -> None:
    """Adds a step as a column of its own, or to the one before it."""
    last = items[-1] if items else None
    node, x = step.node, step.x
    column = _column(step)
    if isinstance(last, Column) and last.ink != "auxiliary" and isinstance(node, Leaf):
        lone = not any(head for _, head in last.lines)  # leading BN and relu join what follows
        if follows(node, x) or lone:
            ink = column.ink if lone else last.ink
            items[-1] = replace(
                last,
                lines=last.lines + column.lines,
                shape=column.shape,
                ink=ink,
                params=last.params + column.params,
                macs=last.macs + column.macs,
            )
            return
    items.append(column)


def _column(step: Step) -> Column:
    node, x, (shape, params, macs) = step.node, step.x, step.cost
    if isinstance(node, Leaf):
        return Column(_lines(node, x), shape, ink_of(x, shape, macs), params, macs)
    name = (readable(step.name), True)
    if isinstance(node, Aux):
        return Column((name,), shape, "auxiliary", blocks=((node, x),))
    stride = dict(step.args).get("stride", 1)
    size = f"{shape[0]}, /{stride}" if stride != 1 else str(shape[0])
    column = Column((name, (size, False)), shape, "layer", params, macs, ((node, x),))
    for part, at in inside(node, x) if isinstance(node, Seq) else [(node, x)]:
        if isinstance(part, Sum):
            skip = "identity" if identity in part.items else "projection"
            return replace(column, ink="sum", skip=skip)
        if isinstance(part, Concat):
            shares = tuple(item.cost(at).shape[0] for item in part.items)
            return replace(column, ink="concatenation", shares=shares)
    return column


def _lines(node: Leaf, x: Shape) -> tuple[tuple[str, bool], ...]:
    title, _, rest = label(node, x)
    if follows(node, x):
        return ((", ".join([title, *rest]), False),)
    shape, _, macs = node.cost(x)
    if shape[0] != x[0] or macs:
        rest = (str(shape[0]), *rest)
    name, several, window = title.rpartition(" ")
    if several and breadth(title, 11) > LONG:
        title, rest = name, (window, *rest)
    arguments = ", ".join(rest)
    return ((title, True), (arguments, False)) if arguments else ((title, True),)


def _together(rounds: Sequence[tuple[Item, ...]]) -> tuple[Item, ...]:
    """The rounds of a repeat as one: the last one's shapes, and the summed costs."""
    return tuple(_same(list(alike)) for alike in zip(*rounds, strict=True))


def _same(alike: Sequence[Item]) -> Item:
    last = alike[-1]
    if isinstance(last, Repeated):
        inside = [each.items for each in alike if isinstance(each, Repeated)]
        return Repeated(_together(inside), last.count)
    own = [each for each in alike if isinstance(each, Column)]
    shares = last.shares
    if shares and all(after.shares[0] == sum(before.shares) for before, after in pairwise(own)):
        # Dense layers: each adds its channels to all those before it.
        shares = own[0].shares + tuple(share for each in own[1:] for share in each.shares[1:])
    return replace(
        last,
        params=sum(each.params for each in own),
        macs=sum(each.macs for each in own),
        blocks=tuple(block for each in own for block in each.blocks),
        shares=shares,
    )


def flat(items: Sequence[Item]) -> list[Column]:
    found: list[Column] = []
    for item in items:
        found += [item] if isinstance(item, Column) else flat(item.items)
    return found
