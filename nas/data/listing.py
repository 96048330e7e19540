"""Which images a directory or a table (CSV) names, of which part and class; no image is opened.

In arrays, not objects: 1.28 million files take 60 MB.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nas.data import kinds, processes
from nas.data.images import Part
from nas.errors import DataError, brief, nearest

Skipped = dict[str, tuple[int, tuple[str, ...]]]  # reason: how many, and three of them
ABSENT = -1, 0  # size and time of a file that is not there
Spot = tuple[str, int, int]  # a file below the root, the first byte, and how many (-1: all)
EXAMPLES = 3
INLINE = 50_000  # so many files are listed in less time than processes take to start
ORDER: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(slots=True, eq=False)
class Gathered:
    """What a walk has found so far: names relative to the root, lengths, times, class numbers."""

    names: bytearray = field(default_factory=bytearray)  # each with a NUL behind
    sizes: array[int] = field(default_factory=lambda: array("q"))
    mtimes: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("q"))
    skipped: Skipped = field(default_factory=dict)

    def skip(self, reason: str, path: str, count: int = 1) -> None:
        number, examples = self.skipped.get(reason, (0, ()))
        shown = (*examples, brief(path)) if len(examples) < EXAMPLES else examples
        self.skipped[reason] = number + count, shown

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, other: Gathered) -> None:
        """All of another behind what is here."""
        self.names += other.names
        self.sizes += other.sizes
        self.mtimes += other.mtimes
        self.labels += other.labels
        for reason, (count, examples) in other.skipped.items():
            for example in examples:
                self.skip(reason, example, 1)
            number, shown = self.skipped[reason]
            self.skipped[reason] = number + count - len(examples), shown

    def add(self, name: str, size: int, mtime: int, label: int) -> None:
        """``size`` 0 is an empty file, -1 one that is not there."""
        self.add_all("", [name], [(size, mtime)], label)

    def add_all(
        self, folder: str, names: list[str], states: list[tuple[int, int]], label: int
    ) -> None:
        """Files of a folder ("" or with a slash behind), each with its size and time."""
        self.names += os.fsencode("".join(f"{folder}{name}\0" for name in names))
        self.sizes.extend(size for size, _ in states)
        self.mtimes.extend(mtime for _, mtime in states)
        self.labels.extend([label] * len(names))


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Where images are that lie in a few large files: these, below the root, and of each image the
    number of its file and its first byte there. ``rows``: what a survey knows of them, if any."""

    files: tuple[str, ...]
    file: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    rows: npt.NDArray[np.void] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """The classes, and the files in reading order: by part, class and name.

    ``names``: the files' paths below ``root``, joined by NUL; ``parts``: where each part's files
    begin and end; ``places``: the folder that each comes from; ``groups``: the numbers of what a
    table says belongs together (none: empty). ``notes`` say what was decided about folders.
    ``packed``: where they are, if not each in a file of its own.
    """

    root: Path
    classes: tuple[str, ...]
    parts: dict[Part, tuple[int, int]]
    places: dict[Part, str]
    names: bytes
    sizes: npt.NDArray[np.int64]
    mtimes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    skipped: Skipped
    notes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    packed: Packed | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    def spots(self, numbers: npt.NDArray[np.int64]) -> list[Spot]:
        """Where the bytes of some images are."""
        if self.packed is None:
            names = self.paths() if len(numbers) else []
            return [(names[n], 0, -1) for n in numbers]
        told = (self.packed.file, self.packed.offsets, self.sizes)
        file, offsets, sizes = (each[numbers].tolist() for each in told)
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
) -> Listing:
    sizes, mtimes, labels = (
        np.frombuffer(each, np.int64) if each else np.empty(0, np.int64)
        for each in (found.sizes, found.mtimes, found.labels)
    )
    for name in classes:  # a model, a record and a report are text
        if name != name.encode(errors="ignore").decode():
            raise DataError(f"the class {name!a} of {root} has a name that is not UTF-8: rename it")
    told = (tuple(notes), tuple(groups), packed)
    names = bytes(found.names[:-1])
    return Listing(
        root, tuple(classes), parts, places, names, sizes, mtimes, labels, found.skipped, *told
    )


