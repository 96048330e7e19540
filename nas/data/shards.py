"""Images in tar files, in WebDataset's format: ``x.jpg``, and beside it its label, ``x.cls``.

A label is a number or a name in ``x.cls`` or ``x.txt``, or a field of ``x.json`` (``cls``,
``label``, ...); where no image has one, its folder in the tar is its class. A ``classes.txt``
beside the tars names the numbers, one per line from 0; with it a whole number always means a line,
even where class names are numbers. Nothing is unpacked: an index says where in its tar an image
lies (``nas.data.index``). It is beside the tars that ``nas data pack`` made; for others it is made
once, and cached.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nas.data import cache, index, kinds, processes, progress
from nas.data.digests import digest
from nas.data.images import Part
from nas.data.listing import ORDER, Listing, Packed, build, told_apart, unknown_label
from nas.data.table import NAMES
from nas.data.tars import ENDING
from nas.data.walking import Gathered, mark
from nas.errors import DataError, brief
from nas.files import regular
from nas.text import counted

CLASSES = "classes.txt"
LABELS = ("cls", "txt", "json")  # in order of precedence
FIELDS = ("cls", *NAMES["label"])
GROUP = "group"  # the field of x.json that names a group, which splits keep together
# What reading a file that is not an index raises: it may hold anything.
NONE = (*cache.LOST, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Sample:
    """An image in a tar, with its label and its group, each empty where there is none."""

    name: str
    offset: int
    size: int
    label: str
    group: str


class Entry(NamedTuple):
    """A sample with the name of its class and the number of its tar."""

    label: str
    tar: int
    sample: Sample


# --- what is in them -----------------------------------------------------------------------------


def listing(root: Path, names: Sequence[str], every: bool = False) -> Listing:
    """The images of tars, by part, class, tar and place in it. Where ``every`` says that these are
    all tars of the folder, the index beside them is used. Raises DataError for a truncated tar, for
    a label that no train image has, and as a folder's listing does."""
    try:
        states = [(root / name).stat() for name in names]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    lengths = [state.st_size for state in states]
    times = np.array([mark(state) for state in states], np.int64)
    first: dict[tuple[int, int], str] = {}
    for name, state in zip(names, states, strict=True):
        same = first.setdefault((state.st_dev, state.st_ino), name)
        if same != name:
            raise DataError(f"{root / same} and {root / name} are one file: it would count twice")
    classes = names_of(root, names)
    beside = root / index.INDEX
    if every and beside.exists():
        try:
            found = index.restored(beside, root, names, lengths, times)
        except NONE as error:
            raise DataError(
                f"{beside} is not an index ({brief(str(error), 100)}): without it, all is read "
                "again"
            ) from error
        if classes not in ([], list(found.classes)):
            raise DataError(f"{root / CLASSES} names other classes than {beside}")
        return found
    key = json.dumps(
        [index.FORM, str(root.absolute()), list(names), lengths, times.tolist(), classes]
    )
    memory = cache.folder() / "shards" / f"{digest(key.encode()).hex()}.safetensors"
    try:
        return index.restored(memory, root, names, lengths, times)
    except NONE:
        pass
    found = gathered(root, names, times, classes)
    index.keep(memory, found, names, lengths)
    return found


def gathered(root: Path, names: Sequence[str], times: Any, classes: Sequence[str]) -> Listing:
    """A listing made by reading the tars. ``times`` has the ``mark`` of each; ``classes`` are the
    names in ``classes.txt``, if any."""
    found = Gathered()
    part_of = parts_of(names, found)
    read = read_tars(root, names, part_of, found)
    by_part: dict[Part, list[Entry]] = {part: [] for part in ORDER}
    for entry in entries(root, names, read, classes, found):
        by_part[part_of[names[entry.tar]]].append(entry)
    every = classes_of(root, classes, {entry.label for entry in by_part["train"]})
    numbers = {name: n for n, name in enumerate(every)}
    parts: dict[Part, tuple[int, int]] = {}
    where: list[tuple[int, int]] = []
    groups: list[str] = []
    for part in ORDER:
        began = len(found)
        for label, tar, sample in sorted(
            by_part[part], key=lambda entry: (numbers.get(entry.label, -1), entry.tar)
        ):
            if label not in numbers:
                raise unknown_label(f"{root / names[tar]}: {sample.name}", part, label, every)
            name = f"{names[tar]}/{sample.name}"
            found.add(name, sample.size, int(times[tar]), numbers[label])
            where.append((tar, sample.offset))
            groups.append(sample.group)
        if len(found) > began:
            parts[part] = began, len(found)
    file, offsets = np.array(where, np.int64).reshape(-1, 2).T
    places = {
        part: brief(", ".join(n for n in names if part_of.get(n) == part), 60) for part in parts
    }
    notes = [f"read from {len(read):,} tar files"]
    packed = Packed(tuple(names), file.copy(), offsets.copy())
    told_groups = groups if any(groups) else ()
    return build(root, every, found, parts, places, notes, told_groups, packed)


