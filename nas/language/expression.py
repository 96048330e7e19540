"""Expressions: trees of leaf layers and a few combinators, which represent architectures.

A node knows its ``cost``: for an input shape, its output shape, parameters and multiply-adds. A
leaf layer's class holds everything else about it (see ``Leaf``; the layers are in
``nas.language.layers``), so that code over the tree, such as ``nas.training.network`` and
``nas.training.footprint``, handles only the combinators.

Shapes are ``(channels, height, width)`` for a map and ``(features,)`` after GAP, FLATTEN or FC.
Parameters and MACs are those of the network as deployed, without auxiliary classifiers (see
``Aux``). One multiply-add is one MAC; activations, pooling and normalisation count none, as in
torch's FlopCounterMode.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from nas.errors import ShapeError

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]


class Cost(NamedTuple):
    """A node's output shape, and its costs."""

    shape: Shape
    params: int
    macs: int


class Kept(NamedTuple):
    """What autograd saves of a layer, per image, from the forward to the backward pass.

    Its input and output are saved once, however many layers read them. ``numbers`` counts further
    values of the map's element size; ``bytes`` is the size of other data, such as indices.
    """

    input: bool = False
    output: bool = False
    numbers: int = 0
    bytes: int = 0


def show(shape: Shape) -> str:
    """``64x8x8`` for a map, ``10`` for features."""
    return "x".join(map(str, shape))


class Node:
    """An expression: a leaf layer, or one of this file's combinators. ``a >> b`` is sequence and
    ``a + b`` is sum."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # all nodes are dataclasses

    def __init_subclass__(cls) -> None:
        if cls.__module__ != __name__:  # code over the tree handles only these
            raise TypeError(f"{cls.__name__}: a layer is a subclass of Leaf")

    # Whether its output is a new tensor that its own gradient does not need, so that an activation
    # may overwrite it.
    spare: ClassVar[bool] = False

    def cost(self, x: Shape) -> Cost:
        """Raises ShapeError where the node cannot take ``x``."""
        raise NotImplementedError

    def before(self, following: Node) -> Node:
        """The node to use directly before ``following``: a convolution drops its bias before BN."""
        return self

    def __rshift__(self, other: Node) -> Node:
        return seq(self, other)

    def __add__(self, other: Node) -> Node:
        return Sum((self, other))


class Leaf(Node):
    """A layer: shape, params and MACs (``cost``), the torch module, and what autograd saves of it.

    A subclass is a frozen dataclass whose fields are its arguments in a pattern; its name is its
    entry in ``LAYERS``. Torch is imported only where a module is made.
    """

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        untold = [name for name in ("cost", "module", "keeps") if name not in _defined(cls)]
        if untold:
            raise TypeError(f"the layer {cls.__name__} has no {' and no '.join(untold)}")

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        """The module for inputs of shape ``x`` (without the batch). If ``fresh``, it may overwrite
        its input, which nothing else reads."""
        raise NotImplementedError

    def keeps(self, x: Shape) -> Kept:
        """What autograd saves of the layer for an input of shape ``x``."""
        raise NotImplementedError

    def acting(self, x: Shape) -> Leaf:
        """A canonical layer with the same function on inputs of shape ``x``, to compare by."""
        return self


def _defined(cls: type[Leaf]) -> set[str]:
    return {name for base in cls.__mro__[: cls.__mro__.index(Leaf)] for name in vars(base)}


# --- combinators ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seq(Node):
    """A sequence: each item's input is the output of the one before."""

    items: tuple[Node, ...]

    def cost(self, x: Shape) -> Cost:
        params = macs = 0
        for item in self.items:
            x, p, m = item.cost(x)
            params += p
            macs += m
        return Cost(x, params, macs)


@dataclass(frozen=True, slots=True)
class Sum(Node):
    """Elementwise sum of branches that agree in shape (ResNet: He et al. 2015, equation 1)."""

    spare = True
    items: tuple[Node, ...]

    def cost(self, x: Shape) -> Cost:
        costs = [item.cost(x) for item in self.items]
        shapes = [c.shape for c in costs]
        if len(set(shapes)) > 1:
            raise ShapeError(f"a sum of unequal shapes {' and '.join(map(show, shapes))}")
        return Cost(shapes[0], sum(c.params for c in costs), sum(c.macs for c in costs))


@dataclass(frozen=True, slots=True)
class Concat(Node):
    """Branches side by side in the channels (GoogLeNet, figure 2; DenseNet, equation 2)."""

    spare = True
    items: tuple[Node, ...]

    def cost(self, x: Shape) -> Cost:
        costs = [item.cost(x) for item in self.items]
        shapes = [c.shape for c in costs]
        if len({s[1:] for s in shapes}) > 1:
            raise ShapeError(f"a concatenation of unequal maps {' and '.join(map(show, shapes))}")
        shape = (sum(s[0] for s in shapes), *shapes[0][1:])
        return Cost(shape, sum(c.params for c in costs), sum(c.macs for c in costs))


@dataclass(frozen=True, slots=True)
class Aux(Node):
    """An auxiliary classifier on a map that passes through (GoogLeNet, section 5). Its loss helps
    the gradient in training; it is not deployed, so it counts no parameters and no MACs here."""

    head: Node

    def cost(self, x: Shape) -> Cost:
        self.head.cost(x)
        return Cost(x, 0, 0)


def seq(*items: Node) -> Node:
    """A sequence, with nested sequences flattened; a single item is returned as such."""
    flat: list[Node] = []
    for item in items:
        parts = item.items if isinstance(item, Seq) else (item,)
        if parts and flat:
            flat[-1] = flat[-1].before(parts[0])
        flat += parts
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def concat(*items: Node) -> Node:
    """Branches on the same input, side by side in the channels."""
    return Concat(items)


identity = Seq(())


def leaves(node: Node, x: Shape) -> Iterator[tuple[Leaf, Shape]]:
    """Every leaf of an expression with its input shape, in the order of computation."""
    match node:
        case Seq(items):
            for item in items:
                yield from leaves(item, x)
                x = item.cost(x).shape
        case Sum(items) | Concat(items):
            for item in items:
                yield from leaves(item, x)
        case Aux(head):
            yield from leaves(head, x)
        case _:
            assert isinstance(node, Leaf)
            yield node, x


def acting(node: Node, x: Shape) -> Node:
    """A canonical form of an expression on inputs of shape ``x``: equal for expressions that
    compute the same, according to their layers. Fingerprints do not use it, since records have
    stored them."""
    match node:
        case Seq(items):
            done: list[Node] = []
            for item in items:
                done.append(acting(item, x))
                x = item.cost(x).shape
            return Seq(tuple(done))
        case Sum(items) | Concat(items):
            return type(node)(tuple(acting(item, x) for item in items))
        case Aux(head):
            return Aux(acting(head, x))
        case _:
            assert isinstance(node, Leaf)
            return node.acting(x)


def kinds(node: Node) -> set[type[Leaf]]:
    """The classes of an expression's leaves. Computes no shapes, as every fingerprint calls it."""
    match node:
        case Seq(items) | Sum(items) | Concat(items):
            return set().union(*map(kinds, items))
        case Aux(head):
            return kinds(head)
        case _:
            assert isinstance(node, Leaf)
            return {type(node)}
