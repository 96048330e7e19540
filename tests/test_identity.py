"""The identity of images: independent of their place, changed by any change of an image."""

from __future__ import annotations

import dataclasses
import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_data import write

from nas import data
from nas.cli.options import identified
from nas.data import digests, findings, kinds, survey, walking
from nas.data.images import Images
from nas.job import DataRef

FILES = ["cifar10", "cifar100", "fashion_mnist", "imagefolder", "mnist", "svhn"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))


def folder(root: Path) -> DataRef:
    """Three parts, two classes, three images of each."""
    rng = np.random.RandomState(0)
    for part in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for n in range(3):
                pixels = rng.randint(0, 256, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{n}.png")
    return DataRef(name="imagefolder", dir=str(root))


@pytest.mark.parametrize("name", FILES)
def test_a_copy_elsewhere_is_the_same(name: str, tmp_path: Path) -> None:
    ref = write(name, tmp_path / "here")
    first = data.identity(ref)
    assert len(first) == 32
    shutil.copytree(tmp_path / "here", tmp_path / "there" / "deep")
    assert data.identity(dataclasses.replace(ref, dir=str(tmp_path / "there/deep"))) == first


@pytest.mark.parametrize("name", [n for n in FILES if n != "imagefolder"])
def test_any_byte_of_any_file_counts(name: str, tmp_path: Path) -> None:
    ref = write(name, tmp_path / "here")
    seen = {data.identity(ref)}
    files = [path for path in (tmp_path / "here").rglob("*") if path.is_file()]
    for path in files:
        if path.suffix == ".gz" or "meta" in path.name:
            continue
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        seen.add(data.identity(ref))
        path.write_bytes(whole)
    assert len(seen) == 1 + sum(path.suffix != ".gz" and "meta" not in path.name for path in files)


def test_each_data_set_has_its_own_identity(tmp_path: Path) -> None:
    refs = [write(name, tmp_path / name) for name in data.DATASETS]
    assert len({data.identity(ref) for ref in refs}) == len(data.DATASETS)


def test_zipped_or_not_is_the_same(tmp_path: Path) -> None:
    ref = write("mnist", tmp_path)
    zipped = data.identity(ref)
    for path in (tmp_path / "MNIST" / "raw").iterdir():
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert data.identity(ref) == zipped


def changed(path: Path) -> None:
    pixels = np.asarray(Image.open(path)).copy()
    pixels[3, 3, 0] ^= 1
    Image.fromarray(pixels).save(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "one pixel": lambda root: changed(root / "train/cat/1.png"),
    "one pixel of test": lambda root: changed(root / "test/dog/2.png"),
    "one added": lambda root: shutil.copy(root / "train/cat/1.png", root / "train/cat/9.png"),
    "one removed": lambda root: (root / "train/dog/0.png").unlink(),
    "one relabelled": lambda root: (root / "train/dog/0.png").rename(root / "train/cat/9.png"),
    "two exchanged": lambda root: (
        (root / "train/dog/0.png").rename(root / "x.png"),
        (root / "train/cat/0.png").rename(root / "train/dog/0.png"),
        (root / "x.png").rename(root / "train/cat/0.png"),
    ),
    "one in another part": lambda root: (root / "train/dog/0.png").rename(root / "val/dog/9.png"),
    "a class renamed": lambda root: [
        (root / part / "dog").rename(root / part / "hound") for part in ("train", "val", "test")
    ],
    "a part gone": lambda root: shutil.rmtree(root / "val"),
    "another order": lambda root: (root / "train/dog/0.png").rename(root / "train/dog/9.png"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_another_set_and_taken_back_the_same(change: str, tmp_path: Path) -> None:
    ref = folder(tmp_path / "d")
    shutil.copytree(tmp_path / "d", tmp_path / "kept")
    first = data.identity(ref)
    CHANGES[change](tmp_path / "d")
    assert data.identity(ref) != first
    shutil.rmtree(tmp_path / "d")
    shutil.copytree(tmp_path / "kept", tmp_path / "d")
    assert data.identity(ref) == first


def test_a_name_that_keeps_the_order_and_the_parts_own_do_not_count(tmp_path: Path) -> None:
    ref = folder(tmp_path / "d")
    first = data.identity(ref)
    (tmp_path / "d/train/dog/2.png").rename(tmp_path / "d/train/dog/some name.png")
    (tmp_path / "d/val").rename(tmp_path / "d/valid")
    assert data.identity(ref) == first


def test_a_later_look_reads_no_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = folder(tmp_path / "d")
    first = data.identity(ref)
    read: list[str] = []
    look = survey.look

    def counted(piece: survey.Piece) -> Any:
        read.extend(name for name, _, _ in piece.spots)
        return look(piece)

    monkeypatch.setattr(survey, "look", counted)
    assert data.identity(ref) == first
    assert not read
    os.utime(tmp_path / "d/train/cat/1.png")
    assert data.identity(ref) == first
    assert read == ["train/cat/1.png"]


def exchanged(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def overwritten(one: Path, other: Path) -> None:
    one.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (exchanged, "train/{}/1.bmp"),
        (exchanged, "train/{}"),
        (overwritten, "train/{}/1.bmp"),
        (lambda one, other: shutil.copy2(other, one), "train/{}/1.bmp"),
        (lambda one, other: os.replace(other, one), "train/{}/1.bmp"),
    ],
)
def test_what_has_the_size_and_the_time_of_another_is_seen(
    change: Callable[[Path, Path], object], what: str, tmp_path: Path
) -> None:
    """As files of a reproducible archive have. Reference: a look that remembers nothing."""
    root = tmp_path / "d"
    ref = folder(root)
    for file in [*root.rglob("*.png")]:
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    files = sorted(root.rglob("*.bmp"))
    assert len({file.stat().st_size for file in files}) == 1
    for file in files:
        os.utime(file, (1.6e9, 1.6e9))
    first = data.identity(ref)
    change(root / what.format("cat"), root / what.format("dog"))
    for file in root.rglob("*.bmp"):
        if file.stat().st_mtime != 1.6e9:
            os.utime(file, (1.6e9, 1.6e9))
    assert data.identity(ref) != first
    shutil.copytree(root, tmp_path / "copy")
    assert data.identity(dataclasses.replace(ref, dir=str(tmp_path / "copy"))) == data.identity(ref)


def test_size_and_split_are_no_part_of_it(tmp_path: Path) -> None:
    ref = folder(tmp_path / "d")
    assert data.identity(dataclasses.replace(ref, size=20, split_seed=3)) == data.identity(ref)


@pytest.mark.parametrize("own", [False, True])
def test_a_plugged_in_set_is_its_arrays_or_what_it_says(
    own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plug(value: int, name: str) -> None:
        pixels = np.zeros((10, 2, 3, 4), np.uint8)
        pixels[7, 1, 2, 3] = value
        kind = data.Dataset(
            about="noise",
            describe=lambda ref: data.Info(channels=2, height=3, width=4, classes=("a", name)),
            read=lambda ref, part: Images.of(pixels, np.arange(10) % 2),
            identity=(lambda ref: "mine") if own else None,
        )
        monkeypatch.setitem(data.DATASETS, f"noise{value}{name}", kind)

    told = []
    for value, name in ((0, "b"), (1, "b"), (0, "c")):
        plug(value, name)
        told.append(data.identity(DataRef(name=f"noise{value}{name}")))
    assert told == ["mine"] * 3 if own else len({*told}) == 3


def test_a_summary_is_what_a_person_calls_them(tmp_path: Path) -> None:
    assert data.summary(folder(tmp_path / "d")) == "18 images in 2 classes (cat, dog)"
    assert data.summary(DataRef()) == "1,797 images in 10 classes (0, 1, 2, 3, 4, ...)"


def test_a_size_that_the_images_have_is_none(tmp_path: Path) -> None:
    ref = folder(tmp_path / "images")
    for size, kept in ((0, 0), (8, 0), (16, 16)):
        found, _ = identified(dataclasses.replace(ref, size=size))
        assert found == dataclasses.replace(ref, size=kept, identity=data.identity(ref))


def test_a_command_looks_at_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a size is asked for, which is another array of the same files."""
    ref = folder(tmp_path / "d")
    data.identity(ref)
    walked: list[str] = []
    walk = walking.walk

    def counted(root: Path, path: Path, *more: Any) -> None:
        walked.append(os.path.relpath(path, root))
        walk(root, path, *more)

    monkeypatch.setattr(walking, "walk", counted)
    for size in (0, 16):
        walked.clear()
        found, _ = identified(dataclasses.replace(ref, size=size))
        assert data.describe(found).shape == (3, size or 8, size or 8)
        assert findings.examine(found).parts == {"train": 6, "validation": 6, "test": 6}
        assert sorted(walked) == sorted(
            f"{part}/{name}" for part in ("train", "val", "test") for name in ("cat", "dog")
        )


def test_digests_that_share_a_half_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    all_differ = rng.integers(0, 256, (50, 16), np.uint8)
    assert len({*digests.numbered(all_differ).tolist()}) == 50
    some = all_differ[[0, 1, 2, 0, 3]]
    some[4, :8] = some[1, :8]  # the same first half, another second
    numbers = digests.numbered(some).tolist()
    assert numbers[0] == numbers[3]
    assert len({*numbers}) == 4


def test_no_dropping_is_called_like_an_image() -> None:
    """A name in a folder is looked up by its ending first."""
    names = [*kinds.DROPPINGS, "Thumbs.DB", "desktop.ini", ".x.jpg", "._x.jpg", ".hidden"]
    assert {kinds.unused(name) for name in names} == {kinds.DROPPING}
    shown = ["x.jpg", "x.y.JPEG", "jpg", "x", "x.", "x.txt", "@x.png"]
    assert [kinds.unused(name) for name in shown] == [kinds.unread(name) for name in shown]
