"""What tests of patterns share: text drawn from the arguments that a layer or block declares, the
shapes that spaces are tried on, and torch's own count of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import nas
from nas.language.architecture import Architecture
from nas.language.elements import CLASSES, Parameter, parameters

INPUTS = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224)]
SPACES = [
    "linear", "lenet_like", "alexnet_like", "vgg_like", "inception_like", "resnet_like",
    "densenet_like", "mobilenet_like", "mixed",
]  # fmt: skip


def values(p: Parameter) -> st.SearchStrategy[str]:
    """Values of an argument as they are written, small enough to count quickly."""
    match p.kind:
        case "bool" | "word":
            return st.sampled_from(p.words)
        case "float":
            return st.floats(max(p.low, 0.1), min(p.high, 2.0)).map(lambda v: f"{v:.3f}")
        case "int":
            # Powers of two meet, so that groups divide and branches agree now and then.
            return st.sampled_from(
                [str(v) for v in (0, 1, 2, 3, 4, 5, 7, 8, 16, 24, 32) if p.low <= v <= p.high]
            )


@st.composite
def elements(draw: st.DrawFn, names: Sequence[str]) -> str:
    """One layer or block with any of its arguments."""
    name = draw(st.sampled_from(names))
    takes = [p for p in parameters(name) if p.name != CLASSES]
    told = [f"{p.name}={draw(values(p))}" for p in takes if p.required or draw(st.booleans())]
    return f"{name}({', '.join(told)})"


inputs = st.tuples(st.integers(1, 16), st.integers(1, 20), st.integers(1, 20))


def counted(architecture: Architecture) -> tuple[int, int, list[tuple[int, ...]]]:
    """Parameters (auxiliary classifiers included), FLOPs and the shape after each element that runs
    in evaluation, as torch has them, without computing anything."""
    with torch.device("meta"):
        network = nas.build(architecture).eval()
        x = torch.empty(1, *architecture.input)
    shapes = [tuple(x.shape[1:])]
    for element in network.children():
        element.register_forward_hook(lambda _m, _x, y: shapes.append(tuple(y.shape[1:])))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    params = sum(p.numel() for p in network.parameters())
    return params, counter.get_total_flops(), shapes
