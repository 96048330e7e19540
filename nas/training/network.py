"""Architecture -> torch.nn.Module, from the same tree that counts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from nas.language.architecture import Architecture
from nas.language.expression import Aux, Concat, Node, Seq, Shape, Sum
from nas.language.layers import (
    Activation,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    Gap,
    Linear,
    LocalResponseNorm,
    Pool,
    SqueezeExcite,
)

ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class SumOf(nn.ModuleList):
    """The elementwise sum of its branches."""

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self
        y: Tensor = first(x)
        for branch in rest:
            y = y + branch(x)
        return y


class ConcatOf(nn.ModuleList):
    """Its branches side by side in the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], 1)


class Network(nn.Sequential):
    """The elements of an architecture in a row. In training, with auxiliary classifiers, it answers
    ``(logits, [auxiliary logits, ...])``; otherwise logits, of shape (batch, classes)."""

    def forward(self, x: Tensor) -> Any:
        aux: list[Tensor] = []
        for element in self:
            if isinstance(element, AuxHead):
                if self.training:
                    aux.append(element(x))
            else:
                x = element(x)
        return (x, aux) if aux else x


class AuxHead(nn.Sequential):
    """An auxiliary classifier: ``Network`` calls it beside the main path, in training only."""


def build(architecture: Architecture, *, seed: int | None = None) -> nn.Module:
    """The module of an architecture, on torch's default device, with fresh weights.

    Weights are drawn from ``seed``, or from torch's global generator where that is None.
    Convolutions are He-initialised (He et al. 2015, fan out), biases zero, linear layers as torch
    has them.
    """
    nodes = [step.node for step in architecture.steps]
    modules = [
        _module(step.node, step.x, _fresh(nodes, i)) for i, step in enumerate(architecture.steps)
    ]
    network = Network(*modules)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for module in network.modules():
        _initialise(module, generator)
    return network


def _initialise(module: nn.Module, generator: torch.Generator | None) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(
            module.weight, mode="fan_out", nonlinearity="relu", generator=generator
        )
    elif isinstance(module, nn.Linear):
        bound = module.in_features**-0.5
        nn.init.uniform_(module.weight, -bound, bound, generator=generator)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _fresh(nodes: Sequence[Node], i: int) -> bool:
    """Whether the tensor that reaches item ``i`` of a sequence belongs to nobody else, and is not
    needed for its maker's gradient, so that an activation may overwrite it."""
    return i > 0 and isinstance(nodes[i - 1], (Conv, BatchNorm, Linear, Sum, Concat))


def _sequence(items: Sequence[Node], x: Shape) -> list[nn.Module]:
    modules = []
    for i, item in enumerate(items):
        modules.append(_module(item, x, _fresh(items, i)))
        x = item.cost(x).shape
    return modules


def _module(node: Node, x: Shape, fresh: bool = False) -> nn.Module:
    """The module of a node that ``x`` reaches."""
    match node:
        case Seq(items):
            return nn.Sequential(*_sequence(items, x)) if items else nn.Identity()
        case Sum(items):
            return SumOf(_module(item, x) for item in items)
        case Concat(items):
            return ConcatOf(_module(item, x) for item in items)
        case Aux(head):
            return AuxHead(*_sequence(head.items if isinstance(head, Seq) else (head,), x))
        case Conv(width, kernel, stride, _, groups, bias):
            return nn.Conv2d(
                x[0], width, kernel, stride, node.padding, groups=groups, bias=bias is not False
            )
        case Linear(width, bias):
            features = node.cost(x).macs // width
            linear = nn.Linear(features, width, bias)
            return linear if len(x) == 1 else nn.Sequential(nn.Flatten(), linear)
        case BatchNorm(eps):
            return (nn.BatchNorm1d if len(x) == 1 else nn.BatchNorm2d)(x[0], eps)
        case LocalResponseNorm(size, alpha, beta, k):
            return nn.LocalResponseNorm(size, alpha, beta, k)
        case Activation(kind):
            # ReLU's gradient needs its output alone; of ReLU6's input autograd keeps a copy, yet in
            # place it is the faster (0.30 to 0.36 s for 60 steps of a 32 x 64 x 64 map).
            in_place = {"inplace": True} if fresh and kind in ("relu", "relu6") else {}
            return ACTIVATIONS[kind](**in_place)
        case Dropout(rate):
            return nn.Dropout(rate)
        case Pool(kernel, _, pad, "max", ceil):
            return nn.MaxPool2d(kernel, node.step, pad, ceil_mode=ceil)
        case Pool(kernel, _, pad, _, ceil):
            return nn.AvgPool2d(kernel, node.step, pad, ceil_mode=ceil)
        case Gap(size):
            pool = nn.AdaptiveAvgPool2d(size)
            return nn.Sequential(pool, nn.Flatten()) if size == 1 else pool
        case Flatten():
            return nn.Flatten()
        case SqueezeExcite(squeeze, kind):
            gate: nn.Module = SqueezeExcitation(x[0], squeeze, ACTIVATIONS[kind])
            return gate
    raise TypeError(f"no module for {node!r}")
