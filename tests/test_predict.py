"""``nas predict`` and ``nas evaluate`` on files, as users run them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from scipy.stats import binom
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support
from typed import ran

import nas
from nas import data
from nas.data import kinds
from nas.data.batches import Normal
from nas.data.picture import decode
from nas.errors import DataError, NasError
from nas.job import DataRef
from nas.training.card import Card, image_entries
from nas.training.evaluation import Evaluation, compare, evaluate
from nas.training.export import export
from nas.training.models import Model, save_model
from nas.training.onnx import to_onnx

pytestmark = pytest.mark.usefixtures("operators")

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of mostly one colour, some of another size, below class folders."""
    root = tmp_path_factory.mktemp("colours")
    random = np.random.default_rng(0)
    for channel, name in ((2, "blue"), (1, "green"), (0, "red")):
        for number in range(20):
            pixels = random.integers(0, 256, (12, 12 + number % 3, 3), np.uint8)
            pixels[..., channel] = pixels[..., channel] // 2 + 60
            place = root / name / ("some" if number % 2 else "others")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights: that its answers differ is what these tests need."""
    architecture = nas.parse("INPUT(3, 12, 12) -> CONV(8) -> BN -> RELU -> CONV(8) -> GAP -> FC(3)")
    card = Card(
        architecture=architecture,
        classes=CLASSES,
        normal=Normal((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)),
        dataset="imagefolder",
    )
    file = tmp_path_factory.mktemp("model") / "colours.safetensors"
    save_model(file, nas.build(architecture, seed=2), card)
    return file


def test_csv_has_a_line_for_each_file_at_every_depth(
    model: Path, folder: Path, capsys: Any
) -> None:
    status, out, err = ran(capsys, "predict", model, folder, "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (status, err) == (0, "")
    assert list(rows[0]) == ["file", "class", "probability"]
    assert [row["file"] for row in rows] == [str(path) for path in sorted(folder.rglob("*.png"))]
    expected = nas.load_model(model).predict([row["file"] for row in rows])
    assert [row["class"] for row in rows] == [p.label for p in expected]
    for row, prediction in zip(rows, expected, strict=True):
        assert math.isclose(float(row["probability"]), prediction.probability, abs_tol=2e-6)


def test_a_class_less_likely_than_the_others_together_is_told(
    model: Path, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    held = nas.load_model(model)
    sharp = held.network.state_dict()
    sharp |= {name: 40 * sharp[name] for name in [*sharp][-2:]}  # of the last layer
    held.network.load_state_dict(sharp)
    save_model(tmp_path / "sharp.safetensors", held.network, held.card)
    for file in (model, tmp_path / "sharp.safetensors"):
        status, out, _ = ran(capsys, "predict", file, folder)
        assert status == 0
        found = nas.load_model(file).predict(sorted(folder.rglob("*.png")))
        unsure = [line.endswith("  unsure") for line in out.splitlines()]
        assert sorted(unsure) == sorted(p.probability < 0.5 for p in found)
        assert any(unsure) is (file == model)
        told = json.loads(ran(capsys, "predict", file, folder, "-f", "json")[1])
        assert sorted(each["unsure"] for each in told) == sorted(unsure)


def test_onnx_answers_as_the_model(model: Path, folder: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "colours.onnx"
    export(nas.load_model(model), "onnx", file)
    ours = ran(capsys, "predict", model, folder, "-f", "json", "--top", "3")
    theirs = ran(capsys, "predict", file, folder, "-f", "json", "--top", "3")
    assert (ours[0], theirs[0]) == (0, 0)
    for a, b in zip(json.loads(ours[1]), json.loads(theirs[1]), strict=True):
        assert (a["file"], a["class"]) == (b["file"], b["class"])
        assert [t["class"] for t in a["top"]] == [t["class"] for t in b["top"]]
        assert math.isclose(sum(t["probability"] for t in a["top"]), 1, abs_tol=1e-5)
        assert math.isclose(a["probability"], b["probability"], abs_tol=1e-5)


def test_what_cannot_be_read_is_told_and_counted_and_costs_nothing_else(
    model: Path, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    whole = sorted(folder.rglob("*.png"))[:3]
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for number, path in enumerate(whole):
        (mixed / f"{number}.png").write_bytes(path.read_bytes())
    (mixed / "0a cut.png").write_bytes(whole[0].read_bytes()[:60])
    (mixed / "1a.jpg").write_text("no picture")
    (mixed / "notes.txt").write_text("no image by its ending")
    os.mkfifo(mixed / "pipe.png")
    (mixed / "._0.png").write_bytes(b"\0\5\x16\7")
    (mixed / ".ipynb_checkpoints").mkdir()
    (mixed / ".ipynb_checkpoints" / "0.png").write_bytes(whole[0].read_bytes())
    (mixed / "deeper").symlink_to(mixed)
    status, out, err = ran(capsys, "predict", model, mixed, "-f", "csv")
    assert status == 2
    named = [Path(row["file"]).name for row in csv.DictReader(io.StringIO(out))]
    assert named == ["0.png", "1.png", "2.png"]
    assert "0a cut.png is not a readable image" in err
    assert "1a.jpg is not a readable image" in err
    assert "2 of 5 images could not be read" in err
    assert "3 files skipped: hidden, pipes, or not images by their ending" in err
    if "HEIF" not in kinds.readable():
        (mixed / "photo.HEIC").write_bytes(b"x")
        _, _, err = ran(capsys, "predict", model, mixed)
        assert "1 file skipped: .heic: Pillow cannot read it (install pillow-heif)" in err
        assert "3 files skipped: hidden, pipes, or not images by their ending" in err
    # A file that is named is wanted, whatever it is called.
    status, out, err = ran(capsys, "predict", model, mixed / "notes.txt", "-f", "json")
    assert (status, json.loads(out)) == (2, [])
    assert "notes.txt is not a readable image" in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["MODEL", "nowhere"], "nowhere does not exist: must be an image or a directory of images"),
        (["nowhere.safetensors", "FOLDER"], "nowhere.safetensors: No such file or directory"),
        (["nowhere.onnx", "FOLDER"], "nowhere.onnx: No such file or directory"),
        (["MODEL", "FOLDER", "-f", "xml"], "--format xml: must be one of table, csv, json"),
        (["MODEL", "FOLDER", "--top", "0"], "--top 0: must be 1 or more"),
        (["MODEL", "EMPTY"], "no images found"),
    ],
)
def test_wrong_input_is_one_sentence(
    arguments: list[str],
    reason: str,
    model: Path,
    folder: Path,
    tmp_path: Path,
    capsys: Any,
) -> None:
    names = {"MODEL": model, "FOLDER": folder, "EMPTY": tmp_path}
    told = [names.get(name, name) for name in arguments]
    status, _, err = ran(capsys, "predict", *told)
    assert status == 2
    assert reason in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_model_without_an_answer_predicts_nothing(
    weight: float, model: Path, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    held = nas.load_model(model)
    state = held.network.state_dict()
    state[[*state][-1]][0] = weight  # a bias of the last layer
    file = tmp_path / "lost.safetensors"
    save_model(file, held.network, held.card)
    (tmp_path / "lost.onnx").write_bytes(to_onnx(held))
    image = min(folder.rglob("*.png"))
    for name in (file, tmp_path / "lost.onnx"):
        for form, empty in (("table", ""), ("csv", "file,class,probability\n"), ("json", "[]\n")):
            status, out, err = ran(capsys, "predict", name, folder, "-f", form)
            assert (status, out) == (2, empty)
            assert err.count("\n") == 1
            assert f"{name}: its answer for {image} is not finite" in err
    with pytest.raises(NasError, match="its answer for image 0 is not finite"):
        nas.load_model(file).predict([image, image])


@pytest.mark.parametrize("change", ["batch", "type", "input", "logits", "none"])
def test_an_onnx_file_that_another_tool_changed_is_refused(
    change: str, model: Path, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    graph = onnx.load_from_string(to_onnx(nas.load_model(model)))
    (pixels,), (logits,) = graph.graph.input, graph.graph.output
    if change == "batch":
        pixels.type.tensor_type.shape.dim[0].dim_value = 2
    elif change == "type":
        pixels.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        for node in graph.graph.node:  # from bytes, which the graph then need not convert
            if node.op_type == "Cast":
                node.op_type = "Identity"
                del node.attribute[:]
    elif change == "input":
        more = onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1])
        graph.graph.input.append(more)
    elif change == "logits":
        answer = onnx.helper.make_node("Identity", ["logits"], ["answers"])
        graph.graph.node.append(answer)
        logits.name = "answers"
    file = tmp_path / "changed.onnx"
    onnx.save(graph, file)
    status, _, err = ran(capsys, "predict", file, folder)
    if change == "none":
        assert status == 0, err
        return
    assert status == 2
    assert f"{file} was changed since nas wrote it: it" in err
    assert err.count("\n") == 1


def test_a_table_streams_into_a_pipe_that_closes(model: Path, folder: Path) -> None:
    command = f"{sys.executable} -m nas.cli predict {model} {folder} | head -2"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout.splitlines()) == 2
    assert " %" in ended.stdout


def test_names_of_any_bytes_are_told_apart_and_run_nowhere(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    place = os.fsencode(tmp_path)
    names = [b'\xff\n,".png', b'\xfe\n,".png', b"\x1b[31m.png"]
    for name in names:
        with open(place + b"/" + name, "wb") as file:
            file.write(next(folder.rglob("*.png")).read_bytes())
    code = (
        "import os, sys; from nas.cli import main\n"
        "for sys.argv[-1] in ('csv', 'json', 'table'):\n"
        "    try:\n        main()\n    except SystemExit as ended:\n        assert not ended.code\n"
        "    sys.stdout.flush(); os.write(1, b'\\0')\n"
    )
    command = [sys.executable, "-c", code, "predict", model, tmp_path, "-f", ""]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    told = dict(zip(("csv", "json", "table"), done.stdout.split(b"\0"), strict=False))
    rows = list(csv.reader(io.StringIO(told["csv"].decode())))
    assert {Path(row[0]).name for row in rows[1:]} == {
        '\\udcfe\n,".png', '\\udcff\n,".png', "[31m.png",
    }  # fmt: skip
    # JSON has them to the byte.
    held = {os.fsencode(entry["file"]) for entry in json.loads(told["json"])}
    assert held == {place + b"/" + name for name in names}
    assert b"\x1b" not in done.stdout + done.stderr


# --- evaluate ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored() -> Evaluation:
    """Made up: four classes, one of which nothing is called by."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 4, 200)
    logits = random.normal(size=(200, 4)) + 1.5 * np.eye(4)[labels] - 20 * np.eye(4)[3]
    found = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Evaluation(("a", "b", "c", "d"), "test", labels, found.astype(np.float32))


