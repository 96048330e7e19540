"""Exported models are self-contained and give the model's outputs."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import profiles
import pytest
import torch
from folders import folder
from PIL import Image
from torch import nn
from typed import ran

import nas
from nas.cli.models import export_model
from nas.data.batches import Normal
from nas.data.picture import decode
from nas.errors import NasError
from nas.language.layers import Pool
from nas.training import timing
from nas.training.card import Card
from nas.training.export import FORMATS, TOLERANCE, Format, export
from nas.training.models import Model, save_model
from nas.training.onnx import load_onnx, to_onnx
from nas.training.python_source import python_source
from nas.training.runtimes import to_graph

pytestmark = pytest.mark.usefixtures("operators")

EXPORTS = Path(__file__).parent.parent / "benchmarks" / "exports.py"

# Every layer among them, and what exporters have trouble with: rounding up, maps that do not
# divide, an odd size, an auxiliary classifier, depthwise and grouped convolutions.
NETWORKS = [
    "INPUT(3, 16, 16) -> CONV(8) -> BN -> RELU -> RESIDUAL(8, se=4) -> DENSE(4)*2 -> AUX -> FC(5)",
    "INPUT(3, 15, 17) -> CONV(8, 5, pad=0) -> LRN -> POOL(3, 2, kind=avg, ceil=yes) -> FC(7)",
    "INPUT(3, 15, 17) -> CONV(8) -> ELU -> POOL(3, 2, ceil=yes) -> GAP(4) -> FC(7)",
    "INPUT(3, 16, 16) -> MBCONV(8) -> TRANSITION -> TANH -> DROPOUT -> FC(5)",
    "INPUT(1, 16, 16) -> INCEPTION(width=16) -> GAP(2) -> FLATTEN -> GELU -> FC(5) -> BN -> FC(2)",
    # Of the windows that rounding up adds, torch drops the last row's and keeps the last column's.
    "INPUT(1, 9, 13) -> CONV(8) -> POOL(2, 3, kind=avg, ceil=yes) -> MBCONV(8) -> FC(3)",
    "INPUT(1, 9, 13) -> CONV(8) -> POOL(2, 3, ceil=yes) -> RESIDUAL(8) -> FC(3)",
]


def model(architecture: nas.Architecture) -> Model:
    """With random weights, statistics and scales, as a training might leave them."""
    network = nas.build(architecture, seed=1)
    generator = torch.Generator().manual_seed(2)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    channels = architecture.input[0]
    card = Card(
        architecture=architecture,
        classes=tuple(f"class {i}" for i in range(architecture.classes)),
        normal=Normal((0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]),
    )
    return Model(network, card).eval()


def saved(made: Model, folder: Path) -> Path:
    file = folder / "model.safetensors"
    save_model(file, made.network, made.card)
    return file


@pytest.mark.parametrize("pattern", NETWORKS)
def test_every_format_answers_as_torch_does(pattern: str, tmp_path: Path) -> None:
    made = model(nas.parse(pattern))
    weights = saved(made, tmp_path)
    for name, kind in FORMATS.items():
        done = export(made, name, tmp_path / f"out{kind.ending}", weights)
        assert done.file.stat().st_size
        assert done.difference is not None
        assert done.difference <= (2e-6 if name == "onnx" else 1e-6), name
    # Other images than the check's, any number of them.
    for count in (1, 3):
        pixels = torch.randint(0, 256, (count, *made.input), dtype=torch.uint8)
        expected = made.probabilities(pixels)
        found = load_onnx(tmp_path / "out.onnx").probabilities(pixels)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        program = torch.export.load(tmp_path / "out.pt2").module()
        np.testing.assert_allclose(program(pixels).softmax(1).detach(), expected, atol=1e-6)
        found = nas.load_model(tmp_path / "out.safetensors").probabilities(pixels)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("map", [(5, 5), (6, 9), (8, 13), (9, 13), (11, 16), (12, 4)])
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pools_that_round_up_are_torchs_in_onnx_runtime_too(
    kind: Literal["max", "avg"], map: tuple[int, int]
) -> None:
    x = torch.randn(2, 3, *map, generator=torch.Generator().manual_seed(0)) - 1
    for kernel, stride, pad in itertools.product(range(1, 5), range(1, 6), range(3)):
        ours = Pool(kernel, stride, pad, kind, ceil=True)
        if 2 * pad > kernel or min(map) + 2 * pad < kernel:
            continue
        theirs: nn.Module
        if kind == "avg":
            theirs = nn.AvgPool2d(kernel, stride, pad, ceil_mode=True)
        else:
            theirs = nn.MaxPool2d(kernel, stride, pad, ceil_mode=True)
        expected = theirs(x).flatten(1)
        # A layer that counts what reaches it: the shape inference must count the same.
        copied = nn.Linear(expected.shape[1], expected.shape[1], bias=False)
        nn.init.eye_(copied.weight)
        row = nn.Sequential(ours.module((3, *map), False), nn.Flatten(), copied).eval()
        session = timing.session(to_graph(row, (3, *map)), 1)
        for found in (row(x).detach().numpy(), session.run(None, {"x": x.numpy()})[0]):
            np.testing.assert_allclose(found, expected.numpy(), atol=1e-6, err_msg=str(ours))


@pytest.mark.timeout(600)  # for a busy machine
@pytest.mark.slow
def test_samples_of_shipped_spaces_in_all_formats_and_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """benchmarks/exports.py does 20 of each space and the zoo."""
    asked = ["--samples", "1", "mixed", "mobilenet_like"]
    monkeypatch.setattr(sys, "argv", [str(EXPORTS), *asked])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXPORTS), run_name="__main__")
    told = capsys.readouterr().out
    assert ended.value.code == 0, told
    head, _, *rows = (line.strip("| ").split(" | ") for line in told.splitlines())
    assert [row[0] for row in rows] == ["mixed", "mobilenet_like"]
    for found in (dict(zip(head, row, strict=True)) for row in rows):
        for column in (*FORMATS, "torch alone", "onnxruntime alone"):
            assert 0 <= float(found[column]) <= 1e-5, found
        assert found["failed"] == "0"


ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
"""


