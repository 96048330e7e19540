"""The images of a listing, decoded once into one array that every process of a machine maps.

The array is cached under a digest of the images' content: a copy of a folder is not decoded again,
and of a changed folder only what changed. It is filled by one process per core; if interrupted, it
resumes.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from nas.data import cache, encoded, picture, survey
from nas.data.digests import digest
from nas.data.encoded import Encoded
from nas.data.images import Pixels
from nas.data.listing import Listing
from nas.data.survey import CRASHED, Piece, Survey
from nas.errors import DataError

# The state of a row of the array: not yet decoded, an image, an image of a single colour,
# unreadable, an image whose colours were converted to sRGB.
MISSING, DECODED, BLANK, FAILED, CONVERTED = range(5)
ENCODED = "encoded.safetensors"
SAVED = 5.0  # seconds between saves of the progress
FORM = 4  # version of the decoding: increased whenever a file decodes to other pixels


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """N x channels x height x width bytes, mapped, or decoded on access; the state of each image,
    and why some failed."""

    folder: Path
    pixels: Pixels  # or an Encoded, which is indexed alike
    states: npt.NDArray[np.uint8]
    errors: dict[int, str]


def decoded(listing: Listing, seen: Survey, shape: tuple[int, int, int]) -> Decoded:
    """All images of a listing: from the cache, or decoded now; where the array would exceed the
    cache's limit, each is checked now and decoded on access.

    Raises DataError where the cache cannot be written, or a file changes meanwhile.
    """
    size = len(listing) * int(np.prod(shape))
    need = f"the decoded images ({size / 1e6:.0f} MB)"
    try:
        folder = folder_of(seen, shape, len(listing))
        # Encoded images refer to files of one place: to a copy of the folder they are no use.
        if large := size > cache.limit() and not (folder / "errors.json").exists():
            folder = folder_of(seen, shape, len(listing), str(listing.root))
        elif not folder.exists():
            cache.make_room(size)
        # One process decodes; the others on this machine wait for it.
        with cache.locked(folder):
            if not complete(folder):
                fill(folder, listing, seen, shape, large)
            return opened(folder)
    except OSError as error:
        raise cache.unwritable(error, need) from error


def folder_of(seen: Survey, shape: tuple[int, int, int], count: int, root: str = "") -> Path:
    key = repr((FORM, shape, count, *filter(None, [root]))).encode()
    return cache.folder() / "images" / digest(key + seen.rows["digest"].tobytes()).hex()


def complete(folder: Path) -> bool:
    """Whether all is decoded. A crash may have been a killed process: those images are retried."""
    try:
        return CRASHED not in opened(folder).errors.values()
    except cache.LOST:
        return False


def opened(folder: Path) -> Decoded:
    """The decoded images in a folder. Raises OSError, ValueError, KeyError."""
    errors = json.loads((folder / "errors.json").read_text())
    shape = json.loads((folder / "about.json").read_text())["shape"]
    states = np.load(folder / "states.npy")
    pixels: Any
    if (folder / ENCODED).exists():
        pixels = encoded.opened(folder / ENCODED, shape[1:])
    else:
        # Copy on write, as torch shares only writable memory without a copy. Nobody writes to it.
        pixels = np.load(folder / "pixels.npy", mmap_mode="c")
        pixels.used = cache.use(folder)  # locked for as long as the map exists
    return Decoded(folder, pixels, states, {int(n): why for n, why in errors.items()})


def fill(
    folder: Path, listing: Listing, seen: Survey, shape: tuple[int, int, int], large: bool
) -> None:
    """Decodes what is missing; of a ``large`` set only whether each image can be read is kept."""
    digests = seen.rows["digest"]
    path = folder / "pixels.npy"
    about = {"root": str(listing.root), "shape": [len(listing), *shape]}
    (folder / "about.json").write_text(json.dumps(about))
    if large:
        encoded.keep(folder / ENCODED, listing, digests)
    elif not path.exists():
        part = folder / "pixels.part"
        npy.open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(listing), *shape))
        # Reserved first: on a full disk, writing to a mapped page kills the process.
        with part.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
        part.replace(path)
    pixels = None if large else np.load(path, mmap_mode="r+")
    states = started(folder, len(listing))
    errors = dict(seen.errors)
    states[[*errors]] = FAILED
    latest = survey.record(listing.root).with_suffix(f".{FORM}-{'x'.join(map(str, shape))}")
    reuse(latest, digests, pixels, states)
    todo = np.flatnonzero(states == MISSING)
    work = survey.pieces(listing, seen.rows, todo)
    saved = time.monotonic()
    task = partial(decode, "" if large else str(path), shape)
    doing = "checking" if large else "decoding"
    for piece, found in survey.worked(task, work, len(todo), doing):
        if found is None:
            states[piece.numbers] = FAILED
            errors |= {int(n): CRASHED for n in piece.numbers}
            continue
        states[piece.numbers], failed = found
        errors |= {int(piece.numbers[n]): why for n, why in failed.items()}
        if time.monotonic() - saved > SAVED:
            if pixels is not None:
                pixels.flush()
            keep(folder, states)
            saved = time.monotonic()
    if pixels is not None:
        pixels.flush()
    keep(folder, states)
    np.save(folder / "digests.npy", digests)
    with cache.whole(latest) as part:
        part.write_text(folder.name)
    with cache.whole(folder / "errors.json") as part:
        part.write_text(json.dumps(errors))


def decode(
    array: str, shape: tuple[int, int, int], piece: Piece
) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    """Decodes a piece's images, and writes them to the array's file, if any. Returns their states,
    and why some failed."""
    pixels = np.load(array, mmap_mode="r+") if array else None
    states = np.full(len(piece), DECODED, np.uint8)
    errors = {}
    for n, number in enumerate(piece.numbers):
        try:
            data = piece.read(n)
            if digest(data) != piece.digests[n].tobytes():
                raise DataError("it changed while it was read")
            image = picture.decoded(data, shape)
        except DataError as error:
            states[n], errors[n] = FAILED, str(error)
            continue
        if pixels is not None:
            pixels[number] = image
        if picture.converted(data):
            states[n] = CONVERTED
        # Two corners first: comparing all pixels takes 1/6 of the time to decode 32x32 pixels.
        corner = image[:, :1, :1]
        if (corner == image[:, -1:, -1:]).all() and (corner == image).all():
            states[n] = BLANK
    return states, errors


def started(folder: Path, count: int) -> npt.NDArray[np.uint8]:
    """The states that an earlier run saved, with failed images to be retried."""
    try:
        states: npt.NDArray[np.uint8] = np.load(folder / "states.npy")
        return np.where(states == FAILED, MISSING, states)
    except cache.LOST:
        return np.zeros(count, np.uint8)


def keep(folder: Path, states: npt.NDArray[np.uint8]) -> None:
    with cache.whole(folder / "states.npy") as part, part.open("wb") as file:
        np.save(file, states)


def reuse(
    latest: Path, digests: npt.NDArray[np.uint8], pixels: Pixels | None, states: Pixels
) -> None:
    """Copies images that this folder's previous array has already; for a large set, which has no
    ``pixels``, only their states."""
    try:
        before = opened(cache.folder() / "images" / latest.read_text())
        old = keys(np.load(before.folder / "digests.npy"))
    except cache.LOST:
        return
    if pixels is not None and isinstance(before.pixels, Encoded):
        return
    order = np.argsort(old)
    todo = np.flatnonzero(states == MISSING)
    at = order[np.searchsorted(old, keys(digests[todo]), sorter=order).clip(max=len(old) - 1)]
    good = (old[at] == keys(digests[todo])) & (before.states[at] != FAILED)
    if pixels is not None:
        for here, there in zip(todo[good], at[good], strict=True):
            pixels[here] = before.pixels[there]
    states[todo[good]] = before.states[at[good]]


def keys(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.bytes_]:
    """Digests as strings of bytes, which numpy can sort and search."""
    return np.ascontiguousarray(digests).view(f"S{digests.shape[1]}").ravel()
