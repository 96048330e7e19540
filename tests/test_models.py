"""A model is one file: its content, its predictions, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open

import nas
from nas import data
from nas.cli.options import single_job
from nas.data.batches import Normal, statistics
from nas.driver import packs
from nas.errors import DataError, NasError
from nas.job import DataRef
from nas.store import open_store
from nas.training import states
from nas.training.card import Card
from nas.training.cascade import load_cascade
from nas.training.models import Model, kept_card, save_model
from nas.training.onnx import load_onnx
from nas.training.single import Trained, train

PATTERN = "INPUT -> CONV(8) -> BN -> RELU -> POOL -> CONV(16) -> BN -> RELU -> AUX -> GAP -> FC"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A short training on digits, with an auxiliary classifier."""
    job = single_job(PATTERN, DataRef(), epochs=3, seed=1, recipe=["lr=0.05"])
    folder = tmp_path_factory.mktemp("model")
    return train(job, lambda _: None, file=folder / "digits.safetensors")


def test_the_file_tells_all_that_a_prediction_needs(trained: Trained) -> None:
    assert trained.file is not None
    model = nas.load_model(trained.file)
    card = model.card
    assert model.architecture == trained.architecture
    assert model.classes == tuple("0123456789")
    assert card.normal == statistics(data.load(data_ref(trained), "train"))
    assert card.metrics["test_accuracy"] == trained.test
    assert card.metrics["accuracy"] == trained.curve[-1].accuracy
    assert (card.recipe["lr"], card.epochs, card.seed, card.dataset) == (0.05, 3, 1, "digits")
    assert card.identity == data.identity(data_ref(trained))
    assert card.versions == {"nas": nas.__version__, "torch": torch.__version__}
    # Whoever has safetensors alone reads it, too.
    with safe_open(trained.file, "pt") as held:  # type: ignore[no-untyped-call]
        told = held.metadata()
    assert json.loads(told["classes"]) == list("0123456789")
    assert json.loads(told["input"]) == [1, 8, 8]
    assert nas.parse(json.loads(told["pattern"])) == trained.architecture


def data_ref(trained: Trained) -> Any:
    return nas.job.DataRef(name=trained.model.card.dataset)  # type: ignore[attr-defined]


def test_the_model_scores_as_the_training_did(trained: Trained) -> None:
    assert trained.file is not None
    model = nas.load_model(trained.file)
    test = data.load(data_ref(trained), "test")
    pixels, labels = test.pixels[test.rows], test.labels[test.rows]
    predictions = model.predict(pixels)
    right = [p.label == str(label) for p, label in zip(predictions, labels, strict=True)]
    assert sum(right) / len(right) == trained.test
    assert all(math.isclose(p.probabilities.sum(), 1, rel_tol=1e-5) for p in predictions)
    first = predictions[0]
    best = [first.classes[i] for i in np.argsort(-first.probabilities)[:3]]
    assert [name for name, _ in first.top(3)] == best
    assert first.top(1) == [(first.label, first.probability)]


def test_files_pictures_and_arrays_of_one_image_get_one_answer(
    trained: Trained, tmp_path: Path
) -> None:
    pixels = data.load(data_ref(trained), "test").pixels[:3]
    pictures = [Image.fromarray(image[0]) for image in pixels]
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    expected = trained.model.predict(pixels)
    given: list[Any] = [
        pictures, paths, list(map(str, paths)), torch.from_numpy(pixels), list(pixels),
        [paths[0], pictures[1], pixels[2]], (path for path in paths),
        [picture.convert("RGB") for picture in pictures],
        np.ascontiguousarray(pixels[:, :, ::-1, ::-1])[:, :, ::-1, ::-1],  # mirrored twice
        [np.asarray(picture)[None] for picture in pictures],  # read-only
    ]  # fmt: skip
    for images in given:
        found = trained.model.predict(images)
        assert [p.label for p in found] == [p.label for p in expected]
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-6)
    for one in (paths[0], pictures[0], pixels[0]):
        assert [p.label for p in trained.model.predict(one)] == [expected[0].label]


@pytest.mark.parametrize(
    "images",
    [
        *(np.zeros((1, 8, 8), np.float32), np.zeros((8, 8, 3), np.uint8), [None], 7),
        *(np.zeros((1, 8, 8), object), np.zeros((1, 8, 8), ">u2"), np.zeros((1, 0, 8), np.uint8)),
    ],
)
def test_what_is_no_image_is_told(trained: Trained, images: Any) -> None:
    with pytest.raises(NasError, match="is no image"):
        trained.model.predict(images)


def endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


PLAIN = np.zeros((1, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ("a\0b.png", "is not a readable image: embedded null byte"),
        (Path("a\udfff.png"), "is not a readable image: "),
        (torch.from_numpy(PLAIN).to_sparse(), "a tensor of layout sparse_coo is no image"),
        (torch.from_numpy(PLAIN).to("meta"), "a tensor on the device meta is no image"),
        (torch.nested.nested_tensor([torch.from_numpy(PLAIN)]), "a nested tensor is no image"),
        (endless(), "a list within 20 others, or itself, is no image"),
        (Image.new("RGB", (0, 0)), "cannot be read: it is 0 x 0: must have pixels"),
        (np.ma.masked_array(PLAIN, PLAIN == 0), "an array with masked values is no image"),
    ],
)
def test_what_holds_no_pixels_is_told(trained: Trained, images: Any, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        trained.model.predict(images)


def test_a_mask_of_nothing_and_lists_within_lists_are_answered(trained: Trained) -> None:
    (expected,) = trained.model.predict(PLAIN)
    for images in (np.ma.masked_array(PLAIN), [[[PLAIN]]]):
        (found,) = trained.model.predict(images)
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_deployed_weights_predict_without_the_auxiliary_classifier(
    trained: Trained, tmp_path: Path
) -> None:
    state = trained.model.network.state_dict()
    aux = next(str(i) for i, s in enumerate(trained.architecture.steps) if s.name == "AUX")
    held = {k: v.contiguous() for k, v in state.items() if not k.startswith(f"{aux}.")}
    assert len(held) < len(state)
    safetensors.torch.save_file(held, tmp_path / "m", trained.model.card.metadata())
    pixels = data.load(data_ref(trained), "test").pixels[:5]
    ours, theirs = nas.load_model(tmp_path / "m").predict(pixels), trained.model.predict(pixels)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.probabilities, b.probabilities)


# --- what is refused -----------------------------------------------------------------------------


def edited(change: Callable[[dict[str, str]], Any]) -> Callable[[bytes], bytes]:
    """The file with other metadata."""

    def made(held: bytes) -> bytes:
        length = int.from_bytes(held[:8], "little")
        told = json.loads(held[8 : 8 + length])["__metadata__"]
        change(told)
        return safetensors.torch.save(safetensors.torch.load(held), told)

    return made


def other_tensors(held: bytes) -> bytes:
    length = int.from_bytes(held[:8], "little")
    told = json.loads(held[8 : 8 + length])["__metadata__"]
    state = safetensors.torch.load(held)
    state["0.weight"] = torch.zeros(9, 1, 3, 3)
    return safetensors.torch.save(state, told)


def zeroed(held: bytes) -> bytes:
    return held[:-32] + bytes(32)


def entry_twice(held: bytes) -> bytes:
    length = int.from_bytes(held[:8], "little")
    begin = b'"__metadata__":{'
    told = held[8 : 8 + length].replace(begin, begin + b'"epochs":"9",', 1)
    assert len(told) > length
    return len(told).to_bytes(8, "little") + told + held[8 + length :]


