"""A directory of class folders, as torchvision's ImageFolder reads it: DIR/CLASS/*.jpg, or
DIR/train/CLASS/*.jpg with val/ and test/ beside it.

Decoding comes once: the images are kept, decoded and resized, as one memory-mapped array in the
cache directory, which all workers of a machine share through the page cache. 50,000 JPEGs of
32x32 take 11 s to decode on two cores and 0.3 s to map; in a search of 200 trials, each in a
process of its own, decoding each time would cost 38 minutes, and for images of 224x224 hours.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from nas.data import cache, digests
from nas.data.formats import directory
from nas.data.images import Images, Info, Labels, Part
from nas.errors import DataError
from nas.job import DataRef

ENDINGS = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
PARTS: dict[Part, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}
# Of a bigger folder only the headers of PROBED images are read at first: a wrong directory must be
# told in under a second.
CHECKED_BYTES = 8 << 20
PROBED = 64
LARGEST = 224  # the side that images of mixed sizes are resized to, at most


@dataclass(frozen=True, slots=True)
class File:
    """An image's path, its class number, and what tells whether it changed."""

    path: Path
    label: int
    size: int
    mtime: int


@dataclass(frozen=True, slots=True)
class Folder:
    """What a directory holds: the classes and the files of each part."""

    classes: tuple[str, ...]
    files: dict[Part, tuple[File, ...]]


