"""Tar files of images (WebDataset), read in place; and sets too large to be decoded."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import anew, colour, folder, ref
from PIL import Image
from typed import ran

from nas.data import (
    arrays,
    batches,
    cache,
    findings,
    imagefolder,
    index,
    listing,
    shards,
    tars,
    walking,
)
from nas.data import datasets as data
from nas.data.encoded import Encoded
from nas.data.images import Images
from nas.data.listing import ORDER
from nas.data.pack import pack
from nas.errors import DataError
from nas.job import DataRef, Job, Recipe, Result
from nas.training import candidate, train
from nas.workers.run import Ended, Started
from nas.workers.seat import Child


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NAS_CACHE_GB", raising=False)


def jpeg(seed: int, label: int = 0) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(colour(seed, label)).save(kept, "JPEG")
    return kept.getvalue()


def tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def members(count: int, first: int = 0, ending: str = "cls") -> list[tuple[str, bytes]]:
    """Images of the classes 0 and 1 in turn."""
    every = []
    for n in range(first, first + count):
        told = json.dumps({"label": n % 2}) if ending == "json" else str(n % 2)
        every += [(f"{n:04}.jpg", jpeg(n, n % 2)), (f"{n:04}.{ending}", told.encode())]
    return every


def pixels(images: Images) -> np.ndarray:
    return np.asarray(images.pixels[images.rows])


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["cls", "txt", "json"])
def test_images_and_labels_of_tars_are_read_in_their_order(ending: str, tmp_path: Path) -> None:
    tar(tmp_path / "w" / "x-000.tar", members(6, 0, ending))
    tar(tmp_path / "w" / "x-001.tar", members(6, 6, ending))
    for place in (tmp_path / "w", tmp_path / "w" / "x-{000..001}.tar", tmp_path / "w" / "x-*.tar"):
        images = data.read(ref(place), "train")
        assert images.labels.tolist() == [0] * 6 + [1] * 6
        for row, n in enumerate([0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]):
            assert np.array_equal(images.pixels[row], decoded(jpeg(n, n % 2)))
    assert data.describe(ref(tmp_path / "w" / "x-000.tar")).classes == ("0", "1")
    assert len(data.read(ref(tmp_path / "w" / "x-000.tar"), "train")) == 6


@pytest.mark.parametrize(
    "names",
    [
        ("train-000.tar", "val-000.tar", "test-000.tar"),
        ("imagenet-train-000.tar", "imagenet-validation-000.tar", "imagenet_test.tar"),
        ("train/000.tar", "dev/000.tar", "eval/000.tar"),
        ("Training.tar", "eval.tar", "testing.tar"),
    ],
)
def test_the_part_of_a_tar_is_told_by_its_name(names: tuple[str, ...], tmp_path: Path) -> None:
    for place, name in enumerate(names):
        tar(tmp_path / "w" / name, members(8 + 2 * place, 100 * place))
    assert {part: len(data.read(ref(tmp_path / "w"), part)) for part in listing.ORDER} == {
        "train": 8,
        "validation": 10,
        "test": 12,
    }


def test_classes_are_named_by_classes_txt_or_by_the_tars_folders(tmp_path: Path) -> None:
    tar(tmp_path / "w" / "a.tar", members(10))
    (tmp_path / "w" / "classes.txt").write_text("zebra\nape\n")
    assert data.describe(ref(tmp_path / "w")).classes == ("zebra", "ape")
    plain = [(f"{'ab'[n % 2]}/{n}.jpg", jpeg(n)) for n in range(10)]
    assert data.describe(ref(tar(tmp_path / "plain.tar", plain))).classes == ("a", "b")
    many = [
        (f"{n}{end}", x)
        for n in range(24)
        for end, x in ((".jpg", jpeg(n)), (".cls", b"%d" % (n % 12)))
    ]
    assert data.describe(ref(tar(tmp_path / "many.tar", many))).classes == tuple(
        map(str, range(12))
    )


def test_what_is_not_used_is_counted(tmp_path: Path) -> None:
    more = [("9000.jpg", jpeg(9)), ("9001.cls", b"0"), ("9002.xyz", b""), ("._0001.jpg", b"x")]
    tar(tmp_path / "w" / "train-0.tar", [*members(10), *more])
    tar(tmp_path / "w" / "other-0.tar", members(2))
    found = findings.examine(ref(tmp_path / "w"))
    assert {reason: count for reason, (count, _) in found.skipped.items()} == {
        "unlabelled": 1,
        "label without an image": 1,
        ".xyz: no image": 1,
        "droppings": 1,
        "tar of no part": 1,
    }
    assert sum(found.classes.values()) == 10


def test_bad_tars_are_refused_in_one_sentence(tmp_path: Path) -> None:
    whole = tar(tmp_path / "x.tar", members(10)).read_bytes()

    def refused(match: str, *files: tuple[str, bytes], place: str = "") -> None:
        there = tmp_path / match.replace(" ", "-").replace("/", "")[:20]
        for name, content in files:
            (there / name).parent.mkdir(parents=True, exist_ok=True)
            (there / name).write_bytes(content)
        with pytest.raises(DataError, match=match) as told:
            data.describe(ref(there / place if place else there))
        assert "\n" not in str(told.value)

    def made(*more: tuple[str, bytes]) -> bytes:
        return tar(tmp_path / "made.tar", [*members(4), *more]).read_bytes()

    end = whole.rindex(b"0009.cls") + 1024
    refused("a.tar is cut off", ("a.tar", whole[: len(whole) // 3]))
    refused("b.tar is cut off: it has no end", ("b.tar", whole[:end]))
    refused("c.tar is cut off or no tar", ("c.tar", b"no tar" * 1000))
    refused("no part to train on", ("val-0.tar", whole))
    two = made(("7.jpg", jpeg(1)), ("7.png", jpeg(2)), ("7.cls", b"1"))
    refused("several images of one sample: 7.jpg and 7.png", ("a.tar", two))
    refused("holds 0001.jpg twice", ("a.tar", made(("0001.jpg", jpeg(1)))))
    other = made(("7.jpg", jpeg(1)), ("7.cls", b"5"))
    refused("label '5', which no image to train on has", ("train.tar", whole), ("val.tar", other))
    refused("classes.txt does not name", ("a.tar", other), ("classes.txt", b"a\nb\n"))
    refused("7.json cannot be read", ("a.tar", made(("7.jpg", jpeg(1)), ("7.json", b"{"))))
    refused(
        "tars name 1 class to train on", ("a.tar", tar(tmp_path / "o.tar", members(1)).read_bytes())
    )
    refused("names no file", ("a.tar", whole), place="b-*.tar")
    refused("is no .tar: a compressed one", ("a.tar.gz", whole), place="*.tar.gz")
    refused("b.tgz is a compressed tar, which", ("a.tar", whole), ("b.tgz", whole))
    member = tarfile.TarInfo("7.jpg")
    member.size = 512
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    with tarfile.open(tmp_path / "sparse.tar", "w", format=tarfile.PAX_FORMAT) as sparse:
        sparse.addfile(member, io.BytesIO(b"x" * 512))
    refused("a.tar is cut off or no tar", ("a.tar", (tmp_path / "sparse.tar").read_bytes()))
    member = tarfile.TarInfo(".DS_Store")
    member.pax_headers = {"size": "-1536"}
    with tarfile.open(tmp_path / "back.tar", "w", format=tarfile.PAX_FORMAT) as back:
        back.addfile(member)
    refused("DS_Store has a size below 0", ("b.tar", (tmp_path / "back.tar").read_bytes()))


# --- packed --------------------------------------------------------------------------------------


def odd(root: Path) -> Path:
    """Names that WebDataset would take for one sample, or for none."""
    folder(root / "train", 6, ("a.b", "c"), "jpg")
    folder(root / "train", 6, ("a.b", "c"), "png", seed=50)
    folder(root / "test", 4, ("a.b", "c"), "jpg", seed=90)
    (root / "train" / "c" / "0001.jpg").rename(root / "train" / "c" / "x.v1.cls.jpg")
    return root


def test_a_packed_folder_is_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = odd(tmp_path / "d")
    identity = data.identity(ref(root))
    want = {part: pixels(data.load(ref(root), part)) for part in listing.ORDER}
    told = pack(ref(root), tmp_path / "w", 20_000)
    assert (told.images, told.files > 3) == (32, True)
    (tmp_path / "mine").touch()  # others may read what was packed as any file of this user
    modes = {path.stat().st_mode for path in (tmp_path / "w").iterdir()}
    assert modes == {(tmp_path / "mine").stat().st_mode}
    for file in ("", index.INDEX):  # by the index, and without it
        if file:
            (tmp_path / "w" / file).unlink()
        monkeypatch.setenv("NAS_CACHE", str(tmp_path / f"cache {file}"))
        anew()
        assert data.identity(ref(tmp_path / "w")) == identity
        for part in listing.ORDER:
            assert np.array_equal(pixels(data.load(ref(tmp_path / "w"), part)), want[part])


def test_an_index_is_of_its_tars(tmp_path: Path) -> None:
    pack(ref(folder(tmp_path / "d", ending="jpg")), tmp_path / "w", 10_000)
    with pytest.raises(DataError, match="is not empty"):
        pack(ref(tmp_path / "d"), tmp_path / "w")
    last = max((tmp_path / "w").glob("*.tar"))
    last.write_bytes(last.read_bytes() + bytes(512))
    with pytest.raises(DataError, match=r"bytes: .*index.* says"):
        data.describe(ref(tmp_path / "w"))
    last.unlink()
    with pytest.raises(DataError, match="which is not there"):
        data.describe(ref(tmp_path / "w"))


class Walked(list[str]):
    """Counts how often it is walked through."""

    times = 0

    def __iter__(self) -> Iterator[str]:
        self.times += 1
        return super().__iter__()


def test_the_names_of_tars_are_walked_once_however_many_there_are(tmp_path: Path) -> None:
    pack(ref(folder(tmp_path / "d")), tmp_path / "w", 10_000)
    paths = sorted((tmp_path / "w").glob("*.tar"))
    names = Walked(path.name for path in paths)
    assert len(names) > 2
    lengths = [path.stat().st_size for path in paths]
    index.restored(tmp_path / "w" / index.INDEX, tmp_path / "w", names, lengths, np.arange(9))
    assert names.times == 1


@pytest.mark.parametrize("names", [[str(n) for n in range(11)], ["2", "0", "1"]])
def test_numbers_are_lines_where_classes_are_called_by_numbers(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = folder(tmp_path / "d", 2, names, "jpg"), tmp_path / "w"
    identity = data.identity(ref(root))
    pack(ref(root), out)
    assert data.identity(ref(out)) == data.identity(ref(out / "*.tar")) == identity
    assert data.describe(ref(out / "*.tar")).classes == data.describe(ref(root)).classes
    labels = data.read(ref(root), "train").labels.tolist()
    assert data.read(ref(out / "*.tar"), "train").labels.tolist() == labels
    (out / index.INDEX).unlink()
    anew()
    assert data.identity(ref(out)) == identity


def test_classes_that_change_are_read_again_and_must_be_those_of_the_index(tmp_path: Path) -> None:
    tar(tmp_path / "w" / "a.tar", members(10))
    named = tmp_path / "w" / shards.CLASSES
    named.write_bytes("\ufeff2\r\n0".encode() + b"\n\n\n")
    assert data.describe(ref(tmp_path / "w")).classes == ("2", "0")
    anew()
    named.write_text("2\n1")  # the last line without an end
    assert data.describe(ref(tmp_path / "w")).classes == ("2", "1")
    assert data.read(ref(tmp_path / "w"), "train").labels.tolist() == [0] * 5 + [1] * 5
    pack(ref(folder(tmp_path / "d", ending="jpg")), tmp_path / "p")
    (tmp_path / "p" / shards.CLASSES).write_text("b\na\n")
    with pytest.raises(DataError, match="names other classes than"):
        data.describe(ref(tmp_path / "p"))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"\xff\xfea\n", "classes.txt cannot be read: .*utf-8"),
        (b"a\na\n", "names 'a' twice, in lines 1 and 2"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"\n", "classes.txt is empty"),
    ],
)
def test_what_is_no_list_of_classes_is_refused(content: bytes, match: str, tmp_path: Path) -> None:
    tar(tmp_path / "w" / "a.tar", members(4))
    (tmp_path / "w" / shards.CLASSES).write_bytes(content)
    with pytest.raises(DataError, match=match):
        data.describe(ref(tmp_path / "w"))


@pytest.mark.parametrize(
    ("label", "match"),
    [
        ("²".encode(), "label ², which"),
        (b"9" * 5000, r"label 9+ \.\.\., which"),
        (b"-1", "label -1, which"),
    ],
)
def test_a_label_that_no_class_has_is_refused(label: bytes, match: str, tmp_path: Path) -> None:
    tar(tmp_path / "w" / "a.tar", [*members(4), ("9.jpg", jpeg(9)), ("9.cls", label)])
    (tmp_path / "w" / shards.CLASSES).write_text("a\nb\n")
    with pytest.raises(DataError, match=match):
        data.describe(ref(tmp_path / "w"))


@pytest.mark.parametrize("kind", ["folder", "csv", "tar"])
@pytest.mark.parametrize("part", ["train", "val"])
def test_classes_that_look_the_same_are_refused(kind: str, part: str, tmp_path: Path) -> None:
    """As a folder that one machine has written beside one of another."""
    one, two = "caf\u00e9", "cafe\u0301"
    images = [(split, name, n) for split, own in (("train", [one, "b"]), ("val", [one, "b"]))
              for name in own for n in range(3)]  # fmt: skip
    images += [(part, two, n) for n in range(3)]
    place = tmp_path / "d"
    if kind == "tar":
        for split in ("train", "val"):
            told = [(f"{n}{name}.{ending}", content) for its, name, n in images if its == split
                    for ending, content in (("jpg", jpeg(n)), ("cls", name.encode()))]  # fmt: skip
            tar(place / f"{split}.tar", told)
    else:
        for split, name, n in images:
            (place / split / name).mkdir(parents=True, exist_ok=True)
            (place / split / name / f"{n}.jpg").write_bytes(jpeg(n))
    if kind == "csv":
        lines = [f"{split}/{name}/{n}.jpg,{name},{split}\n" for split, name, n in images]
        place = place / "labels.csv"
        place.write_text("".join(["file,label,part\n", *lines]))
    told = r"'cafe\\u0301' and 'caf\\xe9': they are written in different forms of Unicode"
    for _ in range(2):  # by what is kept of the first look, too
        with pytest.raises(DataError, match=told):
            data.describe(ref(place))
        anew()
    if kind == "folder":
        with pytest.raises(DataError, match=told):
            pack(ref(place), tmp_path / "packed")
    if kind == "tar":
        (place / shards.CLASSES).write_text(f"{one}\nb\n")
        with pytest.raises(DataError, match=told):
            data.describe(ref(place))


def test_a_label_of_deep_json_and_an_index_that_is_none_are_refused(tmp_path: Path) -> None:
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    place = tar(tmp_path / "a.tar", [*members(4), ("9.jpg", jpeg(9)), ("9.json", deep)])
    with pytest.raises(DataError, match=r"9.json cannot be read"):
        data.describe(ref(place))
    pack(ref(folder(tmp_path / "d", ending="jpg")), tmp_path / "w")
    for content in (b"", b"text\n" * 10, (2).to_bytes(8, "little") + b"[]"):
        (tmp_path / "w" / index.INDEX).write_bytes(content)
        with pytest.raises(
            DataError, match=r"is not an index \(.*\): without it, all is read again"
        ):
            data.describe(ref(tmp_path / "w"))


def test_packing_leaves_alone_what_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "d", ending="jpg")
    (tmp_path / "w.part").mkdir()
    (tmp_path / "w.part" / "thesis").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    for out, match in {
        ".": "has no name of its own",
        "..": "has no name of its own",
        "link": "is a link",
        "file": "cannot be written: Not a directory",
        "d/w": "is within .*d: its tars would be",
    }.items():
        with pytest.raises(DataError, match=match):
            pack(ref(root), Path(out))
    assert sorted(tmp_path.iterdir()) == before  # not even the cache: no work was done
    broken = folder(tmp_path / "e", ending="jpg")
    data.identity(ref(broken))
    monkeypatch.setattr("nas.data.pack.digest", lambda _: b"")
    with pytest.raises(DataError, match="changed while it was read"):
        pack(ref(broken), tmp_path / "w")
    monkeypatch.undo()
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    pack(ref(root), tmp_path / "w")
    made = {tmp_path / name for name in ("w", "e", "cache")}
    assert {*tmp_path.iterdir()} == {*before, *made}
    assert (tmp_path / "w.part" / "thesis").read_text() == "mine"
    assert (tmp_path / "w").stat().st_mode == root.stat().st_mode  # others read it as well


@pytest.mark.parametrize("name", ["a\nb", "a\rb", " ", "\ufeffa"])
def test_a_class_that_is_no_line_is_not_packed(name: str, tmp_path: Path) -> None:
    root = folder(tmp_path / "d", 1, ("a", name), "jpg")
    with pytest.raises(DataError, match="cannot be packed: its name is no line"):
        pack(ref(root), tmp_path / "w")


# --- each file once, and all of it ---------------------------------------------------------------


def test_a_tar_is_read_once(tmp_path: Path) -> None:
    at = tmp_path / "w"
    tar(at / "a.tar", members(10))
    for pattern in ("{a,a}.tar", "{a,*}.tar", "{a,./a,../w/a}.tar"):
        assert len(data.read(ref(at / pattern), "train")) == 10
    for link in (at / "b.tar").symlink_to, (at / "b.tar").hardlink_to:
        link(at / "a.tar")
        for place in (at, at / "*.tar", at / "{a,b}.tar"):
            anew()
            with pytest.raises(DataError, match=r"a.tar and .*b.tar are one file"):
                data.describe(ref(place))
        (at / "b.tar").unlink()


def test_braces_are_those_of_a_shell() -> None:
    for text in ("{2..1}", "{8..11}", "{08..11}", "{1..010}", "x{a,b}-{0..1}", "{a,{b,c}}"):
        shell = subprocess.run(["bash", "-c", f"echo {text}"], capture_output=True, text=True)
        assert sorted({*tars.expanded(text)}) == sorted(shell.stdout.split())
    for text in ("{0..99999999999}", "{0..9999}{0..9999}", "{a,b}" * 2000, "{1..{2,999999}}" * 2):
        with pytest.raises(DataError, match="names more than 1,000,000 files"):
            list(tars.expanded(text))


def test_a_tar_that_goes_on_after_its_end_is_refused(tmp_path: Path) -> None:
    first, second = (tar(tmp_path / "x", members(6, n)).read_bytes() for n in (0, 6))
    (tmp_path / "a.tar").write_bytes(first + second)
    with pytest.raises(DataError, match=r"a.tar goes on after its end"):
        data.describe(ref(tmp_path / "a.tar"))
    (tmp_path / "b.tar").write_bytes(first + bytes(3 << 20))  # a tape's blocks
    assert len(data.read(ref(tmp_path / "b.tar"), "train")) == 6


def test_links_and_devices_in_a_tar_are_counted(tmp_path: Path) -> None:
    place = tar(tmp_path / "a.tar", members(10))
    with tarfile.open(place, "a") as file:
        for name, kind, target in (
            ("s.jpg", tarfile.SYMTYPE, "0001.jpg"),
            ("lost.jpg", tarfile.LNKTYPE, "nowhere.jpg"),
            ("pipe", tarfile.FIFOTYPE, ""),
            ("null.jpg", tarfile.CHRTYPE, ""),
            ("folder", tarfile.DIRTYPE, ""),
            ("again.jpg", tarfile.LNKTYPE, "0001.jpg"),
            ("again.cls", tarfile.LNKTYPE, "0001.cls"),
            ("third.jpg", tarfile.LNKTYPE, "again.jpg"),
            ("third.cls", tarfile.LNKTYPE, "again.cls"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            file.addfile(member)
    told = findings.examine(ref(place))
    assert told.skipped == {
        "a link in a tar": (2, ("a.tar/s.jpg", "a.tar/lost.jpg")),
        "a device in a tar": (2, ("a.tar/pipe", "a.tar/null.jpg")),
    }
    images = data.read(ref(place), "train")
    assert images.labels.tolist() == [0] * 5 + [1] * 7
    for row in (-2, -1):
        assert np.array_equal(pixels(images)[row], decoded(jpeg(1, 1)))


def test_labels_that_differ_are_counted(tmp_path: Path) -> None:
    more = [
        ("0000.txt", b"a dog\xff"),
        ("0001.txt", b"1"),
        ("0002.txt", b"1"),
        ("0003.json", b"{}"),
    ]
    place = tar(tmp_path / "a.tar", [*members(10), *more])
    assert findings.examine(ref(place)).skipped == {
        ".txt not used: it differs from .cls, which is the label": (
            2,
            ("a.tar/0000.txt", "a.tar/0002.txt"),
        )
    }


# --- not decoded ---------------------------------------------------------------------------------


def trained(place: DataRef, **recipe: object) -> Result:
    job = Job(
        pattern="INPUT -> CONV(4) -> RELU -> POOL -> GAP -> FC",
        recipe=Recipe(batch=8, **recipe),  # type: ignore[arg-type]
        data=place,
        epochs=2,
        latency=False,
    )
    outcome = candidate.evaluate(job, lambda _: None)
    assert isinstance(outcome, Result), outcome
    return outcome


@pytest.mark.parametrize("kind", ["folder", "tars"])
def test_a_set_over_the_limit_is_not_decoded_and_trains_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder(tmp_path / "d", 30, ending="jpg")
    if kind == "tars":
        pack(ref(place), tmp_path / "w")
        place = tmp_path / "w"
    wanted = trained(ref(place)).curve
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("NAS_CACHE_GB", "0")
    anew()
    identity = data.identity(ref(place))
    images = data.load(ref(place), "train")
    assert isinstance(images.pixels, Encoded)
    assert not [*(tmp_path / "other").rglob("pixels.npy")]
    assert batches.Source.of(images, torch.device("cpu")).streamed
    for each in (ref(place), ref(place, identity=identity)):
        anew()
        curve = trained(each).curve
        assert [(p.train_loss, p.accuracy) for p in curve] == [
            (p.train_loss, p.accuracy) for p in wanted
        ]


def test_images_that_are_not_decoded_are_checked_first_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_CACHE_GB", "0")
    root = folder(tmp_path / "d", 20, ending="jpg")
    bad = root / "a" / "0003.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"1 of 40 images cannot be read: .*0003.jpg"):
        data.load(ref(root), "train")
    bad.write_bytes(whole)
    anew()
    identity = data.identity(ref(root))
    bad.write_bytes(jpeg(77))
    anew()
    images = data.read(ref(root, identity=identity), "train")
    with pytest.raises(DataError, match=r"a/0003.jpg cannot be read: it is another than"):
        images.pixels[images.rows]


# --- room to crop --------------------------------------------------------------------------------


def test_a_crop_has_room_where_the_files_are_larger(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(20):
        place = tmp_path / "d" / "ab"[n % 2] / f"{n}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (60, 70, 3), np.uint8)).save(place)
    sized = ref(tmp_path / "d", size=28)
    larger = data.roomy(sized)
    assert larger == dataclasses.replace(sized, size=32)
    assert data.roomy(ref(tmp_path / "d", size=56)).size == 60  # as large as they are
    assert data.roomy(ref(tmp_path / "d", size=60)).size == 60
    assert data.describe(sized).shape == (3, 28, 28)
    same, seen = (data.load(each, "train") for each in (sized, larger))
    assert same.rows.tolist() == seen.rows.tolist()
    assert seen.pixels.shape[1:] == (3, 32, 32)
    plain, cropped = (Job(pattern="", data=sized, recipe=Recipe(resized_crop=c)) for c in (0, 0.3))
    assert train.train_images(plain) == sized
    assert train.train_images(cropped) == larger
    identity = data.identity(sized)
    anew()
    assert data.roomy(dataclasses.replace(sized, identity=identity)).size == 32
    trained(sized, resized_crop=0.3)


# --- what is kept --------------------------------------------------------------------------------


def test_the_longest_unused_make_room_and_none_that_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 3 * 32 * 32 * 40
    held = []
    for n in range(4):
        root = folder(tmp_path / f"d{n}", 20, seed=5000 * n)
        images = imagefolder.prepared(imagefolder.whole(ref(root))).decoded
        held.append(images.folder)
        os.utime(images.folder / "used", (n + 1, n + 1))
        if n == 1:
            used = images  # a process maps it
        del images
        anew()
    assert [each.folder for each in cache.kept()] == held
    assert cache.in_use(used.folder)
    room = sum(each.bytes for each in cache.kept())
    monkeypatch.setenv("NAS_CACHE_GB", str(room / 1e9))
    cache.make_room(size)
    assert [each.folder for each in cache.kept()] == held[1:]
    cache.make_room(2 * size)
    assert [each.folder for each in cache.kept()] == [held[1], held[3]]
    assert not cache.remove(held[1])
    del used
    assert cache.remove(held[1])
    for wrong in ("much", "inf", "1e308", "-1", "nan"):
        monkeypatch.setenv("NAS_CACHE_GB", wrong)
        with pytest.raises(DataError, match=f"NAS_CACHE_GB is '{wrong}': must be a number of"):
            cache.limit()


def test_arrays_are_mapped_and_a_cut_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    told = {"a": np.arange(5), "b": np.zeros((2, 3), np.uint8), "c": np.empty(0, np.int64)}
    arrays.save(path, told, {"x": [1]})
    back, text = arrays.load(path)
    assert text == {"x": [1]}
    assert all(np.array_equal(back[key], told[key]) for key in told)
    assert isinstance(back["a"], np.memmap)
    for length in (3, 20, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(cache.LOST):
            arrays.load(path)


def test_a_listing_by_processes_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "d", 3, [f"c{n:02}" for n in range(40)])
    (root / "c07" / "notes.txt").write_text("")
    alone = listing.listing(root)
    monkeypatch.setattr(walking, "INLINE", 5)
    spread = listing.listing(root)
    assert alone.names == spread.names
    assert alone.skipped == spread.skipped
    for key in ("sizes", "changes", "labels"):
        assert np.array_equal(getattr(alone, key), getattr(spread, key))


def test_images_are_decoded_before_a_trials_time_begins(tmp_path: Path) -> None:
    place = ref(folder(tmp_path / "d", 20, ending="jpg"))
    child = Child(".", [], {"OMP_NUM_THREADS": "1"})
    try:
        child.send(Job(pattern="INPUT -> GAP -> FC", data=place, epochs=1, latency=False))
        message = None
        while not isinstance(message, Started | Ended):
            message = child.receive(0.01)
        assert [*(tmp_path / "cache" / "images").glob("*/errors.json")]
        assert [*(tmp_path / "cache" / "images").glob("*/statistics-*.json")]
    finally:
        child.kill()


def test_streaming_needs_no_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a mount namespace whose /dev/shm is a page: the losses are those of the decoded array."""
    mount = "mount -t tmpfs -o size=4k tmpfs /dev/shm"
    namespace = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    try:
        subprocess.run([*namespace, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mount namespaces need root")
    place = folder(tmp_path / "d", 30, ending="jpg")
    wanted = [point.train_loss for point in trained(ref(place)).curve]
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("NAS_CACHE_GB", "0")
    code = (
        f"import sys, torch; sys.path.insert(0, {str(Path(__file__).parent)!r});"
        f"torch.set_num_threads({torch.get_num_threads()});"
        "from test_shards import ref, trained;"
        f"print([point.train_loss for point in trained(ref({str(place)!r})).curve])"
    )
    run = [*namespace, sys.executable, "-c", code]
    told = subprocess.run(run, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(wanted)
    assert [*(tmp_path / "other").rglob("encoded.safetensors")]


def test_the_commands_pack_and_list_and_remove(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def nas(*told: object) -> tuple[int, str, str]:
        return ran(capsys, "data", *told)

    place, out = folder(tmp_path / "d", ending="jpg"), tmp_path / "w"
    assert nas("pack", place, "-o", out)[1].startswith("20 images in 1 tar,")
    again, _, told = nas("pack", place, "-o", out)
    assert (again, len(told.splitlines())) == (2, 1)
    images = data.read(ref(out), "train")
    (name,) = [each.name for each in cache.kept()]
    held = nas("cache", "--older", 0)[1]
    assert f"{name} " in held
    assert "20x3x32x32" in held
    assert "in use, stays" in held  # by this process
    del images
    anew()
    assert nas("cache", "--remove", "other")[0] == 2
    assert nas("cache", "--remove", name)[1].rstrip().endswith("removed")
    assert not cache.kept()


def test_groups_of_a_table_travel_in_its_tars(tmp_path: Path) -> None:
    """In the tars themselves: also without the index, no split parts what belongs together."""
    folder(tmp_path / "d", 20, ending="jpg")
    rows = [f"d/{c}/{n:04}.jpg,{c},{'é' if n > 17 else n // 3},x{n}" for c in "ab"
            for n in range(20)]  # fmt: skip
    rows[0] = rows[0].replace(",0,", ",,")  # stands alone
    (tmp_path / "t.csv").write_text("\n".join(["file,label,group,other", *rows]))
    table = ref(tmp_path / "t.csv")
    pack(table, tmp_path / "w", 10_000)
    split = {part: data.load(table, part).rows.tolist() for part in ORDER}
    told = [row.split(",")[2] for row in rows]
    of = [{told[n] for n in found} - {""} for found in split.values()]
    assert sum(map(len, of)) == len({*told} - {""})  # each in one part
    assert len(split["test"]) > 2
    for indexed in (True, False):
        if not indexed:
            (tmp_path / "w" / index.INDEX).unlink()
        anew()
        packed = ref(tmp_path / "w")
        assert data.identity(packed) == data.identity(table)
        assert {part: data.load(packed, part).rows.tolist() for part in ORDER} == split
    # One that is asked for besides joins further.
    joined = data.load(ref(tmp_path / "w", group_by=r"/(00)0[0-5]"), "train").groups
    assert joined is not None
    assert joined[1] == joined[5] == joined[21]
    pack(ref(tmp_path / "t.csv", group_by="other"), tmp_path / "o")
    assert {*shards.listing(tmp_path / "o", ["train-000000.tar"], True).groups} == {
        f"x{n}" for n in range(20)
    }
    with pytest.raises(DataError, match="--group-by x: of a folder it is given where its tars"):
        pack(ref(tmp_path / "d", group_by="x"), tmp_path / "p")


def test_groups_make_another_set_of_the_same_images(tmp_path: Path) -> None:
    """Their split is another: what was prepared of one must not stand for the other."""
    folder(tmp_path / "d", ending="jpg")
    rows = [f"d/{c}/{n:04}.jpg,{c}" for c in "ab" for n in range(10)]
    found = {}
    for name in ("none", "pairs", "renamed", "halves"):
        of = {"none": lambda n: "", "pairs": lambda n: n // 2, "renamed": lambda n: f"p{n // 2}",
              "halves": lambda n: n // 10}[name]  # fmt: skip
        lines = [f"{row},{of(n)}" for n, row in enumerate(rows)]
        (tmp_path / "t.csv").write_text("\n".join(["file,label,group", *lines]))
        table = ref(tmp_path / "t.csv")
        groups = data.read(
            dataclasses.replace(table, identity=data.identity(table)), "train"
        ).groups
        assert groups is not None
        found[name] = data.identity(table), len({*groups.tolist()})
    assert [count for _, count in found.values()] == [20, 10, 10, 2]
    assert found["pairs"] == found["renamed"]
    assert len({*found.values()}) == 3
    assert found["none"][0] == data.identity(ref(tmp_path / "d"))


STOPS = """
import sys, time
from pathlib import Path
from nas.data import pack
from nas.job import DataRef
def stop(*_):
    Path(sys.argv[3]).touch()
    time.sleep(600)
pack.keep = stop
pack.pack(DataRef(name="imagefolder", dir=sys.argv[1]), Path(sys.argv[2]))
"""


def test_what_a_killed_pack_left_goes_and_one_that_lives_stays(tmp_path: Path) -> None:
    root, there = folder(tmp_path / "d", ending="jpg"), tmp_path / "there"
    there.mkdir()
    (there / ".nas-pack-mine").mkdir()
    running = {}
    for name in ("w", "x"):
        command = [sys.executable, "-c", STOPS, root, there / name, tmp_path / f"{name}-stops"]
        running[name] = subprocess.Popen([*map(str, command)])
    try:
        for name, process in running.items():
            while not (tmp_path / f"{name}-stops").exists():
                assert process.poll() is None
                time.sleep(0.02)
        held = {*there.rglob("*.tar")}
        assert len(held) == 2
        with pytest.raises(DataError, match="w is being packed by another process"):
            pack(ref(root), there / "w")
        assert {*there.rglob("*.tar")} == held
        running["w"].kill()
        running["w"].wait()
        assert {*there.rglob("*.tar")} == held
        pack(ref(root), there / "w")
        left = {*there.rglob("*.tar")} - {there / "w" / "train-000000.tar"}
        assert len(left) == 1  # that of the one that lives
        assert left < held
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    pack(ref(root), there / "x")
    assert {path.name for path in there.iterdir()} == {"w", "x", ".nas-pack-mine"}
