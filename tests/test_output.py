"""--output: a path that ends as a file does is that file, or is refused; of all commands alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_cli import nas_here

from nas.training.models import load_model

PATTERN = "INPUT(1, 8, 8) -> FC(width=10)"
TRAIN = ("train", PATTERN, "--epochs", "1")
A_FILE = "ends as a file does, and "


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
    assert "kept/mine.safetensors is there and is another" in err
    assert (tmp_path / "kept" / "mine.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((*TRAIN, "-o", "m.onnx"), "--output m.onnx: ends as a file does, and checkpoint and model "
         "go into a directory: leave out .onnx"),
        ((*TRAIN, "-o", "m.pt"), A_FILE),
        ((*TRAIN, "-o", "there"), "--output there: is a file, and checkpoint and model go into"),
        (("evaluate", "m.safetensors", "-o", "e.csv"), A_FILE),
        (("distill", "--teacher", "m", "--student", "lenet5", "-o", "m.safetensors"), A_FILE),
        (("prune", "m.safetensors", "-o", "m.safetensors"), A_FILE),
        (("latency", "pack", "-o", "pack.zip"), A_FILE),
        (("data", "pack", "images", "-o", "images.tar"), A_FILE),
        (("data", "check", "images", "-o", "sheet.jpg"), "--output sheet.jpg: must end in .png"),
        (("cascade", "-o", "c.onnx"), "must end in .json"),
        (("export", "lenet5", "-o", "m.onnx"), "--format onnx: a pattern has no weights"),
        (("export", "lenet5", "-f", "python", "-o", "m.onnx"),
         "--output m.onnx: does not end as --format python is called"),
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
