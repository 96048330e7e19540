"""The leaf layers: feature-map shapes, parameters and MACs by arithmetic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from nas.errors import ShapeError
from nas.language.expression import Cost, Node, Shape, show


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

    def before(self, following: Node) -> Node:
        """Without a bias before batch normalisation, which subtracts it again."""
        if self.bias is None and isinstance(following, BatchNorm):
            return dataclasses.replace(self, bias=False)
        return self

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
