"""Inspection of images before training, tables of images, and groups that no split separates."""

from __future__ import annotations

import csv
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from folders import colour, folder, ref
from PIL import Image
from test_cli import nas_here

from nas.cli.options import data_ref, plan
from nas.cli.searches import tell_chance
from nas.data import datasets as data
from nas.data.findings import examine, lines
from nas.data.pack import pack
from nas.data.splits import holdout, together
from nas.errors import DataError
from nas.training.evaluation import data_for
from nas.training.models import load_model


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))


# --- the command ---------------------------------------------------------------------------------


def test_check_tells_text_json_and_a_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "d", 10)
    (root / ".DS_Store").write_bytes(b"x")
    (root / "a" / "notes.txt").write_text("x")
    told = ("data", "check", str(root))
    status, out, err = nas_here(capsys, monkeypatch, tmp_path, *told, "-f", "json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["classes"] == {"a": 10, "b": 10}
    assert found["parts"] == {"train": 12, "validation": 4, "test": 4}
    assert found["shape"] == [3, 32, 32]
    assert found["skipped"] == {"droppings": 1, ".txt: no image": 1}
    assert found["identity"] == data.identity(ref(root))
    status, out, err = nas_here(capsys, monkeypatch, tmp_path, *told, "-o", "sheet.png")
    assert "20 images in 2 classes (a 10, b 10)" in out
    assert "skipped: 1 .txt: no image (a/notes.txt)" in out
    assert f"identity {found['identity']}" in out
    assert err == "nas: written to sheet.png\n"
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("L")).astype(int)
    rows = np.flatnonzero((sheet < 250).mean(1) > 0.5)  # where images are: two bands
    one, other = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    assert len(one) == len(other) == 96
    # Class a is bright on top, class b at the bottom: labels and pictures belong together.
    assert sheet[one[:20]].mean() > sheet[one[-20:]].mean() + 60
    assert sheet[other[:20]].mean() < sheet[other[-20:]].mean() - 60


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere",), "nowhere does not exist"),
        (("d", "-f", "xml"), "--format xml: must be text or json"),
        (("d", "--group-by", "("), "is not a regular expression"),
        (("d", "--group-by", "xyz"), r"--group-by 'xyz' matches no file, not a/0000\.png"),
        (("d", "-o", "d/a/0000.png/sheet.png"), "0000.png is not a directory"),
        (("one",), "holds 1 class folder:"),
        (("cut",), r"cut: 1 problem stops every training on these images"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: tuple[str, ...],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder(tmp_path / "d")
    folder(tmp_path / "one", classes=("a",))
    cut = folder(tmp_path / "cut") / "a" / "0003.png"
    cut.write_bytes(cut.read_bytes()[:300])
    status, _, err = nas_here(capsys, monkeypatch, tmp_path, "data", "check", *arguments)
    assert status == 2
    assert re.search(told, err)
    assert err.count("\n") == 1


def test_a_search_and_a_training_tell_of_their_images_before_they_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "d", 20)
    (root / "b" / "x.svg").write_text("<svg/>")
    cut = root / "a" / "0003.png"
    cut.write_bytes(cut.read_bytes()[:300])
    search = ("search", "--space", "linear", "--trials", "1", "--epochs", "1", "--workers", "0",
              "--data", str(root))  # fmt: skip
    train = ("train", "INPUT -> FC", "--epochs", "1", "--data", str(root))
    for command in (search, (*search, "--dry-run"), train):
        status, out, err = nas_here(capsys, monkeypatch, tmp_path, *command)
        assert (status, out) == (2, "")
        assert "1 of 40 images cannot be read" in err
        assert not [path for path in tmp_path.iterdir() if path.name not in ("d", "cache")]
    for command in ((*search, "--dry-run"), search, train):
        status, _, err = nas_here(capsys, monkeypatch, tmp_path, *command, "--skip-unreadable")
        assert status == 0, err
        assert f"nas: 39 images in 2 classes (b 20, a 19) of {root}" in err
        assert "nas: train 25, validation 7 (held out), test 7 (held out)" in err
        assert "nas: skipped: 1 .svg: no image (b/x.svg)" in err
        assert "nas: skipped: 1 unreadable (a/0003.png (" in err


