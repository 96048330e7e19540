"""The survey: a digest of each image's bytes, and its size and kind from its header.

Cached for each root, by path, size and change time (``walking.mark``): a later survey costs a stat
per file, and notices each that was written, moved or renamed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nas.data import arrays, cache, picture, processes, progress
from nas.data.digests import LENGTH, digest
from nas.data.listing import Listing, Spot
from nas.errors import DataError
from nas.files import regular
from nas.processes import cores

R = TypeVar("R")

ROW = np.dtype([("digest", "u1", (LENGTH,)), ("height", "i4"), ("width", "i4"), ("flags", "u1")])
SEEN, GREY, FRAMES, OWN_RANGE = 1, 2, 4, 8
INLINE = 300  # up to so many files, starting processes costs more than it saves
CRASHED = "its decoder crashed"
SAVED = 15.0  # seconds between saves of a long survey


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """A row of ROW for each file of a listing, and why some cannot be read, by file number."""

    rows: npt.NDArray[np.void]
    errors: dict[int, str]

    def has(self, flag: int) -> npt.NDArray[np.bool_]:
        return (self.rows["flags"] & flag) > 0


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A chunk of a listing for one process: the images' numbers, where their bytes are, and the
    digests known so far."""

    root: str
    numbers: npt.NDArray[np.int64]
    spots: tuple[Spot, ...]
    digests: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.spots)

    def read(self, n: int) -> bytes:
        """The bytes of the ``n``-th image. Raises DataError."""
        name, offset, size = self.spots[n]
        return read(os.path.join(self.root, name), offset, size)  # a table's name may be absolute

    def singly(self) -> list[Piece]:
        """A piece for each image."""
        return [
            Piece(self.root, self.numbers[[n]], (spot,), self.digests[[n]])
            for n, spot in enumerate(self.spots)
        ]


def survey(listing: Listing) -> Survey:
    """Reads what is new or changed since the last survey. If interrupted, it resumes."""
    memory = record(listing.root)
    rows = known(memory, listing)
    errors: dict[int, str] = {}
    todo = np.flatnonzero(rows["flags"] & SEEN == 0)
    saved = time.monotonic()
    for piece, found in worked(look, pieces(listing, rows, todo), len(todo), "reading"):
        if found is None:
            errors |= {int(n): CRASHED for n in piece.numbers}
            continue
        rows[piece.numbers], failed = found
        errors |= {int(piece.numbers[n]): why for n, why in failed.items()}
        if time.monotonic() - saved > SAVED:
            remember(memory, listing, rows)
            saved = time.monotonic()
    if len(todo):
        remember(memory, listing, rows)
    return Survey(rows, errors)


def look(piece: Piece) -> tuple[npt.NDArray[np.void], dict[int, str]]:
    rows = np.zeros(len(piece), ROW)
    errors = {}
    for n in range(len(piece)):
        try:
            data = piece.read(n)
            rows[n]["digest"] = np.frombuffer(digest(data), np.uint8)
            head = picture.header(data)
        except DataError as error:
            errors[n] = str(error)
            continue
        flags = SEEN + GREY * head.grey + FRAMES * head.frames + OWN_RANGE * head.own_range
        rows[n]["height"], rows[n]["width"], rows[n]["flags"] = head.height, head.width, flags
    return rows, errors


def read(path: str, offset: int = 0, size: int = -1) -> bytes:
    """A file, or a range of its bytes. Raises DataError, without the path."""
    try:
        with open(path, "rb", buffering=0, opener=regular) as file:
            if size < 0:
                return file.read()
            data = os.pread(file.fileno(), size, offset)
            if len(data) < size:
                raise DataError("its file is cut off")
            return data
    except FileNotFoundError:
        missing = "a link to nothing" if os.path.islink(path) else "it is missing"
        raise DataError(missing) from None
    except OSError as error:
        raise DataError(error.strerror or str(error)) from error


def pieces(
    listing: Listing, rows: npt.NDArray[np.void], numbers: npt.NDArray[np.int64]
) -> list[Piece]:
    """These files in pieces, small enough that all cores finish at about the same time."""
    size = int(np.clip(len(numbers) // (cores() * 16), 8, 256))
    parts = np.split(numbers, range(size, len(numbers), size)) if len(numbers) else []
    spots = listing.spots(numbers)
    return [
        Piece(str(listing.root), part, tuple(spots[first : first + size]), rows["digest"][part])
        for first, part in zip(range(0, len(numbers), size), parts, strict=True)
    ]


def worked(
    function: Callable[[Piece], R], work: Sequence[Piece], total: int, doing: str
) -> Iterator[tuple[Piece, R | None]]:
    """Applies ``function`` to each piece, with progress on stderr; in processes where that pays. A
    piece that crashed its process is retried file by file; a file that crashes it has result
    None."""
    if total <= INLINE:
        yield from ((piece, function(piece)) for piece in work)
        return

    def counted(pieces: Iterable[Piece]) -> Iterator[tuple[int, tuple[Piece, R | None]]]:
        for piece, result in processes.spread(function, list(pieces)):
            if result is None and len(piece) > 1:
                yield from counted(piece.singly())
            else:
                yield len(piece), (piece, result)

    yield from progress.shown(counted(work), total, doing)


# What is cached: for each root the names, sizes, change times, and a row for each file.


def record(root: Path) -> Path:
    key = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:32]
    return cache.folder() / "folders" / f"{key}.safetensors"


def known(memory: Path, listing: Listing) -> npt.NDArray[np.void]:
    """The cached rows of the listed files; without the flag SEEN where there is none."""
    if listing.packed and listing.packed.rows is not None:
        return listing.packed.rows.copy()
    rows = np.zeros(len(listing), ROW)
    try:
        kept, _ = arrays.load(memory)
        names, sizes, changes = (kept[key] for key in ("names", "sizes", "changes"))
        before = unpacked(kept["rows"])
    except cache.LOST:
        return rows
    if np.array_equal(names, np.frombuffer(listing.names, np.uint8)):
        same = (listing.sizes == sizes) & (listing.changes == changes)
        rows[same] = before[same]
        return rows
    numbers = {name: n for n, name in enumerate(names.tobytes().split(b"\0"))}
    pairs = [
        (n, numbers[name]) for n, name in enumerate(listing.names.split(b"\0")) if name in numbers
    ]
    here, there = np.array(pairs, np.int64).reshape(-1, 2).T
    same = (listing.sizes[here] == sizes[there]) & (listing.changes[here] == changes[there])
    rows[here[same]] = before[there[same]]
    return rows


def remember(memory: Path, listing: Listing, rows: npt.NDArray[np.void]) -> None:
    kept: arrays.Arrays = {
        "names": np.frombuffer(listing.names, np.uint8),
        "sizes": listing.sizes,
        "changes": listing.changes,
        "rows": rows.view(np.uint8).reshape(len(rows), -1),
    }
    try:
        arrays.save(memory, kept, "")
    except OSError as error:
        raise cache.unwritable(error) from error


def unpacked(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    """Rows from the bytes that ``remember`` stored. Raises ValueError."""
    return np.ascontiguousarray(rows).view(ROW).reshape(-1)
