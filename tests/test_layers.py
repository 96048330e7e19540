"""Shapes, parameters and MACs by arithmetic, against torch."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patterns import INPUTS, SPACES, counted, elements, inputs
from torch import nn
from torchvision.ops import SqueezeExcitation

import nas
from nas.blocks import BLOCKS
from nas.errors import NasError, PatternError, ShapeError
from nas.language.elements import parameters
from nas.layers import LAYERS, Conv, Pool, SqueezeExcite

few = settings(max_examples=40)


def agree(architecture: nas.Architecture) -> None:
    params, flops, shapes = counted(architecture)
    assert architecture.params + architecture.aux_params == params
    assert 2 * architecture.macs == flops
    told = [architecture.input, *(s.cost.shape for s in architecture.steps if s.name != "AUX")]
    assert told == shapes


@pytest.mark.parametrize("name", [*LAYERS, *BLOCKS])
@few
@given(data=st.data(), input=inputs)
def test_every_layer_and_block_with_every_option_counts_as_torch(name, data, input):
    text = data.draw(elements([name]))
    pattern = f"INPUT({', '.join(map(str, input))}) -> {text} -> FC(3)"
    try:
        architecture = nas.parse(pattern)
    except ShapeError:
        return
    agree(architecture)


@settings(max_examples=100)
@given(body=st.lists(elements([*LAYERS, *BLOCKS]), min_size=1, max_size=5), input=inputs)
def test_what_arithmetic_accepts_torch_runs_and_counts_the_same(body, input):
    pattern = " -> ".join([f"INPUT({', '.join(map(str, input))})", *body, "FC(3)"])
    try:
        architecture = nas.parse(pattern)
    except ShapeError:
        return
    agree(architecture)
    assert nas.parse(str(architecture)) == architecture


@pytest.mark.parametrize("input", INPUTS, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("name", SPACES)
def test_sampled_architectures_count_as_torch(name, input):
    space = nas.load_space(name, input=input, classes=10)
    for seed in range(3):
        agree(space.sample(seed))


sizes = st.integers(1, 40)


@settings(max_examples=300)
@given(
    map=st.tuples(sizes, sizes),
    kernel=st.integers(1, 9),
    stride=st.integers(1, 5),
    pad=st.integers(0, 4),
    ceil=st.booleans(),
)
def test_the_feature_map_formula_is_torchs(map, kernel, stride, pad, ceil):
    x = torch.empty(1, 2, *map, device="meta")
    cases: list[tuple[Conv | Pool, nn.Module]] = [
        (Conv(3, kernel, stride, pad), nn.Conv2d(2, 3, kernel, stride, pad, device="meta")),
        (
            Pool(kernel, stride, pad, "max", ceil),
            nn.MaxPool2d(kernel, stride, pad, ceil_mode=ceil),
        ),
        (
            Pool(kernel, stride, pad, "avg", ceil),
            nn.AvgPool2d(kernel, stride, pad, ceil_mode=ceil),
        ),
    ]
    if ceil and kernel > min(map) + 2 * pad:
        return  # torch pools over what is there; ours refuses a window larger than the padded map
    for ours, theirs in cases:
        try:
            expected = tuple(theirs(x).shape[1:])
        except RuntimeError:  # the kernel is larger than the padded map, the padding too large
            with pytest.raises(ShapeError):
                ours.cost((2, *map))
        else:
            assert ours.cost((2, *map)).shape == expected


def test_real_numbers_flow_through_a_sampled_network_of_each_space():
    for name in SPACES:
        space = nas.load_space(name, input=(1, 8, 8), classes=7)
        network = nas.build(space.sample(1), seed=0)
        network.train()
        y = network(torch.randn(2, 1, 8, 8))
        assert y.shape == (2, 7)
        y.sum().backward()
        assert all(p.grad is not None for p in network.parameters())


PUBLISHED = {  # DESIGN.md's table
    "lenet5": 61_706,
    "alexnet": 61_100_840,
    "alexnet_paper": 60_965_224,
    "vgg19": 143_667_240,
    "googlenet": 6_624_904,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "resnext50_32x4d": 25_028_904,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name):
    assert nas.load_space(name).sample(0).params == PUBLISHED[name]


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("INPUT(3, 4, 4) -> CONV(8, 7, pad=0) -> FC", "CONV(8, 7, pad=0) at column 19: a window of "
         "7x7 with padding 0 does not fit a map of 4x4; 3x4x4 reaches it"),
        ("INPUT(3, 4, 4) -> POOL*3 -> FC", "POOL at column 19"),
        ("INPUT(3, 8, 8) -> CONV(8, groups=2) -> FC", "2 groups do not divide 3 channels in"),
        ("INPUT(3, 8, 8) -> GAP -> CONV(8) -> FC", "needs a feature map, but 3 features reach it"),
        ("INPUT(3, 8, 8) -> INCEPTION(width=8) -> FC", "needs a width of 16 or more"),
        ("INPUT(3, 8, 8) -> CONV(8)", "ends in a map of 8x8x8"),
        ("INPUT(3, 8, 8) -> CONV(8) -> GAP -> FC(10) -> FC(9)", None),
        ("INPUT -> [[[BN*4000]*4000]*4000]*4000 -> FC", "more than 4096 elements"),
        ("INPUT(3, 5, 8) -> POOL(2, pad=2) -> FC", "padding 2 is more than half of kernel 2"),
    ],
)  # fmt: skip
def test_a_map_that_does_not_fit_names_the_element_its_place_and_the_shape(pattern, told):
    if told is None:
        assert nas.parse(pattern).classes == 9
        return
    with pytest.raises(NasError) as caught:
        nas.parse(pattern)
    assert isinstance(caught.value, ShapeError)
    assert told in str(caught.value)


def test_an_auxiliary_classifier_counts_only_in_training():
    plain = nas.parse("INPUT(3, 32, 32) -> CONV(8) -> GAP -> FC(10)")
    with_aux = nas.parse("INPUT(3, 32, 32) -> CONV(8) -> AUX -> GAP -> FC(10)")
    assert (with_aux.params, with_aux.macs) == (plain.params, plain.macs)
    network = nas.build(with_aux)
    network.train()
    logits, aux = network(torch.randn(2, 3, 32, 32))
    assert logits.shape == aux[0].shape == (2, 10)
    assert network.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    total = sum(p.numel() for p in network.parameters())
    assert total == with_aux.params + with_aux.aux_params


def test_weights_come_from_the_seed_alone():
    space = nas.load_space("resnet_like")
    architecture = space.sample(random.Random(3).randrange(100))
    one, same, other = (nas.build(architecture, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_squeeze_and_excitation_is_torchvisions():
    ours = SqueezeExcite(3, "silu").module((8, 5, 7), fresh=False)
    reference = SqueezeExcitation(8, 3, nn.SiLU)
    reference.load_state_dict(ours.state_dict())  # the same names, or it is refused
    x = torch.randn(4, 8, 5, 7)
    assert torch.equal(ours(x), reference(x))


def test_a_network_is_built_without_torchvision():
    """The first squeeze and excitation of a process waited a second for it."""
    code = (
        "import sys, nas, nas.training.train\n"
        "nas.build(nas.parse('INPUT(3, 16, 16) -> MBCONV(8, se=4) -> FC(2)'))\n"
        "assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", LAYERS)
def test_a_step_can_be_taken_with_the_least_and_greatest_numbers_that_are_allowed(name):
    """A size may not fit the map, and is refused as that; what is accepted torch can compute."""
    for parameter in parameters(name):
        if parameter.kind not in ("int", "float"):
            continue
        for value in {parameter.low, parameter.low + 1, min(parameter.high, 1024)}:
            given = f"{int(value) if parameter.kind == 'int' else value}"
            width = ", width=4" if name in ("CONV", "FC") and parameter.name != "width" else ""
            pattern = f"INPUT(4, 8, 8) -> {name}({parameter.name}={given}{width}) -> FC(3)"
            try:
                network = nas.build(nas.parse(pattern), seed=0).train()
            except (ShapeError, PatternError):
                continue
            network(torch.rand(2, 4, 8, 8)).sum().backward()
