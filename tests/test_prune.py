"""Pruning: to another point of the pattern language, keeping the most important channels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import folder
from typed import command

import nas
from nas import data
from nas.blocks import BLOCKS
from nas.data.batches import Normal
from nas.errors import NasError
from nas.job import DataRef, Job
from nas.language.architecture import Architecture, parse
from nas.layers import Conv, Node, Shape, Size, Width, concat
from nas.spaces.space import load_space
from nas.spaces.zoo import names, network
from nas.training.card import Card
from nas.training.evaluation import evaluate
from nas.training.models import Model, load_model
from nas.training.prune import carried, narrowed, pruned, renormalised
from nas.training.single import train

INPUT = (3, 32, 32)
PATTERNS = [
    "CONV(16) -> BN -> RELU -> POOL -> CONV(24, bias=yes) -> RELU -> FC(20) -> RELU -> FC",
    "CONV(16) -> BN -> RELU -> [RESIDUAL(16)]*2 -> RESIDUAL(32, stride=2) -> GAP -> FC",
    "CONV(16) -> BN -> RELU -> RESIDUAL(32, bottleneck=4, stride=2, se=8) -> RESIDUAL(32, se=4) -> "
    "GAP -> FC",
    "CONV(32) -> BN -> RELU -> RESIDUAL(32, bottleneck=2, groups=4) -> GAP -> FC",
    "CONV(16) -> [DENSE(8)]*2 -> TRANSITION -> DENSE(8, bottleneck=0) -> BN -> RELU -> GAP -> FC",
    "CONV(16) -> DENSE(8) -> RESIDUAL(24) -> GAP -> FC",
    "INCEPTION(width=64) -> POOL -> INCEPTION(one=8, reduce3=8, three=16, reduce5=4, five=8, "
    "project=8) -> FLATTEN -> FC",
    "CONV(16) -> BN -> RELU6 -> MBCONV(16, expansion=2) -> MBCONV(24, stride=2, se=4) -> GAP -> FC",
    "CONV(8) -> BN -> RELU -> CONV(8, groups=8) -> BN -> RELU -> CONV(16, 1) -> GAP(2) -> FC(12) "
    "-> BN -> RELU -> FC",
    "CONV(16) -> BN -> RELU -> POOL -> AUX -> CONV(32, groups=2) -> LRN -> DROPOUT(0.2) -> FC",
    "CONV(16) -> BN -> RELU -> CONV(10, 1) -> GAP",
    "CONV(16) -> RELU -> FC(20) -> RELU -> FC(10) -> BN",
]


def model_of(text: str, seed: int = 0, input=INPUT) -> Model:
    """A network with weights, scales and statistics drawn at random."""
    made = parse(text if text.startswith("INPUT") else f"INPUT -> {text}", input, 10)
    module = nas.build(made, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        elif name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    normal = Normal((0.5,) * input[0], (0.25,) * input[0])
    return Model(module, Card(architecture=made, classes=tuple("abcdefghij"), normal=normal)).eval()


def answers(model: Model) -> torch.Tensor:
    pixels = torch.randint(0, 256, (4, *model.input), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(pixels)


def dead(wide: Model, narrow: Architecture, blocks: int) -> None:
    """Silences as many channels of each convolution and layer as the narrow network lacks: their
    filters are zero, and no normalisation shifts. Which ones, only the two widths say, so that
    channels that are added are silent together."""
    theirs = nas.build(narrow).state_dict()
    for name, tensor in wide.network.state_dict().items():
        if name.endswith("running_mean") or (name.endswith("bias") and "fc2" not in name):
            tensor.zero_()
        if name.endswith("weight") and tensor.ndim > 1 and "fc2" not in name:
            count, kept = len(tensor), len(theirs[name])
            split = blocks if count % blocks == 0 else 1
            order = np.random.RandomState(count).permutation(count // split)[kept // split :]
            if count > kept and not (tensor.ndim == 4 and tensor.shape[1] == 1 != INPUT[0]):
                for block in range(split):
                    tensor[order + block * (count // split)] = 0


@pytest.mark.parametrize("text", [p for p in PATTERNS if "LRN" not in p and "24) -> GAP" not in p])
def test_what_does_nothing_is_dropped_and_nothing_changes(text: str) -> None:
    """The narrow network answers as the wide one does whose other channels do nothing, wherever
    they were among those that do: through sums, concatenations, groups, gates and flattening."""
    wide = model_of(text)
    dead(wide, narrowed(wide.architecture, 0.5), 4 if "groups=4" in text else 1)
    expected = answers(wide)
    apart = answers(pruned(wide, 0.5, "norm")) - expected
    assert apart.abs().max() < 1e-3 * expected.std()
    assert expected.std() > 1e-4


@pytest.mark.parametrize("by", ["scale", "norm"])
@pytest.mark.parametrize("text", PATTERNS)
def test_every_weight_is_one_of_the_wide_network(text: str, by) -> None:
    wide = model_of(text)
    narrow = pruned(wide, 0.5, by)
    assert narrow.architecture.params < wide.architecture.params
    assert parse(str(narrow.architecture)) == narrow.architecture
    assert answers(narrow).shape == (4, 10)
    state = wide.network.state_dict()
    # Each value of the narrow network is one of the wide one's tensor of that name.
    for name, tensor in narrow.network.state_dict().items():
        assert torch.isin(tensor, state[name]).all(), name


def test_the_channels_of_the_largest_scales_stay() -> None:
    wide = model_of("CONV(4) -> BN -> RELU -> GAP -> FC")
    scales = wide.network[1].weight
    scales.data[:] = torch.tensor([0.1, -2.0, 1.0, 0.2])
    narrow = pruned(wide, 0.5)
    assert narrow.network[1].weight.tolist() == [-2.0, 1.0]
    assert torch.equal(narrow.network[0].weight, wide.network[0].weight[[1, 2]])
    assert torch.equal(narrow.network[-1].weight, wide.network[-1].weight[:, [1, 2]])
    norms = wide.network[0].weight
    norms.data *= torch.tensor([3.0, 1.0, 1.0, 5.0])[:, None, None, None]
    assert torch.equal(pruned(wide, 0.5, "norm").network[1].weight, scales[[0, 3]])


def test_channels_that_are_added_stay_together() -> None:
    """By the sum of what both sides of a residual sum say, for the stem and the unit alike."""
    wide = model_of("CONV(4) -> BN -> RELU -> RESIDUAL(4) -> GAP -> FC")
    stem, inner = wide.network[1], wide.network[3][0][0][4]
    stem.weight.data[:] = torch.tensor([1.0, 0.0, 0.6, 0.5])
    inner.weight.data[:] = torch.tensor([0.0, 0.9, 0.6, 0.1])
    narrow = pruned(wide, 0.5)
    assert narrow.network[1].weight.tolist() == pytest.approx([1.0, 0.6])
    assert narrow.network[3][0][0][4].weight.tolist() == pytest.approx([0.0, 0.6])


@pytest.mark.parametrize(
    "space",
    ["alexnet_like", "densenet_like", "inception_like", "lenet_like", "mixed", "mobilenet_like",
     "resnet_like", "vgg_like"],
)  # fmt: skip
def test_every_space_can_be_made_narrower(space: str) -> None:
    """Or it is said in a sentence: few of the draws are refused."""
    loaded, done, refused = load_space(space, INPUT, 10), 0, []
    for seed in range(6):
        wide = model_of(str(loaded.sample(seed)))
        try:
            narrow = pruned(wide, 0.7 if seed % 2 else 0.5)
        except NasError as error:
            refused.append(str(error))
            continue
        done += 1
        state = wide.network.state_dict()
        for name, tensor in narrow.network.state_dict().items():
            assert torch.isin(tensor, state[name]).all(), name
        assert torch.isfinite(answers(narrow)).all()
    assert done >= 5, refused
    assert all(re.search("--width|cannot be", told) for told in refused)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "mobilenet_v2", "densenet121",
                                  "googlenet", "vgg11_bn"])  # fmt: skip
def test_networks_of_the_zoo_become_narrower(name: str) -> None:
    assert name in names()
    wide = network(name, (3, 64, 64), 10)
    narrow = narrowed(wide, 0.5)
    assert 0.2 < narrow.params / wide.params < 0.35
    assert [step.name for step in narrow.steps] == [step.name for step in wide.steps]
    if narrow.params < 3_000_000:
        found = carried(model_of(str(wide), input=(3, 64, 64)), narrow)
        assert torch.isfinite(found.eval()(torch.zeros(1, 3, 64, 64))).all()


def test_a_block_tells_by_its_annotations_what_becomes_narrower(monkeypatch) -> None:
    def towers(x: Shape, *, left: Width, right: Width, kernel: Size = 3) -> Node:
        return concat(Conv(left, kernel), Conv(right, kernel))

    monkeypatch.setitem(BLOCKS, "TOWERS", towers)
    wide = parse("INPUT -> TOWERS(left=8, right=12, kernel=4) -> GAP -> FC", INPUT, 10)
    assert "TOWERS(left=4, right=6, kernel=4)" in str(narrowed(wide, 0.5))


@pytest.mark.parametrize(
    ("text", "factor", "told"),
    [
        ("CONV(8) -> GAP -> FC", 1.5, "--width 1.5: must be above 0 and below 1"),
        ("CONV(8) -> GAP -> FC", 0.0, "must be above 0"),
        ("CONV(1) -> GAP -> FC", 0.5, "nothing becomes narrower"),
        ("INCEPTION(width=16) -> GAP -> FC", 0.5, "nothing becomes narrower"),
        ("FLATTEN -> FC", 0.5, "nothing becomes narrower"),
        ("CONV(8) -> DENSE(2) -> GAP", 0.5, "leaves 6 classes of 10"),
    ],
)
def test_what_cannot_become_narrower_is_said(text: str, factor: float, told: str) -> None:
    with pytest.raises(NasError, match=re.escape(told)):
        narrowed(parse(f"INPUT -> {text}", INPUT, 10), factor)


@pytest.mark.parametrize("block", ["MBCONV(width=3)", "RESIDUAL(width=3)"])
def test_a_block_whose_shortcut_changes_with_its_width_is_refused_by_its_element(
    block: str,
) -> None:
    """As wide as the images' channels, which stay, it has an identity, and narrower none."""
    wide = parse(f"INPUT -> {block} -> CONV(8) -> GAP -> FC", (3, 16, 16), 10)
    model = model_of(str(wide), input=(3, 16, 16))
    with pytest.raises(NasError, match="element 1 is built differently at this width"):
        carried(model, narrowed(wide, 0.5))


