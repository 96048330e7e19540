"""Data sets: their description (``describe``), and their train, validation and test images
(``load``).

A search selects by the validation images; only final scores read the test images. Needs no torch:
``nas.data.batches`` moves images to the device.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.data import digests, footprint, formats, imagefolder
from nas.data.images import Images, Info, Labels, Part
from nas.data.listing import told_apart
from nas.data.splits import holdout
from nas.errors import DataError, nearest
from nas.fields import encodable
from nas.job import DataRef
from nas.text import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A kind of data set.

    ``describe`` checks the files and returns shape, classes and parts, in under a second and
    without torch; ``read`` returns one of these parts. All raise DataError. Optional: ``labels``
    returns a part's class indices without decoding; ``roomy`` a reference to the same images, large
    enough to crop from; ``identity`` a digest of the images (default: of the arrays' bytes);
    ``names`` each image's file, in the order of ``Images.pixels``; ``sketch`` a summary of a part's
    files (``digests.sketch``); ``torchvision`` is the name of the class there that downloads them.
    """

    about: str
    describe: Callable[[DataRef], Info]
    read: Callable[[DataRef, Part], Images]
    labels: Callable[[DataRef, Part], Labels] | None = None
    identity: Callable[[DataRef], str] | None = None
    names: Callable[[DataRef], Sequence[str]] | None = None
    roomy: Callable[[DataRef], DataRef] | None = None
    sketch: Callable[[DataRef, Part], digests.Sketch] | None = None
    torchvision: str = ""


DATASETS: dict[str, Dataset] = {
    "digits": Dataset(
        about="1,797 handwritten digits, 1x8x8, with scikit-learn",
        describe=formats.digits_info,
        read=formats.digits,
    ),
    "mnist": Dataset(
        about="70,000 handwritten digits, 1x28x28",
        describe=formats.idx_info("MNIST", formats.TEN),
        read=formats.idx("MNIST"),
        identity=formats.identity(formats.idx_paths("MNIST"), formats.TEN),
        torchvision="MNIST",
    ),
    "fashion_mnist": Dataset(
        about="70,000 pictures of clothes, 1x28x28",
        describe=formats.idx_info("FashionMNIST", formats.CLOTHES),
        read=formats.idx("FashionMNIST"),
        identity=formats.identity(formats.idx_paths("FashionMNIST"), formats.CLOTHES),
        torchvision="FashionMNIST",
    ),
    "cifar10": Dataset(
        about="60,000 photographs in 10 classes, 3x32x32",
        describe=formats.cifar_info(
            "cifar-10-batches-py", formats.CIFAR10, "label_names", "batches.meta"
        ),
        read=formats.cifar("cifar-10-batches-py", formats.CIFAR10, "labels"),
        identity=formats.identity(
            formats.cifar_paths("cifar-10-batches-py", formats.CIFAR10, "batches.meta"), ()
        ),
        torchvision="CIFAR10",
    ),
    "cifar100": Dataset(
        about="60,000 photographs in 100 classes, 3x32x32",
        describe=formats.cifar_info(
            "cifar-100-python", formats.CIFAR100, "fine_label_names", "meta"
        ),
        read=formats.cifar("cifar-100-python", formats.CIFAR100, "fine_labels"),
        identity=formats.identity(
            formats.cifar_paths("cifar-100-python", formats.CIFAR100, "meta"), ()
        ),
        torchvision="CIFAR100",
    ),
    "svhn": Dataset(
        about="99,289 house-number digits, 3x32x32",
        describe=formats.svhn_info,
        read=formats.svhn,
        identity=formats.identity(formats.svhn_paths, formats.TEN),
        torchvision="SVHN",
    ),
    "imagefolder": Dataset(
        about="a directory of class folders, with or without train/, val/ and test/ above them; "
        "or WebDataset's tar files",
        describe=imagefolder.describe,
        read=imagefolder.read,
        labels=imagefolder.labels,
        identity=imagefolder.identity,
        names=imagefolder.names,
        roomy=imagefolder.roomy,
        sketch=imagefolder.sketch,
    ),
}


def describe(ref: DataRef) -> Info:
    """The shape, as it reaches a network, and the classes of the images.

    Reads headers rather than images. Raises DataError for an unknown name, and for files that are
    missing, incomplete or of another format.
    """
    info = dataset(ref.name).describe(ref)
    check_names(ref, info.classes)
    if ref.size:
        return dataclasses.replace(info, height=ref.size, width=ref.size)
    return info


def check_names(ref: DataRef, classes: Sequence[str]) -> None:
    """Raises DataError for class names that a model file could not hold."""
    where = ref.dir or ref.name
    first: dict[str, int] = {}
    for number, name in enumerate(classes):
        if not isinstance(name, str) or not name or not encodable(name):
            raise DataError(f"class {number} of {where} is called {name!a}: must be text in UTF-8")
        if (before := first.setdefault(name, number)) != number:
            raise DataError(
                f"classes {before} and {number} of {where} are both called {name!a}: must be "
                "different names"
            )
    told_apart(where, classes)


def load(ref: DataRef, part: Part) -> Images:
    """The images of one part: train, validation or test.

    A part that the set lacks is held out from its train images: a fifth of them, at most 10,000,
    stratified by class and drawn with ``ref.split_seed``. Raises DataError.
    """
    if part != "train" and part in dataset(ref.name).describe(ref).parts:
        return read(dataclasses.replace(ref, split_seed=0), part)
    return split(ref)[part]