def alone(code: str, *blocked: str) -> dict[str, Any]:
    """What code prints as JSON in a process that cannot import what is blocked."""
    run = [sys.executable, "-I", "-c", ALONE.format(blocked=blocked) + code]
    ended = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def test_the_source_needs_torch_alone(tmp_path: Path) -> None:
    made = model(nas.parse(NETWORKS[0]))
    (tmp_path / "weights").mkdir()
    (tmp_path / "code").mkdir()
    weights = saved(made, tmp_path / "weights")
    source = tmp_path / "code" / "network.py"
    export(made, "python", source, weights)
    code = f"""
import json, runpy
held = runpy.run_path({str(source)!r})
import torch
pixels = torch.arange(2 * 3 * 16 * 16).remainder(256).view(2, 3, 16, 16)
print(json.dumps(dict(classes=held["CLASSES"], p=held["predict"](held["load"](), pixels).tolist())))
"""
    told = alone(code, "nas", "torchvision", "safetensors", "numpy", "PIL")
    pixels = torch.arange(2 * 3 * 16 * 16).remainder(256).view(2, 3, 16, 16)
    assert tuple(told["classes"]) == made.classes
    np.testing.assert_allclose(told["p"], made.probabilities(pixels), atol=1e-6)


def run_source(
    capsys: pytest.CaptureFixture[str], source: Path, *paths: Path
) -> tuple[int, str, str]:
    """A source run as a command, in this process: its exit status, its stdout and stderr."""
    status = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(source), *map(str, paths)])
        try:
            runpy.run_path(str(source), run_name="__main__")
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else bool(ended.code)
            if isinstance(ended.code, str):  # as Python itself does
                print(ended.code, file=sys.stderr)
    return status, *capsys.readouterr()