def test_scores_are_those_of_their_definitions(scored: Evaluation) -> None:
    labels, predicted = scored.labels, scored.probabilities.argmax(1)
    n, p = len(labels), float(np.mean(labels == predicted))
    assert scored.accuracy == p
    z = 1.959963984540054  # Wilson 1927
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert scored.interval == pytest.approx((middle - half, middle + half), abs=1e-9)
    assert scored.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    precision, recall, _, images = precision_recall_fscore_support(
        labels, predicted, labels=range(4), zero_division=np.nan
    )
    told = scored.by_class
    assert [score.images for score in told] == list(images)
    np.testing.assert_allclose([score.precision for score in told], precision)
    np.testing.assert_allclose([score.recall for score in told], recall)
    assert math.isnan(told[3].precision)


def test_calibration_error_is_equation_3_of_guo(scored: Evaluation) -> None:
    certain = scored.probabilities.max(1)
    right = scored.probabilities.argmax(1) == scored.labels
    error = 0.0
    for m in range(15):
        inside = (certain > m / 15) & (certain <= (m + 1) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - certain[inside].astype(float).mean())
            error += inside.sum() / len(right) * gap
    assert scored.calibration_error == pytest.approx(error, abs=1e-6)
    sure = np.eye(4, dtype=np.float32)[scored.labels]
    assert Evaluation(scored.classes, "test", scored.labels, sure).calibration_error == 0


