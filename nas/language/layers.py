"""The leaf layers: each class holds everything about its layer.

Shapes, parameters and MACs are arithmetic, and so is what autograd saves; their units are given in
``nas.language.expression``. A layer raises ShapeError for a shape that it cannot take. A new layer
is a class and its name in ``LAYERS``, here or in a plug-in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from nas.errors import ShapeError
from nas.language.expression import Cost, Kept, Leaf, Node, Shape, show

if TYPE_CHECKING:
    from torch import nn

INDEX = 8  # bytes of an index: max pooling saves them as int64


class Range(NamedTuple):
    """The values an argument may take, as metadata of its annotation; ``open`` excludes ``low``."""

    low: float
    high: float
    open: bool = False


class Narrows(NamedTuple):
    """Metadata of an argument that counts channels: pruning may lower it to ``least``."""

    least: int = 1


class Divides(NamedTuple):
    """Metadata of an argument by which a number of channels is divided, rounded down: several
    values may give equal networks, whose canonical text has one of them."""


Size = Annotated[int, Range(1, 65_536)]
Width = Annotated[Size, Narrows()]
Kernel = Annotated[int, Range(1, 1_024)]
Stride = Annotated[int, Range(1, 1_024)]
Pad = Annotated[int, Range(0, 1_024)]
Count = Annotated[int, Range(0, 65_536)]
Fraction = Annotated[float, Range(0, 1)]
Number = Annotated[float, Range(0, 1e6)]
Positive = Annotated[float, Range(0, 1e6, open=True)]


def feature_map(x: Shape) -> tuple[int, int, int]:
    """Channels, height and width. Raises ShapeError for features."""
    if len(x) != 3:
        raise ShapeError(f"needs a feature map, but {show(x)} features reach it")
    return x[0], x[1], x[2]


def _slide(size: int, kernel: int, stride: int, pad: int, ceil: bool = False) -> int:
    """One side of ``window``. With ``ceil``, the last window must begin inside the map or its left
    padding, as in torch."""
    span = size - kernel + 2 * pad
    if not ceil:
        return span // stride + 1
    out = -(-span // stride) + 1
    return out - 1 if (out - 1) * stride >= size + pad else out


def window(x: Shape, kernel: int, stride: int, pad: int, ceil: bool = False) -> tuple[int, int]:
    """Output height and width of a sliding window: floor((W - F + 2P) / S) + 1, as in CS231n, or
    with ``ceil`` rounded up. Raises ShapeError where the map would be empty."""
    height, width = (_slide(size, kernel, stride, pad, ceil) for size in x[1:])
    if height < 1 or width < 1 or min(x[1:]) + 2 * pad < kernel:
        raise ShapeError(
            f"a window of {kernel}x{kernel} with padding {pad} does not fit a map of {show(x[1:])}"
        )
    return height, width


@dataclass(frozen=True, slots=True)
class Conv(Leaf):
    """Convolution: CxHxW -> ``width`` x H'xW', each side floor((W - F + 2P) / S) + 1.

    The default ``pad`` keeps the map's size for odd kernels at stride 1; the default ``bias`` is
    yes, except directly before BN."""

    spare = True
    width: Width
    kernel: Kernel = 3
    stride: Stride = 1
    pad: Pad | None = None
    groups: Size = 1
    bias: bool | None = None

    def __post_init__(self) -> None:
        if self.pad == (self.kernel - 1) // 2:  # canonical: equal layers compare equal
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
        channels, _, _ = feature_map(x)
        if channels % self.groups or self.width % self.groups:
            raise ShapeError(
                f"{self.groups} groups do not divide {channels} channels in, {self.width} out"
            )
        height, width = window(x, self.kernel, self.stride, self.padding)
        weights = self.width * (channels // self.groups) * self.kernel**2
        bias = 0 if self.bias is False else self.width
        return Cost((self.width, height, width), weights + bias, weights * height * width)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        from torch import nn

        return nn.Conv2d(
            x[0],
            self.width,
            self.kernel,
            self.stride,
            self.padding,
            groups=self.groups,
            bias=self.bias is not False,
        )

    def keeps(self, x: Shape) -> Kept:
        return Kept(input=True)

    def acting(self, x: Shape) -> Leaf:
        # With a single window the stride has no effect.
        return dataclasses.replace(self, stride=0) if self.cost(x).shape[1:] == (1, 1) else self


@dataclass(frozen=True, slots=True)
class Linear(Leaf):
    """Fully connected: n features -> ``width``; a map is flattened first."""

    spare = True
    width: Width
    bias: bool = True

    def cost(self, x: Shape) -> Cost:
        weights = math.prod(x) * self.width
        return Cost((self.width,), weights + self.bias * self.width, weights)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        from torch import nn

        linear = nn.Linear(math.prod(x), self.width, self.bias)
        return linear if len(x) == 1 else nn.Sequential(nn.Flatten(), linear)

    def keeps(self, x: Shape) -> Kept:
        # Maps are channels-last in memory: flattening copies them.
        return Kept(input=True) if len(x) == 1 else Kept(numbers=math.prod(x))


@dataclass(frozen=True, slots=True)
class BatchNorm(Leaf):
    """Batch normalisation (Ioffe and Szegedy 2015, algorithm 1) of a map or of features, with a
    scale and a shift per channel."""

    spare = True
    eps: Positive = 1e-5

    def cost(self, x: Shape) -> Cost:
        return Cost(x, 2 * x[0], 0)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        from torch import nn

        return (nn.BatchNorm1d if len(x) == 1 else nn.BatchNorm2d)(x[0], self.eps)

    def keeps(self, x: Shape) -> Kept:
        return Kept(input=True)


@dataclass(frozen=True, slots=True)
class LocalResponseNorm(Leaf):
    """Local response normalisation of a map over ``size`` channels (Krizhevsky et al. 2012, section
    3.3); ``alpha`` is divided by ``size``, as in torch."""

    size: Kernel = 5
    alpha: Number = 1e-4
    beta: Number = 0.75
    k: Number = 2.0

    def cost(self, x: Shape) -> Cost:
        feature_map(x)
        return Cost(x, 0, 0)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        from torch import nn

        return nn.LocalResponseNorm(self.size, self.alpha, self.beta, self.k)

    def keeps(self, x: Shape) -> Kept:
        # Besides the input: the squares, padded; their sums; the power of these.
        channels, height, width = feature_map(x)
        squares = (channels + self.size - 1) * height * width
        return Kept(input=True, numbers=squares + 2 * math.prod(x))


ActivationKind = Literal[
    "relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "hardswish", "tanh", "sigmoid"
]


def activation_class(kind: ActivationKind) -> type[nn.Module]:
    """The torch class of an activation."""
    from torch import nn

    return {
        "relu": nn.ReLU,
        "relu6": nn.ReLU6,
        "leaky_relu": nn.LeakyReLU,
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "hardswish": nn.Hardswish,
        "tanh": nn.Tanh,
        "sigmoid": nn.Sigmoid,
    }[kind]


@dataclass(frozen=True, slots=True)
class Activation(Leaf):
    """An elementwise activation, computed by torch's class, of a map or of features."""

    kind: ActivationKind = "relu"

    def cost(self, x: Shape) -> Cost:
        return Cost(x, 0, 0)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        # ReLU's gradient needs only its output; of ReLU6's input autograd saves a copy, but it is
        # still faster in place (0.30 to 0.36 s for 60 steps of a 32 x 64 x 64 map).
        in_place = {"inplace": True} if fresh and self.kind in ("relu", "relu6") else {}
        return activation_class(self.kind)(**in_place)

    def keeps(self, x: Shape) -> Kept:
        output = self.kind in ("relu", "tanh", "sigmoid")  # their gradients need only the output
        return Kept(input=not output, output=output)