def listing(root: Path) -> Listing:
    """What a directory holds.

    Raises DataError where there are no two classes, a class has no images, a part names another
    class, a folder cannot be read or holds itself.
    """
    found = Gathered()
    base = unwrapped(root)
    notes = [f"read from {base}: it is all that {root} holds"] if base != root else []
    places = arrange(base, found, notes)
    train = places["train"]
    inner = {place: folders(place, found) for place in {root, base, *places.values()}}
    for place in sorted(inner):
        if beside := images_in(place):
            found.skip("images beside the class folders", str(place), beside)
    classes = inner[train]
    if len(classes) < 2:
        flat = f" and {images_in(train)} images outside them" if images_in(train) else ""
        raise DataError(
            f"{train} holds {len(classes)} class folders{flat}: at least two are needed, each "
            f"with the images of one class (or a .csv of file,label)"
        )
    parts: dict[Part, tuple[int, int]] = {}
    for part in ORDER:
        if part not in places:
            continue
        place = places[part]
        for name in inner[place]:
            if name not in classes:
                raise DataError(f"{place / name} is no class of {train}: {nearest(name, classes)}")
        began = len(found)
        for name, inside_it in zip(classes, walked(root, place, classes, began), strict=True):
            found.take(inside_it)
            if part == "train" and not len(inside_it):
                raise DataError(f"{place / name} holds no images{others(place / name)}")
        if len(found) == began:
            raise DataError(f"{place} holds no images")
        parts[part] = began, len(found)
    if places == {"train": base} and (inner_names := shared(base, classes)):
        notes.append(
            f"each class ({', '.join(classes[:5])}) holds folders of the same names "
            f"({', '.join(inner_names[:5])}): if these are the classes, name the folders above "
            f"them train, val and test"
        )
    told = {part: os.path.relpath(place, root) for part, place in places.items()}
    return build(root, classes, found, parts, told, notes)