@pytest.mark.parametrize(("accuracy", "warned"), [(0.9, True), (0.92, True), (0.99, False)])
def test_a_search_no_better_than_one_constant_answer_says_so(
    accuracy: float, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 100 validation images 90 are of one class: two standard errors are .06."""
    folder(tmp_path / "d", 450, classes=("good",))
    folder(tmp_path / "d", 50, classes=("bad",), seed=10_000)
    asked = plan("linear", data_ref(None, str(tmp_path / "d")), trials=1, epochs=1)
    tell_chance(asked, [{"accuracy": accuracy}])
    told = capsys.readouterr().err
    assert ("always answering good is right for 90.00 % of the validation images" in told) == warned


def test_a_balanced_accuracy_no_better_than_one_constant_answer_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "d", 100, classes=("good",), height=8, width=8)
    folder(tmp_path / "d", 20, classes=("bad", "worse"), seed=10_000, height=8, width=8)
    search = ("search", "--space", "linear", "--epochs", "1", "--data", str(tmp_path / "d"))
    search += ("--workers", "0", "--trials", "1", "--objective", "balanced_accuracy")
    search += ("--recipe", "lr=1e-9")
    status, _, err = nas_here(capsys, monkeypatch, tmp_path, *search)
    assert status == 0, err
    assert "always answering one class has a balanced accuracy of 33.33 %, and no network" in err
    assert "is right for" not in err


def test_what_is_advised_for_unequal_classes_is_not_advised_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "d", 200, classes=("good",), height=8, width=8)
    folder(tmp_path / "d", 15, classes=("bad",), seed=10_000, height=8, width=8)
    search = ("search", "--space", "linear", "--epochs", "1", "--data", str(tmp_path / "d"))
    objective = ("--objective", "balanced_accuracy,params")
    weights = ("--recipe", "class_weights=balanced")
    for asked, advised in (
        ((), {"accuracy will hardly show", "--objective", "--recipe"}),
        (objective, {"--recipe"}),
        (weights, {"accuracy will hardly show", "--objective"}),
        ((*objective, *weights), set()),
    ):
        status, _, err = nas_here(capsys, monkeypatch, tmp_path, *search, *asked, "--dry-run")
        assert status == 0, err
        said = "".join(line for line in err.splitlines() if "images of the class good" in line)
        parts = ("accuracy will hardly show", "--objective", "--recipe")
        assert {part for part in parts if part in said} == advised
        assert bool(said) == bool(advised)


@pytest.mark.parametrize(("count", "told"), [(60, True), (160, False)])
def test_too_few_images_to_validate_on_are_warned_of(
    count: int, told: bool, tmp_path: Path
) -> None:
    flat(tmp_path / "t", count)
    rows = [{"file": f"images/{n:02}.png", "label": "ab"[n % 2]} for n in range(count)]
    found = examine(ref(table(tmp_path / "t" / "labels.csv", rows)))
    warning = (
        "12 images to validate on: one of them is 8.3 points of accuracy, so networks hardly "
        "differ beyond luck"
    )
    assert found.warnings == ((warning,) if told else ())


def test_labels_that_are_one_number_are_warned_of(tmp_path: Path) -> None:
    rows = flat(tmp_path / "t", 120)
    for n, row in enumerate(rows):
        row["label"] = ("1", "1.0", "01", "2", "NaN", "x1")[n % 6]
    found = examine(ref(table(tmp_path / "t" / "labels.csv", rows)))
    assert lines(found)[0].endswith(f" of {tmp_path}/t/labels.csv")
    assert len(found.classes) == 6
    [warning] = [text for text in found.warnings if "one number" in text]
    assert ": 01 and 1 and 1.0 (" in warning
    for n, row in enumerate(rows):
        row["label"] = ("1", "10", "snan", "-1", "inf", "x1")[n % 6]
    warnings = examine(ref(table(tmp_path / "t" / "others.csv", rows))).warnings
    assert not [text for text in warnings if "one number" in text]


def test_numbers_to_predict_are_not_taken_for_classes_silently(tmp_path: Path) -> None:
    rows = flat(tmp_path / "t", 60)
    for n, row in enumerate(rows):
        row["label"] = f"{n / 60:.3f}"
    warnings = examine(ref(table(tmp_path / "t" / "labels.csv", rows))).warnings
    assert len(warnings) <= 5
    assert warnings[0].startswith("36 images to train on for 60 classes: too few of each (labels")


def test_check_lists_every_problem_and_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "d", 20)
    (root / "empty").mkdir()
    (root / "words").mkdir()
    (root / "words" / "x.txt").write_text("x")
    (root / "a" / "0003.png").write_bytes(b"")
    (root / "b" / "0004.png").write_text("x")
    problems = [
        f"{root}/empty holds no images (it is empty); add images to this class, remove its folder, "
        "or --skip-unreadable leaves it out",
        f"{root}/words holds no images (1 .txt: no image); add images to this class, remove its "
        "folder, or --skip-unreadable leaves it out",
        f"2 of 40 images cannot be read: {root}/a/0003.png (it is empty), {root}/b/0004.png (it is "
        "no image); --skip-unreadable leaves out what cannot (in Python skip_unreadable=True)",
    ]
    check = ("data", "check", str(root))
    status, out, err = nas_here(capsys, monkeypatch, tmp_path, *check)
    assert status == 2
    assert "3 problems stop every training" in err
    assert out.splitlines()[:3] == [f"problem: {text}" for text in problems]
    status, told, _ = nas_here(capsys, monkeypatch, tmp_path, *check, "-f", "json")
    assert status == 2
    page = json.loads(told)
    assert page["problems"] == problems
    assert page["classes"] == {"a": 19, "b": 19}
    assert page["skipped"] == {"class folders without images": 2, "unreadable": 2}
    with pytest.raises(DataError) as refused:  # a training is told the same, all of it
        data.describe(ref(root))
    assert str(refused.value) == "; ".join(problems)
    with pytest.raises(DataError, match="words holds no images"):
        pack(ref(root), tmp_path / "tars")
    status, skipped, err = nas_here(capsys, monkeypatch, tmp_path, *check, "--skip-unreadable")
    assert status == 0, err
    assert out.endswith(skipped)  # what would be read is what is read without them
    for name in ("empty", "words"):
        shutil.rmtree(root / name)  # ... and without the folders: the same images
    assert data.identity(ref(root, skip_unreadable=True)) == page["identity"]


def test_a_class_that_is_empty_in_train_may_be_missing_in_test(tmp_path: Path) -> None:
    for part in ("train", "test"):
        folder(tmp_path / "d" / part, 20)
    (tmp_path / "d" / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="train/empty holds no images"):
        examine(ref(tmp_path / "d"))
    found = examine(ref(tmp_path / "d", skip_unreadable=True))
    assert found.classes == {"a": 40, "b": 40}
    assert "skipped: 1 class folder without images (train/empty)" in lines(found)


def test_folders_that_are_no_class_are_told_together(tmp_path: Path) -> None:
    for part in ("train", "val"):
        folder(tmp_path / "d" / part, 10)
    for name in ("x", "y"):
        folder(tmp_path / "d" / "val", 3, [name])
    (tmp_path / "d" / "train" / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no images .*x is no class of .*y is no cl"):
        data.describe(ref(tmp_path / "d"))


# --- what belongs together -----------------------------------------------------------------------


def test_a_holdout_keeps_groups_whole_and_classes_in_proportion() -> None:
    rng = np.random.RandomState(0)
    groups = rng.randint(0, 120, 1000)
    labels = groups % 3
    for seed in range(5):
        rest, held = holdout(labels, 200, seed, groups)
        assert sorted([*rest, *held]) == list(range(1000))
        assert not set(groups[rest]) & set(groups[held])
        assert 180 <= len(held) <= 220
        share = np.bincount(labels[held]) / np.bincount(labels)
        assert np.abs(share - 0.2).max() < 0.08
    assert not np.array_equal(
        holdout(labels, 200, 0, groups)[1], holdout(labels, 200, 1, groups)[1]
    )


def test_a_holdout_of_images_alone_is_what_it_was_without_groups() -> None:
    labels = np.repeat([0, 1], 50)
    for one, other in zip(
        holdout(labels, 20, 3), holdout(labels, 20, 3, np.arange(100)), strict=True
    ):
        assert np.array_equal(one, other)


def test_a_group_that_is_most_of_a_class_stays_in_training() -> None:
    labels = np.repeat([0, 1], 50)
    groups = np.concatenate([np.zeros(45, int), np.arange(1, 56)])
    for seed in range(10):
        rest, held = holdout(labels, 20, seed, groups)
        assert 0 in groups[rest]
        assert {*labels[rest]} == {0, 1}
        assert len(held) > 10


@pytest.mark.parametrize(
    "groups", [((0, 10), (1, 45), (1, 45)), ((0, 10), (0, 10), (1, 40), (1, 40)), ((0, 9), (1, 9))]
)
def test_no_group_is_held_out_that_is_all_of_a_class(groups: tuple[tuple[int, int], ...]) -> None:
    labels = np.concatenate([np.full(images, label) for label, images in groups])
    numbers = np.concatenate([np.full(images, n) for n, (_, images) in enumerate(groups)])
    rest, held = holdout(labels, len(labels) // 5, 0, numbers)
    assert {*labels[rest]} == {0, 1}
    assert bool(len(held)) == (len(groups) > 2)
    assert not {*numbers[rest]} & {*numbers[held]}


def test_empty_files_join_no_groups(tmp_path: Path) -> None:
    rows = flat(tmp_path / "t", 60)
    for n, row in enumerate(rows):
        row["group"] = f"person {n // 6}"
        if n % 6 == 5:
            (tmp_path / "t" / row["file"]).write_bytes(b"")
    told = ref(table(tmp_path / "t" / "labels.csv", rows), skip_unreadable=True)
    images = data.read(told, "train")
    assert len(set(images.groups[images.rows])) == 10


@pytest.mark.parametrize("names", [("eval", "test"), ("valid", "eval")])
def test_eval_is_the_part_that_no_other_name_is(names: tuple[str, str], tmp_path: Path) -> None:
    rows = flat(tmp_path / "t", 40)
    for n, row in enumerate(rows):
        row["split"] = ("train", "train", *names)[n // 2 % 4]
    found = examine(ref(table(tmp_path / "t" / "labels.csv", rows)))
    assert found.parts == {"train": 20, "validation": 10, "test": 10}


def test_images_joined_by_copies_or_by_groups_form_one_group() -> None:
    copies = np.array([0, 0, 1, 2, 3, 4])
    sources = np.array([0, 1, 1, 2, 3, 3])
    found = together(copies, sources)
    assert len({*found[:3]}) == 1
    assert found[4] == found[5]
    assert len({*found}) == 3


def parts_of(root: Path, **more: str) -> dict[str, set[str]]:
    """The names of the files in each part, told by their pixels."""
    names = {}
    for path in sorted(root.rglob("*.png")):
        names.setdefault(np.asarray(Image.open(path)).tobytes(), set()).add(path.name)
    found = {}
    for part in ("train", "validation", "test"):
        images = data.load(ref(root, **more), part)  # type: ignore[arg-type]
        pixels = images.pixels[images.rows].transpose(0, 2, 3, 1)
        found[part] = set().union(*(names[np.ascontiguousarray(p).tobytes()] for p in pixels))
    return found


def test_copies_never_lie_in_two_parts(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", 30)
    for label in "ab":
        for n in range(0, 30, 2):
            shutil.copy(root / label / f"{n:04}.png", root / label / f"copy of {n:04}.png")
    for seed in range(4):
        rows = {}
        for part in ("train", "validation", "test"):
            images = data.load(ref(root, split_seed=seed), part)
            rows[part] = {images.pixels[row].tobytes() for row in images.rows}
        assert not rows["train"] & rows["validation"]
        assert not rows["train"] & rows["test"]
        assert not rows["validation"] & rows["test"]
    notes = examine(ref(root)).notes
    assert any("images are copies of others: both stay in one split" in n for n in notes)


def test_group_by_keeps_a_patient_in_one_part(tmp_path: Path) -> None:
    for label, name in enumerate("ab"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for n in range(60):
            file = tmp_path / "d" / name / f"patient{n // 4:02}_{n:03}.png"
            Image.fromarray(colour(n + 100 * label, label)).save(file)
    patients = {
        part: {re.search(r"patient\d+", name)[0] for name in names}  # type: ignore[index]
        for part, names in parts_of(tmp_path / "d", group_by=r"patient(\d+)").items()
    }
    assert not patients["train"] & patients["validation"]
    assert not patients["train"] & patients["test"]
    assert not patients["validation"] & patients["test"]
    assert all(patients.values())


# --- tables --------------------------------------------------------------------------------------


def table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        told = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        told.writeheader()
        told.writerows(rows)
    return path


def flat(root: Path, count: int = 20) -> list[dict[str, str]]:
    """Images in one folder, and rows of a table for them."""
    (root / "images").mkdir(parents=True)
    for n in range(count):
        Image.fromarray(colour(n, n % 2)).save(root / "images" / f"{n:02}.png")
    return [{"file": f"images/{n:02}.png", "label": "ab"[n % 2]} for n in range(count)]


@pytest.mark.parametrize("name", ["labels.csv", "Labels.TSV"])
def test_a_table_is_the_same_set_as_the_folder_that_it_describes(name: str, tmp_path: Path) -> None:
    rows = flat(tmp_path / "t")
    for row in rows:
        (tmp_path / "d" / row["label"]).mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "t" / row["file"], tmp_path / "d" / row["label"])
    file = table(tmp_path / "t" / name.lower(), rows).rename(tmp_path / "t" / name)
    found = examine(ref(file))
    assert found.classes == {"a": 10, "b": 10}
    assert data.identity(ref(file)) == data.identity(ref(tmp_path / "d"))


def test_a_table_tells_parts_and_groups_and_what_has_no_label(tmp_path: Path) -> None:
    rows = flat(tmp_path / "t", 60)
    for n, row in enumerate(rows):
        row["split"] = "Test" if n >= 40 else "Training"
        row["group"] = f"person {n // 4}"
        row |= {"camera": "same", "": str(n)}
    rows[0]["label"] = ""
    found = examine(ref(table(tmp_path / "t" / "labels.csv", rows)))
    assert found.parts["test"] == 20
    assert found.held_out == ("validation",)
    assert found.skipped["unlabelled"][0] == 1
    assert "2 columns are not used: camera, one without a name" in found.notes
    people = {row["file"]: row["group"] for row in rows}
    told = {}
    for part in ("train", "validation"):
        images = data.load(ref(tmp_path / "t" / "labels.csv"), part)
        named = {colour(n, n % 2).tobytes(): f"images/{n:02}.png" for n in range(60)}
        pixels = images.pixels[images.rows].transpose(0, 2, 3, 1)
        told[part] = {people[named[np.ascontiguousarray(p).tobytes()]] for p in pixels}
    assert told["train"]
    assert told["validation"]
    assert not told["train"] & told["validation"]


def test_classes_that_a_part_lacks_are_told_together(tmp_path: Path) -> None:
    rows = flat(tmp_path / "t", 60)
    for n, row in enumerate(rows):
        row |= {"label": "abcde"[n % 5], "part": ("train", "val", "test")[n // 20]}
    tested = [r for r in rows if r["part"] != "test" or r["label"] == "a"]
    kept = [r for r in tested if r["part"] != "val" or r["label"] != "e"]
    warnings = examine(ref(table(tmp_path / "t" / "labels.csv", kept))).warnings
    assert "there is no validation image of the class e" in warnings
    assert "there is no test image of 4 classes: b, c, d, ..." in warnings


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: [row.pop("label") for row in rows], "has no column 'label'"),
        (
            lambda rows: rows[5].update(label="c", part="test"),
            "label 'c', which no image",
        ),
        (lambda rows: rows[5].update(part="nonsense"), r"line 7: the part 'nonsense' is none of"),
        (lambda rows: rows[5].update(file="images/no.png"), r"no\.png \(it is missing\)"),
        (lambda rows: [row.update(label="a") for row in rows], "names 1 class to train on"),
    ],
)
def test_a_bad_table_is_told_with_its_line(change: object, told: str, tmp_path: Path) -> None:
    rows = [{**row, "part": ""} for row in flat(tmp_path / "t")]
    change(rows)  # type: ignore[operator]
    with pytest.raises(DataError, match=told):
        data.describe(ref(table(tmp_path / "t" / "labels.csv", rows)))


def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    flat(tmp_path / "t")
    path = tmp_path / "t" / "labels.csv"
    path.write_text("file,label,Label\nimages/00.png,cat,dog\n")
    with pytest.raises(DataError, match=r"two columns of one name .* file, label, Label"):
        data.describe(ref(path))


@pytest.mark.parametrize(
    ("line", "what", "named"),
    [
        ("file,label,class", "label", "label and class"),
        ("file, Target ,label", "label", " Target  and label"),
        ("path,label,file", "file", "path and file"),
        ("file,label,split,part", "part", "split and part"),
        ("image,path,file,label", "file", "image and path and file"),
    ],
)
def test_a_table_with_two_columns_of_one_meaning_is_refused(
    line: str, what: str, named: str, tmp_path: Path
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"{line}\n{',cat' * (line.count(',') + 1)}\n")
    with pytest.raises(DataError, match=rf"columns that may be the {what}, {named}: .*take out"):
        data.describe(ref(path))


def test_a_table_may_be_grouped_by_another_column(tmp_path: Path) -> None:
    rows = flat(tmp_path / "t")
    for n, row in enumerate(rows):
        row["camera"] = f"{n // 2}"
    file = table(tmp_path / "t" / "labels.csv", rows)
    told = examine(ref(file, group_by="camera")).notes
    assert any("groups, copies together: each stays in one split" in note for note in told)
    with pytest.raises(DataError, match=r"--group-by colour: .* has the columns file, label, cam"):
        data.describe(ref(file, group_by="colour"))


def test_a_model_is_evaluated_on_the_split_that_it_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for label, name in enumerate("ab"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for n in range(40):
            file = tmp_path / "d" / name / f"patient{n // 4:02}_{n:03}.png"
            Image.fromarray(colour(n + 100 * label, label)).save(file)
    told = ("--group-by", r"patient\d+", "--data", str(tmp_path / "d"), "-o", "out")
    command = ("train", "INPUT -> FC", "--epochs", "1", *told)
    status, _, err = nas_here(capsys, monkeypatch, tmp_path, *command)
    assert status == 0, err
    (model,) = (tmp_path / "out").glob("*.safetensors")
    card = load_model(model).card
    assert data_for(card, "", str(tmp_path / "d"), "m").group_by == r"patient\d+"
    folder(tmp_path / "other", seed=500)  # of which the expression matches nothing
    assert data_for(card, "", str(tmp_path / "other"), "m") == ref(tmp_path / "other")
    # A broken file of other images stops neither what was trained nor what leaves it out.
    (tmp_path / "other" / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    evaluate = ("evaluate", str(model), "--data", str(tmp_path / "other"))
    status, _, err = nas_here(capsys, monkeypatch, tmp_path, *evaluate)
    assert status == 2
    assert "broken.png" in err
    assert "--skip-unreadable leaves out what cannot" in err
    status, out, err = nas_here(capsys, monkeypatch, tmp_path, *evaluate, "--skip-unreadable")
    assert status == 0, err
    assert "accuracy" in out
    pack = ("data", "pack", str(tmp_path / "other"), "-o", str(tmp_path / "tars"))
    status, _, err = nas_here(capsys, monkeypatch, tmp_path, *pack)
    assert status == 2
    assert "broken.png" in err
    assert "move them away" in err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_a_table_is_read_as_spreadsheets_write_it(mark: str, encoding: str, tmp_path: Path) -> None:
    """Whatever its ending, with paths as Windows has them, or whole ones; all are one set."""
    rows = flat(tmp_path / "t")
    plain = data.identity(ref(table(tmp_path / "t" / "labels.csv", rows)))
    for name in (lambda file: file.replace("/", "\\"), lambda file: str(tmp_path / "t" / file)):
        lines = [
            mark.join(("File", "Label")),
            *(mark.join((name(r["file"]), r["label"])) for r in rows),
        ]
        path = tmp_path / "t" / "other.csv"
        path.write_bytes("\r\n".join(lines).encode(encoding))
        assert data.identity(ref(path)) == plain
        assert examine(ref(path)).classes == {"a": 10, "b": 10}
    assert Image.open(tmp_path / "t" / data.names(ref(path))[0]).size == (32, 32)
    pack(ref(path), tmp_path / "w")
    with tarfile.open(tmp_path / "w" / "train-000000.tar") as tar:
        assert not [name for name in tar.getnames() if name.startswith("/") or ".." in name]
    assert data.identity(ref(tmp_path / "w")) == plain


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("mark", [",", ";", "\t", "|", "^"])
def test_what_stands_between_the_columns_may_be_told_above_them(
    mark: str, encoding: str, tmp_path: Path
) -> None:
    rows = flat(tmp_path / "t")
    plain = data.identity(ref(table(tmp_path / "t" / "labels.csv", rows)))
    path, quote = tmp_path / "t" / "other.csv", '"' if mark == "," else ""
    lines = [f"{quote}sep={mark}{quote} ", f"file{mark}label"]
    lines += [f"{row['file']}{mark}{row['label']}" for row in rows]
    path.write_bytes("\r\n".join(lines).encode(encoding))
    assert data.identity(ref(path)) == plain
    path = path.with_name("cut.csv")
    path.write_bytes("\r\n".join([*lines, f"a{mark}b{mark}c"]).encode(encoding))
    with pytest.raises(DataError, match="line 23 has 3 fields"):
        data.describe(ref(path))


def test_a_file_may_be_named_by_its_url(tmp_path: Path) -> None:
    rows = flat(tmp_path / "t")
    plain = data.identity(ref(table(tmp_path / "t" / "labels.csv", rows)))
    (tmp_path / "t" / "images").rename(tmp_path / "t" / "my images")
    for begin in ("file://", "file://localhost", "file://LocalHost", "FILE:"):
        root = f"{begin}{tmp_path}/t/my%20images"
        named = [{**row, "file": row["file"].replace("images", root)} for row in rows]
        assert data.identity(ref(table(tmp_path / "t" / "other.csv", named))) == plain


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"sep=;;\nfile;label\n", "line 1: 'sep=;;': one character stands between the columns"),
        (b"sep=\nfile;label\n", "line 1: 'sep=': one character stands between the columns"),
        (
            b"file,label\nhttps://u:secret@h/x.png,a\n",
            r"line 2: https://u:\*\*\*@h/x.png is not on",
        ),
        (
            b"file,label\ns3://bucket/x.png,a\n",
            "line 2: s3://bucket/x.png is not on this machine's",
        ),
        (b"file,label\nfile://nas/x.png,a\n", "line 2: file://nas/x.png is not on this machine's"),
        (b"file,label\nfile:///x#1.png,a\n", "in a URL # is written %23"),
        (b"file,label\nfile://[::1/x.png,a\n", r"line 2: file://\[::1/x.png is no URL"),
        (b"file,label\nfile:///x%00.png,a\n", "line 2 holds a NUL character"),
        (b'file,label\nx.png,a\n"y.png,a\nz.png,b\n', "line 3: unexpected end of data: a quote"),
        (b'file,label\nx.png,a\n"y.png,a\nz",b\n', "line 3: a quote is opened that line 4 closes"),
        (b'file,label\nx.png,a\n"y.png,a\n"z.png,b\n', "line 3: ',' expected after '\"'"),
        # A quote that is never closed takes in more lines, and then more than a cell may hold.
        (
            b'file,label\n"y.png,a\n' + 30_000 * b"z.png,b\n",
            r"line 2: field larger than field limit \(\d+\): a quote that is opened is closed",
        ),
        (
            b"file,label\nx.png,a\n" + 200_000 * b"y" + b",a\n",
            r"line 3: field larger than field limit \(\d+\)$",
        ),
        (200_000 * b"y" + b",label\n", r"line 1: field larger than field limit \(\d+\)$"),
        (
            "file,label\nx.png,caf\xe9\n".encode("latin-1"),
            "is neither UTF-8 nor UTF-16 .*: save it as",
        ),
        (b"file,label\nx.png,a\nb, c.png,a\n", "line 3 has 3 fields, and the first line 2: a name"),
        (b"file,label\nx.png,a\nx\0.png,b\n", "line 3 holds a NUL character"),
        (b"id,label\n1,a\n2,b\n", "no column 'file' in its first line, but id, label: must be one"),
    ],
)
def test_a_table_that_is_no_table_is_one_sentence(text: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(DataError, match=told):
        data.describe(ref(tmp_path / "t.csv"))


def test_groups_that_lie_in_several_parts_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = flat(tmp_path / "t")
    for n, row in enumerate(rows):  # five patients of four images; 0 and 1 lie in several parts
        row["group"] = f"{n % 5}"
        row["part"] = "test" if n in (0, 1) else "val" if n == 5 else "train"
    file = table(tmp_path / "t" / "labels.csv", rows)
    named = [row["file"] for row in rows]
    both = {
        "1 group has images in both train and validation": (named[5],),
        "2 groups have images in both train and test": (named[0], named[1]),
        "1 group has images in both validation and test": (named[0],),
    }
    found = examine(ref(file))
    assert [text for text in found.warnings if "group" in text] == [*both]
    assert {text: sorted(found.named[text][1]) for text in both} == {
        text: sorted(names) for text, names in both.items()
    }
    assert "17 images of train in 5 groups, copies together" in found.notes
    assert "one split" not in "\n".join(lines(found))
    for command in (
        ("train", "INPUT -> GAP -> FC", "--epochs", "1"),
        ("search", "--space", "linear", "--trials", "1", "--epochs", "1", "--workers", "0"),
    ):
        told = (*command, "--data", str(file))
        status, _, err = nas_here(capsys, monkeypatch, tmp_path, *told)
        assert status == 0, err
        assert all(f"nas: warning: {text} (" in err for text in both), err


def test_a_regular_expression_may_group_across_folders_of_parts(tmp_path: Path) -> None:
    folder(tmp_path / "d" / "train", 5)
    folder(tmp_path / "d" / "test", 3, seed=5000)
    (warning,) = [
        text for text in examine(ref(tmp_path / "d", group_by=r"\d{4}")).warnings if "group" in text
    ]
    assert warning == "3 groups have images in both train and test"


def test_a_group_that_a_copy_joins_to_another_part_is_not_told_to_stay_whole(
    tmp_path: Path,
) -> None:
    folder(tmp_path / "d" / "train", 6)
    folder(tmp_path / "d" / "test", 3, seed=5000)
    shutil.copy(tmp_path / "d/train/a/0000.png", tmp_path / "d/test/a/copy.png")
    found = examine(ref(tmp_path / "d", group_by=r"train/.*[01]"))
    assert "1 image of test is a copy of images of train" in found.warnings
    assert not any("group has" in text or "groups have" in text for text in found.warnings)
    assert "one split" not in "\n".join(found.notes)


@pytest.mark.parametrize("below", ["", "cache"])
def test_a_cache_that_is_a_file_is_refused(
    below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "file" / below))
    status, out, err = nas_here(capsys, monkeypatch, tmp_path, "data", "cache")
    assert (status, out) == (2, "")
    assert "Not a directory (NAS_CACHE names another directory)" in err
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "new"))
    status, _, err = nas_here(capsys, monkeypatch, tmp_path, "data", "cache")
    assert status == 0
    assert err.startswith("nas: 0 bytes of at most ")
