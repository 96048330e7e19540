"""Which images a directory or a table (CSV) names, with their parts and classes; opens no image.

Stored in arrays, not objects: 1.28 million files take 60 MB.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nas.data import kinds
from nas.data.images import Part
from nas.data.walking import (
    BARE,
    BESIDE,
    Gathered,
    Skipped,
    below,
    folders,
    holds_images,
    images_in,
    is_folder,
    others,
    scan,
    walked,
)
from nas.errors import DataError, brief, nearest
from nas.fields import encodable
from nas.text import counted, spelt, twins, undecoded

Spot = tuple[str, int, int]  # a file below the root, first byte, byte count (-1: all)
ORDER: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Where images lie that are packed into a few large files: the files, below the root, and for
    each image its file's number and first byte. ``rows``: their survey, where known."""

    files: tuple[str, ...]
    file: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    rows: npt.NDArray[np.void] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """The classes, and the files in reading order: by part, class and name.

    ``names``: the files' paths below ``root``, joined by NUL; ``parts``: where each part's files
    begin and end; ``places``: the folder that each comes from; ``groups``: the name of each image's
    group, or empty where there are none. ``notes`` are decisions about folders. ``packed``: where
    images lie that have no file each. ``empty``: messages about class folders of train without
    images, which are not in ``classes``.
    """

    root: Path
    classes: tuple[str, ...]
    parts: dict[Part, tuple[int, int]]
    places: dict[Part, str]
    names: bytes
    sizes: npt.NDArray[np.int64]
    changes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    skipped: Skipped
    notes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    packed: Packed | None = None
    empty: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        told_apart(self.root, self.classes)

    def __len__(self) -> int:
        return len(self.sizes)

    def spots(self, numbers: npt.NDArray[np.int64]) -> list[Spot]:
        """The file and bytes of each of these images."""
        if self.packed is None:
            names = self.paths() if len(numbers) else []
            return [(names[n], 0, -1) for n in numbers]
        arrays = (self.packed.file, self.packed.offsets, self.sizes)
        file, offsets, sizes = (each[numbers].tolist() for each in arrays)
        return list(zip([self.packed.files[n] for n in file], offsets, sizes, strict=True))

    def paths(self) -> list[str]:
        """Each file's path below the root."""
        return [os.fsdecode(name) for name in self.names.split(b"\0")] if len(self) else []


def build(
    root: Path,
    classes: Sequence[str],
    found: Gathered,
    parts: dict[Part, tuple[int, int]],
    places: dict[Part, str],
    notes: Iterable[str] = (),
    groups: Sequence[str] = (),
    packed: Packed | None = None,
    empty: Sequence[str] = (),
) -> Listing:
    sizes, changes, labels = (
        np.frombuffer(each, np.int64) if each else np.empty(0, np.int64)
        for each in (found.sizes, found.changes, found.labels)
    )
    for name in classes:  # models, records and reports are text
        if not encodable(name):
            raise DataError(f"the class '{spelt(name)}' of {root} has a name that is {undecoded()}")
    details = (tuple(notes), tuple(groups), packed, tuple(empty))
    names = bytes(found.names[:-1])
    return Listing(
        root, tuple(classes), parts, places, names, sizes, changes, labels, found.skipped, *details
    )


def told_apart(where: str | Path, names: Iterable[str]) -> None:
    """Raises DataError where two class names look the same."""
    if same := twins(names):
        raise DataError(
            f"{where} has two classes that look the same, {same[0]!a} and {same[1]!a}: they are "
            "written in different forms of Unicode; write both in one, such as NFC"
        )


def unknown_label(where: str, part: Part, label: str, classes: Sequence[str]) -> DataError:
    """The error for a label that no train image has. Raises DataError itself where the label looks
    the same as a known one."""
    told_apart(where, [label, *classes])
    return DataError(
        f"{where} of the {part} part has the label {brief(label, 60)!r}, which no image to train "
        f"on has: {nearest(label, classes)}"
    )


def listing(root: Path) -> Listing:
    """What a directory holds.

    Raises DataError where there are no two classes with images, a part names another class, a
    folder cannot be read or holds itself.
    """
    found = Gathered()
    base = unwrapped(root)
    notes = [f"read from {base}: it is all that {root} holds"] if base != root else []
    places = arrange(base, found, notes)
    train = places["train"]
    inner = {place: folders(place, found) for place in {root, base, *places.values()}}
    for place in sorted(inner):
        if beside := images_in(place):
            found.skip(BESIDE, str(place), beside)
    bare = [name for name in inner[train] if not holds_images(train / name)]
    classes = tuple(name for name in inner[train] if name not in bare)
    empty = [f"{train / name} holds no images{others(train / name)}" for name in bare]
    if len(classes) < 2:
        raise DataError(too_few(train, classes, empty))
    unknown = [
        f"{place / name} is no class of {train}: {nearest(name, classes)}"
        for place in places.values()
        for name in inner[place]
        if name not in inner[train]
    ]
    if unknown:
        for place in places.values():
            told_apart(root, {*inner[place], *classes})
        raise DataError("; ".join([*empty, *unknown]))
    parts: dict[Part, tuple[int, int]] = {}
    for part in ORDER:
        if part not in places:
            continue
        place, began = places[part], len(found)
        for name in bare:
            if part == "train":
                found.skip(BARE, str(place / name))
            elif name in inner[place] and (count := sum(1 for _ in below(place / name))):
                found.skip("of a class without images to train on", str(place / name), count)
        for name, inside_it in zip(classes, walked(root, place, classes, began), strict=True):
            found.take(inside_it)
            if part == "train" and not len(inside_it):
                raise DataError(f"{place / name} holds no images{others(place / name)}")
        if len(found) == began:
            raise DataError(f"{place} holds no images")
        parts[part] = began, len(found)
    if places == {"train": base} and (note := same_folders(base, classes)):
        notes.append(note)
    relative = {part: os.path.relpath(place, root) for part, place in places.items()}
    return build(root, classes, found, parts, relative, notes, empty=empty)


