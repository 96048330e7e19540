"""Predicted memory, against what autograd saves and what a real worker uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from folders import folder, ref
from torch import Tensor, nn

from nas.job import DataRef, Job, Recipe, Result
from nas.language.architecture import Architecture, parse
from nas.spaces.space import load_space, shipped
from nas.training import footprint, step
from nas.training.network import build
from nas.workers.run import Ended
from nas.workers.seat import Child

BATCH = 4
RECIPE = Recipe(batch=BATCH)
SPACES = [name for name in shipped() if not load_space(name).closed]
ZOO = ["lenet5", "alexnet", "vgg11_bn", "googlenet", "resnet18", "resnext50_32x4d", "densenet121",
       "mobilenet_v2"]  # fmt: skip


def training_step(architecture: Architecture, bf16: bool) -> tuple[int, int]:
    """Bytes of the storages, parameters apart, that autograd keeps from a forward pass; and those
    of parameters, gradients and the optimizer's state after the step."""
    module = build(architecture, seed=0).to(memory_format=torch.channels_last)
    optimizer = step.optimizer_of(module, RECIPE)
    own = {p.untyped_storage().data_ptr() for p in module.state_dict().values()}
    kept: dict[int, Tensor] = {}  # the tensors too: a freed storage's place may be taken again

    def keep(tensor: Tensor) -> Tensor:
        if (at := tensor.untyped_storage().data_ptr()) not in own:
            kept[at] = tensor
        return tensor

    x = torch.rand(BATCH, *architecture.input).to(memory_format=torch.channels_last)
    y = torch.zeros(BATCH, dtype=torch.int64)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        loss = step.loss_of(module(x), y, RECIPE)
    loss.backward()
    optimizer.step()
    state = [t for of in optimizer.state.values() for t in of.values() if t.ndim or t.numel() > 1]
    parameters = list(nn.ParameterList(module.parameters()))
    held = [*parameters, *(p.grad for p in parameters if p.grad is not None), *state]
    return (
        sum(tensor.untyped_storage().nbytes() for tensor in kept.values()),
        sum(tensor.nbytes for tensor in held),
    )