def test_the_worst_mistakes_come_first(scored: Evaluation) -> None:
    wrong = scored.mistakes(1000)
    assert set(wrong) == set(np.flatnonzero(~scored.right))
    of_truth = [scored.probabilities[i, scored.labels[i]] for i in wrong]
    assert of_truth == sorted(of_truth)


def test_mcnemar_is_the_exact_binomial(scored: Evaluation) -> None:
    other = scored.probabilities.copy()
    changed = scored.mistakes(1000)[-15:]  # these are right with the second
    other[changed] = np.eye(4)[scored.labels[changed]]
    spoilt = np.flatnonzero(scored.right)[:4]
    other[spoilt] = np.eye(4)[(scored.labels[spoilt] + 1) % 4]
    second = Evaluation(scored.classes, "test", scored.labels, other)
    found = compare(scored, second)
    assert (found.only_first, found.only_second) == (4, 15)
    assert found.p == pytest.approx(2 * sum(binom.pmf(k, 19, 0.5) for k in range(5)))
    assert compare(scored, scored).p == 1
    fewer = Evaluation(scored.classes, "test", scored.labels[:9], scored.probabilities[:9])
    with pytest.raises(DataError, match="the same images"):
        compare(scored, fewer)


def test_a_folder_is_scored_by_the_decoding_of_the_training(model: Path, folder: Path) -> None:
    ref = DataRef(name="imagefolder", dir=str(folder))
    loaded = nas.load_model(model)
    found = evaluate(loaded, ref, "all")
    paths = sorted(folder.rglob("*.png"))
    expected = loaded.predict(paths)
    right = [p.label == path.parent.parent.name for p, path in zip(expected, paths, strict=True)]
    assert found.accuracy == sum(right) / 60
    test = evaluate(loaded, ref)
    assert len(test) == len(data.load(ref, "test")) == 12
    assert test.pixels(3).shape == (3, 12, 12)
    # Each by its file, where the mistakes are shown.
    for number in range(len(test)):
        file = folder / test.name(number)
        assert file.parent.parent.name == test.classes[test.labels[number]]
        np.testing.assert_array_equal(test.pixels(number), decode(file, (3, 12, 12)))


