"""An architecture as plain PyTorch source that does not need this package."""

from __future__ import annotations

import textwrap

import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

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
    # torch prints a layer as the arguments that make it; but for this one it leaves one out.
    told = module.extra_repr()
    if isinstance(module, nn.AvgPool2d):
        told += f", ceil_mode={module.ceil_mode}"
    return f"nn.{type(module).__name__}({told})"


def _lines(children: list[nn.Module]) -> str:
    return textwrap.indent("".join(f"{_source(child)},\n" for child in children), "    ").rstrip()
