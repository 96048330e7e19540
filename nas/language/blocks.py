"""The blocks of the literature as recipes over layers.

A block is a function from its input shape and its arguments to an expression. Its signature is all
that the pattern language, the search spaces, pruning and the help need; its name is its entry in
``BLOCKS``. Layers raise ShapeError for a map that does not fit, blocks for arguments that do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from nas.errors import ShapeError
from nas.language.expression import Aux, Node, Shape, concat, identity, seq
from nas.language.layers import (
    BN,
    RELU,
    Activation,
    ActivationKind,
    BatchNorm,
    Conv,
    Count,
    Divides,
    Dropout,
    Fraction,
    Gap,
    Kernel,
    Linear,
    Narrows,
    Pool,
    Range,
    Size,
    SqueezeExcite,
    Stride,
    Width,
)

Ratio = Annotated[int, Range(0, 1_024), Divides()]
Times = Annotated[int, Range(0, 1_024)]
Column = Annotated[Count, Narrows()]


def conv(width: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> Node:
    """A convolution that keeps the map's size at stride 1, without bias."""
    return Conv(width, kernel, stride, groups=groups, bias=False)


def shortcut(x: Shape, width: int, stride: int) -> Node:
    """The identity where the shape does not change, else a 1x1 projection (He et al. 2015, option
    B)."""
    return identity if x[0] == width and stride == 1 else conv(width, 1, stride) >> BN


def squeeze_excite(width: int, ratio: int, kind: ActivationKind = "relu") -> Node:
    """Gates through width / ratio channels (Hu et al. 2018); the identity for a ratio of 0."""
    return SqueezeExcite(max(1, width // ratio), kind) if ratio else identity


def plain(x: Shape, *, width: Width, kernel: Kernel = 3, stride: Stride = 1) -> Node:
    """Convolution, normalisation, ReLU (VGG, Simonyan and Zisserman 2014, with BN)."""
    return conv(width, kernel, stride) >> BN >> RELU


def residual(
    x: Shape,
    *,
    width: Width,
    kernel: Kernel = 3,
    stride: Stride = 1,
    bottleneck: Ratio = 0,
    groups: Size = 1,
    se: Ratio = 0,
) -> Node:
    """A residual unit (He et al. 2015, figures 2 and 5).

    ``width`` counts output channels. ``bottleneck`` 0 is the basic unit of two convolutions; b > 0
    narrows to width / b between 1x1 convolutions, with the stride on the middle one. ``groups``
    splits the middle (or, in a basic unit, both) convolutions (ResNeXt). ``se`` r > 0 gates the
    channels through width / r.
    """
    if bottleneck:
        inner = max(1, width // bottleneck)
        body = (
            conv(inner, 1) >> BN >> RELU
            >> conv(inner, kernel, stride, groups) >> BN >> RELU
            >> conv(width, 1) >> BN
        )  # fmt: skip
    else:
        body = (
            conv(width, kernel, stride, groups) >> BN >> RELU
            >> conv(width, kernel, groups=groups) >> BN
        )  # fmt: skip
    return (body >> squeeze_excite(width, se)) + shortcut(x, width, stride) >> RELU


def dense(x: Shape, *, growth: Width, kernel: Kernel = 3, bottleneck: Times = 4) -> Node:
    """One dense layer (Huang et al. 2017, section 3): concatenates the input and ``growth`` new
    channels.

    ``bottleneck`` b > 0 first narrows to b * growth channels (DenseNet-B).
    """
    narrow = BN >> RELU >> conv(bottleneck * growth, 1) if bottleneck else identity
    return concat(identity, narrow >> BN >> RELU >> conv(growth, kernel))


def transition(x: Shape, *, compression: Fraction = 0.5) -> Node:
    """Compresses the channels and halves the map (Huang et al. 2017, section 3: DenseNet-C)."""
    return BN >> RELU >> conv(max(1, int(x[0] * compression)), 1) >> Pool(kind="avg")


def inception_unit(width: int, kernel: int, stride: int, bn: bool) -> Node:
    """The convolution of GoogLeNet, as published or with the later form's normalisation."""
    return Conv(width, kernel, stride) >> (BatchNorm(1e-3) if bn else identity) >> RELU


def inception(
    x: Shape,
    *,
    one: Column = 0,
    reduce3: Column = 0,
    three: Column = 0,
    reduce5: Column = 0,
    five: Column = 0,
    project: Column = 0,
    kernel: Kernel = 5,
    width: Annotated[Count, Narrows(16)] = 0,
    stride: Stride = 1,
    bn: bool = True,
) -> Node:
    """Parallel scales (Szegedy et al. 2014, figure 2b), with BN unless ``bn`` is no.

    The first six arguments are the columns of the paper's table 1; given ``width``, the output
    channels, instead, they follow the proportions of its inception (3a). ``kernel`` is that of the
    largest scale (3 in torchvision's GoogLeNet).
    """
    if width:
        one, reduce3, three, reduce5 = width // 4, 3 * width // 8, width // 2, width // 16
        five = project = width // 8
        three += width - one - three - five - project
    columns = (one, reduce3, three, reduce5, five, project)
    if min(columns) < 1:
        raise ShapeError(
            "needs a width of 16 or more, or its six columns"
            if width
            else "needs a width, or its six columns one, reduce3, three, reduce5, five, project"
        )

    def unit(width: int, kernel: int, stride: int = 1) -> Node:
        return inception_unit(width, kernel, stride, bn)

    return concat(
        unit(one, 1, stride),
        unit(reduce3, 1) >> unit(three, 3, stride),
        unit(reduce5, 1) >> unit(five, kernel, stride),
        Pool(3, stride, 1) >> unit(project, 1),
    )


def mbconv(
    x: Shape,
    *,
    width: Width,
    kernel: Kernel = 3,
    stride: Stride = 1,
    expansion: Annotated[int, Range(1, 64)] = 6,
    se: Ratio = 0,
    act: ActivationKind = "relu6",
) -> Node:
    """The inverted residual (Sandler et al. 2018, table 1): widen, filter each channel, narrow.

    ``se`` r > 0 gates the widened channels through x / r (EfficientNet's squeeze-excitation).
    """
    inner, f = x[0] * expansion, Activation(act)
    widen = conv(inner, 1) >> BN >> f if expansion > 1 else identity
    gate = SqueezeExcite(max(1, x[0] // se), act) if se else identity
    body = widen >> conv(inner, kernel, stride, inner) >> BN >> f >> gate >> conv(width, 1) >> BN
    return body + identity if x[0] == width and stride == 1 else body


def aux(
    x: Shape,
    *,
    width: Width = 128,
    hidden: Size = 1_024,
    dropout: Fraction = 0.7,
    pool: Literal["adaptive", "paper"] = "adaptive",
    bn: bool = True,
    classes: Size,
) -> Node:
    """GoogLeNet's auxiliary classifier (Szegedy et al. 2014, section 5): average to 4x4, 1x1
    convolution, two fully connected layers. ``pool=paper`` averages 5x5 windows at stride 3."""
    shrink = Gap(4) if pool == "adaptive" else Pool(5, 3, kind="avg")
    reduce = inception_unit(width, 1, 1, bn)
    return Aux(seq(shrink, reduce, Linear(hidden), RELU, Dropout(dropout), Linear(classes)))


BLOCKS: dict[str, Callable[..., Node]] = {
    "PLAIN": plain,
    "RESIDUAL": residual,
    "DENSE": dense,
    "TRANSITION": transition,
    "INCEPTION": inception,
    "MBCONV": mbconv,
    "AUX": aux,
}