@functools.lru_cache(maxsize=4)
def describe(ref: DataRef) -> Info:
    """Images of one size keep it. Images of mixed sizes are resized to a square of the median
    shorter side, at most 224; ``ref.size`` gives another. All grey: one channel, otherwise three.

    Raises DataError for a directory without class folders, a class without images, a file that is
    empty or no image.
    """
    folder = listing(directory(ref))
    seen = [file for part in folder.files if part != "test" for file in folder.files[part]]
    whole = sum(file.size for file in seen) <= CHECKED_BYTES
    if not whole:
        seen = seen[:: max(1, len(seen) // PROBED)]
    headers = [header(file.path, whole) for file in seen]
    sizes = {(height, width) for height, width, _ in headers}
    if ref.size:
        height = width = ref.size
    elif len(sizes) == 1:
        height, width = sizes.pop()
    else:
        side = int(np.median([min(height, width) for height, width, _ in headers]))
        height = width = min(LARGEST, side)
    channels = 1 if all(grey for *_, grey in headers) else 3
    return Info(
        channels=channels,
        height=height,
        width=width,
        classes=folder.classes,
        parts=tuple(folder.files),
    )


def labels(ref: DataRef, part: Part) -> Labels:
    """The class number of each image of a part, without decoding."""
    return np.array([file.label for file in listing(directory(ref)).files[part]], np.int64)


def read(ref: DataRef, part: Part) -> Images:
    """The images of a part, decoded. Raises DataError for one that cannot be."""
    files = listing(directory(ref)).files[part]
    return Images.of(decoded(files, describe(ref).shape), np.array([f.label for f in files]))


def identity(ref: DataRef) -> str:
    """A digest of the classes and of each image's bytes, class and part."""
    listing.cache_clear()  # the files as they are now
    root = directory(ref)
    folder = listing(root)
    files = [file for part in folder.files.values() for file in part]
    found = digests.of_files(root, [file.path for file in files])
    ends = np.cumsum([len(part) for part in folder.files.values()])[:-1]
    labels = np.array([file.label for file in files])
    return digests.identity(
        folder.classes,
        zip(folder.files, np.split(labels, ends), np.split(found, ends), strict=True),
    )


@functools.lru_cache(maxsize=4)
def listing(root: Path) -> Folder:
    """The parts, classes and files under ``root``. Raises DataError for an empty class or file."""
    places: dict[Part, Path] = {"train": root}
    # A folder "train" that holds images, not folders, is a class.
    if (root / "train").is_dir() and folders(root / "train"):
        found = {
            part: [root / n for n in names if (root / n).is_dir()] for part, names in PARTS.items()
        }
        places = {part: paths[0] for part, paths in found.items() if paths}
    classes = folders(places["train"])
    if len(classes) < 2:
        raise DataError(
            f"{places['train']} holds {len(classes)} class folders: at least two are needed, each "
            f"with the images of one class"
        )
    files: dict[Part, tuple[File, ...]] = {}
    for part, place in places.items():
        for name in folders(place):
            if name not in classes:
                raise DataError(f"{place / name} is no class of {places['train']}")
        files[part] = tuple(f for n, name in enumerate(classes) for f in images(place / name, n))
        if not files[part]:
            raise DataError(f"{place} holds no images")
    missing = set(range(len(classes))) - {file.label for file in files["train"]}
    if missing:
        empty = places["train"] / classes[min(missing)]
        raise DataError(f"{empty} holds no images ({', '.join(sorted(ENDINGS))})")
    return Folder(classes, files)


def folders(path: Path) -> tuple[str, ...]:
    names = (e.name for e in os.scandir(path) if e.is_dir() and not e.name.startswith("."))
    return tuple(sorted(names))


def images(path: Path, label: int) -> Iterator[File]:
    if not path.is_dir():
        return
    for entry in sorted(os.scandir(path), key=lambda e: e.name):
        if entry.is_dir():
            yield from images(Path(entry.path), label)
        elif os.path.splitext(entry.name)[1].lower() in ENDINGS:
            try:
                stat = entry.stat()
            except OSError as error:
                raise DataError(f"{entry.path} cannot be read: {error.strerror}") from error
            if not stat.st_size:
                raise DataError(f"{entry.path} is empty: an image was expected")
            yield File(Path(entry.path), label, stat.st_size, stat.st_mtime_ns)


def header(path: Path, whole: bool) -> tuple[int, int, bool]:
    """Height, width, and whether the image is grey; ``whole`` decodes it to see that it can be."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if whole:
                image.load()
            # Of a PNG, getexif() decodes all. Orientations from 5 on swap the sides.
            turned = image.format == "JPEG" and image.getexif().get(0x0112, 1) >= 5
            height, width = image.size if turned else image.size[::-1]
            return height, width, image.mode in ("1", "L")
    # PIL's readers raise nearly anything on a broken file: OSError, SyntaxError, struct.error.
    except Exception as error:
        raise DataError(f"{path} is not a readable image: {error}") from error


def decode(path: Path, shape: tuple[int, int, int]) -> Any:
    """The image as channels x height x width bytes: turned upright, scaled to cover the size, and
    cut to it about the centre."""
    from PIL import Image, ImageOps

    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(path) as image:
            image.draft(mode, (width, height))  # a JPEG is decoded at 1/2 to 1/8 where that covers
            upright = ImageOps.exif_transpose(image).convert(mode)
            if upright.size != (width, height):
                upright = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
            return np.asarray(upright).reshape(height, width, channels).transpose(2, 0, 1)
    except Exception as error:
        raise DataError(f"{path} is not a readable image: {error}") from error


def decoded(files: tuple[File, ...], shape: tuple[int, int, int]) -> Any:
    """N x channels x height x width bytes, mapped from the cache; decoded into it the first time.

    The array's name is a hash of the files' paths, lengths and times, so a changed folder is
    decoded anew. Raises DataError where the cache cannot be written.
    """
    told = repr((shape, [(str(f.path), f.size, f.mtime) for f in files]))
    path = cache.folder() / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.npy"
    bytes_needed = len(files) * int(np.prod(shape))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One process decodes; the others on this machine wait for it instead of doing the same.
        with (path.parent / f"{path.stem}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                fill(path, files, shape)
        return np.load(path, mmap_mode="r")
    except OSError as error:
        raise DataError(
            f"{path.parent} cannot take the decoded images ({bytes_needed / 1e6:.0f} MB): "
            f"{error.strerror or error} (NAS_CACHE names another directory)"
        ) from error


def fill(path: Path, files: tuple[File, ...], shape: tuple[int, int, int]) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        array = npy.open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(files), *shape))
        # Reserved first: on a full disk, writing to a mapped page kills the process.
        with part.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, part.stat().st_size)

        def put(n: int) -> None:
            array[n] = decode(files[n].path, shape)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL decodes outside Python's lock
            for _ in pool.map(put, range(len(files))):
                pass
        array.flush()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
