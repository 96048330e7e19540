"""Data sets: small files in the real formats, read by torchvision's classes as the reference."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat

from nas.data import batches, digests, picture
from nas.data import datasets as data
from nas.data.images import Images
from nas.data.splits import holdout
from nas.errors import DataError
from nas.job import DataRef, Recipe

RNG = np.random.RandomState(7)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))


# Writers of the real formats.


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">{1 + array.ndim}i", 0x800 + array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(place: Path, ending: str, train: int = 50, test: int = 20) -> None:
    for part, count in (("train", train), ("t10k", test)):
        pixels = RNG.randint(0, 256, (count, 12, 10), np.uint8)
        write_idx(place / f"{part}-images-idx3-ubyte{ending}", pixels)
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(place / f"{part}-labels-idx1-ubyte{ending}", labels)


def write_cifar(root: Path, fine: bool = False) -> None:
    folder = root / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    classes = 100 if fine else 10
    parts = ["train", "test"] if fine else [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    for part in parts:
        told: dict[str, Any] = {"data": RNG.randint(0, 256, (20, 3072), np.uint8)}
        told["fine_labels" if fine else "labels"] = RNG.randint(0, classes, 20).tolist()
        (folder / part).write_bytes(pickle.dumps(told, protocol=2))
    names = [f"class {n}" for n in range(classes)]
    key = "fine_label_names" if fine else "label_names"
    meta = folder / ("meta" if fine else "batches.meta")
    meta.write_bytes(pickle.dumps({key: names}, protocol=2))


def write_svhn(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        told = {
            "X": RNG.randint(0, 256, (32, 32, 3, 30), np.uint8),
            "y": (1 + np.arange(30)[:, None] % 10).astype(np.uint8),
        }
        savemat(root / f"{part}_32x32.mat", told, do_compression=True)


def write_folder(
    root: Path, classes: dict[str, int], size: tuple[int, int] = (9, 11), mode: str = "RGB"
) -> None:
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for n in range(count):
            shape = size if mode == "L" else (*size, 3)
            image = Image.fromarray(RNG.randint(0, 256, shape, np.uint8))
            image.save(root / name / f"{n:03}.png")


def write(name: str, root: Path) -> DataRef:
    """A small set of the named kind, and where it is."""
    match name:
        case "mnist":
            write_mnist(root / "MNIST" / "raw", ".gz")
        case "fashion_mnist":
            write_mnist(root / "FashionMNIST" / "raw", "")
        case "cifar10" | "cifar100":
            write_cifar(root, fine=name == "cifar100")
        case "svhn":
            write_svhn(root)
        case "imagefolder":
            write_folder(root, {"cat": 20, "dog": 30})
    return DataRef(name=name, dir="" if name == "digits" else str(root))


def torchvisions(name: str, root: Path, train: bool) -> Any:
    """torchvision's own reader; those that check MD5s are told the small files' none."""

    def unchecked(files: list[list[str]]) -> list[list[Any]]:
        return [[file, None] for file, _ in files]

    v = torchvision.datasets
    if name in ("cifar10", "cifar100"):
        base = v.CIFAR10 if name == "cifar10" else v.CIFAR100
        own = {
            "train_list": unchecked(base.train_list),
            "test_list": unchecked(base.test_list),
            "meta": {**base.meta, "md5": None},
        }
        return type("Unchecked", (base,), own)(root, train=train)
    if name == "svhn":
        lists = {k: [url, file, None] for k, (url, file, _) in v.SVHN.split_list.items()}
        own = {"split_list": lists}
        return type("Unchecked", (v.SVHN,), own)(root, split="train" if train else "test")
    if name == "mnist":  # reads only what is unpacked
        for packed in (root / "MNIST" / "raw").glob("*.gz"):
            packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    return (v.MNIST if name == "mnist" else v.FashionMNIST)(root, train=train)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_the_images_are_those_that_torchvision_reads(
    name: str, part: data.Part, tmp_path: Path
) -> None:
    ref = write(name, tmp_path)
    ours = data.read(ref, part)
    reference = torchvisions(name, tmp_path, part == "train")
    assert len(ours) == len(reference)
    for n in (0, 7, len(reference) - 1):
        image, label = reference[n]
        expected = np.asarray(image)
        expected = expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1)
        assert np.array_equal(ours.pixels[n], expected)
        assert ours.labels[n] == label


def test_an_image_folder_is_read_as_torchvision_reads_it(tmp_path: Path) -> None:
    write_folder(tmp_path / "d", {"cat": 6, "Dog": 5, "ant": 4})
    ref = DataRef(name="imagefolder", dir=str(tmp_path / "d"))
    ours = data.read(ref, "train")
    reference = torchvision.datasets.ImageFolder(tmp_path / "d")
    assert data.describe(ref).classes == tuple(reference.classes)
    assert len(ours) == len(reference)
    for n, (path, label) in enumerate(reference.samples):
        assert np.array_equal(ours.pixels[n], np.asarray(Image.open(path)).transpose(2, 0, 1))
        assert ours.labels[n] == label


@pytest.mark.parametrize("name", sorted(data.DATASETS))
def test_every_data_set_is_what_its_description_says(name: str, tmp_path: Path) -> None:
    ref = write(name, tmp_path / "data")
    info = data.describe(ref)
    parts = {part: data.load(ref, part) for part in ("train", "validation", "test")}
    for images in parts.values():
        assert images.pixels.shape[1:] == info.shape
        assert images.pixels.dtype == np.uint8
        assert len(images) > 0
    train = {*parts["train"].rows.tolist()}
    assert train.isdisjoint(parts["validation"].rows.tolist())
    if "test" not in info.parts:
        assert train.isdisjoint(parts["test"].rows.tolist())
    assert {*parts["train"].labels[parts["train"].rows]} == {*range(len(info.classes))} or (
        name.startswith("cifar")  # twenty random labels a file do not cover a hundred classes
    )


def test_the_default_split_stays_what_it_is() -> None:
    ref = DataRef()
    train, validation, test = (data.load(ref, p) for p in ("train", "validation", "test"))
    assert [len(train), len(validation), len(test)] == [1079, 359, 359]
    everything = np.concatenate([train.rows, validation.rows, test.rows])
    assert sorted(everything.tolist()) == list(range(1797))
    # Recorded: a change would make stored results incomparable.
    assert [int(p.rows.sum()) for p in (train, validation, test)] == SUMS
    for part in (train, validation, test):
        share = np.bincount(part.labels[part.rows]) / len(part)
        whole = np.bincount(train.labels) / 1797
        assert np.abs(share - whole).max() < 0.003


SUMS = [976533, 331362, 305811]


def test_another_seed_is_another_split_and_the_same_seed_the_same() -> None:
    labels = np.repeat(np.arange(7), 30)
    once, again, other = (data.holdout(labels, 50, seed)[1] for seed in (3, 3, 4))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_a_rare_class_stays_in_the_training_images() -> None:
    labels = np.array([0] * 40 + [1] + [2] * 2)
    for seed in range(20):
        rest, held = data.holdout(labels, 8, seed)
        assert {*labels[rest]} == {0, 1, 2}
        assert len(held) == 8


@pytest.mark.parametrize("layout", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_mnist_is_found_in_every_layout(layout: str, ending: str, tmp_path: Path) -> None:
    write_mnist(tmp_path / layout, ending)
    info = data.describe(DataRef(name="mnist", dir=str(tmp_path)))
    assert info.shape == (1, 12, 10)


def test_an_own_validation_folder_is_used_as_it_is(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("val", 4), ("test", 5)):
        write_folder(tmp_path / part, {"a": count, "b": count})
    ref = DataRef(name="imagefolder", dir=str(tmp_path))
    assert [len(data.load(ref, p)) for p in ("train", "validation", "test")] == [20, 8, 10]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 10, "tram": 10})
    ref = DataRef(name="imagefolder", dir=str(tmp_path))
    assert data.describe(ref).classes == ("train", "tram")


def test_a_search_does_not_read_the_test_images(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    (folder / "test_batch").write_bytes(b"no pickle.")
    ref = DataRef(name="cifar10", dir=str(tmp_path))
    assert len(data.load(ref, "train")) == 80
    assert len(data.load(ref, "validation")) == 20
    with pytest.raises(DataError, match="test_batch"):
        data.load(ref, "test")


# Image folders: sizes, and the cache.


def test_mixed_sizes_become_the_median_shorter_side(tmp_path: Path) -> None:
    write_folder(tmp_path / "d", {"a": 3}, (20, 31))
    write_folder(tmp_path / "d", {"b": 2}, (40, 18))
    ref = DataRef(name="imagefolder", dir=str(tmp_path / "d"))
    assert data.describe(ref).shape == (3, 20, 20)
    sized = DataRef(name="imagefolder", dir=str(tmp_path / "d"), size=12)
    assert data.describe(sized).shape == (3, 12, 12)
    assert data.read(sized, "train").pixels.shape == (5, 3, 12, 12)


def test_a_resize_keeps_the_centre_and_the_proportions(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255  # what is left when the middle square is cut out
    Image.fromarray(wide).save(tmp_path / "wide.png")
    small = picture.decode(tmp_path / "wide.png", (3, 10, 10))
    assert small.shape == (3, 10, 10)
    assert small[:, :, 1:-1].min() == 255  # the edge columns may blend


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, :8] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter: the left half comes to the top
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    upright = picture.decode(tmp_path / "a.jpg", (1, 16, 8))
    assert upright[0, :8].min() > 195
    assert upright[0, 8:].max() < 5
    told = picture.header((tmp_path / "a.jpg").read_bytes())
    assert (told.height, told.width, told.grey) == (16, 8, True)


def test_grey_images_have_one_channel_and_mixed_ones_three(tmp_path: Path) -> None:
    write_folder(tmp_path / "grey", {"a": 3, "b": 3}, mode="L")
    write_folder(tmp_path / "mixed", {"a": 3}, mode="L")
    write_folder(tmp_path / "mixed", {"b": 3})
    for name, channels in (("grey", 1), ("mixed", 3)):
        ref = DataRef(name="imagefolder", dir=str(tmp_path / name))
        assert data.describe(ref).channels == channels
        assert data.read(ref, "train").pixels.shape == (6, channels, 9, 11)


def test_images_are_decoded_once_and_again_when_they_change(tmp_path: Path) -> None:
    write_folder(tmp_path / "d", {"a": 5, "b": 5})
    first = load_elsewhere(tmp_path / "d")
    (kept,) = (tmp_path / "cache").glob("images/*/pixels.npy")
    before = kept.stat().st_mtime_ns
    assert load_elsewhere(tmp_path / "d") == first
    assert kept.stat().st_mtime_ns == before
    Image.new("RGB", (11, 9), "red").save(tmp_path / "d" / "a" / "000.png")
    assert load_elsewhere(tmp_path / "d") != first
    assert len([*(tmp_path / "cache").glob("images/*/pixels.npy")]) == 2
    assert not [*(tmp_path / "cache").rglob("*.part")]


def load_elsewhere(root: Path) -> str:
    """The sum of the images' bytes, read in another process."""
    code = (
        "import sys; from nas.data import datasets as data; from nas.job import DataRef;"
        "print(data.read(DataRef(name='imagefolder', dir=sys.argv[1]), 'train').pixels.sum())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True
    )
    return run.stdout