WRONG: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda held: b"", "is not a model of nas"),
    "text": (lambda held: b"hello, this is a text and no model", "is not a model of nas"),
    "pickle": (lambda held: b"PK\x03\x04" + bytes(1000), "is not a model of nas"),
    "bare weights": (
        lambda held: safetensors.torch.save(safetensors.torch.load(held)),
        "is not a model of nas",
    ),
    "cut in the header": (lambda held: held[:300], "is cut short"),
    "cut in the weights": (lambda held: held[:-100], "is cut short"),
    "another format": (
        edited(lambda told: told.update(nas_model="2")),
        "nas_model is 2: must be 1, the format that this nas reads",
    ),
    "no classes": (edited(lambda told: told.pop("classes")), "classes is missing: must be the"),
    "too few classes": (
        edited(lambda told: told.update(classes='["a"]')),
        'classes is ["a"]: must be the names of the 10 classes of its pattern',
    ),
    "an entry twice": (
        entry_twice,
        'its header has two values of "epochs": must be one',
    ),
    "no JSON": (edited(lambda told: told.update(mean="[0.3")), "mean is no JSON from line 1"),
    "an epoch that is none": (
        edited(lambda told: told.update(epochs='"3"')),
        'epochs is "3": must',
    ),
    **{
        f"{name} {value}": (
            edited(lambda told, name=name, value=value: told.update({name: value})),  # type: ignore[misc]
            f"{name} is {value}: must be a whole number from 0 to {most}",
        )
        for name, most in {
            "split_seed": (1 << 32) - 1,
            "size": 65_536,
            "epochs": (1 << 63) - 1,
            "seed": (1 << 63) - 1,
        }.items()
        for value in ("-1", str(-(10**40)), str(10**30), "true", "1.0", '"3"')
    },
    **{
        f"{name} {value}": (
            edited(lambda told, name=name, value=value: told.update({name: f"[{value}]"})),  # type: ignore[misc]
            f"{name}[0] is {value}: must be a number from {least} to 1",
        )
        for name, least, values in (
            ("std", "0.001", ("0", "1e-300", "-0.2", "2", "true", "null")),
            ("mean", "0", ("-0.1", "255", "Infinity")),
        )
        for value in values
    },
    **{
        f"classes with {name}": (
            edited(lambda told, name=name: told.update(classes=json.dumps([*"01234567", *name]))),  # type: ignore[misc]
            f"{place}: must be {rule}",
        )
        for name, place, rule in (
            (("8", "8"), 'classes[9] is "8"', "another name than classes[8]"),
            (("", "9"), 'classes[8] is ""', "a name"),
            (("8", "\ud800"), 'classes[9] is "\\ud800"', "text without half of a surrogate pair"),
        )
    },
    **{
        f"no {name}": (
            edited(lambda told, name=name: told.pop(name)),
            f"{name} is missing: must be",
        )  # type: ignore[misc]
        for name in (
            *("recipe", "epochs", "seed", "dataset", "size", "split_seed", "identity"),
            *("metrics", "versions"),
        )
    },
    **{
        f"{name} null": (
            edited(lambda told, name=name: told.update({name: "null"})),  # type: ignore[misc]
            f"{name} is null: must be",
        )
        for name in (
            "epochs",
            "recipe",
            "metrics",
            "versions",
            "skip_unreadable",
            "group_by",
            "seen",
        )
    },
    **{
        f"recipe with {name} {value}": (
            edited(
                lambda told, name=name, value=value: told.update(  # type: ignore[misc]
                    recipe=f'{{"{name}": {value}}}'
                )
            ),
            f"recipe.{name} is {shown}: must be {rule}",
        )
        for name, value, shown, rule in (
            ("schedule", "null", "None", "of type str"),
            ("schedule", "1e400", "inf", "of type str"),
            ("schedule", '"none"', "'none'", "one of one_cycle, rungs"),
            ("cutout", '"x"', "'x'", "of type int"),
            ("lr", "1e400", "inf", "a number above 0 and up to 100"),
        )
    },
    "a recipe of another version": (
        edited(lambda told: told.update(recipe='{"colour": 1}')),
        "recipe.colour is unknown",
    ),
    "a version that is no text": (
        edited(lambda told: told.update(versions='{"nas": []}')),
        "versions.nas is []: must be text",
    ),
    "half of a pair in a text": (
        edited(lambda told: told.update(dataset='"\\udfff"')),
        'dataset is "\\udfff": must be text without half of a surrogate pair',
    ),
    "a format of another kind": (
        edited(lambda told: told.update(nas_model="true")),
        "nas_model is true: must be 1, the format that this nas reads",
    ),
    "not finite": (edited(lambda told: told.update(std="[NaN]")), "std[0] is NaN: must be a"),
    "unknown layer": (
        edited(lambda told: told.update(pattern='"INPUT(1, 8, 8) -> CNV(8) -> FC(10)"')),
        "its pattern cannot be read: ",
    ),
    "other tensors": (
        other_tensors,
        "does not fit its pattern: 0.weight is (9, 1, 3, 3), not (8, 1, 3, 3)",
    ),
    "other weights": (zeroed, "was changed or damaged since nas wrote it"),
    "another pattern": (
        edited(lambda told: told.update(pattern='"INPUT(1, 8, 8) -> FC(10)"')),
        "does not fit its pattern: 0.1.weight is missing",
    ),
}


def test_models_of_the_first_version_are_read(trained: Trained, tmp_path: Path) -> None:
    def first(told: dict[str, str]) -> None:
        # What it did not write:
        for name in ("skip_unreadable", "group_by", "seen", "weights_digest"):
            del told[name]

    assert trained.file is not None
    file = tmp_path / "first.safetensors"
    file.write_bytes(edited(first)(trained.file.read_bytes()))
    card = nas.load_model(file).card
    assert (card.skip_unreadable, card.group_by, card.seen) == (False, "", "")
    assert (card.epochs, card.recipe) == (3, trained.model.card.recipe)


