"""The networks of the zoo equal torchvision's, weight by weight, and can be fine-tuned."""

from __future__ import annotations

import pickle
import runpy
import socket
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torchvision import models

import nas
from nas.errors import NasError, ShapeError
from nas.job import Job, Recipe
from nas.layers import Aux
from nas.spaces import zoo
from nas.spaces.space import shipped
from nas.training import checkpoint, weights
from nas.training.candidate import evaluate

PUBLISHED = {  # parameters of the networks that torchvision has not, and where they are told
    "linear_classifier": 28 * 28 * 10 + 10,
    "lenet5": 61_706,  # LeCun et al. 1998, figure 2, with full connections in C3 and no RBF
    "alexnet_paper": 60_965_224,  # Caffe's bvlc_alexnet, its weights counted
    "googlenet_paper": 6_998_552,  # Caffe's bvlc_googlenet, its deployed weights counted
}


def theirs(name: str, **options: Any) -> nn.Module:
    """torchvision's network with random weights and random statistics, in evaluation."""
    if name.startswith(("vgg", "googlenet")):
        options["init_weights"] = False  # their own take seconds, or are too small to tell much
    torch.manual_seed(0)
    module: nn.Module = models.get_model(name, weights=None, **options)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
    return module.eval()


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def assert_close(ours: Tensor, expected: Tensor) -> None:
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's cache, empty, on a machine without a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    behind(9, monkeypatch)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def behind(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends downloads through a proxy on this machine."""
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
    urllib.request.install_opener(urllib.request.build_opener())  # the proxies are kept in it


def cache(hub: Path, name: str, state: dict[str, Any], member: str = "DEFAULT") -> Path:
    """Saves a state dict as torchvision's pretrained weights of ``name``."""
    path: Path = hub / models.get_model_weights(name)[member].url.rpartition("/")[2]
    torch.save(state, path)
    return path


# --- the networks --------------------------------------------------------------------------------


def test_the_zoo_has_torchvisions_networks_of_the_literature() -> None:
    told = ["alexnet", "googlenet", "mobilenet_v2", "wide_resnet50_2"]
    told += ["resnext50_32x4d", "resnext101_32x8d"]
    told += [f"vgg{depth}{bn}" for depth in (11, 13, 16, 19) for bn in ("", "_bn")]
    told += [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]
    told += [f"densenet{depth}" for depth in (121, 161, 169, 201)]
    assert set(told) <= set(weights.torchvision_names())
    assert set(zoo.names()) == set(weights.torchvision_names()) | set(PUBLISHED)


@pytest.mark.parametrize("name", weights.torchvision_names())
def test_params_and_macs_are_those_that_torchvision_publishes(name: str) -> None:
    meta = models.get_model_weights(name).DEFAULT.meta
    network = zoo.network(name)
    assert network.params == meta["num_params"]
    assert f"{network.macs / 1e9:.3f}" == f"{meta['_ops']:.3f}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_params_are_those_of_the_papers(name: str) -> None:
    assert zoo.network(name).params == PUBLISHED[name]


@pytest.mark.parametrize("name", zoo.names())
def test_the_pattern_reads_like_the_papers_table(name: str) -> None:
    told = yaml.safe_load(shipped()[name].read_text())
    lines = told["pattern"].splitlines()
    assert len(lines) <= 12
    assert max(map(len, lines)) <= 100
    assert told["about"]
    network = zoo.network(name)
    assert nas.parse(str(network)) == network


def test_the_table_of_the_page_is_what_its_command_prints() -> None:
    root = Path(__file__).parent.parent
    table = runpy.run_path(str(root / "benchmarks" / "zoo.py"))["table"]
    assert "\n".join(table()) in (root / "docs" / "networks.md").read_text()


def test_googlenet_has_two_auxiliary_classifiers_that_deployment_does_not_count() -> None:
    network = zoo.network("googlenet")
    places = [i for i, step in enumerate(network.steps) if isinstance(step.node, Aux)]
    assert [network.shapes[i] for i in places] == [(512, 14, 14), (528, 14, 14)]
    with_aux = sum(p.numel() for p in theirs("googlenet").parameters())
    assert network.params + network.aux_params == with_aux


def test_an_input_too_small_names_the_element_and_the_shape() -> None:
    with pytest.raises(ShapeError, match=r"^POOL\(kernel=3, stride=2\): .*64x1x1 reaches it"):
        zoo.network("alexnet", (3, 8, 8))


def test_an_unknown_network_gets_the_nearest_name() -> None:
    with pytest.raises(NasError, match=r"no network resnet19; did you mean resnet1"):
        zoo.network("resnet19")


