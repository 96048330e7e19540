"""Finds the tar files that a directory, a path or a pattern names."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from nas.data import kinds
from nas.data.walking import folders, holds_images, scan
from nas.errors import DataError

ENDING = ".tar"
MOST = 1_000_000  # names that a brace pattern may expand to
COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tzst|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)
BRACES = re.compile(r"\{([^{}]*)\}")


def is_pattern(text: str) -> bool:
    """Whether a path is a pattern for several files: ``train-*.tar``, ``train-{000..146}.tar``."""
    return bool(set("*?[{") & set(text)) and not os.path.exists(text)


def files(text: str) -> tuple[Path, list[str], bool] | None:
    """The tars that a directory, a pattern or a path names: their common folder, their paths below
    it, and whether these are all tars there. None where it names no tar; a folder of images with a
    tar beside them is a folder of images.

    Raises DataError for a pattern that matches no file, and for a compressed tar beside others.
    """
    path = Path(text)
    if is_pattern(text):
        found = {os.path.abspath(name) for each in expanded(text) for name in matching(each)}
        root = Path(os.path.commonpath([os.path.dirname(name) for name in found]))
        return root, sorted(os.path.relpath(name, root) for name in found), False
    if path.suffix == ENDING and path.is_file():
        return path.parent, [path.name], False
    if not path.is_dir() or holds_images(path):
        return None
    inner = ["", *(f"{name}/" for name in folders(path))]
    names = [f"{at}{entry.name}" for at in inner for entry in scan(path / at)]
    tars = sorted(name for name in names if name.endswith(ENDING))
    if not tars:
        return None
    if packed := [name for name in names if COMPRESSED.search(name)]:
        raise DataError(
            f"{path / packed[0]} is a compressed tar, which cannot be read at any place: unpack it "
            "to a .tar, or move it away"
        )
    return path, [name for name in tars if not kinds.is_dropping(os.path.basename(name))], True


def expanded(text: str) -> Iterator[str]:
    """Expands braces as a shell does: ``{000..146}``, ``{a,b}``. Raises DataError for more than
    ``MOST`` names, before the first name where the count is known."""
    first, count = text, 1
    while (pair := BRACES.search(first)) and count <= MOST:
        count *= len(choices(pair[1]))
        first = next(replaced(first, pair))
    todo, made = [iter([text])], 0
    while todo and max(count, made) <= MOST:
        name = next(todo[-1], None)
        if name is None:
            todo.pop()
        elif pair := BRACES.search(name):
            todo.append(replaced(name, pair))
        else:
            made += 1
            yield name
    if todo:
        raise DataError(f"{text} names more than {MOST:,} files: at most so many are read")


def replaced(name: str, pair: re.Match[str]) -> Iterator[str]:
    return (f"{name[: pair.start()]}{each}{name[pair.end() :]}" for each in choices(pair[1]))


def choices(inside: str) -> list[str]:
    numbers = re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})", inside)
    if not numbers:
        return inside.split(",")
    first, last = map(int, numbers.groups())
    # Zero-padded to the wider bound where either begins with 0.
    padded = any(len(text) > 1 and text[0] == "0" for text in numbers.groups())
    width = max(map(len, numbers.groups())) if padded else 0
    step = 1 if first <= last else -1
    return [f"{number:0{width}}" for number in range(first, last + step, step)[: MOST + 1]]


def matching(pattern: str) -> list[str]:
    found = sorted(glob.glob(pattern))
    if not found:
        raise DataError(f"{pattern} names no file")
    if wrong := [name for name in found if not name.endswith(ENDING)]:
        raise DataError(f"{wrong[0]} is no {ENDING}: a compressed one cannot be read at any place")
    return found