def unwrapped(root: Path) -> Path:
    """The root, or the folder in it that holds the parts or the classes: archives often unpack to
    DIR/NAME/..., or DIR/data/NAME/..."""
    below = root
    for _ in range(4):
        inner = [entry for entry in scan(below) if not kinds.is_dropping(entry.name)]
        if len(inner) != 1 or not inner[0].is_dir():
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

    A folder is a part by its name (``kinds.PARTS``) and by the class folders in it: ``train`` that
    holds images beside ``tram`` is a class. What looks like a part and is none is noted.
    """
    names = [name for name in folders(root) if holds_images(root / name)]
    like = {name: kinds.part_of(name) for name in names}
    # "seg_train" is a part beside a "seg_test"; "test tube" is a class.
    rests = [rest for parts, rest in like.values() if parts]
    named = {
        name: parts
        for name, (parts, rest) in like.items()
        if parts and (not rest or rests.count(rest) > 1)
    }
    aside = [name for name in names if name not in named]
    deep = {name for name in named if any(holds_images(root / name / n) for n in
                                          folders(root / name))}  # fmt: skip
    trains = sorted((name for name in deep if "train" in named[name]), key=kinds.rank)
    if not trains:
        if aside or (len(named) < 2 and not deep):
            return {"train": root}
        told = " and ".join(sorted(named))
        if deep:
            raise DataError(f"{root} holds {told} but no folder to train on (train)")
        raise DataError(f"{told} in {root} hold images without class folders: no labels there")
    # Turkish, "tr", is a class beside "de" and "fr": only a plain name makes parts of a few.
    if aside and "train" not in trains[0].lower():
        return {"train": root}
    places: dict[Part, Path] = {}
    classes = set(folders(inside(root, trains[0])))
    for name in sorted(named, key=kinds.rank):
        inner = folders(inside(root, name))
        free = [part for part in reversed(ORDER) if part in named[name] and part not in places]
        if name not in deep or (len(inner) < 2 and not classes & set(inner)):
            count = sum(1 for _ in below(root / name))
            found.skip("unlabelled", name, count)
            notes.append(f"{name} has no class folders: its {count} images are not used, having no "
                         f"labels")  # fmt: skip
        elif free:
            places[free[0]] = inside(root, name)
        else:
            aside.append(name)
    for name in sorted(aside):
        count = sum(1 for _ in below(root / name))
        found.skip("in a folder not used", name, count)
        notes.append(f"{name} is not used: {count} images")
    return places


def shared(root: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """The folders in class folders, where all have the same ones and no images beside them: as
    ``fold1/cat`` and ``fold2/cat`` have, whatever language parts are named in."""
    first = folders(root / classes[0])
    same = len(first) > 1 and all(
        folders(root / name) == first and not images_in(root / name) for name in classes
    )
    return first if same else ()


def inside(root: Path, name: str) -> Path:
    """The folder of a part: that of the same name in it where that is all there is, or of one that
    is called images, data, ..."""
    inner = folders(root / name)
    same = len(inner) == 1 and kinds.part_of(inner[0]) == kinds.part_of(name)
    if same or (len(inner) == 1 and inner[0].lower() in kinds.BESIDE):
        return root / name / inner[0]
    return root / name


def scan(path: Path, number: int | None = None) -> list[os.DirEntry[str]]:
    """What a folder holds, by name; ``number`` is that of the open folder, if any. Raises DataError
    where that cannot be read."""
    try:
        with os.scandir(path if number is None else number) as entries:
            return sorted(entries, key=attrgetter("name"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def folders(path: Path, found: Gathered | None = None) -> tuple[str, ...]:
    """The folders in a folder, droppings left out, and counted where ``found`` is given."""
    names = []
    for entry in scan(path):
        if kinds.is_dropping(entry.name):
            if found is not None:
                found.skip("droppings", entry.path)
        elif entry.is_dir():
            names.append(entry.name)
        elif found is not None and not os.path.exists(entry.path):
            found.skip("a link to nothing", entry.path)
        elif found is not None and (why := kinds.unread(entry.name)):
            found.skip(why, entry.path)
    return tuple(names)


def images_in(path: Path) -> int:
    """How many images lie in a folder itself."""
    return sum(
        not (kinds.is_dropping(e.name) or kinds.unread(e.name) or e.is_dir()) for e in scan(path)
    )


Above = tuple[tuple[int, int], ...]  # the folders over this one, by device and number


def below(path: Path, above: Above = ()) -> Iterator[str]:
    """The images in a folder and its folders, its own first. Of those of a large folder the first
    is there before the others are looked at."""
    here, inner = within(path, above), []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if not (why := kinds.unused(entry.name)) and not entry.is_dir():
                    yield entry.path
                elif why != kinds.DROPPING and entry.is_dir():
                    inner.append(entry.path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    for folder in inner:
        yield from below(Path(folder), here)


def holds_images(path: Path) -> bool:
    return next(below(path), None) is not None


def within(path: Path, above: Above) -> Above:
    """A folder behind those above it. Raises DataError where it is one of these."""
    try:
        here = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if (place := (here.st_dev, here.st_ino)) in above:
        raise DataError(f"{path} is a link to a folder that holds it")
    return (*above, place)


def walked(root: Path, place: Path, classes: Sequence[str], began: int) -> Iterator[Gathered]:
    """What each class folder of a part holds. Beyond ``INLINE`` files the rest is spread over
    processes. A file takes 3 microseconds of processor time: 1.6 of the kernel's for its state,
    which nothing may stand for (one overwritten in place changes no folder's time), 0.5 to list it.
    """
    count, work = began, list(enumerate(classes))
    while work and count < INLINE:
        number, name = work.pop(0)
        inside_it = walk_all((root, place, [(number, name)]))[0]
        count += len(inside_it)
        yield inside_it
    size = max(1, len(work) // (8 * processes.cores()))
    pieces = [(root, place, work[n : n + size]) for n in range(0, len(work), size)]
    waiting: dict[int, list[Gathered]] = {}
    for (_, _, some), answer in processes.spread(walk_all, pieces):
        if answer is None:
            raise DataError(f"{place} cannot be read: its reader crashed")
        waiting[some[0][0]] = answer
        while ready := waiting.pop(len(classes) - len(work), None):
            del work[: len(ready)]
            yield from ready


def walk_all(piece: tuple[Path, Path, list[tuple[int, str]]]) -> list[Gathered]:
    root, place, classes = piece
    every = []
    for number, name in classes:
        every.append(Gathered())
        walk(root, place / name, number, every[-1])
    return every


def walk(root: Path, path: Path, label: int, found: Gathered, above: Above = ()) -> None:
    """Adds the images in a class's folder and in its folders, by name. Each file is asked for its
    state, by its folder's number: by its path takes half as long again."""
    if not path.is_dir():
        return
    here = within(path, above)
    start = f"{path}/"[len(str(root)) + 1 :]
    names: list[str] = []
    states: list[tuple[int, int]] = []
    try:
        number = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        for entry in scan(path, number):
            name = entry.name
            if (why := kinds.unused(name)) and (why == kinds.DROPPING or not entry.is_dir()):
                found.skip(why, f"{path}/{name}")
            elif entry.is_dir():
                found.add_all(start, names, states, label)
                names, states = [], []
                walk(root, path / name, label, found, here)
            else:
                try:
                    state = entry.stat()
                except OSError:
                    names.append(name)
                    states.append(ABSENT)
                    continue
                if stat.S_ISREG(state.st_mode):
                    names.append(name)
                    states.append((state.st_size, state.st_mtime_ns))
                else:
                    found.skip("no regular file", f"{path}/{name}")
    finally:
        os.close(number)
    found.add_all(start, names, states, label)


def others(path: Path) -> str:
    """What a class folder without images holds instead."""
    aside = Gathered()
    walk(path, path, 0, aside)
    told = ", ".join(f"{count} {reason}" for reason, (count, _) in aside.skipped.items())
    return f" ({told})" if told else f" ({' '.join(sorted(kinds.ENDINGS)[:12])} ...)"