# --- torchvision's weights -----------------------------------------------------------------------


@pytest.mark.parametrize("name", weights.torchvision_names())
def test_outputs_equal_torchvisions(name: str) -> None:
    expected = theirs(name)
    ours = weights.load_torchvision(name, expected.state_dict()).eval()
    x = images(2, 3, 80, 96)
    with torch.inference_mode():
        assert_close(ours(x), expected(x))


@pytest.mark.parametrize(
    "name",
    ["alexnet", "googlenet", "resnet18", "resnext50_32x4d", "densenet121", "mobilenet_v2"],
)
def test_the_backward_pass_has_no_step_that_torchvisions_has_not(name: str) -> None:
    """So ours costs no more, on any machine (benchmarks/zoo.py has times). torchvision's DenseNet
    concatenates once more at the end of each of its blocks."""
    expected = theirs(name)
    ours = weights.load_torchvision(name, expected.state_dict()).eval()
    x = images(2, 3, 64, 64)
    more, fewer = steps_back(ours(x)), steps_back(expected(x))
    assert not more - fewer
    assert (fewer - more).total() == (4 if name == "densenet121" else 0)


def steps_back(output: Tensor) -> Counter[str]:
    """How often each kind of node is in the graph that gradients run through."""
    seen, left = set(), [output.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [before for before, _ in node.next_functions]
    return Counter(node.name() for node in seen)


def test_auxiliary_outputs_and_batch_statistics_equal_torchvisions_in_training() -> None:
    expected = theirs("googlenet").train()
    ours = weights.load_torchvision("googlenet", expected.state_dict()).train()
    x = images(2, 3, 96, 96)
    torch.manual_seed(2)  # dropout draws in the order in which the layers run
    logits, auxiliary = ours(x)
    torch.manual_seed(2)
    told = expected(x)
    for our, their in zip(
        (logits, *auxiliary), (told.logits, told.aux_logits1, told.aux_logits2), strict=True
    ):
        assert_close(our, their)
    with torch.inference_mode():
        assert_close(ours.eval()(x), expected.eval()(x))


def test_pretrained_googlenet_takes_images_as_its_preprocessing_says() -> None:
    """torchvision's module renormalises within (transform_input) where it has such weights."""
    expected = theirs("googlenet", transform_input=True)
    ours = weights.load_torchvision("googlenet", expected.state_dict()).eval()
    pixels = images(2, 3, 64, 64).sigmoid()
    preset = models.get_model_weights("googlenet").DEFAULT.transforms()
    normal = weights.preprocessing("googlenet").normal
    with torch.inference_mode():
        assert_close(
            ours(normalised(pixels, normal.mean, normal.std)),
            expected(normalised(pixels, preset.mean, preset.std)),
        )


def normalised(pixels: Tensor, mean: Any, std: Any) -> Tensor:
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def test_state_dicts_of_other_ages_and_heads_load() -> None:
    expected = theirs("densenet121", num_classes=7)
    old = {
        key.replace("norm1", "norm.1").replace("norm2", "norm.2")
        .replace("conv1", "conv.1").replace("conv2", "conv.2"): tensor
        for key, tensor in expected.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }  # fmt: skip
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    ours = weights.load_torchvision("densenet121", dict(sorted(old.items()))).eval()
    with torch.inference_mode():
        assert_close(ours(images(2, 3, 64, 64)), expected(images(2, 3, 64, 64)))

    deployed = theirs("googlenet", aux_logits=False)
    ours = weights.load_torchvision("googlenet", deployed.state_dict()).eval()
    with torch.inference_mode():
        assert_close(ours(images(2, 3, 64, 64)), deployed(images(2, 3, 64, 64)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"layer1.0.conv1.weight": None}, r"layer1\.0\.conv1\.weight is missing, .*\(64, 64, 3, 3"),
        (
            {"layer2.0.conv1.weight": torch.zeros(128, 64, 1, 1)},
            r"layer2\.0\.conv1\.weight has the shape \(128, 64, 1, 1\), expected \(128, 64, 3, 3\)",
        ),
        ({"layer9.weight": torch.zeros(1)}, "layer9.weight is unknown"),
        ({"conv1.weight": "hello"}, "has a str at 'conv1.weight': must be a tensor"),
        ({"fc.bias": torch.zeros(())}, r"fc\.bias has the shape \(\)"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_by_name(
    change: dict[str, Any], told: str
) -> None:
    state = {**theirs("resnet18").state_dict(), **change}
    with pytest.raises(NasError, match=told):
        weights.load_torchvision("resnet18", {k: v for k, v in state.items() if v is not None})


def test_a_state_dict_of_another_network_is_refused_in_one_sentence() -> None:
    with pytest.raises(NasError, match=r"for resnet34 does not fit: .*; and \d+ more$"):
        weights.load_torchvision("resnet34", theirs("resnet18").state_dict())
    with pytest.raises(NasError, match="torchvision has no lenet5"):
        weights.load_torchvision("lenet5", {})


# --- where a training starts ---------------------------------------------------------------------


def started(source: str, network: nas.Architecture) -> nn.Module:
    module = nas.build(network, seed=0)
    module.load_state_dict(weights.initial_state(source, network).state, strict=False)
    return module.eval()


def test_pretrained_weights_come_from_torchvisions_cache(hub: Path) -> None:
    expected = theirs("resnet18")
    cache(hub, "resnet18", expected.state_dict())
    start = weights.initial_state("resnet18", zoo.network("resnet18"))
    preset = models.get_model_weights("resnet18").DEFAULT.transforms()
    assert start.normal is not None
    assert (list(start.normal.mean), list(start.normal.std)) == (preset.mean, preset.std)
    assert [weights.preprocessing("resnet18").size] == preset.crop_size
    ours = started("resnet18", zoo.network("resnet18"))
    with torch.inference_mode():
        assert_close(ours(images(2, 3, 64, 64)), expected(images(2, 3, 64, 64)))


def test_any_of_torchvisions_weights_can_be_named(hub: Path) -> None:
    cache(hub, "mobilenet_v2", theirs("mobilenet_v2").state_dict(), "IMAGENET1K_V1")
    network = zoo.network("mobilenet_v2")
    assert weights.initial_state("mobilenet_v2:IMAGENET1K_V1", network).normal is not None
    with pytest.raises(NasError, match="not here and could not be downloaded"):
        weights.initial_state("mobilenet_v2:IMAGENET1K_V2", network)
    known = "known of mobilenet_v2: IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT$"
    for member in ("V1", ""):
        with pytest.raises(NasError, match=known):
            weights.initial_state(f"mobilenet_v2:{member}", network)


def test_weights_of_features_alone_are_refused_where_their_head_is_missing(hub: Path) -> None:
    state = theirs("resnet18").state_dict()
    state["fc.weight"] = torch.full_like(state["fc.weight"], torch.nan)  # as torchvision tells it
    cache(hub, "resnet18", state)
    with pytest.raises(NasError, match=r"fc\.weight holds values that are not finite$"):
        weights.initial_state("resnet18", zoo.network("resnet18"))
    weights.initial_state("resnet18", zoo.network("resnet18", classes=10))


def test_another_number_of_classes_gets_a_fresh_head_on_the_same_features(hub: Path) -> None:
    expected = theirs("resnet18")
    cache(hub, "resnet18", expected.state_dict())
    network = zoo.network("resnet18", (3, 64, 64), 10)
    fresh = nas.build(network, seed=0).state_dict()
    state = weights.initial_state("resnet18", network).state
    head = fresh.keys() - state.keys()
    assert {tuple(fresh[key].shape) for key in head} == {(10, 512), (10,)}
    ours = started("resnet18", network)
    features = nn.Sequential(*list(expected.children())[:-1], nn.Flatten())
    with torch.inference_mode():
        assert_close(ours[:-1](images(2, 3, 64, 64)), features(images(2, 3, 64, 64)))  # type: ignore[index]


def test_grey_images_give_what_their_copies_in_colour_give(hub: Path) -> None:
    expected = theirs("mobilenet_v2")
    cache(hub, "mobilenet_v2", expected.state_dict())
    network = zoo.network("mobilenet_v2", (1, 64, 64), 1000)
    start = weights.initial_state("mobilenet_v2", network)
    assert start.normal is not None
    assert start.normal.mean == pytest.approx([(0.485 + 0.456 + 0.406) / 3])
    x = images(2, 1, 64, 64)
    with torch.inference_mode():
        assert_close(started("mobilenet_v2", network)(x), expected(x.expand(2, 3, 64, 64)))
    with pytest.raises(NasError, match=r"features\.0\.0\.weight has the shape \(32, 3, 3, 3\)"):
        weights.initial_state("mobilenet_v2", zoo.network("mobilenet_v2", (2, 64, 64)))


def test_googlenets_auxiliary_classifiers_are_fresh_for_other_classes(hub: Path) -> None:
    cache(hub, "googlenet", theirs("googlenet").state_dict())
    network = zoo.network("googlenet", (3, 64, 64), 5)
    fresh = nas.build(network, seed=0).state_dict()
    absent = fresh.keys() - weights.initial_state("googlenet", network).state.keys()
    assert len({key.partition(".")[0] for key in absent}) == 3
    assert sum(
        fresh[key].numel() for key in absent if not key.endswith(("mean", "var", "tracked"))
    ) == (network.aux_params + 1024 * 5 + 5)


def test_files_of_three_kinds_start_a_training(tmp_path: Path) -> None:
    network = zoo.network("resnet18", (3, 32, 32), 10)
    expected = theirs("resnet18", num_classes=10)
    ours = weights.load_torchvision("resnet18", expected.state_dict()).eval()
    x = images(2, 3, 32, 32)
    torch.save(expected.state_dict(), tmp_path / "theirs.pth")
    torch.save(ours.state_dict(), tmp_path / "ours.pth")
    checkpoint.save(tmp_path / "training", {"module": ours.state_dict()})
    for name in ("theirs.pth", "ours.pth", "training"):
        with torch.inference_mode():
            assert_close(started(str(tmp_path / name), network)(x), expected(x))
    assert weights.initial_state(str(tmp_path / "training"), network).normal is None
    with pytest.raises(NasError, match=r"this is none of them|does not fit"):
        weights.initial_state(
            str(tmp_path / "theirs.pth"), zoo.network("resnet34", (3, 32, 32), 10)
        )
    with pytest.raises(NasError, match=r"ours\.pth does not fit"):
        weights.initial_state(str(tmp_path / "ours.pth"), zoo.network("lenet5"))


def test_weights_of_another_network_are_refused(hub: Path) -> None:
    cache(hub, "resnet18", theirs("resnet18").state_dict())
    with pytest.raises(NasError, match=r"weights of resnet18 do not fit the network: number 2 is"):
        weights.initial_state("resnet18", zoo.network("vgg11"))


def test_without_a_network_the_message_says_where_to_put_which_file(hub: Path) -> None:
    with pytest.raises(NasError) as told:
        weights.initial_state("resnet18", zoo.network("resnet18"))
    assert f"put torchvision's file resnet18-f37072fd.pth into {hub}" in str(told.value)
    with pytest.raises(NasError, match="no pretrained weights of lenet5"):
        weights.initial_state("lenet5", zoo.network("lenet5"))
    with pytest.raises(NasError, match=r"resnet20: No such file.*; did you mean resnet"):
        weights.initial_state("resnet20", zoo.network("resnet18"))


def test_a_server_that_never_answers_is_not_waited_for(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "PATIENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        behind(mute.getsockname()[1], monkeypatch)
        with pytest.raises(NasError, match=r"could not be downloaded \(timed out\): put"):
            weights.initial_state("resnet18", zoo.network("resnet18"))


class Touch:
    """What a hostile pickle does when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_torn_and_hostile_files_are_refused_and_nothing_in_them_is_run(
    tmp_path: Path, hub: Path
) -> None:
    network, trap = zoo.network("resnet18"), tmp_path / "ran"
    hostile = {**theirs("resnet18").state_dict(), "extra": Touch(trap)}
    whole = cache(hub, "resnet18", hostile)
    torn, bare = tmp_path / "torn.pth", tmp_path / "bare.pth"
    torn.write_bytes(whole.read_bytes()[:100_000])
    bare.write_bytes(pickle.dumps(Touch(trap), protocol=2))
    (tmp_path / "empty").touch()
    kept = tmp_path / "training"
    checkpoint.save(kept, {"module": nas.build(zoo.network("lenet5")).state_dict()})
    kept.write_bytes(kept.read_bytes()[:-1])
    for source in ("resnet18", *map(str, (torn, bare, tmp_path / "empty", kept))):
        with pytest.raises(NasError, match="not a whole file of nothing but tensors"):
            weights.initial_state(source, network)
    assert not trap.exists()
    pickle.loads(bare.read_bytes())
    assert trap.exists()  # the trap works


def test_a_training_starts_from_pretrained_weights(hub: Path) -> None:
    cache(hub, "resnet18", models.get_model("resnet18", weights=None).state_dict())
    network = zoo.network("resnet18", (1, 8, 8), 10)
    recipe = Recipe(init="resnet18", freeze=1, lr=0.01)
    outcome = evaluate(
        Job(pattern=str(network), recipe=recipe, epochs=2, latency=False), lambda epoch: None
    )
    assert len(outcome.curve) == 2, outcome