def test_of_another_folder_than_the_trainings_all_is_scored(
    model: Path, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    held = nas.load_model(model)
    ref = DataRef(name="imagefolder", dir=str(folder))
    ours = dataclasses.replace(
        held.card, **image_entries(dataclasses.replace(ref, identity=data.identity(ref)))
    )
    trained_here = Model(held.network, ours)
    assert len(nas.evaluate(trained_here, data=folder)) == 12
    save_model(tmp_path / "own.safetensors", held.network, ours)
    for part, warned in (("all", True), ("train", True), ("test", False)):
        given = ("evaluate", tmp_path / "own.safetensors", "--data", folder, "--part", part)
        status, _, err = ran(capsys, *given)
        assert status == 0
        assert ("own.safetensors was trained on images of this part" in err) is warned
    for name in CLASSES:
        (tmp_path / "new" / name).mkdir(parents=True)
        for number, path in enumerate(sorted((folder / name).rglob("*.png"))[:5]):
            (tmp_path / "new" / name / f"{number}.png").write_bytes(path.read_bytes() + b"\0")
            (tmp_path / "known" / name).mkdir(parents=True, exist_ok=True)
            for copied in (tmp_path / "new" / name / f"{number}.png", path):
                copy = tmp_path / "known" / name / f"{copied.parent.name} {copied.name}"
                copy.write_bytes(copied.read_bytes())
    assert len(nas.evaluate(trained_here, data=tmp_path / "new")) == 15
    with pytest.raises(DataError, match=r"about 50 % of the images of .*known were there when"):
        nas.evaluate(trained_here, data=tmp_path / "known")
    assert len(nas.evaluate(trained_here, data=tmp_path / "known", part="all")) == 30
    for part in ("all", "test"):  # the split is another one
        given = ("evaluate", tmp_path / "own.safetensors", "--data", tmp_path / "known")
        status, _, err = ran(capsys, *given, "--part", part)
        assert status == 0
        assert "was trained where about 50 % of these images were, too: its accuracy here" in err
    (tmp_path / "parts").mkdir()
    for part in ("train", "test"):
        (tmp_path / "parts" / part).symlink_to(tmp_path / "new")
    found = nas.evaluate(trained_here, data=tmp_path / "parts")
    assert (found.part, len(found)) == ("test", 15)


def test_evaluate_shows_and_writes_it(
    model: Path, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    arguments = ("evaluate", model, "--data", folder, "--part", "all", "-o", tmp_path / "out")
    status, out, err = ran(capsys, *arguments)
    assert status == 0, err
    loaded = evaluate(nas.load_model(model), DataRef(name="imagefolder", dir=str(folder)), "all")
    low, high = loaded.interval
    assert f"{100 * loaded.accuracy:.2f} %  ({100 * low:.2f} to {100 * high:.2f})" in out
    answer, share = loaded.constant
    counts = loaded.confusion.sum(1).tolist()
    assert (answer, share) == (CLASSES[counts.index(max(counts))], max(counts) / sum(counts))
    assert f"always {answer}" in out
    with open(tmp_path / "out" / "confusion.csv") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["true", *CLASSES]
    assert [[int(n) for n in row[1:]] for row in rows[1:]] == loaded.confusion.tolist()
    for name in ("confusion.png", "mistakes.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 100
            assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 5

    status, out, _ = ran(capsys, "evaluate", model, "--data", folder, "-f", "json")
    assert (status, json.loads(out)["images"]) == (0, 12)


def test_two_models_are_compared_on_the_same_images(
    model: Path, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    held, file = nas.load_model(model), tmp_path / "b.safetensors"
    save_model(file, nas.build(held.architecture, seed=5), held.card)
    arguments = ("evaluate", model, file, "--data", folder, "--part", "all")
    status, out, err = ran(capsys, *arguments)
    assert status == 0, err
    ref = DataRef(name="imagefolder", dir=str(folder))
    p = compare(evaluate(held, ref, "all"), evaluate(nas.load_model(file), ref, "all")).p
    assert f"McNemar's exact test: p = {p:.3g}" in out

    assert ran(capsys, *arguments, "-o", tmp_path / "out")[0] == 0
    for name, of in ((model.stem, held), ("b", nas.load_model(file))):
        rows = list(
            csv.reader((tmp_path / "out" / name / "confusion.csv").read_text().splitlines())
        )
        found = evaluate(of, ref, "all").confusion.tolist()
        assert [[int(n) for n in row[1:]] for row in rows[1:]] == found
    status, _, err = ran(capsys, "evaluate", file, file, "--data", folder)
    assert (status, err) == (2, f"nas: {file} is given twice: two different models are compared\n")


@pytest.mark.parametrize("named", ["", "cifr10"])
def test_a_model_that_does_not_tell_its_images_is_told(
    named: str, model: Path, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    held, file = nas.load_model(model), tmp_path / "m.safetensors"
    save_model(file, held.network, dataclasses.replace(held.card, dataset=named))
    lowered = ("export", file, "-f", "onnx", "--precision", "int8", "-o", tmp_path / "m.onnx")
    made = ("cascade", file, file, "-o", tmp_path / "c.json")
    for asked in (("evaluate", file), lowered, made):
        status, out, err = ran(capsys, *asked)
        assert (status, out) == (2, "")
        assert err.startswith(f'nas: {file}: dataset is "{named}": must be one of cifar10, ')
        assert err.count("\n") == 1
    assert ran(capsys, "evaluate", file, "--data", folder)[0] == 0


def test_images_may_lack_some_of_a_models_classes(
    folder: Path, model: Path, tmp_path: Path, capsys: Any
) -> None:
    for name in ("red", "green"):
        (tmp_path / "apart" / name).mkdir(parents=True)
        for image in (folder / name).iterdir():
            (tmp_path / "apart" / name / image.name).symlink_to(image)
    given = ("--data", tmp_path / "apart", "--part", "all")
    status, out, err = ran(capsys, "evaluate", model, *given, "-f", "json", "-o", tmp_path / "out")
    assert status == 0, err
    assert "nas: no images of blue: their recall is not measured\n" in err
    scores = json.loads(out)
    assert scores["classes"]["blue"]["images"] == 0
    assert scores["classes"]["blue"]["recall"] is None
    recalls = [scores["classes"][name]["recall"] for name in ("red", "green")]
    assert scores["balanced_accuracy"] == pytest.approx(sum(recalls) / 2)
    assert sum(map(sum, scores["confusion"])) == scores["images"]
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"confusion.csv", "mistakes.png"}


def test_other_classes_and_other_images_are_refused(folder: Path, model: Path) -> None:
    held = nas.load_model(model)
    other = Model(held.network, Card(architecture=held.architecture, classes=("a", "b", "red"),
                                     normal=held.card.normal))  # fmt: skip
    ref = DataRef(name="imagefolder", dir=str(folder))
    with pytest.raises(NasError, match="not know the classes blue, green, only a, b, red"):
        evaluate(other, ref)
    (folder.parent / "apart").mkdir()
    for name, of in (("caf\u00e9", "red"), ("green", "green"), ("blue", "blue")):
        (folder.parent / "apart" / name).symlink_to(folder / of)
    known = dataclasses.replace(held.card, classes=("blue", "cafe\u0301", "green"))
    ref = DataRef(name="imagefolder", dir=str(folder.parent / "apart"))
    with pytest.raises(NasError, match=r"class 'caf\\xe9', only 'cafe\\u0301', blue,"):
        evaluate(Model(held.network, known), ref)
    with pytest.raises(NasError, match="--part half: must be one of test, validation, train, all"):
        evaluate(held, ref, "half")
    grey = Model(held.network, Card(architecture=nas.parse("INPUT(1, 8, 8) -> FC(3)"),
                                    classes=CLASSES, normal=Normal((0.5,), (0.2,))))  # fmt: skip
    with pytest.raises(NasError, match=r"holds images of 3x12x12: the model takes 1x8x8"):
        evaluate(grey, ref)