def too_few(train: Path, classes: Sequence[str], empty: Sequence[str]) -> str:
    """Why these classes cannot be trained on; ``empty`` are messages about folders without
    images."""
    if len(classes) + len(empty) >= 2:
        return f"{'; '.join(empty)}: at least two folders with images are needed"
    flat = f" and {counted(images, 'image')} outside them" if (images := images_in(train)) else ""
    return (
        f"{train} holds {counted(len(classes), 'class folder')}{flat}: at least two are needed, "
        f"each with the images of one class (or a .csv of file,label)"
    )


def unwrapped(root: Path) -> Path:
    """The root, or the folder below it that holds the parts or the classes: archives often unpack
    to DIR/NAME/..., or DIR/data/NAME/..."""
    below = root
    for _ in range(4):
        inner = [entry for entry in scan(below) if not kinds.is_dropping(entry.name)]
        if len(inner) != 1 or not is_folder(inner[0], below):
            break
        parts, rest = kinds.part_of(inner[0].name)
        if parts and not rest and "train" not in parts:
            break
        below = Path(inner[0].path)
        if sum(holds_images(below / name) for name in folders(below)) >= 2:
            return below
    return root


def arrange(root: Path, found: Gathered, notes: list[str]) -> dict[Part, Path]:
    """The folder of each part; the root itself is train where its folders are classes.

    A folder is a part by its name (``kinds.PARTS``) and by the class folders in it: a ``train``
    with images, beside ``tram``, is a class. What is named like a part but is none is noted.
    """
    names = [name for name in folders(root) if holds_images(root / name)]
    named = named_like_parts(names)
    aside = [name for name in names if name not in named]
    deep = {
        name
        for name in named
        if any(holds_images(root / name / inner) for inner in folders(root / name))
    }
    trains = sorted((name for name in deep if "train" in named[name]), key=kinds.rank)
    # "tr", for Turkish, is a class beside "de" and "fr": with other folders, only "train" counts.
    if aside and not (trains and "train" in trains[0].lower()):
        return {"train": root}
    if not trains:
        if len(named) < 2 and not deep:
            return {"train": root}
        parts = " and ".join(sorted(named))
        if deep:
            raise DataError(f"{root} holds {parts} but no folder to train on (train)")
        raise DataError(f"{parts} in {root} hold images without class folders: no labels there")
    places: dict[Part, Path] = {}
    classes = set(folders(inside(root, trains[0])))
    for name in sorted(named, key=kinds.rank):
        inner = folders(inside(root, name))
        free = [part for part in reversed(ORDER) if part in named[name] and part not in places]
        if name not in deep or (len(inner) < 2 and not classes & set(inner)):
            count = sum(1 for _ in below(root / name))
            found.skip("unlabelled", name, count)
            notes.append(
                f"{name} has no class folders: its {counted(count, 'image is', 'images are')} not "
                f"used, having no labels"
            )
        elif free:
            places[free[0]] = inside(root, name)
        else:
            aside.append(name)
    for name in sorted(aside):
        count = sum(1 for _ in below(root / name))
        found.skip("in a folder not used", name, count)
        notes.append(f"{name} is not used: {counted(count, 'image')}")
    return places


def named_like_parts(names: Sequence[str]) -> dict[str, tuple[Part, ...]]:
    """Those of the names that are like a part's, with the parts that each may be. "seg_train" is
    one beside a "seg_test"; "test tube" is a class."""
    like = {name: kinds.part_of(name) for name in names}
    rests = [rest for parts, rest in like.values() if parts]
    return {
        name: parts
        for name, (parts, rest) in like.items()
        if parts and (not rest or rests.count(rest) > 1)
    }


def same_folders(root: Path, classes: Sequence[str]) -> str:
    """A note where all class folders hold folders of the same names and nothing else, as in
    ``fold1/cat`` and ``fold2/cat``, whatever the language of the parts' names; else empty."""
    first = folders(root / classes[0])
    same = len(first) > 1 and all(
        folders(root / name) == first and not images_in(root / name) for name in classes
    )
    if not same:
        return ""
    note = (
        f"each class ({', '.join(classes[:5])}) holds folders of the same names "
        f"({', '.join(first[:5])})"
    )
    # Folders by format, jpg and png, hold a class's images like any others.
    if all(f".{name.lower()}" in kinds.ENDINGS for name in first):
        return note
    return f"{note}: if these are the classes, name the folders above them train, val and test"


def inside(root: Path, name: str) -> Path:
    """The folder of a part, without a lone folder within it of the same name, or called images,
    data, ..."""
    inner = folders(root / name)
    same = len(inner) == 1 and kinds.part_of(inner[0]) == kinds.part_of(name)
    if same or (len(inner) == 1 and inner[0].lower() in kinds.BESIDE):
        return root / name / inner[0]
    return root / name