def test_a_pruned_network_has_the_statistics_of_its_own_channels(tmp_path: Path) -> None:
    """Reference: the mean and the variance of what reaches a normalisation, over all images."""
    pattern = "INPUT -> CONV(12) -> BN -> RELU -> POOL -> CONV(16) -> BN -> RELU -> GAP -> FC"
    job = Job(pattern=pattern, epochs=4)
    model = train(job, lambda _: None, file=tmp_path / "wide.safetensors").model
    narrow = pruned(model, 0.5)
    before = evaluate(narrow, job.data, "validation").accuracy
    first, state = (
        [module.clone() for module in narrow.network[4].parameters()],
        torch.get_rng_state(),
    )
    renormalised(narrow, job.data)
    assert torch.equal(torch.get_rng_state(), state)
    assert not narrow.training
    assert all(map(torch.equal, first, narrow.network[4].parameters()))  # no weight is another
    assert evaluate(narrow, job.data, "validation").accuracy > before + 0.1
    images = data.load(job.data, "train")
    pixels = torch.from_numpy(images.pixels[images.rows]).float()
    seen = narrow.network[:4]((pixels - narrow.mean) / narrow.std)
    second = narrow.network[4](seen)
    torch.testing.assert_close(
        narrow.network[5].running_mean, second.mean((0, 2, 3)), rtol=0.1, atol=0.05
    )
    torch.testing.assert_close(
        narrow.network[5].running_var, second.var((0, 2, 3)), rtol=0.1, atol=0.05
    )


