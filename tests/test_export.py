"""Exported source stands alone and computes what the built module computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nas
from nas.training.plain import python_source

NETWORKS = [
    "INPUT(3, 16, 16) -> CONV(8) -> BN -> RELU -> RESIDUAL(8, se=4) -> DENSE(4)*2 -> FC(5)",
    "INPUT(3, 15, 17) -> CONV(8, 5, pad=0) -> LRN -> POOL(3, 2, kind=avg, ceil=yes) -> FC(7)",
    "INPUT(3, 16, 16) -> MBCONV(8) -> TRANSITION -> TANH -> DROPOUT -> FC(5)",
    "INPUT(3, 16, 16) -> INCEPTION(width=16) -> GAP(2) -> FLATTEN -> GELU -> FC(5)",
]


@pytest.mark.parametrize("pattern", NETWORKS)
def test_the_source_alone_makes_the_same_network(pattern: str) -> None:
    architecture = nas.parse(pattern)
    ours = nas.build(architecture, seed=1).eval()
    source = python_source(architecture)
    assert "nas" not in source.split('"""')[2]
    names: dict[str, Any] = {}
    exec(compile(source, "exported.py", "exec"), names)
    theirs = names["network"]().eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, *architecture.input, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(theirs(x), ours(x), rtol=0, atol=1e-6)


def test_auxiliary_classifiers_are_left_out() -> None:
    architecture = nas.parse("INPUT(3, 16, 16) -> CONV(8) -> AUX -> GAP -> FC(5)")
    names: dict[str, Any] = {}
    exec(compile(python_source(architecture), "exported.py", "exec"), names)
    assert sum(p.numel() for p in names["network"]().parameters()) == architecture.params