def read_tars(
    root: Path, names: Sequence[str], part_of: Mapping[str, Part], found: Gathered
) -> dict[int, list[Sample]]:
    """The samples of each tar that belongs to a part, by the tar's number, read in processes; what
    is left out is counted in ``found``."""
    read: dict[int, list[Sample]] = {}
    work = [(str(root), name, number) for number, name in enumerate(names) if name in part_of]
    done = ((1, each) for each in processes.spread(samples, work))
    for (_, name, number), answer in progress.shown(done, len(work), "reading tars"):
        if answer is None:
            raise DataError(f"{root / name} cannot be read: its reader crashed")
        read[number], skipped = answer
        for reason, examples in skipped.items():
            for example in examples:
                found.skip(reason, f"{name}/{example}")
    return read


def entries(
    root: Path,
    names: Sequence[str],
    read: Mapping[int, Sequence[Sample]],
    classes: Sequence[str],
    found: Gathered,
) -> Iterator[Entry]:
    """The samples with their classes, tar by tar: the labels, or the folders where no image has a
    label. Samples without a class are counted in ``found``."""
    any_label = any(sample.label for each in read.values() for sample in each)
    for tar in sorted(read):
        for sample in read[tar]:
            label = sample.label if any_label else os.path.basename(os.path.dirname(sample.name))
            if not label:
                found.skip("unlabelled", f"{names[tar]}/{sample.name}")
                continue
            known = class_of(label, classes, any_label) if classes else label
            if not known:
                told_apart(f"{root / names[tar]}: {sample.name}", [label, *classes])
                raise DataError(
                    f"{root / names[tar]}: {sample.name} has the label {brief(label, 60)}, "
                    f"which {CLASSES} does not name ({counted(len(classes), 'class', 'classes')})"
                )
            yield Entry(known, tar, sample)


def classes_of(root: Path, classes: Sequence[str], train: Collection[str]) -> Sequence[str]:
    """All classes in the order of their numbers: ``classes``, or else those of the ``train``
    images. Raises DataError where a class has no train image, or there are fewer than two."""
    every = classes or sorted(train, key=lambda label: (len(label) * label.isdigit(), label))
    if len(every) < 2 or len(train) < 2:
        raise DataError(
            f"{root}: the tars name {counted(len(train), 'class', 'classes')} to train on "
            f"({CLASSES} beside them is "
            f"what numbers are called): at least two are needed, in .cls, .txt or .json"
        )
    if missing := [name for name in every if name not in train]:
        raise DataError(f"{root}: no image to train on is of the class {missing[0]}")
    return every


def class_of(label: str, classes: Sequence[str], any_label: bool) -> str:
    """The class that a label means, empty for none. A number is a line of ``classes.txt``. Without
    ``any_label`` the labels are names of folders, and match by name first."""
    number = re.fullmatch("[+-]?[0-9]+", label)
    if not (number and any_label) and label in classes:
        return label
    # int() refuses text of over 4,300 digits.
    place = int(label) if number and len(label) < 20 else -1
    return classes[place] if 0 <= place < len(classes) else ""


def names_of(root: Path, names: Sequence[str]) -> list[str]:
    """The lines of ``classes.txt`` beside the tars or in their folders; empty where there is none.
    Raises DataError where two differ, and for a file that is not a list of names."""
    every: list[str] = []
    for folder in sorted({"", *map(os.path.dirname, names)}):
        path = root / folder / CLASSES
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {brief(str(error), 100)}") from error
        while lines and not lines[-1].strip():
            lines.pop()
        seen: dict[str, int] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip():
                raise DataError(f"{path}, line {number} is empty: a class has a name")
            if (before := seen.setdefault(line, number)) != number:
                raise DataError(f"{path} names {line!r} twice, in lines {before} and {number}")
        if not lines:
            raise DataError(f"{path} is empty: it names the classes, a line each")
        if every not in ([], lines):
            raise DataError(f"{path} names other classes than the {CLASSES} of other tars")
        every = lines
    return every


def parts_of(names: Sequence[str], found: Gathered) -> dict[str, Part]:
    """The part of each tar, by its name or its folder's; train for all where no name says one."""
    like: dict[str, tuple[Part, ...]] = {}
    for name in names:
        for text in (os.path.basename(name).removesuffix(ENDING), os.path.dirname(name)):
            if parts := kinds.part_of(text)[0]:
                like[name] = parts
                break
    if not like:
        return dict.fromkeys(names, "train")
    if not any("train" in parts for parts in like.values()):
        raise DataError(f"{next(iter(like))} and its like hold no part to train on (train-*.tar)")
    sure = {parts[0] for parts in like.values() if len(parts) == 1}
    for name in names:
        if name not in like:
            found.skip("tar of no part", name)
    # "eval" is validation beside a test part, and the test part otherwise.
    return {
        name: parts[0] if len(parts) == 1 or "test" in sure else parts[-1]
        for name, parts in like.items()
    }


