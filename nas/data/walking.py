"""Walks folders of images for names, sizes and times; opens no image."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from nas.data import kinds, processes
from nas.errors import DataError, brief
from nas.processes import cores
from nas.text import counted

Skipped = dict[str, tuple[int, tuple[str, ...]]]  # reason: count, and up to EXAMPLES files
ABSENT = -1, 0  # size and time of a missing file
EXAMPLES = 3
BESIDE = "images beside the class folders"
BARE = "class folders without images"
ONE: Mapping[str, str] = {  # reasons that are nouns, in the singular
    kinds.DROPPING: "dropping",
    BESIDE: "image beside the class folders",
    BARE: "class folder without images",
}
INLINE = 50_000  # up to so many files, starting processes costs more than it saves


@dataclass(slots=True, eq=False)
class Gathered:
    """What a walk has found so far: names relative to the root, sizes, times, class numbers."""

    names: bytearray = field(default_factory=bytearray)  # each ends in NUL
    sizes: array[int] = field(default_factory=lambda: array("q"))
    changes: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("q"))
    skipped: Skipped = field(default_factory=dict)

    def skip(self, reason: str, path: str, count: int = 1) -> None:
        number, examples = self.skipped.get(reason, (0, ()))
        shown = (*examples, brief(path)) if len(examples) < EXAMPLES else examples
        self.skipped[reason] = number + count, shown

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, other: Gathered) -> None:
        """Appends all of another."""
        self.names += other.names
        self.sizes += other.sizes
        self.changes += other.changes
        self.labels += other.labels
        for reason, (count, examples) in other.skipped.items():
            for example in examples:
                self.skip(reason, example, 1)
            number, shown = self.skipped[reason]
            self.skipped[reason] = number + count - len(examples), shown

    def add(self, name: str, size: int, changed: int, label: int) -> None:
        """``size`` is 0 for an empty file, -1 for a missing one."""
        self.add_all("", [name], [(size, changed)], label)

    def add_all(
        self, folder: str, names: list[str], states: list[tuple[int, int]], label: int
    ) -> None:
        """Files of a folder ("" or ending in a slash), each with its size and time."""
        self.names += os.fsencode("".join(f"{folder}{name}\0" for name in names))
        self.sizes.extend(size for size, _ in states)
        self.changes.extend(changed for _, changed in states)
        self.labels.extend([label] * len(names))


def scan(path: Path, number: int | None = None) -> list[os.DirEntry[str]]:
    """A folder's entries, sorted by name; ``number`` is its file descriptor, if open. Raises
    DataError where it cannot be read."""
    try:
        with os.scandir(path if number is None else number) as entries:
            return sorted(entries, key=attrgetter("name"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def folders(path: Path, found: Gathered | None = None) -> tuple[str, ...]:
    """The folders in a folder, without droppings; ``found``, if given, counts what is skipped."""
    names = []
    for entry in scan(path):
        if kinds.is_dropping(entry.name):
            if found is not None:
                found.skip(kinds.DROPPING, entry.path)
        elif is_folder(entry, path):
            names.append(entry.name)
        elif found is not None and not os.path.exists(entry.path):
            found.skip("a link to nothing", entry.path)
        elif found is not None and (why := kinds.unread(entry.name)):
            found.skip(why, entry.path)
    return tuple(names)


def is_folder(entry: os.DirEntry[str], path: Path) -> bool:
    """Whether an entry of the folder ``path`` is one; a link that leads round to itself is none.
    Raises DataError where nobody may look."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise DataError(f"{path / entry.name} cannot be read: {error.strerror}") from error


def mark(state: os.stat_result) -> int:
    """A number that changes with a file, without reading it: its ctime, which nobody sets back,
    and its inode, as renaming a folder changes no file in it."""
    return (state.st_ctime_ns + 1_000_000_007 * state.st_ino) % (1 << 63)


def images_in(path: Path) -> int:
    """How many images are directly in a folder."""
    return sum(
        not (kinds.is_dropping(e.name) or kinds.unread(e.name) or is_folder(e, path))
        for e in scan(path)
    )


Above = tuple[tuple[int, int], ...]  # the folders above this one, by device and inode


def below(path: Path, above: Above = ()) -> Iterator[str]:
    """The images in a folder, then those in its subfolders. Lazy: the first image of a large folder
    comes before the others are looked at."""
    here, inner = within(path, above), []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if not (why := kinds.unused(entry.name)) and not is_folder(entry, path):
                    yield entry.path
                elif why != kinds.DROPPING and is_folder(entry, path):
                    inner.append(entry.path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    for folder in inner:
        yield from below(Path(folder), here)


def holds_images(path: Path) -> bool:
    return next(below(path), None) is not None


def within(path: Path, above: Above) -> Above:
    """``above`` with this folder added. Raises DataError where it is one of those already."""
    try:
        here = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if (place := (here.st_dev, here.st_ino)) in above:
        raise DataError(f"{path} is a link to a folder that holds it")
    return (*above, place)


def walked(root: Path, place: Path, classes: Sequence[str], began: int) -> Iterator[Gathered]:
    """The contents of each class folder of a part. Beyond ``INLINE`` files the rest is spread over
    processes. A file takes 3 us of CPU time: 1.6 for its stat, which cannot be saved (overwriting a
    file in place does not change its folder's time), and 0.5 for listing it.
    """
    count, work = began, list(enumerate(classes))
    while work and count < INLINE:
        number, name = work.pop(0)
        inside_it = walk_all((root, place, [(number, name)]))[0]
        count += len(inside_it)
        yield inside_it
    size = max(1, len(work) // (8 * cores()))
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
    """Adds the images in a class folder and its subfolders, by name. Files are statted relative to
    their folder's descriptor: by path it takes half as long again."""
    if not path.is_dir():
        return
    here = within(path, above)
    start = f"{path.relative_to(root)}/"
    names: list[str] = []
    states: list[tuple[int, int]] = []
    try:
        number = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        for entry in scan(path, number):
            name = entry.name
            why = kinds.unused(name)
            if why and (why == kinds.DROPPING or not is_folder(entry, path)):
                found.skip(why, f"{path}/{name}")
            elif is_folder(entry, path):
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
                    states.append((state.st_size, mark(state)))
                else:
                    found.skip("no regular file", f"{path}/{name}")
    finally:
        os.close(number)
    found.add_all(start, names, states, label)


def others(path: Path) -> str:
    """What a class folder without images holds instead, in parentheses."""
    aside = Gathered()
    walk(path, path, 0, aside)
    counts = ", ".join(with_count(reason, count) for reason, (count, _) in aside.skipped.items())
    return f" ({counts or 'it is empty'})"


def with_count(reason: str, count: int) -> str:
    """A reason for skipping, after the number of what is skipped."""
    return counted(count, ONE.get(reason, reason), reason)