def test_describing_and_loading_need_no_torch(tmp_path: Path) -> None:
    write_folder(tmp_path / "d", {"a": 5, "b": 5})
    code = (
        "import sys; from nas.data import datasets as data; from nas.job import DataRef;"
        "data.load(DataRef(name='imagefolder', dir=sys.argv[1]), 'validation');"
        "assert not {'torch', 'torchvision'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "d")], check=True)


# What bad input gets.


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def damage(name: str, file: str, how: Callable[[Path], object]) -> Callable[[Path], DataRef]:
    def broken(root: Path) -> DataRef:
        ref = write(name, root)
        how(root / file)
        return ref

    return broken


BROKEN = {
    "unknown": (lambda root: DataRef(name="cifar11"), "cifar11.*did you mean cifar10"),
    "no directory given": (lambda root: DataRef(name="mnist"), "mnist.*--data"),
    "missing directory": (lambda root: DataRef(name="svhn", dir=f"{root}/x"), "x does not exist"),
    "a file for a directory": (
        lambda root: DataRef(name="svhn", dir=__file__),
        "test_data.py is not a directory",
    ),
    "empty directory": (lambda root: DataRef(name="mnist", dir=str(root)), "holds no train-images"),
    "empty image folder": (
        lambda root: DataRef(name="imagefolder", dir=str(root)),
        "holds 0 class folders",
    ),
    "IDX missing": (
        damage("mnist", "MNIST/raw/t10k-labels-idx1-ubyte.gz", Path.unlink),
        "t10k-labels-idx1-ubyte.gz is missing",
    ),
    "IDX cut": (
        damage("fashion_mnist", "FashionMNIST/raw/train-images-idx3-ubyte", cut),
        "train-images-idx3-ubyte holds .* bytes where its header says",
    ),
    "gzip cut": (
        damage("mnist", "MNIST/raw/train-images-idx3-ubyte.gz", cut),
        "train-images-idx3-ubyte.gz",
    ),
    "not IDX": (
        damage(
            "mnist", "MNIST/raw/train-labels-idx1-ubyte.gz", lambda p: p.write_bytes(b"text" * 9)
        ),
        "train-labels-idx1-ubyte.gz is not a whole IDX file",
    ),
    "batch missing": (
        damage("cifar10", "cifar-10-batches-py/data_batch_4", Path.unlink),
        "data_batch_4 is missing",
    ),
    "batch cut": (damage("cifar10", "cifar-10-batches-py/data_batch_2", cut), "data_batch_2.*cut"),
    "mat cut": (damage("svhn", "train_32x32.mat", cut), "train_32x32.mat is cut short"),
    "not mat": (
        damage("svhn", "test_32x32.mat", lambda p: p.write_bytes(b"<html>" * 99)),
        "test_32x32.mat is not a MATLAB 5 file",
    ),
    "image cut": (
        damage("imagefolder", "cat/003.png", cut),
        r"1 of 50 images cannot be read: .*cat/003.png \(.*truncated",
    ),
    "image empty": (
        damage("imagefolder", "dog/002.png", lambda p: p.write_bytes(b"")),
        r"dog/002.png \(it is empty\)",
    ),
    "text for an image": (
        damage("imagefolder", "dog/001.png", lambda p: p.write_text("hello")),
        r"dog/001.png \(it is no image\)",
    ),
    "class without images": (
        damage("imagefolder", "emu", Path.mkdir),
        "emu holds no images",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_files_are_told_by_the_description(case: str, tmp_path: Path) -> None:
    make, message = BROKEN[case]
    (tmp_path / "data").mkdir()
    ref = make(tmp_path / "data")
    with pytest.raises(DataError, match=message) as told:
        data.describe(ref)
    assert "\n" not in str(told.value)


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="NAS_CACHE"):
        data.load(write("imagefolder", tmp_path / "data"), "train")


@pytest.mark.parametrize("below", ["", "cache"])
def test_a_cache_that_is_a_link_to_nowhere_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    """It was told that the file exists."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "unmounted")
    monkeypatch.setenv("NAS_CACHE", str(link / below))
    lost = f"{link} is a link to {tmp_path / 'unmounted'}, which is not there"
    with pytest.raises(DataError, match=lost):
        data.load(write("imagefolder", tmp_path / "data"), "train")


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


def test_a_hostile_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ref = write("cifar10", tmp_path / "data")
    batch = tmp_path / "data" / "cifar-10-batches-py" / "data_batch_1"
    batch.write_bytes(pickle.dumps({"data": Hostile(), "labels": []}))
    with pytest.raises(DataError, match="data_batch_1 is not a pickle of arrays"):
        data.load(ref, "train")
    assert not (tmp_path / "owned").exists()


def test_labels_outside_the_classes_are_told(tmp_path: Path) -> None:
    write_mnist(tmp_path, "")
    labels = np.full(50, 11, np.uint8)
    write_idx(tmp_path / "train-labels-idx1-ubyte", labels)
    with pytest.raises(DataError, match="label 11: must be 0 to 9"):
        data.load(DataRef(name="mnist", dir=str(tmp_path)), "train")


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (("a", "a"), "classes 0 and 1 of noise are both called 'a': must be different names"),
        (("a", ""), "class 1 of noise is called '': must be text in UTF-8"),
        (("a", "\ud800"), r"class 1 of noise is called '\\ud800': must be text in UTF-8"),
        (("a", 3), "class 1 of noise is called 3: must be text in UTF-8"),
        (
            ("\u00e9", "e\u0301"),
            r"noise has two classes that look the same, 'e\\u0301' and '\\xe9'",
        ),
    ],
)
def test_names_that_no_model_could_have_are_refused_before_the_training(
    classes: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = data.Dataset(
        about="noise",
        describe=lambda ref: data.Info(channels=2, height=3, width=4, classes=classes),
        read=lambda ref, part: Images.of(np.zeros((10, 2, 3, 4), np.uint8), np.arange(10) % 2),
    )
    monkeypatch.setitem(data.DATASETS, "noise", own)
    for look in (data.describe, lambda ref: data.load(ref, "train")):
        with pytest.raises(DataError, match=told):
            look(DataRef(name="noise"))


def test_a_plugged_in_data_set_needs_a_description_and_a_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = data.Dataset(
        about="noise",
        describe=lambda ref: data.Info(channels=2, height=3, width=4, classes=("a", "b")),
        read=lambda ref, part: Images.of(np.zeros((10, 2, 3, 4), np.uint8), np.arange(10) % 2),
    )
    monkeypatch.setitem(data.DATASETS, "noise", own)
    assert len(data.load(DataRef(name="noise"), "validation")) == 2


def test_the_real_mnist_reads(request: pytest.FixtureRequest) -> None:
    root = Path(os.environ.get("NAS_TEST_DATA", request.config.rootpath.parent / "shared/datasets"))
    if not (root / "mnist").is_dir():
        pytest.skip("no MNIST here")
    ref = DataRef(name="mnist", dir=str(root / "mnist"))
    assert [len(data.load(ref, p)) for p in ("train", "validation", "test")] == [
        50_000,
        10_000,
        10_000,
    ]
    normal = batches.statistics(data.read(ref, "train"))
    assert normal.mean[0] == pytest.approx(0.1307, abs=2e-3)  # as is widely used for MNIST
    assert normal.std[0] == pytest.approx(0.3081, abs=2e-3)


# On the way to the device.


def some_images(count: int = 23, shape: tuple[int, int, int] = (3, 9, 7)) -> Images:
    return Images.of(RNG.randint(0, 256, (count, *shape), np.uint8), np.arange(count) % 4)


def test_statistics_are_those_of_the_floats() -> None:
    images = some_images()
    floats = torch.from_numpy(images.pixels).double() / 255
    normal = batches.statistics(images)
    assert normal.mean == pytest.approx(floats.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert normal.std == pytest.approx(floats.std((0, 2, 3), correction=0).tolist(), rel=1e-12)


def test_statistics_are_kept_in_a_cache_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "home" / "nas"))
    write_folder(tmp_path / "d", {"a": 10, "b": 10})
    images = data.load(DataRef(name="imagefolder", dir=str(tmp_path / "d")), "train")
    normal = batches.statistics(images)
    kept = batches.beside(images)
    assert kept is not None
    assert json.loads(kept.read_text()) == [list(normal.mean), list(normal.std)]


def test_streamed_batches_are_the_resident_ones_to_the_bit() -> None:
    images, cpu = some_images(count=2500), torch.device("cpu")
    normal = batches.statistics(images)
    recipe = Recipe(
        **{"resized_crop": 0.5, "crop": 2, "padding": "reflect", "flip": True, "photometric": True},
        **{"cutout": 3, "erase": 0.5, "mixup": 0.2, "cutmix": 1.0},
    )

    def all_batches(budget: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(1)
        source = batches.Source.of(images, cpu, budget)
        assert source.streamed == (budget == 0)
        order = torch.randperm(len(images), generator=generator)
        prepare = batches.augmentation(normal, (9, 7), recipe, generator, classes=4)
        return list(batches.batches(source, order, 300, prepare))

    streamed, resident = all_batches(0), all_batches(1 << 30)
    assert [len(x) for x, _ in streamed] == [300] * 8 + [100]
    for (x, y), (a, b) in zip(streamed, resident, strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)


def test_large_images_are_prepared_a_few_at_a_time() -> None:
    images = some_images(count=300)
    counts: list[int] = []

    def note(pixels: torch.Tensor) -> torch.Tensor:
        counts.append(len(pixels))
        return pixels

    source = batches.Source.of(images, torch.device("cpu"))
    for size, expected in (((32, 32), [300]), ((224, 112), [80, 80, 80, 60])):
        counts.clear()
        list(batches.batches(source, torch.arange(300), 20, batches.Prepare(size, note)))
        assert counts == expected


def test_normalised_images_have_mean_0_and_deviation_1() -> None:
    images = some_images(500)
    prepare = batches.preparation(batches.statistics(images), (9, 7))
    x = prepare(torch.from_numpy(images.pixels))
    assert x.mean((0, 2, 3)).abs().max() < 1e-5
    assert (x.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_a_size_is_given_to_sets_of_any_size(tmp_path: Path) -> None:
    assert data.describe(DataRef(size=12)).shape == (1, 12, 12)
    images = some_images(5)
    x = batches.preparation(batches.statistics(images), (14, 12))(torch.from_numpy(images.pixels))
    assert x.shape == (5, 3, 14, 12)


@pytest.mark.parametrize(("common", "alone"), [(0, 500), (50, 50), (1000, 0), (900, 100), (9, 0)])
def test_sketches_tell_how_many_images_are_among_others(common: int, alone: int) -> None:
    def drawn(seed: int, count: int) -> digests.Digests:
        return np.random.default_rng(seed).integers(0, 256, (count, digests.LENGTH), np.uint8)

    ours = digests.sketch(np.concatenate([drawn(0, common), drawn(1, alone)]))
    others = digests.sketch(np.concatenate([drawn(2, 300), drawn(0, common)]))
    share = common / (common + alone)
    assert digests.shared(ours, others) == pytest.approx(share, abs=0.2 if 0 < share < 1 else 0)
    again = [drawn(1, alone), drawn(0, common)]
    assert np.array_equal(ours, digests.merged([digests.sketch(some) for some in again]))


@pytest.mark.parametrize("sizes", [(20, 20, 20), (10, 5, 45), (30, 1, 29), (12, 12, 12, 12, 12)])
def test_large_groups_are_split_whole(sizes: tuple[int, ...]) -> None:
    """Each is more than a tenth over what is to be held out; of three, each part has one."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.arange(60) % 2
    rest, test = holdout(labels, 12, 0, groups)
    train, validation = (rest[part] for part in holdout(labels[rest], 12, 0, groups[rest]))
    parts = [set(groups[part]) for part in (train, validation, test)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(sizes)


def test_too_few_groups_to_split_are_told(tmp_path: Path) -> None:
    rows = [f"{c}/{k}.png,{c},{k // 10}" for c in "ab" for k in range(20)]
    for c in "ab":
        (tmp_path / c).mkdir()
        for k in range(20):
            Image.new("L", (8, 8), 10 * k + ord(c)).save(tmp_path / c / f"{k}.png")
    (tmp_path / "t.csv").write_text("\n".join(["file,label,group", *rows]))
    ref = DataRef(name="imagefolder", dir=str(tmp_path / "t.csv"))
    with pytest.raises(DataError, match=r"t\.csv are in too few groups to split, as a group is"):
        data.load(ref, "train")
