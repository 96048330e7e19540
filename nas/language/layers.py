"""Leaf layers and the three combinators: feature-map shapes, parameters and MACs by arithmetic.

An expression is a tree of these nodes. A node knows one thing about itself, its ``cost``: given
the shape that reaches it, the shape that leaves it, its parameters and its multiply-adds. Torch is
not needed for that; ``nas.training.network`` makes the module from the same tree.

Shapes are ``(channels, height, width)`` for a map and ``(features,)`` after GAP, FLATTEN or FC.
Parameters and MACs are those of the network as deployed: an auxiliary classifier counts nothing
here (see ``Aux``). One multiply-add is one MAC; activations, pooling and normalisation count none,
as in torch's FlopCounterMode.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from nas.errors import ShapeError

Shape = tuple[int, ...]


class Cost(NamedTuple):
    """What a node does to the shape that reaches it, and what that takes."""

    shape: Shape
    params: int
    macs: int


class Range(NamedTuple):
    """The values an argument may take, as metadata of its annotation."""

    low: float
    high: float


Width = Annotated[int, Range(1, 65_536)]
Kernel = Annotated[int, Range(1, 1_024)]
Stride = Annotated[int, Range(1, 1_024)]
Pad = Annotated[int, Range(0, 1_024)]
Count = Annotated[int, Range(0, 65_536)]
Fraction = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, 1e6)]


def show(shape: Shape) -> str:
    """``64x8x8`` for a map, ``10`` for features."""
    return "x".join(map(str, shape))


class Node:
    """An expression. ``a >> b`` is sequence and ``a + b`` is sum."""

    __slots__ = ()

    def cost(self, x: Shape) -> Cost:
        """Raises ShapeError where the node cannot take ``x``."""
        raise NotImplementedError

    def __rshift__(self, other: Node) -> Node:
        return seq(self, other)

    def __add__(self, other: Node) -> Node:
        return Sum((self, other))


# --- combinators ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seq(Node):
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

    items: tuple[Node, ...]

    def cost(self, x: Shape) -> Cost:
        costs = [item.cost(x) for item in self.items]
        shapes = [c.shape for c in costs]
        if len({s[1:] for s in shapes}) > 1:
            raise ShapeError(f"a concatenation of unequal maps {' and '.join(map(show, shapes))}")
        shape = (sum(s[0] for s in shapes), *shapes[0][1:])
        return Cost(shape, sum(c.params for c in costs), sum(c.macs for c in costs))


def seq(*items: Node) -> Node:
    """A sequence, flattened. A convolution straight before batch normalisation has no bias unless
    it says so: the normalisation subtracts it again."""
    flat: list[Node] = []
    for item in items:
        parts = item.items if isinstance(item, Seq) else (item,)
        if parts and flat and isinstance(parts[0], BatchNorm):
            flat[-1] = _unbiased(flat[-1])
        flat += parts
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def _unbiased(node: Node) -> Node:
    if isinstance(node, Conv) and node.bias is None:
        return dataclasses.replace(node, bias=False)
    return node


def concat(*items: Node) -> Node:
    return Concat(items)


identity = Seq(())


# --- leaf layers ---------------------------------------------------------------------------------


def _map(node: Node, x: Shape) -> tuple[int, int, int]:
    if len(x) != 3:
        raise ShapeError(f"needs a feature map, but {show(x)} features reach it")
    return x[0], x[1], x[2]


def _slide(size: int, kernel: int, stride: int, pad: int, ceil: bool = False) -> int:
    """floor((W - F + 2P) / S) + 1. With ``ceil``, the last window must begin inside the map or its
    left padding, as torch has it."""
    span = size - kernel + 2 * pad
    if not ceil:
        return span // stride + 1
    out = -(-span // stride) + 1
    return out - 1 if (out - 1) * stride >= size + pad else out


def _window(x: Shape, kernel: int, stride: int, pad: int, ceil: bool = False) -> tuple[int, int]:
    height, width = (_slide(size, kernel, stride, pad, ceil) for size in x[1:])
    if height < 1 or width < 1 or min(x[1:]) + 2 * pad < kernel:
        raise ShapeError(
            f"a window of {kernel}x{kernel} with padding {pad} does not fit a map of {show(x[1:])}"
        )
    return height, width


@dataclass(frozen=True, slots=True)
class Conv(Node):
    """Convolution. ``pad`` keeps the map's size for odd kernels at stride 1 unless written;
    ``bias``: yes, but not straight before BN, unless written."""

    width: Width
    kernel: Kernel = 3
    stride: Stride = 1
    pad: Pad | None = None
    groups: Width = 1
    bias: bool | None = None

    def __post_init__(self) -> None:
        if self.pad == (self.kernel - 1) // 2:  # one form for one layer: equality means something
            object.__setattr__(self, "pad", None)

    @property
    def padding(self) -> int:
        return (self.kernel - 1) // 2 if self.pad is None else self.pad

    def cost(self, x: Shape) -> Cost:
        channels, _, _ = _map(self, x)
        if channels % self.groups or self.width % self.groups:
            raise ShapeError(
                f"{self.groups} groups do not divide {channels} channels in, {self.width} out"
            )
        height, width = _window(x, self.kernel, self.stride, self.padding)
        weights = self.width * (channels // self.groups) * self.kernel**2
        bias = 0 if self.bias is False else self.width
        return Cost((self.width, height, width), weights + bias, weights * height * width)


@dataclass(frozen=True, slots=True)
class Linear(Node):
    """Fully connected; a map is flattened first."""

    width: Width
    bias: bool = True

    def cost(self, x: Shape) -> Cost:
        weights = math.prod(x) * self.width
        return Cost((self.width,), weights + self.bias * self.width, weights)


@dataclass(frozen=True, slots=True)
class BatchNorm(Node):
    """Batch normalisation (Ioffe and Szegedy 2015): a scale and a shift a channel."""

    eps: Positive = 1e-5

    def cost(self, x: Shape) -> Cost:
        return Cost(x, 2 * x[0], 0)


@dataclass(frozen=True, slots=True)
class LocalResponseNorm(Node):
    """Local response normalisation (Krizhevsky et al. 2012, section 3.3), with its constants."""

    size: Kernel = 5
    alpha: Positive = 1e-4
    beta: Positive = 0.75
    k: Positive = 2.0

    def cost(self, x: Shape) -> Cost:
        _map(self, x)
        return Cost(x, 0, 0)


ActivationKind = Literal[
    "relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "hardswish", "tanh", "sigmoid"
]


@dataclass(frozen=True, slots=True)
class Activation(Node):
    kind: ActivationKind = "relu"

    def cost(self, x: Shape) -> Cost:
        return Cost(x, 0, 0)


@dataclass(frozen=True, slots=True)
class Dropout(Node):
    rate: Fraction = 0.5

    def cost(self, x: Shape) -> Cost:
        return Cost(x, 0, 0)


@dataclass(frozen=True, slots=True)
class Pool(Node):
    kernel: Kernel = 2
    stride: Stride | None = None
    pad: Pad = 0
    kind: Literal["max", "avg"] = "max"
    ceil: bool = False

    def __post_init__(self) -> None:
        if self.stride == self.kernel:
            object.__setattr__(self, "stride", None)

    @property
    def step(self) -> int:
        return self.kernel if self.stride is None else self.stride

    def cost(self, x: Shape) -> Cost:
        channels, _, _ = _map(self, x)
        if 2 * self.pad > self.kernel:
            raise ShapeError(f"padding {self.pad} is more than half of kernel {self.kernel}")
        height, width = _window(x, self.kernel, self.step, self.pad, self.ceil)
        return Cost((channels, height, width), 0, 0)


@dataclass(frozen=True, slots=True)
class Gap(Node):
    """Global average pooling to ``size`` x ``size`` (Lin et al. 2013; GoogLeNet, section 5): with
    size 1, one number a channel."""

    size: Kernel = 1

    def cost(self, x: Shape) -> Cost:
        channels, _, _ = _map(self, x)
        return Cost((channels,) if self.size == 1 else (channels, self.size, self.size), 0, 0)


@dataclass(frozen=True, slots=True)
class Flatten(Node):
    def cost(self, x: Shape) -> Cost:
        return Cost((math.prod(x),), 0, 0)


@dataclass(frozen=True, slots=True)
class SqueezeExcite(Node):
    """Channel gates from pooled features (Hu et al. 2018, equations 2 to 4): C -> squeeze -> C."""

    squeeze: Width
    kind: ActivationKind = "relu"

    def cost(self, x: Shape) -> Cost:
        channels, _, _ = _map(self, x)
        weights = 2 * channels * self.squeeze
        return Cost(x, weights + channels + self.squeeze, weights)


@dataclass(frozen=True, slots=True)
class Aux(Node):
    """An auxiliary classifier on the map that passes (GoogLeNet, section 5). Its loss helps the
    gradient in training; afterwards it is gone, so it counts no parameters and no MACs here."""

    head: Node

    def cost(self, x: Shape) -> Cost:
        self.head.cost(x)
        return Cost(x, 0, 0)


# --- names ---------------------------------------------------------------------------------------

BN = BatchNorm()
RELU = Activation("relu")
RELU6 = Activation("relu6")


def _activation(kind: ActivationKind) -> Callable[[], Node]:
    def layer() -> Node:
        return Activation(kind)

    return layer


LAYERS: Mapping[str, Callable[..., Node]] = {
    "CONV": Conv,
    "BN": BatchNorm,
    "LRN": LocalResponseNorm,
    "DROPOUT": Dropout,
    "POOL": Pool,
    "GAP": Gap,
    "FLATTEN": Flatten,
    "FC": Linear,
    "RELU": _activation("relu"),
    "RELU6": _activation("relu6"),
    "LEAKYRELU": _activation("leaky_relu"),
    "ELU": _activation("elu"),
    "GELU": _activation("gelu"),
    "SILU": _activation("silu"),
    "HARDSWISH": _activation("hardswish"),
    "TANH": _activation("tanh"),
    "SIGMOID": _activation("sigmoid"),
}


def leaves(node: Node, x: Shape) -> Iterator[tuple[Node, Shape]]:
    """Every leaf of an expression with the shape that reaches it, in the order of computation."""
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
            yield node, x
