"""Packs a folder of images into a few tar files with an index, in WebDataset's format, which
``shards`` reads.

The images' bytes and order stay the same, and so does their identity: results on the folder hold
for its tars.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.data import cache, imagefolder, index, listing, progress, shards, survey, table, tars
from nas.data.digests import digest
from nas.data.listing import Listing, Packed
from nas.errors import DataError
from nas.job import DataRef

SIZE = 1 << 30  # bytes of a tar, as a rule: some 10,000 photographs


@dataclass(frozen=True, slots=True)
class Written:
    """How many images went into how many tars of how many bytes in all."""

    images: int
    files: int
    bytes: int


def pack(ref: DataRef, out: Path, size: int = SIZE) -> Written:
    """Writes the images of a folder or a table as ``out``/PART-NNNNNN.tar, with ``classes.txt`` and
    an index beside them; a table's groups go with them. Until complete, they are in a hidden folder
    beside ``out``; what a killed run left there is removed.

    Raises DataError where ``out`` is not a new or empty folder, a file is not an image or changes
    meanwhile, another process packs to ``out``, or the disk is full.
    """
    root = imagefolder.location(ref)
    if tars.files(ref.dir):
        raise DataError(f"{root} holds tar files: only a folder of images is packed")
    if size < 1:
        raise DataError(f"a tar of {size} bytes: must be 1 or more")
    refuse(out, root)
    if root.is_dir() and ref.group_by:
        raise DataError(
            f"--group-by {ref.group_by}: of a folder it is given where its tars are used, which "
            f"keep the names; here it names a column of a table"
        )
    found = listing.listing(root) if root.is_dir() else table.listing(root, ref.group_by)
    if wrong := imagefolder.refused_folders(found, ""):
        raise DataError("; ".join(wrong))
    seen = survey.survey(found)
    if seen.errors:
        names = found.paths()
        reasons = {names[n]: why for n, why in seen.errors.items()}
        raise imagefolder.unreadable(found.root, len(found), reasons, "move them away")
    if unwritten := [name for name in found.classes if not is_line(name)]:
        raise DataError(
            f"the class {unwritten[0]!r} cannot be packed: its name is no line of UTF-8"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with alone(out) as part:
            text = "".join(f"{name}\n" for name in found.classes)
            (part / shards.CLASSES).write_text(text, encoding="utf-8", newline="\n")
            files, where = written(found, seen, part, size)
            lengths = [(part / name).stat().st_size for name in files]
            keep(found, seen, part, files, where, lengths)
            part.replace(out)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}") from error
    return Written(len(found), len(files), sum(lengths))


@contextlib.contextmanager
def alone(out: Path) -> Iterator[Path]:
    """A new folder, to be renamed to ``out``, in a hidden one that this process locks, and removes
    at the end. The lock shows whether the process that made it still runs. Raises DataError."""
    own = out.parent / f".nas-pack-{digest(os.fsencode(out.name)).hex()[:8]}"
    with cache.locked(own, wait=False) as held:
        if not held:
            raise DataError(f"{out} is being packed by another process ({own})")
        try:
            part = own / "whole"
            if part.exists():
                shutil.rmtree(part)
            part.mkdir()
            yield part
        finally:
            shutil.rmtree(own)


def refuse(out: Path, root: Path) -> None:
    """Raises DataError, before any work, where ``out`` cannot become a new folder of tars."""
    if out.name in ("", ".."):
        raise DataError(f"{out} has no name of its own: the tars go into a new folder")
    if out.is_symlink():
        raise DataError(f"{out} is a link: the tars go into a new folder")
    if out.is_mount():
        raise DataError(f"{out} is where a disk is mounted: the tars go into a new folder")
    if root.is_dir() and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(root)):
        raise DataError(f"{out} is within {root}: its tars would be a part of these images")
    try:
        if out.exists() and any(out.iterdir()):
            raise DataError(f"{out} is not empty: tars of another set would be mixed with these")
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}") from error


def is_line(name: str) -> bool:
    """Whether ``name`` survives being written to ``classes.txt`` and read back."""
    text = name.encode(errors="ignore").decode("utf-8-sig")
    return text == name and bool(name.strip()) and not {"\n", "\r"} & set(name)


def keep(
    found: Listing,
    seen: survey.Survey,
    out: Path,
    files: list[str],
    where: list[tuple[int, int]],
    lengths: list[int],
) -> None:
    """Writes the index, with the survey's row of each image."""
    file, offsets = np.array(where, np.int64).reshape(-1, 2).T
    packed = Packed(tuple(files), file.copy(), offsets.copy())
    every = Listing(
        out, found.classes, found.parts, found.places, found.names, found.sizes, found.changes,
        found.labels, found.skipped, found.notes, found.groups, packed,
    )  # fmt: skip
    index.keep(out / index.INDEX, every, files, lengths, seen.rows)


def written(
    found: Listing, seen: survey.Survey, out: Path, size: int
) -> tuple[list[str], list[tuple[int, int]]]:
    """Writes the tars; returns their names and, for each image, its tar's number and its offset."""
    files: list[str] = []
    where: list[tuple[int, int]] = []
    names = found.paths()
    keys = unique(names)

    def fill() -> Iterator[tuple[int, None]]:
        for part, (begin, end) in found.parts.items():
            number, first = begin, len(files)
            while number < end:
                files.append(f"{part}-{len(files) - first:06}{tars.ENDING}")
                with tarfile.open(out / files[-1], "x:") as tar:
                    while number < end and tar.offset < size:
                        where.append((len(files) - 1, add(tar, number)))
                        number += 1
                        yield 1, None

    def add(tar: tarfile.TarFile, number: int) -> int:
        data = survey.read(os.path.join(found.root, names[number]))
        if digest(data) != seen.rows["digest"][number].tobytes():
            raise DataError(f"{found.root / names[number]} changed while it was read")
        stem, ending = keys[number]
        member = tarfile.TarInfo(f"{stem}{ending}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
        place = tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        beside = {"cls": str(found.labels[number])}
        if found.groups and found.groups[number]:
            beside["json"] = json.dumps({shards.GROUP: found.groups[number]})
        for what, text in beside.items():
            member = tarfile.TarInfo(f"{stem}.{what}")
            member.size = len(text)  # ASCII
            tar.addfile(member, io.BytesIO(text.encode()))
        return place

    for _ in progress.shown(fill(), len(found), "packing"):
        pass
    return files, where


def unique(names: list[str]) -> list[tuple[str, str]]:
    """A key and an ending for each path. WebDataset's key is a name up to its first dot, and files
    with one key are one sample."""
    keys: list[tuple[str, str]] = []
    taken = set()
    for name in names:
        # A table may name files anywhere: a tar must not unpack outside its folder.
        inside = "/".join(step for step in name.split("/") if step not in ("", ".", ".."))
        stem, ending = os.path.splitext(inside)
        folder, base = os.path.split(stem)
        key = os.path.join(folder, base.replace(".", "_"))
        while key in taken:
            key += f"_{len(keys)}"
        taken.add(key)
        keys.append((key, ending))
    return keys
