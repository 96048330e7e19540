"""--output: a path that ends like a file is that file, or is refused, in all commands."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import folders
import pytest
import test_baselines
from test_cli import nas_here

from nas import artifacts
from nas.driver.loop import search
from nas.store import open_store
from nas.training.models import load_model
from nas.workers.in_process import InProcess

PATTERN = "INPUT(1, 8, 8) -> FC(width=10)"
TRAIN = ("train", PATTERN, "--epochs", "1")
A_FILE = "ends like a file, but "


def test_a_training_writes_the_file_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = (*TRAIN, "-o", "kept/mine.safetensors")
    status, _, err = nas_here(capsys, monkeypatch, tmp_path, *told)
    assert status == 0, err
    assert str(load_model(tmp_path / "kept" / "mine.safetensors").architecture) == PATTERN
    assert "nas predict kept/mine.safetensors IMAGE_OR_DIR" in err
    assert all(path.is_file() for path in (tmp_path / "kept").iterdir())
    before = (tmp_path / "kept" / "mine.safetensors").read_bytes()
    status, _, err = nas_here(capsys, monkeypatch, tmp_path, *told, "--seed", "1")
    assert (status, err.count("\n")) == (2, 1)
    assert "kept/mine.safetensors exists and is a different one" in err
    assert (tmp_path / "kept" / "mine.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((*TRAIN, "-o", "m.onnx"), "--output m.onnx: ends like a file, but checkpoint and model "
         "go into a directory: leave out .onnx"),
        ((*TRAIN, "-o", "m.pt"), A_FILE),
        ((*TRAIN, "-o", "there"), "--output there: is a file, but checkpoint and model go into"),
        (("evaluate", "m.safetensors", "-o", "e.csv"), A_FILE),
        (("distill", "--teacher", "m", "--student", "lenet5", "-o", "m.safetensors"), A_FILE),
        (("prune", "m.safetensors", "-o", "m.safetensors"), A_FILE),
        (("latency", "pack", "-o", "pack.zip"), A_FILE),
        (("data", "pack", "images", "-o", "images.tar"), A_FILE),
        (("data", "check", "images", "-o", "sheet.jpg"), "--output sheet.jpg: must end in .png"),
        (("data", "check", "images", "-o", "sheet.png/"), "sheet.png/: ends like a directory"),
        (("data", "check", "images", "-o", "there/sheet.png"), "/there is not a directory"),
        ((*TRAIN, "-o", "m.safetensors/"), "--output m.safetensors/: ends like a directory"),
        (("show", "lenet5", "-o", "net.svg/"), "--output net.svg/: ends like a directory"),
        (("show", "lenet5", "-o", "there/net.svg"), "--output there/net.svg: "),
        (("pareto", "-o", "front/"), "--output front/: ends like a directory, but must"),
        (("report", "-o", "page.html/"), "--output page.html/: ends like a directory"),
        (("export", "lenet5", "-o", "net/"), "--output net/: ends like a directory"),
        (("cascade", "-o", "c.json/"), "--output c.json/: ends like a directory"),
        (("cascade", "-o", "there/c.json"), "--output there/c.json: "),
        (("cascade", "-o", "c.onnx"), "must end in .json"),
        (("export", "lenet5", "-o", "m.onnx"), "--format onnx: a pattern has no weights"),
        (("export", "lenet5", "-f", "python", "-o", "m.onnx"),
         "--output m.onnx: does not have the ending of --format python"),
        (("export", "lenet5", "-o", "m.tflite"),
         "--output m.tflite: must end in .py, .onnx, .pt2 or .safetensors"),
    ],
)  # fmt: skip
def test_what_a_command_does_not_write_is_refused_before_anything(
    arguments: tuple[str, ...],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "there").write_text("")
    status, out, err = nas_here(capsys, monkeypatch, tmp_path, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert told in err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_folders_that_are_missing_are_made_by_all_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"sqlite:///{tmp_path}/nas.db")
    search(test_baselines.plan(2), store, InProcess())
    store.close()
    folders.folder(tmp_path / "images")
    for place, *command in (
        ("a/b/net.svg", "show", "lenet5"),
        ("c/d/front.csv", "pareto"),
        ("c/e/front.svg", "pareto"),
        ("f/page.html", "report", "--top", "0"),
        ("g/h/net.py", "export", "lenet5"),
        ("i/j/sheet.png", "data", "check", "images"),
        ("k/l", "data", "pack", "images"),
    ):
        status, _, err = nas_here(capsys, monkeypatch, tmp_path, *command, "-o", place)
        assert (status, (tmp_path / place).exists()) == (0, True), err


def test_what_is_no_plain_file_is_written_to_and_stays(tmp_path: Path) -> None:
    kept, link, pipe = tmp_path / "kept.csv", tmp_path / "link.csv", tmp_path / "pipe"
    kept.write_text("before")
    link.symlink_to(kept.name)
    os.mkfifo(pipe)
    artifacts.replace(link, b"after")
    assert link.is_symlink()
    assert kept.read_text() == "after"
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    artifacts.replace(pipe, b"told")
    assert os.read(reader, 100) == b"told"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    link.unlink()
    link.symlink_to("nowhere.csv")
    artifacts.replace(link, b"new")
    assert (tmp_path / "nowhere.csv").read_text() == "new"


def test_a_table_goes_to_standard_output_by_its_name(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom nas import artifacts\n"
        "artifacts.replace(Path('/dev/stdout'), b'told')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"told"
    full = subprocess.run(
        [sys.executable, "-c", code.replace("stdout", "full")], capture_output=True, text=True
    )
    assert "/dev/full cannot be written: No space left on device" in full.stderr