@pytest.mark.parametrize(("change", "reason"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_no_whole_model_is_refused(
    trained: Trained, tmp_path: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    assert trained.file is not None
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(change(trained.file.read_bytes()))
    with pytest.raises(NasError) as refused:
        nas.load_model(wrong)
    assert str(refused.value).startswith(str(wrong))
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NasError, match="No such file"):
        nas.load_model(tmp_path / "nothing.safetensors")
    with pytest.raises(NasError, match="directory"):
        nas.load_model(tmp_path)
    with pytest.raises(NasError, match="does not exist"):
        nas.load_model("memory://nowhere/model.safetensors")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """Neither a pipe nor a device, wherever a person names a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    other = pipe.with_suffix(".json")
    other.symlink_to("/dev/zero")
    opened: list[Callable[[], Any]] = [
        lambda: nas.load_model(pipe),
        lambda: load_onnx(pipe),
        lambda: load_cascade(other),
        lambda: states.read(pipe),
        lambda: packs.read_answers(open_store(f"sqlite:///{tmp_path}/nas.db"), other),
    ]
    for each in opened:
        with pytest.raises(NasError, match=r"(pipe|pipe\.json): is no regular file: must be "):
            each()
    table = tmp_path / "t.csv"
    for n in range(20):
        Image.fromarray(np.full((4, 4), n, np.uint8)).save(tmp_path / f"{n}.png")
    rows = [f"{n}.png,{'ab'[n % 2]}\n" for n in range(20)]
    os.mkfifo(tmp_path / "pipe.png")
    table.write_text("".join(["file,label\n", *rows, "pipe.png,a\n"]))
    with pytest.raises(NasError, match=r"pipe\.png \(is no regular file\)"):
        data.describe(DataRef(name="imagefolder", dir=str(table)))
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(NasError, match=r"pipe\.tar.* is no regular file"):
        data.describe(DataRef(name="imagefolder", dir=str(tmp_path / "*.tar")))


def test_a_model_at_a_url(trained: Trained) -> None:
    url = "memory://bucket/digits.safetensors"
    save_model(url, trained.model.network, trained.model.card)
    assert nas.load_model(url).classes == trained.model.classes


def test_a_disk_without_room_is_told_before_the_training(tmp_path: Path) -> None:
    """As by a quota: a file can grow to so many bytes and no further."""

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    # -B: bytecode would be cut short, too, and nothing could import it afterwards.
    command = [sys.executable, "-B", "-m", "nas.cli", "train", PATTERN, "--epochs=1", "-o", "out"]
    ended = subprocess.run(
        command, cwd=tmp_path, preexec_fn=small, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1, ended.stderr  # no wrong input
    assert "cannot be written to out/" in ended.stderr
    assert "epoch" not in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())


def test_what_was_there_stays_where_a_model_cannot_be_written(
    trained: Trained, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.write_text("mine")
    with pytest.raises(NasError, match="cannot be written"):
        save_model(there / "model.safetensors", trained.model.network, trained.model.card)
    blocked = tmp_path / "folder"
    (blocked / "mine").mkdir(parents=True)
    with pytest.raises(NasError, match="cannot be written"):
        save_model(blocked, trained.model.network, trained.model.card)
    assert there.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "there"]


def test_a_card_keeps_every_name(tmp_path: Path) -> None:
    """Class names are of people: any text."""
    architecture = nas.parse("INPUT(1, 4, 4) -> FC(3)")
    names = ('a "b"\n', "größe, 大", " ")
    card = Card(architecture=architecture, classes=names, normal=Normal((0.1,), (1 / 3,)))
    file = tmp_path / "m.safetensors"
    save_model(file, nas.build(architecture), card)
    held = nas.load_model(file)
    assert isinstance(held, Model)
    assert held.card == dataclasses.replace(card)


def test_damaged_weights_start_no_training_and_count_as_none(
    trained: Trained, tmp_path: Path
) -> None:
    assert trained.file is not None
    file = tmp_path / "m.safetensors"
    file.write_bytes(zeroed(trained.file.read_bytes()))
    with pytest.raises(NasError, match=f"{file} was changed or damaged since nas wrote it"):
        train(single_job(PATTERN, DataRef(), epochs=1, recipe=[f"init={file}"]), lambda _: None)
    assert kept_card(file) is None
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors.torn"]
