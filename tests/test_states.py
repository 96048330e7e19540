"""``--init`` reads weights from the file formats that people have."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import nas
from nas.cli.options import single_job
from nas.data.batches import Normal
from nas.errors import NasError
from nas.job import DataRef
from nas.training.card import Card
from nas.training.models import save_model
from nas.training.weights import initial_state

ARCHITECTURE = nas.parse(
    "INPUT(3, 8, 8) -> [CONV(8) -> BN -> RELU]*2 -> RESIDUAL(16, stride=2) -> GAP -> FC(5)"
)


class Theirs(nn.Module):
    """The same network as somebody else writes it."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(3, 8, 3, bias=False), norm=nn.BatchNorm2d(8))
        )
        self.again = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(8, 8, 3, bias=False), norm=nn.BatchNorm2d(8))
        )
        self.conv1, self.bn1 = nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.skip, self.skip_bn = nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.classifier = nn.Linear(16, classes)


def ours() -> dict[str, Tensor]:
    network = nas.build(ARCHITECTURE, seed=3)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return network.state_dict()


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


KEPT: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "alone": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "best_acc1": torch.tensor(0.7)},
    "model": lambda state: {"model": state, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    "model beside its average": lambda s: {"model": s, "model_ema": prefixed("module.", s)},
    "DataParallel": lambda state: prefixed("module.", state),
    "compiled, parallel": lambda state: {"model": prefixed("module._orig_mod.", state)},
    "nested": lambda state: {"model": {"state_dict": prefixed("model.", state)}},
    "an entry of their own": lambda state: {"my_network": state, "lr": 0.1},
}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_a_state_dict_is_found_wherever_a_script_put_it(
    tmp_path: Path, kept: Callable[[dict[str, Tensor]], Any]
) -> None:
    state = ours()
    torch.save(kept(state), tmp_path / "weights.pth")
    start = initial_state(str(tmp_path / "weights.pth"), ARCHITECTURE)
    assert start.state.keys() == state.keys()
    assert all(torch.equal(start.state[key], state[key]) for key in state)


def test_safetensors_and_a_model_of_ours(tmp_path: Path) -> None:
    state = ours()
    safetensors.torch.save_file(prefixed("module.", state), tmp_path / "bare.safetensors")
    bare = initial_state(str(tmp_path / "bare.safetensors"), ARCHITECTURE)
    assert all(torch.equal(bare.state[key], state[key]) for key in state)
    assert bare.normal is None

    network, normal = nas.build(ARCHITECTURE), Normal((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    network.load_state_dict(state)
    card = Card(architecture=ARCHITECTURE, classes=tuple("abcde"), normal=normal)
    save_model(tmp_path / "model.safetensors", network, card)
    whole = initial_state(str(tmp_path / "model.safetensors"), ARCHITECTURE)
    assert all(torch.equal(whole.state[key], state[key]) for key in state)
    assert whole.normal == normal  # its images were normalised so: ours are, too
    fewer = initial_state(str(tmp_path / "model.safetensors"), ARCHITECTURE.on((3, 8, 8), 2))
    assert whole.state.keys() - fewer.state.keys() == {k for k in state if k.startswith("8.")}

    def size() -> int:
        recipe = [f"init={tmp_path / 'model.safetensors'}"]
        pattern = "INPUT -> CONV(4) -> GAP -> FC"
        return single_job(pattern, DataRef(), epochs=1, recipe=recipe).data.size

    assert size() == 0  # as digits are
    larger = ARCHITECTURE.on((3, 16, 16), 5)
    card = Card(architecture=larger, classes=tuple("abcde"), normal=normal)
    save_model(tmp_path / "model.safetensors", nas.build(larger), card)
    assert size() == 16


@pytest.mark.parametrize("classes", [5, 7])
def test_other_names_are_matched_by_structure_and_told(
    tmp_path: Path, classes: int, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = Theirs(classes).state_dict()
    torch.save(theirs, tmp_path / "theirs.pth")
    state = initial_state(str(tmp_path / "theirs.pth"), ARCHITECTURE).state
    assert "was matched" in caplog.text or "were matched" in caplog.text
    fresh = nas.build(ARCHITECTURE)
    fresh.load_state_dict(state, strict=False)
    convolutions = [m.weight for m in fresh.modules() if isinstance(m, nn.Conv2d)]
    names = ("stem.conv", "again.conv", "conv1", "conv2", "skip")
    for ours, name in zip(convolutions, names, strict=True):
        assert torch.equal(ours, theirs[f"{name}.weight"])
    heads = [key for key in fresh.state_dict() if key not in state]
    assert bool(heads) == (classes != 5)
    if classes == 5:
        last = [m for m in fresh.modules() if isinstance(m, nn.Linear)][-1]
        assert torch.equal(last.weight, theirs["classifier.weight"])


def wrong_layer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "conv2.weight": torch.zeros(16, 16, 5, 5)}


def one_more(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "extra.weight": torch.zeros(3, 3)}


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        (wrong_layer(Theirs().state_dict()), "it has no layer like"),
        (one_more(Theirs().state_dict()), "for the head, "),
        ({"first": Theirs().state_dict(), "second": Theirs().state_dict()}, "more than one state"),
        ({"epoch": 3, "lr": 0.1}, "must be a tensor"),
        ([1, 2, 3], "is a list: must map names to tensors"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, held: Any, reason: str) -> None:
    torch.save(held, tmp_path / "wrong.pth")
    with pytest.raises(NasError) as refused:
        initial_state(str(tmp_path / "wrong.pth"), ARCHITECTURE)
    assert reason in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path}/wrong.pth")
    assert "\n" not in str(refused.value)
