"""An architecture as plain PyTorch source that does not need this package."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator

import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from nas.errors import NasError
from nas.language.architecture import Architecture
from nas.training.network import AuxHead, ConcatOf, Network, SumOf, build

SUM = '''

class Sum(nn.ModuleList):
    """The elementwise sum of its branches."""

    def forward(self, x):
        return sum(branch(x) for branch in self)
'''

CONCAT = '''

class Concat(nn.ModuleList):
    """Its branches side by side in the channels."""

    def forward(self, x):
        return torch.cat([branch(x) for branch in self], 1)
'''


def python_source(architecture: Architecture) -> str:
    """A module with ``network()``: the deployed network, without auxiliary classifiers.

    Without those, its state dict has the keys of ``nas.build``'s, so that trained weights load.
    Raises NasError for a layer, of a plug-in, that is none of torch's own.
    """
    with torch.device("meta"):
        network = build(architecture)
    body = _source(network)
    parts = [
        f'"""{architecture}\n\n{architecture.params:,} params, {architecture.macs:,} MACs."""\n'
    ]
    imports = ["", "import torch" if "Concat(" in body else "", "from torch import nn"]
    if "SqueezeExcitation(" in body:
        imports.append("from torchvision.ops import SqueezeExcitation")
    parts.append("\n".join(line for line in imports if line) + "\n")
    parts += [SUM] * ("Sum(" in body) + [CONCAT] * ("Concat(" in body)
    parts.append(f"\n\ndef network():\n    return {textwrap.indent(body, '    ').strip()}\n")
    return "\n".join(parts[:2]) + "".join(parts[2:])


def _source(module: nn.Module) -> str:
    if isinstance(module, SqueezeExcitation):
        kind = type(module.activation).__name__
        conv = module.fc1
        return f"SqueezeExcitation({conv.in_channels}, {conv.out_channels}, nn.{kind})"
    children = [child for child in module.children() if not isinstance(child, AuxHead)]
    if isinstance(module, (SumOf, ConcatOf)):
        name = "Sum" if isinstance(module, SumOf) else "Concat"
        return f"{name}([\n{_lines(children)}\n])"
    if isinstance(module, (Network, nn.Sequential)):
        return f"nn.Sequential(\n{_lines(children)}\n)"
    made = type(module)
    if getattr(nn, made.__name__, None) is not made or children:
        raise NasError(
            f"{made.__name__} is no layer of torch.nn: plain PyTorch source cannot have it"
        )
    return f"nn.{made.__name__}({', '.join(_arguments(module))})"


def _arguments(module: nn.Module) -> Iterator[str]:
    """What makes a layer of torch, which keeps its arguments as attributes of the same names.
    (``extra_repr`` leaves some out: the ceil_mode of average pooling.) Raises NasError."""
    for p in inspect.signature(type(module)).parameters.values():
        if p.name in ("device", "dtype") or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        value = getattr(module, p.name, p.empty)
        if isinstance(value, nn.Parameter) or (value is None and isinstance(p.default, bool)):
            value = value is not None  # a bias
        if not isinstance(value, (bool, int, float, str, tuple, type(None))):
            name = type(module).__name__
            raise NasError(f"{name} does not tell its {p.name}: plain PyTorch source needs it")
        if p.default is p.empty:
            yield repr(value)
        elif value != p.default and value != (p.default, p.default):  # for height and width
            yield f"{p.name}={value!r}"


def _lines(children: list[nn.Module]) -> str:
    return textwrap.indent("".join(f"{_source(child)},\n" for child in children), "    ").rstrip()