@functools.lru_cache(maxsize=4)
def split(ref: DataRef) -> dict[Part, Images]:
    """The train images, and the parts held out from them. Raises DataError."""
    parts = dataset(ref.name).describe(ref).parts
    images = read(dataclasses.replace(ref, split_seed=0), "train")
    made: dict[Part, Images] = {}
    count = min(len(images) // 5, 10_000)
    held_out: tuple[Part, ...] = ("test", "validation")
    for held in held_out:
        if held in parts:
            continue
        if not count:
            raise DataError(
                f"{ref.dir or ref.name} holds {counted(len(images), 'image')}: too few to split"
            )
        groups = None if images.groups is None else images.groups[images.rows]
        rest, chosen = holdout(images.labels[images.rows], count, ref.split_seed, groups)
        if not len(chosen):
            raise DataError(
                f"the images of {ref.dir or ref.name} are in too few groups to split, as a group "
                f"is never divided: none is left for {held}"
            )
        made[held] = dataclasses.replace(images, rows=images.rows[chosen])
        images = dataclasses.replace(images, rows=images.rows[rest])
    return {"train": images, **made}


def roomy(ref: DataRef) -> DataRef:
    """The same images with the same split, stored larger than they reach a network, to crop from;
    ``ref`` itself where they are not larger."""
    kind = dataset(ref.name)
    return kind.roomy(ref) if kind.roomy else ref


def identity(ref: DataRef) -> str:
    """32 hexadecimal digits that identify the images by their content.

    A digest of the classes and of each image's part, class and bytes, in reading order: any change
    to an image, label, part or class name changes it, a copy elsewhere has the same. The size and
    split of ``ref`` are not part of it. After the first time it costs a stat per file, and notices
    files that were written, moved or renamed. Raises DataError.
    """
    split.cache_clear()  # the files may have changed
    read.cache_clear()
    kind = dataset(ref.name)
    if kind.identity:
        return kind.identity(ref)
    info = kind.describe(ref)
    parts = []
    for part in info.parts:
        images = read(dataclasses.replace(ref, split_seed=0), part)
        rows = [digests.digest(images.pixels[n].tobytes()) for n in images.rows]
        found = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
        parts.append((part, images.labels[images.rows], found))
    return digests.identity(info.classes, parts)


def sketch(ref: DataRef, part: Part | None = None) -> digests.Sketch:
    """A summary of the images of a part, as they are in files (of all that a training may use, if
    None), by which they are found among others (``digests.shared``). Empty where they cannot
    change. Raises DataError."""
    kind = dataset(ref.name)
    if not kind.sketch:
        return digests.merged([])
    found = describe(ref).parts
    asked = [each for each in found if each != "test"] if part is None else [part]
    # What is no part of the files is split from the train images.
    return digests.merged([kind.sketch(ref, each if each in found else "train") for each in asked])


def names(ref: DataRef) -> Sequence[str]:
    """Each image's file, relative to the directory, in the order of ``Images.pixels``; empty where
    images are not files. Raises DataError."""
    known = dataset(ref.name).names
    return known(ref) if known else ()


def trained(ref: DataRef) -> int:
    """The number of images to train on."""
    return len(load(ref, "train"))


def streamed(ref: DataRef) -> bool:
    """Whether a training streams these images, as they are too many, or not decoded."""
    return footprint.streamed(load(ref, "train"))


def summary(ref: DataRef) -> str:
    """A description: "400 images in 2 classes (cat, dog)". Raises DataError."""
    info = dataset(ref.name).describe(ref)
    count = sum(len(labels(ref, part)) for part in info.parts)
    shown = ", ".join([*info.classes[:5], *(["..."] if len(info.classes) > 5 else [])])
    return (
        f"{counted(count, 'image')} in {counted(len(info.classes), 'class', 'classes')} ({shown})"
    )


def download(ref: DataRef) -> None:
    """Downloads the data set to ``ref.dir`` with torchvision, which checks its MD5. Raises
    DataError."""
    kind = dataset(ref.name)
    if not kind.torchvision:
        raise DataError(f"the data set {ref.name} is not one that can be downloaded")
    if not ref.dir:
        raise DataError(f"downloading {ref.name} needs a directory to put it in (--data)")
    import torchvision

    make = getattr(torchvision.datasets, kind.torchvision)
    try:
        if ref.name == "svhn":
            for split in ("train", "test"):
                make(Path(ref.dir), split=split, download=True)
        else:
            make(Path(ref.dir), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{ref.name} could not be downloaded to {ref.dir}: {error}") from error


def dataset(name: str) -> Dataset:
    """Raises DataError where the name is not in DATASETS."""
    if name not in DATASETS:
        near = nearest(name, DATASETS)
        raise DataError(f"the data set {name!r} is unknown, unless a --plugin adds it: {near}")
    return DATASETS[name]


@functools.lru_cache(maxsize=4)
def read(ref: DataRef, part: Part) -> Images:
    """A part of the source, validated. Raises DataError."""
    kind = dataset(ref.name)
    info, images = kind.describe(ref), kind.read(ref, part)
    check_names(ref, info.classes)
    where = f"the {part} part of {ref.dir or ref.name}"
    expected = (len(images.labels), info.channels, info.height, info.width)
    if images.pixels.dtype != np.uint8 or images.pixels.shape != expected:
        found = f"{images.pixels.dtype} {images.pixels.shape}"
        raise DataError(f"{where} holds images of {found}: must be uint8 {expected}")
    if not len(images):
        raise DataError(f"{where} holds no images")
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= len(info.classes):
        wrong = low if low < 0 else high
        raise DataError(f"{where} has the label {wrong}: must be 0 to {len(info.classes) - 1}")
    return images


def labels(ref: DataRef, part: Part) -> Labels:
    """The class indices of the images of a part that the set has. Raises DataError."""
    kind = dataset(ref.name)
    if kind.labels:
        return kind.labels(ref, part)
    images = read(dataclasses.replace(ref, split_seed=0), part)
    return images.labels[images.rows]