@dataclass(frozen=True, slots=True)
class Dropout(Leaf):
    """Each value is 0 with probability ``rate``, in training only (Srivastava et al. 2014)."""

    rate: Fraction = 0.5

    def cost(self, x: Shape) -> Cost:
        return Cost(x, 0, 0)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        from torch import nn

        return nn.Dropout(self.rate)

    def keeps(self, x: Shape) -> Kept:
        return Kept(numbers=math.prod(x))  # the mask, in floats on the CPU


@dataclass(frozen=True, slots=True)
class Pool(Leaf):
    """Max or mean pooling: CxHxW -> CxH'xW', each side floor((W - F + 2P) / S) + 1, or with
    ``ceil`` rounded up. The default ``stride`` is the kernel; ``pad`` is at most half of it."""

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
        channels, _, _ = feature_map(x)
        if 2 * self.pad > self.kernel:
            raise ShapeError(f"padding {self.pad} is more than half of kernel {self.kernel}")
        height, width = window(x, self.kernel, self.step, self.pad, self.ceil)
        return Cost((channels, height, width), 0, 0)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        from torch import nn

        pool = nn.MaxPool2d if self.kind == "max" else nn.AvgPool2d
        rows, columns = self._ceils(x)
        if not (self._drops(x) and (rows or columns)):
            # ceil_mode as written where no window is dropped: the module may get other sizes too.
            return pool(
                self.kernel, self.step, self.pad, ceil_mode=self.ceil and not self._drops(x)
            )
        return nn.Sequential(
            pool((self.kernel, 1), (self.step, 1), (self.pad, 0), ceil_mode=rows),
            pool((1, self.kernel), (1, self.step), (0, self.pad), ceil_mode=columns),
        )

    def keeps(self, x: Shape) -> Kept:
        channels, height, width = self.cost(x).shape
        apart = self._drops(x) and any(self._ceils(x))
        between = channels * height * x[2] if apart else 0  # the map between two poolings
        places = between + channels * height * width if self.kind == "max" else 0
        return Kept(input=True, numbers=between, bytes=INDEX * places)

    def acting(self, x: Shape) -> Leaf:
        # With a single window the stride has no effect, and with a single number the kind neither.
        return dataclasses.replace(
            self,
            stride=0 if self.cost(x).shape[1:] == (1, 1) else self.stride,
            kind="max" if self.kernel == 1 else self.kind,
            ceil=any(self._ceils(x)),
        )

    def _ceils(self, x: Shape) -> tuple[bool, bool]:
        """Whether rounding up gives one more window, in height and in width."""
        sizes = ((side, self.kernel, self.step, self.pad) for side in x[1:])
        height, width = (self.ceil and _slide(*each, True) > _slide(*each) for each in sizes)
        return height, width

    def _drops(self, x: Shape) -> bool:
        """Whether torch drops a last window that would begin outside the map. ONNX's shape
        inference (1.23) counts it, so such a side is rounded down; if the other side is rounded up,
        the two are pooled in sequence, which gives the same maxima and means."""
        return self.ceil and any(
            -(-(side - self.kernel + 2 * self.pad) // self.step) + 1
            > _slide(side, self.kernel, self.step, self.pad, True)
            for side in x[1:]
        )


@dataclass(frozen=True, slots=True)
class Gap(Leaf):
    """Global average pooling to ``size`` x ``size`` (Lin et al. 2013; GoogLeNet, section 5): with
    size 1, one number per channel."""

    size: Kernel = 1

    def cost(self, x: Shape) -> Cost:
        channels, _, _ = feature_map(x)
        return Cost((channels,) if self.size == 1 else (channels, self.size, self.size), 0, 0)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        from torch import nn

        pool = nn.AdaptiveAvgPool2d(self.size)
        return nn.Sequential(pool, nn.Flatten()) if self.size == 1 else pool

    def keeps(self, x: Shape) -> Kept:
        return Kept(input=self.size > 1)  # a mean's gradient does not need its input


@dataclass(frozen=True, slots=True)
class Flatten(Leaf):
    """A map CxHxW -> its C * H * W numbers as features."""

    def cost(self, x: Shape) -> Cost:
        return Cost((math.prod(x),), 0, 0)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        from torch import nn

        return nn.Flatten()

    def keeps(self, x: Shape) -> Kept:
        return Kept()


@dataclass(frozen=True, slots=True)
class SqueezeExcite(Leaf):
    """Channel gates from pooled features (Hu et al. 2018, equations 2 to 4): C -> squeeze -> C."""

    squeeze: Width
    kind: ActivationKind = "relu"

    def cost(self, x: Shape) -> Cost:
        channels, _, _ = feature_map(x)
        weights = 2 * channels * self.squeeze
        return Cost(x, weights + channels + self.squeeze, weights)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        from nas.language.gates import SqueezeExcitation

        return SqueezeExcitation(x[0], self.squeeze, activation_class(self.kind)())

    def keeps(self, x: Shape) -> Kept:
        return Kept(input=True)  # the gates, one number per channel, are neglected


# --- names ---------------------------------------------------------------------------------------

BN = BatchNorm()
RELU = Activation("relu")
RELU6 = Activation("relu6")


ACTIVATIONS: Mapping[ActivationKind, str] = {
    "relu": "max(x, 0) (Nair and Hinton 2010).",
    "relu6": "min(max(x, 0), 6) (Krizhevsky 2010).",
    "leaky_relu": "x, or 0.01 x below 0 (Maas et al. 2013).",
    "elu": "x, or exp(x) - 1 below 0 (Clevert et al. 2016).",
    "gelu": "x times the normal distribution's CDF at x (Hendrycks and Gimpel 2016).",
    "silu": "x times its sigmoid (Elfwing et al. 2018).",
    "hardswish": "x min(max(x + 3, 0), 6) / 6 (Howard et al. 2019).",
    "tanh": "tanh(x).",
    "sigmoid": "1 / (1 + exp(-x)).",
}


def _activation(kind: ActivationKind) -> Callable[[], Leaf]:
    def layer() -> Leaf:
        return Activation(kind)

    layer.__doc__ = ACTIVATIONS[kind]
    return layer


LAYERS: dict[str, Callable[..., Leaf]] = {
    "CONV": Conv,
    "BN": BatchNorm,
    "LRN": LocalResponseNorm,
    "DROPOUT": Dropout,
    "POOL": Pool,
    "GAP": Gap,
    "FLATTEN": Flatten,
    "FC": Linear,
    **{
        kind.replace("_", "").upper(): _activation(kind)  # LEAKYRELU for leaky_relu
        for kind in ACTIVATIONS
    },
}