def test_prune_from_the_command_line(tmp_path: Path, capsys) -> None:
    ref = DataRef(identity=data.identity(DataRef()))
    file = tmp_path / "wide.safetensors"
    pattern = "INPUT -> CONV(12) -> BN -> RELU -> POOL -> CONV(16) -> BN -> RELU -> GAP -> FC"
    train(Job(pattern=pattern, data=ref, epochs=3), lambda _: None, file=file)
    told = ("prune", file, "--width", 0.5, "--epochs", 1, "--seeds", 2, "-o", tmp_path / "out")
    assert command(*told) == 0
    out, err = capsys.readouterr()
    assert "gain on test:" in out
    assert "before further training" in err
    assert "nas: 4 trainings, 10 epochs in all" in err
    assert err.count("epoch 4 of 4") == 2  # the control has as many epochs in all
    used, name = re.search(r"model to use: (\S+\.safetensors), (pruned|from s\w+),", out).groups()
    made = load_model(used)
    assert str(made.architecture).startswith("INPUT(1, 8, 8) -> CONV(width=6)")
    assert bool(made.card.recipe.get("init")) == (name == "pruned")
    # By the means of the validation images alone, whatever the test images say.
    pruned_mean, scratch_mean, *_ = map(float, re.findall(r"([\d.]+) %", out.split("mean")[1]))
    assert (name == "pruned") == (pruned_mean >= scratch_mean)
    pictures = folder(tmp_path / "pictures")
    assert command("prune", file, "--data", pictures, "-o", tmp_path / "no") == 2  # of 10 classes
    assert "class" in capsys.readouterr().err
    assert command("prune", file, "--by", "luck", "-o", tmp_path / "out") == 2
    assert "--by luck: must be scale or norm" in capsys.readouterr().err
    for wrong in (("--epochs", 0), ("--seeds", 0), ("--seed", -1), ("--recipe", "lr=-1")):
        assert command("prune", file, *wrong, "-o", tmp_path / "no") == 2
        told = capsys.readouterr().err
        assert "lr" in told if "lr=-1" in wrong else f"{wrong[0]} {wrong[1]}: must be" in told
        assert not (tmp_path / "no").exists()
    for taken in (tmp_path / "out").glob("*.safetensors"):  # what it goes on from, and trained ones
        was = taken.read_bytes()
        taken.write_bytes(b"mine")
        assert command("prune", file, "--epochs", 1, "--seeds", 2, "-o", tmp_path / "out") == 2
        assert f"{taken} exists and is a different one" in capsys.readouterr().err
        assert taken.read_bytes() == b"mine"
        taken.write_bytes(was)
    assert command("prune", tmp_path / "none.safetensors") == 2
    assert "No such file" in capsys.readouterr().err


def test_a_trial_is_pruned_on_the_images_of_its_study(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = folder(tmp_path / "pictures")
    nas.search("lenet_like", data=pictures, study="s", trials=1, epochs=1, workers=0)
    few = ("--width", 0.5, "--epochs", 1, "--seeds", 2)
    capsys.readouterr()
    assert command("prune", 0, "--study", "s", *few) == 0
    out, err = capsys.readouterr()
    # One model: the file to use is the trial's own, or the control's, which is no trial.
    used, name = re.search(r"model to use: (\S+\.safetensors), (pruned|from s\w+),", out).groups()
    assert "as trial 1" in err
    file = re.search(r"--trial 1 is (the model above|\S+\.safetensors),", err)[1]
    assert (file == "the model above") == (name == "pruned")
    file = used if name == "pruned" else file
    assert command("export", 1, "--study", "s", "-f", "safetensors", "-o", "x.safetensors") == 0
    told = [load_model(each) for each in ("x.safetensors", file)]
    assert told[0].digest == told[1].digest
    assert told[0].card.seed == told[1].card.seed
    assert command("prune", 0, "--study", "s", "--dataset", "digits", *few) == 2