def assert_predicted(architecture: Architecture, bf16: bool) -> None:
    kept, held = training_step(architecture, bf16)
    predicted = footprint.training(architecture, RECIPE, bf16=bf16)
    assert 0.98 * (kept + held) <= predicted <= 1.01 * (kept + held), str(architecture)
    copies = footprint.HALF * (held // 12) if bf16 else 0
    maps = BATCH * footprint.kept(architecture, bf16=bf16)
    assert 0.98 * kept <= maps + copies <= 1.01 * kept, str(architecture)


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_holds_what_torch_counts(name: str) -> None:
    assert_predicted(load_space(name, (3, 64, 64), 10).sample(0), bf16=False)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_draws_hold_what_torch_counts(name: str, bf16: bool) -> None:
    space = load_space(name, (3, 32, 32), 10)
    for seed in range(3):
        assert_predicted(space.sample(seed), bf16)


EVERY = "CONV(8) -> {} -> CONV(8) -> {} -> POOL -> POOL(kind=avg) -> GAP(2) -> FC(9) -> {} -> FC"


@pytest.mark.parametrize("kind", ["RELU", "RELU6", "LEAKYRELU", "ELU", "GELU", "SILU", "HARDSWISH",
                                  "TANH", "SIGMOID", "LRN -> RELU", "DROPOUT(0.3)"])  # fmt: skip
def test_every_leaf_holds_what_torch_counts(kind: str) -> None:
    pattern = EVERY.format(kind, "BN -> " + kind, kind.removeprefix("LRN -> "))
    assert_predicted(parse(f"INPUT(3, 32, 32) -> {pattern}"), bf16=False)


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_a_pool_whose_sides_go_one_after_the_other_holds_the_map_between(kind: str) -> None:
    pattern = f"INPUT(3, 30, 31) -> CONV(8) -> POOL(2, 3, kind={kind}, ceil=yes) -> CONV(8) -> FC"
    assert_predicted(parse(pattern), bf16=False)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_copies_of_the_weights_are_those_of_a_training(optimizer: str, ema: float) -> None:
    architecture = parse("INPUT(3, 8, 8) -> CONV(16) -> BN -> RELU -> FLATTEN -> FC(50)")
    recipe = Recipe(optimizer=optimizer, ema=ema, batch=1)
    module = build(architecture, seed=0)
    adjust = step.optimizer_of(module, recipe)
    average = step.Average(module, ema) if ema else None
    step.loss_of(module(torch.rand(2, 3, 8, 8)), torch.tensor([0, 1]), recipe).backward()
    adjust.step()
    held = [t for p in module.parameters() for t in (p, p.grad, *adjust.state[p].values())]
    held += average.parameters() if average else ()
    counted = sum(t.nbytes for t in held if t.numel() > 1)
    predicted = footprint.training(architecture, recipe) - footprint.kept(architecture)
    assert predicted == pytest.approx(counted, rel=1e-3)


def test_without_momentum_there_is_no_third_copy_of_the_weights() -> None:
    architecture = parse("INPUT -> FC")
    with_it, without = (
        footprint.training(architecture, Recipe(momentum=momentum)) for momentum in (0.9, 0.0)
    )
    assert with_it - without == 4 * architecture.params


def test_a_validation_holds_what_branches_have_made() -> None:
    """By hand, in maps of 8x8: beside the 4 that came, which the concatenation keeps, BN in front
    of the dense layer's second convolution has 4*2 and makes 4*2."""
    architecture = parse("INPUT(4, 8, 8) -> DENSE(growth=2) -> GAP -> FC(3)")
    recipe = Recipe()
    passing = (4 + 8 + 8) * 8 * 8 * footprint.FLOAT * 512
    training = footprint.training(architecture, recipe) * 3 // 2
    ready = footprint.ready(architecture, recipe)
    read = 2048 * 4 * 8 * 8
    expected = footprint.PROCESS + training + passing + ready + read
    assert footprint.trial(architecture, recipe) == expected
    assert footprint.trial(architecture, recipe, streamed=True) == expected + 3 * read


def test_large_maps_are_given_back_before_the_validation() -> None:
    """By hand, of 64 images: kept is what leaves the convolution and the activation, 8 maps
    of 64x64 each. These two, of 8 MiB, are on the heap; of 16 maps they are of 16, and mapped."""
    recipe = Recipe(batch=64)
    for maps, large in ((8, 0), (16, 2 * 64 * 16 * 64 * 64 * 4)):
        architecture = parse(f"INPUT(3, 64, 64) -> CONV({maps}) -> BN -> TANH -> GAP -> FC(2)")
        training = footprint.training(architecture, recipe)
        passing = 512 * 2 * maps * 64 * 64 * 4
        ready = footprint.ready(architecture, recipe) + footprint.read(architecture, recipe, False)
        expected = footprint.PROCESS + (training - large) * 3 // 2 + max(large, passing) + ready
        assert footprint.trial(architecture, recipe) == expected


def test_images_are_made_ready_a_chunk_at_once() -> None:
    small, large = parse("INPUT(3, 32, 32) -> FC(2)"), parse("INPUT(3, 224, 224) -> GAP -> FC(2)")
    held = 2048 * 3 * 32 * 32 * footprint.FLOAT
    assert footprint.ready(small, Recipe()) == 3 * held
    assert footprint.ready(small, Recipe(flip=True)) == 4 * held
    assert footprint.ready(small, Recipe(cutmix=1.0)) == 5 * held
    one = 3 * 224 * 224 * footprint.FLOAT
    assert footprint.ready(large, Recipe(batch=16)) == 3 * 32 * one  # 41 in batches of 16
    assert footprint.ready(large, Recipe(batch=256)) == 3 * 256 * one


MANY = 50_000  # images


def test_the_greatest_of_a_space_is_one_of_its_feasible_networks() -> None:
    space = load_space("resnet_like", (3, 32, 32), 10)
    recipe = Recipe(batch=64)
    greatest = footprint.greatest(space, recipe, MANY)
    feasible = [a for a in map(space.sample, range(100)) if not space.excess(a)]
    sizes = sorted(footprint.trial(architecture, recipe) for architecture in feasible)
    assert sizes[len(sizes) // 2] < greatest < 2 * sizes[-1]
    large = load_space("vgg16", (3, 224, 224), 1000).sample(0)
    assert footprint.greatest(space, recipe, MANY, [large]) == footprint.trial(large, recipe)
    # A quarter of the batch, and the weights stay.
    fewer = Recipe(batch=16)
    small = footprint.greatest(space, fewer, MANY)
    assert footprint.PROCESS < small < greatest
    # No batch is of more images than there are.
    assert footprint.greatest(space, recipe, 16) == small
    assert footprint.greatest(space, recipe, 16, [large]) == footprint.trial(
        large, Recipe(batch=16)
    )


def held(job: Job) -> int:
    """The most that a worker's process holds of its own while it does a job."""
    child = Child(".", [], {"OMP_NUM_THREADS": "1"})
    try:
        child.send(job)
        most, message = 0, None
        while not isinstance(message, Ended):
            message = child.receive(0.005)
            most = max(most, child.memory())
    finally:
        child.kill()
    assert isinstance(message.outcome, Result), message
    return most


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="looks into /proc")
def test_a_worker_holds_what_was_predicted() -> None:
    # In float32 on every machine: depthwise kernels of 5 are slow in bf16 (device.bf16_pays).
    pattern = "INPUT -> CONV(8) -> BN -> RELU -> [MBCONV(8, kernel=5) -> POOL]*2 -> GAP -> FC"
    recipe, data = Recipe(), DataRef(size=32)
    most = held(Job(pattern=pattern, recipe=recipe, data=data, epochs=1, latency=False))
    predicted = footprint.trial(parse(pattern, (1, 32, 32), 10), recipe)
    assert 0.7 < predicted / most < 1.6, f"{most >> 20}, not {predicted >> 20} MiB"


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="looks into /proc")
@pytest.mark.parametrize("limit", ["1000", "0"])  # gigabytes: decoded before, and as it goes
def test_a_worker_holds_what_was_predicted_at_224_pixels(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NAS_CACHE_GB", limit)
    data = ref(folder(tmp_path / "d", 120, ending="jpg", height=224, width=224))
    # Under 1,000,000 MACs: float32 on every machine.
    pattern = "INPUT -> POOL(kernel=8, stride=8) -> CONV(8) -> BN -> RELU -> GAP -> FC"
    recipe = Recipe(batch=32, flip=True)
    most = held(Job(pattern=pattern, recipe=recipe, data=data, epochs=2, latency=False))
    architecture = parse(pattern, (3, 224, 224), 2)
    assert architecture.macs < 1_000_000
    predicted = footprint.trial(architecture, recipe, streamed=limit == "0")
    assert 0.75 < predicted / most < 1.4, f"{most >> 20}, not {predicted >> 20} MiB"


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="looks into /proc")
@pytest.mark.slow
def test_a_worker_holds_what_was_predicted_of_large_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    data = ref(folder(tmp_path / "d", 60, ending="jpg", height=224, width=224))
    # Few multiplications: float32 on every machine.
    pattern = "INPUT -> CONV(6, kernel=1) -> [BN -> TANH]*8 -> GAP -> FC"
    recipe = Recipe(batch=32)
    most = held(Job(pattern=pattern, recipe=recipe, data=data, epochs=1, latency=False))
    architecture = parse(pattern, (3, 224, 224), 2)
    assert architecture.macs < 1_000_000
    predicted = footprint.trial(architecture, recipe)
    assert 0.8 < predicted / most < 1.3, f"{most >> 20}, not {predicted >> 20} MiB"
