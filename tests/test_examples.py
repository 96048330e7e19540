"""The worked examples under docs run as written, on pieces of two real photographs."""

from __future__ import annotations

import copy
import csv
import glob
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from test_docs import ROOT, blocks

import nas
from nas.cli import main

SIDE = 64  # pixels

pytestmark = [
    pytest.mark.timeout(900),  # on a busy machine; alone a few seconds each
    pytest.mark.usefixtures("operators"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temple's and a flower's photograph, each cut into 60 images."""
    root = tmp_path_factory.mktemp("own") / "photos"
    for name, image in zip(("china", "flower"), load_sample_images().images, strict=True):
        (root / name).mkdir(parents=True)
        high, wide = (side // SIDE for side in image.shape[:2])
        for n in range(high * wide):
            y, x = n // wide * SIDE, n % wide * SIDE
            piece = Image.fromarray(image[y : y + SIDE, x : x + SIDE])
            piece.save(root / name / f"{n:03}.jpg", quality=90)
    return root


def commands(page: str) -> Iterator[list[str]]:
    """What is typed: the lines of the page's blocks of bash, their wildcards as a shell does."""
    text = (ROOT / "docs" / page).read_text()
    for block in blocks(text, "bash"):
        for line in block.splitlines():
            words = shlex.split(line)
            assert words[0] == "nas", line
            yield [file for word in words[1:] for file in sorted(glob.glob(word)) or [word]]


def follow(page: str, capsys: Any, monkeypatch: Any) -> dict[str, str]:
    """Types all commands of a page, which must end well; what each wrote to stdout, by its name,
    the last where it comes more than once."""
    monkeypatch.delenv("NAS_STORAGE", raising=False)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    told = {}
    for words in commands(page):
        monkeypatch.setattr(sys, "argv", ["nas", *words])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        shown = capsys.readouterr()
        assert status == 0, f"{words}: {shown.err}"
        told[words[0]] = shown.out
    return told


@pytest.fixture
def here(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos").symlink_to(photos)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NAS_STORAGE", "OPTUNA_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    shown = nbformat.read(ROOT / "docs" / "first_search.ipynb", 4)
    place = {"metadata": {"path": str(tmp_path)}}
    ran = nbclient.NotebookClient(copy.deepcopy(shown), timeout=250, resources=place).execute()
    for was, now in zip(shown.cells, ran.cells, strict=True):
        if was.cell_type == "code":  # what the page shows is of the same kind
            kinds = [{*output.get("data", ())} for output in was.outputs]
            told = [output for output in now.outputs if output.get("name") != "stderr"]
            assert [{*output.get("data", ())} for output in told] == kinds
    assert nas.evaluate(tmp_path / "digits.safetensors").accuracy > 0.9


@pytest.mark.slow
def test_the_page_on_ones_own_photos_can_be_followed(
    here: Path, capsys: Any, monkeypatch: Any
) -> None:
    told = follow("photos.md", capsys, monkeypatch)
    (trained,) = (here / "trained").glob("*.safetensors")
    model = nas.load_model(trained)
    assert model.card.epochs == 30
    assert model.input == (3, 32, 32)
    # The last command is the prediction of the 60 temples by ONNX Runtime: as torch's.
    lines = told["predict"].splitlines()[1:]
    expected = model.predict(sorted((here / "photos" / "china").iterdir()))
    assert [line.split(",")[1] for line in lines] == [p.label for p in expected]
    assert {file.name for file in (here / "evaluated").iterdir()} >= {"mistakes.png"}
    assert (here / "front.svg").stat().st_size


@pytest.mark.slow
def test_the_page_on_a_latency_budget_can_be_followed(
    here: Path, capsys: Any, monkeypatch: Any
) -> None:
    follow("latency.md", capsys, monkeypatch)
    with (here / "front.csv").open() as file:
        front = list(csv.DictReader(file))
    assert front
    assert all(0 < float(row["latency_ms"]) <= 50 for row in front)
    assert nas.evaluate(here / "int8.onnx", data="photos").accuracy >= 0.4


def test_the_page_on_fine_tuning_can_be_followed(here: Path, capsys: Any, monkeypatch: Any) -> None:
    """Torchvision's weights cannot be fetched in a test: a file of its network stands for them."""
    torch.manual_seed(0)
    start = torchvision.models.resnet18().state_dict()
    torch.save(start, here / "resnet18.pth")
    typed = commands

    def with_the_file(page: str) -> Iterator[list[str]]:
        for words in typed(page):
            if "--init" in words:
                words[words.index("--init") + 1] = "resnet18.pth"
            yield words

    monkeypatch.setitem(globals(), "commands", with_the_file)
    told = follow("finetuning.md", capsys, monkeypatch)
    (tuned,) = (here / "tuned").glob("*.safetensors")
    model = nas.load_model(tuned)
    assert model.card.recipe["init"] == "resnet18.pth"
    # Trained on from those weights, at a small rate: near to them, where random ones are not.
    first = model.network.state_dict()["0.weight"].cpu()
    begun = start["conv1.weight"]
    assert torch.corrcoef(torch.stack([first.flatten(), begun.flatten()]))[0, 1] > 0.9
    assert "McNemar" in told["evaluate"]
