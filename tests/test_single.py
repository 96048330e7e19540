"""``nas train`` as users run it: interrupted and resumed, and from others' weights."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torchvision import models
from typed import ran

import nas
from nas.cli import main
from nas.cli.models import train_and_show
from nas.cli.options import single_job
from nas.cli.settings import starting
from nas.errors import MachineError, NasError
from nas.job import DataRef, Epoch, Job
from nas.training import checkpoint
from nas.training.single import free_to_train, train, training_id

# With a checkpoint an epoch: those of this test take a fraction of a second.
NAS = (
    "import nas.cli, nas.training.train; nas.training.train.CHECKPOINT_SECONDS = 0; nas.cli.main()"
)
# Batch statistics, dropout and augmentation: what a training holds besides weights and momentum.
ARGUMENTS = [
    "train",
    "INPUT -> CONV(8) -> BN -> RELU -> POOL(2) -> CONV(16) -> BN -> RELU -> DROPOUT(0.2) -> FC",
    "--epochs=8",
    "--recipe=crop=1",
    "--recipe=cutout=2",
]


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", NAS, *ARGUMENTS, f"--output={folder}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Python ignores SIGINT where its parent does, as a shell's background jobs do.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
def test_interrupted_and_resumed_gives_the_weights_of_an_uninterrupted_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for number, epoch in ((signal.SIGINT, 2), (signal.SIGTERM, 4)):
        run = start(parts)
        assert run.stderr is not None
        for line in run.stderr:
            if line.startswith(f"nas: epoch {epoch} of 8"):
                break
        run.send_signal(number)
        out, told = run.communicate()
        assert (run.returncode, out) == (130, "")
        assert told.endswith("interrupted; the same command resumes from the last checkpoint\n")
        assert not list(parts.glob("*.safetensors*"))
        # While a checkpoint is being replaced, only the one before it has its name.
        kept = checkpoint.load(next(parts.glob("*.checkpoint*")))
        assert kept is not None
        assert epoch - 2 <= len(kept["curve"]) < 8

    status, out, told = ran(capsys, *ARGUMENTS, f"--output={parts}")
    assert status == 0, told
    status, expected, expected_told = ran(capsys, *ARGUMENTS, f"--output={whole}")
    assert status == 0, expected_told
    resumed, *told_lines = told.splitlines()
    assert resumed.startswith(f"nas: resumes from {parts}")
    assert list(map(scores, told_lines)) == list(map(scores, expected_told.splitlines()))
    assert figure(out, "test accuracy") == figure(expected, "test accuracy")
    ours, theirs = (load_file(next(folder.glob("*.safetensors"))) for folder in (parts, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def scores(line: str) -> str:
    """A line of progress without its time."""
    return line.rpartition(", ")[0]


def figure(page: str, name: str) -> str:
    return next(line for line in page.splitlines() if line.startswith(name))


def job(
    pattern: str = "resnet18",
    init: str = "",
    freeze: int = 0,
    recipe: Sequence[str] = (),
    **options: Any,
) -> Job:
    settings = starting(recipe, init, freeze)
    return single_job(pattern, DataRef(), **{"epochs": 2, **options}, recipe=settings)


def test_pretrained_weights_resize_the_images_unless_told_otherwise() -> None:
    for init in ("resnet18", "resnet18:IMAGENET1K_V1"):
        asked = job(init=init)
        assert asked.data.size == 224
        assert asked.pattern.startswith("INPUT")
    assert job(init="resnet18", size=32).data.size == 32
    assert job(init="resnet18", size=0).data.size == 0
    assert job(init="weights.pth").data.size == job().data.size == 0
    assert job(recipe=["init=resnet18"]).data.size == 224


def test_a_training_begins_with_the_weights_of_a_file_and_ends_with_a_test_score(
    tmp_path: Path,
) -> None:
    theirs = models.get_model("resnet18", weights=None, num_classes=7).state_dict()
    torch.save(theirs, tmp_path / "theirs.pth")
    file = tmp_path / "ours.safetensors"
    told = train(
        job(init=str(tmp_path / "theirs.pth"), freeze=1, recipe=["lr=1e-6"]),
        lambda epoch: None,
        checkpoint=tmp_path / "checkpoint",
        file=file,
    )
    assert len(told.curve) == 2
    assert 0 <= told.test <= 1
    ours = list(nas.load_model(file).network.state_dict().values())
    stem, last = theirs["conv1.weight"].sum(1, keepdim=True), theirs["layer4.1.conv2.weight"]
    torch.testing.assert_close(ours[0], stem, atol=1e-4, rtol=0)
    assert any(v.shape == last.shape and torch.allclose(v, last, atol=1e-4) for v in ours)
    assert ours[-1].shape == (10,)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["resnet18", "--init=resnet18"], "put torchvision's file resnet18-f37072fd.pth into "),
        (["resnet18", "--init=resnet18:V3"], "known of resnet18: IMAGENET1K_V1, DEFAULT"),
        (
            ["resnet18", "--init=lenet5"],
            "no pretrained weights of lenet5; known: alexnet, ",
        ),
        (["resnet18", "--init=nowhere.pth"], "nowhere.pth: No such file or directory"),
        (["resnet18", "--recipe=lr="], "--recipe lr=: must be of type float"),
        (["resnet18", "--freeze=20"], "recipe.freeze is 20: must be below the 20 epochs"),
        (["alexnet"], "POOL(3, stride=2) at column 51: "),
        (["lenet_like"], "lenet_like is a search space: use `nas search`"),
        (["lenet5", "--init=resnet18"], "the weights of resnet18 do not fit the network: number 2"),
        (["lenet5", "--seed=-1"], "--seed -1: must be from 0 to 4294967295"),
        (["lenet5", f"--seed={1 << 63}"], f"--seed {1 << 63}: must be from 0 to 4294967295"),
        (["lenet5", f"--seed={10**23}"], f"--seed {10**23}: must be from 0 to 4294967295"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # as without a network
    monkeypatch.setattr(sys, "argv", ["nas", "train", *arguments, f"--output={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert reason in told.err
    assert told.err.count("\n") == 1


def test_a_file_of_anothers_under_its_own_name_is_not_written_over(tmp_path: Path) -> None:
    job = Job(pattern="INPUT -> CONV(4) -> FC", epochs=1)
    train_and_show(job, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    assert re.fullmatch(r"digits-[0-9a-f]{12}\.safetensors", file.name)
    before = load_file(file)
    train_and_show(job, tmp_path)  # its own: the same again
    after = load_file(file)
    assert all(torch.equal(after[key], before[key]) for key in before)
    train_and_show(dataclasses.replace(job, seed=1), tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    # Of a name that is told: neither images nor their parts are others'.
    named = tmp_path / "m.safetensors"
    train_and_show(job, named)
    for other in (DataRef(identity="0123"), DataRef(split_seed=1), DataRef(group_by="a")):
        with pytest.raises(NasError, match="exists and is a different one"):
            free_to_train(dataclasses.replace(job, data=other), named)
    free_to_train(job, named)
    file.write_bytes(b"a letter")
    with pytest.raises(NasError, match="exists and is a different one"):
        train_and_show(job, tmp_path)
    assert file.read_bytes() == b"a letter"


def test_a_model_that_another_training_wrote_meanwhile_stays(tmp_path: Path) -> None:
    """Two trainings to one file, of which the later sees the file only when it has ended."""
    first, second = (Job(pattern="INPUT -> CONV(4) -> FC", epochs=1, seed=seed) for seed in (0, 1))
    file = tmp_path / "m.safetensors"

    def meanwhile(_: Epoch) -> None:
        train(first, lambda _: None, file=file, over=False)

    with pytest.raises(MachineError, match="another training's model, which was written") as told:
        train(second, meanwhile, file=file, over=False)
    kept = tmp_path / f"m-{training_id(second)}.safetensors"
    assert str(told.value).endswith(f"this one's is {kept}")
    assert (nas.load_model(file).card.seed, nas.load_model(kept).card.seed) == (0, 1)
    train(first, lambda _: None, file=file, over=False)  # its own: the same again
    assert {path.name for path in tmp_path.iterdir()} == {file.name, kept.name}