def test_the_source_is_a_command_that_prepares_files_as_the_training_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = model(nas.parse(NETWORKS[0]))
    source = tmp_path / "network.py"
    export(made, "python", source, saved(made, tmp_path))
    random = np.random.default_rng(3)
    picture = Image.fromarray(random.integers(0, 256, (40, 70, 3), np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "phone.jpg", exif=exif)
    picture.convert("RGBA").save(tmp_path / "clear.png")
    picture.convert("L").save(tmp_path / "grey.png")
    paths = [tmp_path / name for name in ("phone.jpg", "clear.png", "grey.png")]
    status, told, _ = run_source(capsys, source, *paths)
    assert status == 0
    for line, prediction in zip(told.splitlines(), made.predict(paths), strict=True):
        assert line.split("\t")[1:] == [prediction.label, f"{prediction.probability:.4f}"]


def test_the_source_goes_on_after_files_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = model(nas.parse(NETWORKS[0]))
    source = tmp_path / "network.py"
    export(made, "python", source, saved(made, tmp_path))
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("none")
    values = np.arange(900, dtype=np.uint16).reshape(30, 30) * 70
    Image.fromarray(values).save(tmp_path / "deep.png")
    bad = [tmp_path / name for name in ("empty.jpg", "text.png", "absent.png")]
    status, out, err = run_source(capsys, source, *bad, tmp_path / "deep.png")
    (prediction,) = made.predict([tmp_path / "deep.png"])
    assert status == 1
    assert out.split("\t")[1:] == [prediction.label, f"{prediction.probability:.4f}\n"]
    *reasons, last = err.splitlines()
    for path, reason in zip(bad, reasons, strict=True):
        assert reason.startswith(f"{path} is not a readable image: ")
    assert reasons[0].endswith("it is empty")
    assert last == "3 of 4 files could not be read"


def test_the_source_finds_its_weights_beside_it_and_says_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = model(nas.parse(NETWORKS[0]))
    (tmp_path / "trained").mkdir()
    weights = saved(made, tmp_path / "trained")
    source = tmp_path / "network.py"
    export_model(str(weights), "python", source, "")
    assert f"network.py reads its weights from {weights}: " in capsys.readouterr().err
    assert f"trained/{weights.name}" in ast.get_docstring(ast.parse(source.read_text()))
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(source, there)
    told = subprocess.run(
        [sys.executable, there / source.name], capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 1
    assert told.stderr.startswith(f"{weights.name}, the weights, must travel with this file: ")
    assert told.stderr.count("\n") == 1
    shutil.copy(weights, there)
    subprocess.run([sys.executable, there / source.name], check=True, timeout=120)


def test_the_onnx_file_needs_onnxruntime_alone(tmp_path: Path) -> None:
    made = model(nas.parse(NETWORKS[1]))
    export(made, "onnx", tmp_path / "model.onnx")
    code = f"""
import json, numpy as np, onnxruntime
session = onnxruntime.InferenceSession({str(tmp_path / "model.onnx")!r})
told = session.get_modelmeta().custom_metadata_map
given = session.get_inputs()[0]
pixels = np.arange(2 * 3 * 15 * 17).reshape(2, 3, 15, 17).astype(np.uint8)
(logits,) = session.run(None, {{given.name: pixels}})
print(json.dumps(dict(logits=logits.tolist(), shape=given.shape, type=given.type, card=told)))
"""
    told = alone(code, "nas", "torch", "torchvision", "safetensors", "onnx", "onnxscript")
    pixels = torch.arange(2 * 3 * 15 * 17).view(2, 3, 15, 17).to(torch.uint8)
    expected = made(pixels).detach()
    np.testing.assert_allclose(told["logits"], expected, atol=1e-5 * float(expected.abs().max()))
    assert told["shape"][1:] == [3, 15, 17]
    assert isinstance(told["shape"][0], str)  # any number
    assert told["type"] == "tensor(uint8)"
    assert tuple(json.loads(told["card"]["classes"])) == made.classes
    assert json.loads(told["card"]["input"]) == [3, 15, 17]


def test_an_export_whose_outputs_differ_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model(nas.parse(NETWORKS[3]))
    kind = FORMATS["safetensors"]

    def spoilt(model: Model, weights: str) -> bytes:
        other = Model(nas.build(model.architecture, seed=9), model.card).eval()
        return kind.make(other, weights)

    monkeypatch.setitem(FORMATS, "safetensors", Format("", kind.ending, spoilt, kind.run))
    there = tmp_path / "there.safetensors"
    there.write_text("mine")
    with pytest.raises(NasError, match=f"not written: .* more than {TOLERANCE:g}"):
        export(made, "safetensors", there)
    assert there.read_text() == "mine"
    assert os.listdir(tmp_path) == ["there.safetensors"]


@pytest.mark.parametrize("format", ["python", "safetensors"])
def test_a_model_whose_logits_are_all_0_is_exported(format: str, tmp_path: Path) -> None:
    made = model(nas.parse("INPUT(1, 8, 8) -> FC(2) -> RELU"))
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.copy_(-parameter.abs() - 1)  # a dead RELU on images that are not negative
    card = dataclasses.replace(made.card, normal=Normal((0.0,), (1.0,)))
    made = Model(made.network, card).eval()
    exported = export(made, format, tmp_path / "dead", saved(made, tmp_path))
    assert exported.difference == 0


def test_without_its_packages_onnx_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr("nas.training.onnx.find_spec", lambda name: None)
    with pytest.raises(NasError, match=r"not installed here: pip install 'nas-patterns\[onnx\]'"):
        export(model(nas.parse(NETWORKS[3])), "onnx", tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_lower_precision_is_told_with_what_it_costs(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    network = (
        "INPUT -> CONV(16) -> BN -> RELU -> RESIDUAL(16, se=4) -> POOL -> CONV(24) -> GAP -> FC"
    )
    trained = nas.train(network, epochs=4, output=tmp_path / "digits.safetensors")
    monkeypatch.chdir(tmp_path)
    whole = trained.card.metrics["test_accuracy"]
    for precision in ("fp16", "int8"):
        status, _, err = ran(
            capsys, "export", tmp_path / "digits.safetensors", "-f", "onnx",
            "--precision", precision,
        )  # fmt: skip
        assert status == 0, err
        file = tmp_path / f"digits.{precision}.onnx"
        found = nas.evaluate(file).accuracy
        assert f"fp32: test accuracy {100 * whole:.2f} %" in err
        assert f"{precision}: test accuracy {100 * found:.2f} %" in err
        assert found > whole - 0.05
        assert json.loads(load_onnx(file).card.metadata()["classes"]) == list("0123456789")
    model_file = tmp_path / "digits.safetensors"
    for wrong in (["-f", "onnx", "--precision", "int4"], ["-f", "pt2", "--precision", "int8"]):
        status, _, err = ran(capsys, "export", model_file, *wrong)
        assert (status, err.count("\n")) == (2, 1)
        assert f"--precision {wrong[-1]}: " in err


def test_a_trial_is_lowered_on_the_images_of_its_study(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "d", 10)
    search = ("search", "--space", "linear", "--trials", "1", "--epochs", "1", "--workers", "0")
    assert ran(capsys, *search, "--data", "d")[0] == 0
    status, _, err = ran(capsys, "export", "0", "-f", "onnx", "--precision", "fp16")
    assert status == 0, err
    exported = nas.evaluate("trial-0.fp16.onnx", data="d")
    assert f"fp16: test accuracy {100 * exported.accuracy:.2f} %" in err


# --- the command line ----------------------------------------------------------------------------


def test_the_command_writes_under_the_models_name_and_says_how_near_it_is(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    made = model(nas.parse(NETWORKS[3]))
    file = saved(made, tmp_path)
    status, out, err = ran(capsys, "export", file, "-f", "pt2")
    assert (status, out) == (0, "")
    assert torch.export.load(tmp_path / "model.pt2")
    kilobytes = (tmp_path / "model.pt2").stat().st_size / 1e3
    assert f"{kilobytes:.1f} kB, differs from torch by 0.0e+00 of the output's scale" in err
    status, out, _ = ran(capsys, "export", file, "-f", "pattern")
    assert (status, out) == (0, f"{made.architecture}\n")
    status, out, _ = ran(capsys, "export", file)
    assert status == 0
    compile(out, "printed.py", "exec")
    assert "def load(" in out
    status, out, _ = ran(capsys, "export", "lenet5", "-o", tmp_path / "lenet.py")
    assert (status, out) == (0, "")
    assert "def network()" in (tmp_path / "lenet.py").read_text()


def test_an_exported_file_is_not_exported_again_except_as_its_pattern(
    tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "model.onnx").write_bytes(to_onnx(model(nas.parse(NETWORKS[3]))))
    for format in ("python", "safetensors", "pt2", "onnx"):
        status, _, err = ran(capsys, "export", tmp_path / "model.onnx", "-f", format)
        assert (status, err.count("\n")) == (2, 1), format
        assert "give the model that it was made from, a .safetensors file of `nas train`" in err
    status, out, _ = ran(capsys, "export", tmp_path / "model.onnx", "-f", "pattern")
    assert (status, out.strip()) == (0, str(nas.parse(NETWORKS[3])))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["lenet5", "-f", "onnx"], "--format onnx: a pattern has no weights: `nas train`"),
        (["nowhere.safetensors", "-f", "onnx"], "nowhere.safetensors: No such file"),
        (
            ["MODEL", "-f", "tflite"],
            "--format tflite: must be pattern, python, onnx, pt2 or safetensors",
        ),
        (["MODEL", "-f", "safetensors"], "is the model itself; choose another file"),
        (["MODEL", "-f", "pt2", "-o", "MODEL/x.pt2"], "model.safetensors is not a directory"),
        (["lenet_like"], "lenet_like is a search space, not a single network"),
        ([], "give either a model, a pattern or a network's name, or --trial N"),
        (
            ["lenet5", "--trial", "3"],
            "give either a model, a pattern or a network's name, or --trial N",
        ),
    ],
)
def test_wrong_input_is_one_sentence(
    arguments: list[str], reason: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    file = str(saved(model(nas.parse("INPUT(1, 4, 4) -> FC(2)")), tmp_path))
    monkeypatch.chdir(tmp_path)
    told = [argument.replace("MODEL", file) for argument in arguments]
    status, out, err = ran(capsys, "export", *told)
    assert (status, out) == (2, "")
    assert reason in err
    assert err.count("\n") == 1


# --- the source alone ----------------------------------------------------------------------------


def test_a_pattern_alone_is_its_network_with_the_entries_of_ours() -> None:
    for pattern in NETWORKS:
        architecture = nas.parse(pattern)
        ours = nas.build(architecture, seed=1).eval()
        names: dict[str, Any] = {}
        exec(compile(python_source(architecture), "exported.py", "exec"), names)
        theirs = names["network"]().eval()
        assert sum(p.numel() for p in theirs.parameters()) == architecture.params
        state = ours.state_dict()
        theirs.load_state_dict({key: state[key] for key in theirs.state_dict()})
        x = torch.randn(2, *architecture.input, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(theirs(x), ours(x), rtol=0, atol=1e-6)


def test_decoding_in_the_source_is_ours(tmp_path: Path) -> None:
    made = model(nas.parse("INPUT(3, 12, 20) -> CONV(4) -> GAP -> FC(2)"))
    source = tmp_path / "network.py"
    export(made, "python", source, saved(made, tmp_path))
    names: dict[str, Any] = {"__file__": str(source), "__name__": "exported"}
    exec(compile(source.read_text(), str(source), "exec"), names)
    random = np.random.default_rng(4)
    for size, mode in (((50, 31), "RGB"), ((20, 12), "RGB"), ((64, 64), "L"), ((33, 90), "P")):
        path = tmp_path / f"{mode}-{size[0]}.png"
        pixels = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
        np.testing.assert_array_equal(names["decode"](path).numpy(), decode(path, made.input))
    values = random.integers(0, 256, (30, 40), np.uint8)
    alpha = Image.fromarray(np.dstack([values] * 4))
    profiled = Image.fromarray(np.dstack([values, values[::-1], values[:, ::-1]]))
    profiled.info["icc_profile"] = profiles.display_p3()
    for image in (alpha, alpha.convert("LA"), profiled):
        path = tmp_path / f"{image.mode}.png"
        image.save(path)
        np.testing.assert_array_equal(names["decode"](path).numpy(), decode(path, made.input))
    Image.fromarray(values.astype(np.uint16) * 250).save(tmp_path / "deep.png")
    Image.fromarray(values.astype(np.float32) / 7).save(tmp_path / "float.tif")
    Image.fromarray(values.astype(np.int32) * 999).save(tmp_path / "long.tif")
    Image.fromarray(values.astype(np.uint16) * 16).save(tmp_path / "wide.pgm")
    Image.merge("LAB", [Image.fromarray(values)] * 3).save(tmp_path / "lab.tif")
    for name in ("deep.png", "float.tif", "long.tif", "wide.pgm", "lab.tif"):
        path = tmp_path / name
        np.testing.assert_array_equal(names["decode"](path).numpy(), decode(path, made.input))
