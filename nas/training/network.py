"""Architecture -> torch.nn.Module, from the same tree that counts it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import NasError, brief
from nas.language.architecture import Architecture
from nas.language.expression import Aux, Concat, Leaf, Node, Seq, Shape, Sum, show
from nas.training.device import seeded


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
    """The module of an architecture, on torch's default device, with fresh weights: normalised
    images (batch, channels, height, width) -> logits (batch, classes).

    Weights are drawn from ``seed``, or from torch's global generator where that is None; with a
    seed, that generator is left as it was.
    Convolutions are He-initialised (He et al. 2015, fan out), biases zero, linear layers as torch
    has them.
    """
    if not isinstance(architecture, Architecture):
        told = brief(repr(architecture), 60)
        raise NasError(f"architecture is {told}: must be an Architecture, as nas.parse gives it")
    if not (seed is None or (isinstance(seed, Integral) and 0 <= seed < 2**63)):
        raise NasError(f"seed is {brief(repr(seed), 60)}: must be None or from 0 to {2**63 - 1}")
    seed = None if seed is None else int(seed)
    nodes = [step.node for step in architecture.steps]
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    # The default one for the layers that are left as they come, such as a plug-in's.
    apart = contextlib.nullcontext() if seed is None else seeded(seed, torch.device("cpu"))
    with apart:
        network = Network(
            *(_module(step.node, step.x, _fresh(nodes, i))
              for i, step in enumerate(architecture.steps))
        )  # fmt: skip
    for module in network.modules():
        _initialise(module, generator)
    return network


def build_row(layers: Sequence[Node], x: Shape) -> nn.Module:
    """Layers in a row that ``x`` reaches, as they are within a network."""
    with seeded(0, torch.device("cpu")):
        row = nn.Sequential(*_sequence(layers, x))
        for module in row.modules():
            _initialise(module, None)
    return row


def _initialise(module: nn.Module, generator: torch.Generator | None) -> None:
    # On the meta device nothing is drawn, but the attempt imports torch's compiler: 1.7 s of
    # processor time in each process that saves, loads or exports a model.
    if any(p.is_meta for p in module.parameters(recurse=False)):
        return
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
    return i > 0 and nodes[i - 1].spare


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
    assert isinstance(node, Leaf)
    module = node.module(x, fresh)
    own = type(node).__module__.startswith("nas.language.")
    if not own and torch.get_default_device().type != "meta":  # there a module may not run
        _compare(node, module, x)
    return module


def _compare(leaf: Leaf, module: nn.Module, x: Shape) -> None:
    """Raises NasError where a plug-in's module is not what its arithmetic says. Of our own layers
    the tests know it."""
    cost = leaf.cost(x)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            _, *shape = module.eval()(torch.zeros(2, *x)).shape
    except Exception as error:
        reason = brief(f"{type(error).__name__}: {error}", 200)
        raise NasError(f"{leaf}: its module fails on {show(x)}: {reason}") from error
    module.train()
    params = sum(each.numel() for each in module.parameters())
    if (tuple(shape), params) != (cost.shape, cost.params):
        raise NasError(
            f"{leaf}: of {show(x)} its module makes {show(tuple(shape))} with {params:,} "
            f"parameters, and by its cost it is {show(cost.shape)} with {cost.params:,}"
        )