def samples(piece: tuple[str, str, int]) -> tuple[list[Sample], dict[str, list[str]]]:
    """The images of a tar, in order, and what is not used, by reason. Raises DataError."""
    root, name, _ = piece
    path = os.path.join(root, name)
    found: dict[str, dict[str, tuple[str, int, int]]] = {}
    places: dict[str, tuple[int, int]] = {}
    skipped: dict[str, list[str]] = {}
    try:
        with (
            open(path, "rb", opener=regular) as file,
            tarfile.open(fileobj=file, mode="r:") as tar,
        ):
            for member in tar:
                if member.size < 0:  # tarfile would go back, and round for ever
                    raise DataError(f"{path}: {member.name} has a size below 0: it is no tar")
                if kinds.is_dropping(os.path.basename(member.name)):
                    skipped.setdefault(kinds.DROPPING, []).append(member.name)
                elif why := unused(member, places):
                    skipped.setdefault(why, []).append(member.name)
                elif not member.isdir():
                    folder, base = os.path.split(member.name)
                    stem, _, ending = base.partition(".")
                    own = member.offset_data, member.size
                    place = places[member.linkname] if member.islnk() else own
                    places[member.name] = place
                    entry = member.name, *place
                    of = found.setdefault(os.path.join(folder, stem), {})
                    if ending.lower() in of:
                        raise DataError(f"{path} holds {member.name} twice")
                    of[ending.lower()] = entry
            # Two blocks of zeros end a tar: one truncated between two members has none.
            zeros = bytes(tarfile.BLOCKSIZE)
            if os.pread(file.fileno(), len(zeros), tar.offset) != zeros:
                raise DataError(f"{path} is cut off: it has no end")
            file.seek(tar.offset)
            while rest := file.read(1 << 20):
                if rest.strip(b"\0"):
                    raise DataError(
                        f"{path} goes on after its end, as tars that were joined do: what is "
                        f"there would be lost (tar -A joins them)"
                    )
            made = []
            for key, of in found.items():
                if sample := sampled(file.fileno(), path, key, of, skipped):
                    made.append(sample)
    except (tarfile.TarError, EOFError, ValueError) as error:  # the last: of a sparse file's header
        raise DataError(f"{path} is cut off or no tar: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return made, skipped


def unused(member: tarfile.TarInfo, places: Mapping[str, Any]) -> str:
    """Why a member is not read; empty for a file, a folder, and a hard link to an earlier member,
    which is how tar stores a file's second name."""
    if member.issym() or (member.islnk() and member.linkname not in places):
        return "a link in a tar"
    if member.issparse():
        return "a sparse file in a tar"
    return "" if member.isfile() or member.isdir() or member.islnk() else "a device in a tar"


def sampled(
    file: int,
    path: str,
    key: str,
    of: dict[str, tuple[str, int, int]],
    skipped: dict[str, list[str]],
) -> Sample | None:
    """The members with one key as a sample; None where there is no image among them."""
    images, labels = [], {}
    for ending, entry in of.items():
        if ending in LABELS:
            labels[ending] = entry
        elif why := kinds.unread(f"x.{ending}"):
            skipped.setdefault(why, []).append(entry[0])
        else:
            images.append(entry)
    if not images:
        skipped.setdefault("label without an image", []).extend(e[0] for e in labels.values())
        return None
    if len(images) > 1:
        members = " and ".join(entry[0] for entry in images)
        raise DataError(f"{path} holds several images of one sample: {members}")
    label = first = group = ""
    for ending in LABELS:
        if ending in labels:
            name, offset, size = labels[ending]
            try:
                data, where = os.pread(file, size, offset), f"{path}: {key}.{ending}"
                other = labelled(ending, data, where)
                group = told_in(data, where, (GROUP,)) if ending == "json" else group
            except DataError:
                if not label:
                    raise
                other = f"not {label}"
            if not label:
                label, first = other, ending
            elif other not in ("", label):
                why = f".{ending} not used: it differs from .{first}, which is the label"
                skipped.setdefault(why, []).append(name)
    return Sample(*images[0], label, group)


def labelled(ending: str, data: bytes, where: str) -> str:
    """The label in a member; empty for JSON without one."""
    if ending == "json":
        return told_in(data, where, FIELDS)
    try:
        return data.decode().strip()
    except ValueError as error:
        raise DataError(f"{where} cannot be read: {error}") from error


def told_in(data: bytes, where: str, fields: Sequence[str]) -> str:
    """The value of the first of these fields in a JSON object; empty where there is none."""
    try:
        value = json.loads(data.decode().strip())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} cannot be read: {error}") from error
    if isinstance(value, dict):
        value = next((value[field] for field in fields if value.get(field) is not None), "")
    elif fields == (GROUP,):
        return ""
    return str(value) if isinstance(value, str | int) else ""
