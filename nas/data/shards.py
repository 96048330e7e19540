"""Images in tar files, as WebDataset has them: ``x.jpg`` and its label, ``x.cls``, beside it.

A label is a number or a name in ``x.cls`` or ``x.txt``, or a field of ``x.json`` (``cls``,
``label``, ...); where nothing tells one, the folder of the image in the tar is its class. Numbers
have the names of ``classes.txt`` beside the tars, a line each. Nothing is unpacked: an index says
where in its tar an image lies. It is beside the tars where ``nas data pack`` has made them
(``INDEX``), and otherwise made once and kept in the cache directory.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas.data import arrays, cache, kinds, processes, progress, survey
from nas.data.digests import digest
from nas.data.images import Part
from nas.data.listing import ORDER, Gathered, Listing, Packed, build, folders, holds_images, scan
from nas.data.table import NAMES
from nas.errors import DataError, brief, nearest

ENDING = ".tar"
INDEX, CLASSES = "index.safetensors", "classes.txt"
LABELS = ("cls", "txt", "json")  # in the order in which they are asked
FIELDS = ("cls", *NAMES["label"])
FORM = 1  # of the index


@dataclass(frozen=True, slots=True)
class Sample:
    """An image in a tar, with its label, empty where none is told."""

    name: str
    offset: int
    size: int
    label: str


# --- which tars ----------------------------------------------------------------------------------


def is_pattern(text: str) -> bool:
    """Whether it may name several files: ``train-*.tar``, ``train-{000..146}.tar``."""
    return bool(set("*?[{") & set(text)) and not os.path.exists(text)


def files(text: str) -> tuple[Path, list[str], bool] | None:
    """The tars that a directory, a pattern or a path names: the folder of all, their paths below
    it, and whether these are all there. None for what names none; a folder of images with a tar
    beside them is one of images.

    Raises DataError for a pattern without a file.
    """
    path = Path(text)
    if is_pattern(text):
        found = [name for each in expanded(text) for name in matching(each)]
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
    return path, [name for name in tars if not kinds.is_dropping(os.path.basename(name))], True


def expanded(text: str) -> list[str]:
    """Braces as a shell has them: ``{000..146}`` and ``{a,b}``."""
    found = re.search(r"\{([^{}]*)\}", text)
    if not found:
        return [text]
    inside = found[1]
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        first, last = map(int, numbers.groups())
        choices = [f"{n:0{len(numbers[1])}}" for n in range(first, last + 1)]
    else:
        choices = inside.split(",")
    parts = (text[: found.start()] + each + text[found.end() :] for each in choices)
    return list(itertools.chain.from_iterable(map(expanded, parts)))


def matching(pattern: str) -> list[str]:
    found = sorted(glob.glob(pattern))
    if not found:
        raise DataError(f"{pattern} names no file")
    if wrong := [name for name in found if not name.endswith(ENDING)]:
        raise DataError(f"{wrong[0]} is no {ENDING}: a compressed one cannot be read at any place")
    return found


# --- what is in them -----------------------------------------------------------------------------


def listing(root: Path, names: Sequence[str], every: bool = False) -> Listing:
    """The images of tars, in the order of part, class, tar and place in it; where they are all of
    the folder, by the index beside them. Raises DataError for
    one that is cut off, for a label that no image to train on has, and as a folder's listing."""
    try:
        states = [(root / name).stat() for name in names]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    lengths = [state.st_size for state in states]
    times = np.array([state.st_mtime_ns for state in states], np.int64)
    beside = root / INDEX
    if every and beside.exists():
        return restored(beside, root, names, lengths, times)
    told = json.dumps([FORM, str(root.absolute()), list(names), lengths, times.tolist()])
    memory = cache.folder() / "shards" / f"{digest(told.encode()).hex()}.safetensors"
    try:
        return restored(memory, root, names, lengths, times)
    except cache.LOST:
        pass
    found = gathered(root, names, times)
    keep(memory, found, names, lengths)
    return found


def gathered(root: Path, names: Sequence[str], times: Any) -> Listing:
    """A listing of tars that are read now."""
    found = Gathered()
    named = parts_of(names, found)
    read: dict[int, list[Sample]] = {}
    work = [(str(root), name, number) for number, name in enumerate(names) if name in named]
    done = ((1, each) for each in processes.spread(samples, work))
    for (_, name, number), answer in progress.shown(done, len(work), "reading tars"):
        if answer is None:
            raise DataError(f"{root / name} cannot be read: its reader crashed")
        read[number], skipped = answer
        for reason, examples in skipped.items():
            for example in examples:
                found.skip(reason, f"{name}/{example}")
    told = any(sample.label for each in read.values() for sample in each)
    classes = names_of(root)
    by_part: dict[Part, list[tuple[str, int, Sample]]] = {part: [] for part in ORDER}
    for number in sorted(read):
        for sample in read[number]:
            label = sample.label if told else os.path.basename(os.path.dirname(sample.name))
            if not label:
                found.skip("unlabelled", f"{names[number]}/{sample.name}")
                continue
            if classes and label not in classes:
                if not label.isdigit() or int(label) >= len(classes):
                    raise DataError(
                        f"{root / names[number]}: {sample.name} has the label {label}, which "
                        f"{CLASSES} does not name ({len(classes)} classes)"
                    )
                label = classes[int(label)]
            by_part[named[names[number]]].append((label, number, sample))
    train = {label for label, *_ in by_part["train"]}
    every = classes or sorted(train, key=lambda label: (len(label) * label.isdigit(), label))
    if len(every) < 2 or len(train) < 2:
        raise DataError(
            f"{root}: the tars name {len(train)} classes to train on ({CLASSES} beside them is "
            f"what numbers are called): at least two are needed, in .cls, .txt or .json"
        )
    if missing := [name for name in every if name not in train]:
        raise DataError(f"{root}: no image to train on is of the class {missing[0]}")
    numbers = {name: n for n, name in enumerate(every)}
    parts: dict[Part, tuple[int, int]] = {}
    where: list[tuple[int, int]] = []
    for part in ORDER:
        began = len(found)
        for label, number, sample in sorted(
            by_part[part], key=lambda e: (numbers.get(e[0], -1), e[1])
        ):
            if label not in numbers:
                raise DataError(
                    f"{root / names[number]}: {sample.name} of the {part} part has the label "
                    f"{label!r}, which no image to train on has: {nearest(label, every)}"
                )
            name = f"{names[number]}/{sample.name}"
            found.add(name, sample.size, int(times[number]), numbers[label])
            where.append((number, sample.offset))
        if len(found) > began:
            parts[part] = began, len(found)
    file, offsets = np.array(where, np.int64).reshape(-1, 2).T
    places = {
        part: brief(", ".join(n for n in names if named.get(n) == part), 60) for part in parts
    }
    notes = [f"read from {len(read):,} tar files"]
    packed = Packed(tuple(names), file.copy(), offsets.copy())
    return build(root, every, found, parts, places, notes, packed=packed)


def names_of(root: Path) -> list[str]:
    """The classes' names by their numbers, where the tars' folder tells."""
    try:
        return (root / CLASSES).read_text(encoding="utf-8").split("\n")[:-1]
    except OSError:
        return []


def parts_of(names: Sequence[str], found: Gathered) -> dict[str, Part]:
    """The part of each tar, by its own name or its folder's; train for all where none tells."""
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
    """The images of a tar in their order, and by its reason what is not used. Raises DataError."""
    root, name, _ = piece
    path = os.path.join(root, name)
    found: dict[str, dict[str, tuple[str, int, int]]] = {}
    skipped: dict[str, list[str]] = {}
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if kinds.is_dropping(os.path.basename(member.name)):
                    skipped.setdefault("droppings", []).append(member.name)
                elif member.isfile():
                    folder, base = os.path.split(member.name)
                    stem, _, ending = base.partition(".")
                    entry = member.name, member.offset_data, member.size
                    of = found.setdefault(os.path.join(folder, stem), {})
                    if ending.lower() in of:
                        raise DataError(f"{path} holds {member.name} twice")
                    of[ending.lower()] = entry
            # Two blocks of zeros end a tar: one that was cut between two members has none.
            zeros = bytes(tarfile.BLOCKSIZE)
            if os.pread(file.fileno(), len(zeros), tar.offset) != zeros:
                raise DataError(f"{path} is cut off: it has no end")
            made = []
            for key, of in found.items():
                if sample := sampled(file.fileno(), path, key, of, skipped):
                    made.append(sample)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{path} is cut off or no tar: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return made, skipped


def sampled(
    file: int,
    path: str,
    key: str,
    of: dict[str, tuple[str, int, int]],
    skipped: dict[str, list[str]],
) -> Sample | None:
    """What a tar has under one key, as one image; None where it has none."""
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
        told = " and ".join(entry[0] for entry in images)
        raise DataError(f"{path} holds several images of one sample: {told}")
    for ending in LABELS:
        if ending in labels:
            _, offset, size = labels[ending]
            if label := labelled(ending, os.pread(file, size, offset), f"{path}: {key}.{ending}"):
                return Sample(*images[0], label)
    return Sample(*images[0], "")


def labelled(ending: str, data: bytes, where: str) -> str:
    """The label that a member tells; empty for JSON without one."""
    try:
        text = data.decode().strip()
        if ending != "json":
            return text
        told = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} cannot be read: {error}") from error
    if isinstance(told, dict):
        told = next((told[field] for field in FIELDS if told.get(field) is not None), "")
    return str(told) if isinstance(told, str | int) else ""


# --- the index -----------------------------------------------------------------------------------


def keep(
    path: Path, found: Listing, names: Sequence[str], lengths: Sequence[int], rows: Any = None
) -> None:
    """Writes what ``restored`` reads; ``rows`` of a survey, if any, spare its own. Raises
    DataError."""
    assert found.packed
    kept: arrays.Arrays = {
        "names": np.frombuffer(found.names, np.uint8),
        "sizes": found.sizes,
        "labels": found.labels,
        "file": found.packed.file,
        "offsets": found.packed.offsets,
    }
    if rows is not None:
        kept["rows"] = rows.view(np.uint8).reshape(len(rows), -1)
    told = {
        "form": FORM,
        "classes": found.classes,
        "parts": found.parts,
        "places": found.places,
        "notes": found.notes,
        "skipped": found.skipped,
        "files": list(names),
        "lengths": list(lengths),
    }
    try:
        arrays.save(path, kept, told)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def restored(
    path: Path, root: Path, names: Sequence[str], lengths: Sequence[int], times: Any
) -> Listing:
    """A listing by its index. Raises OSError, ValueError, KeyError where that is none, and
    DataError where it is of other tars."""
    kept, told = arrays.load(path)
    if told["form"] != FORM:
        raise ValueError("an index of another version")
    for name, length in zip(told["files"], told["lengths"], strict=True):
        if name not in names:
            raise DataError(f"{path} tells of {name}, which is not there")
        if length != (here := lengths[list(names).index(name)]):
            raise DataError(f"{root / name} has {here:,} bytes: {path} tells of {length:,}")
    if other := sorted({*names} - {*told["files"]}):
        raise DataError(f"{root / other[0]} is not in {path}: without that all is read anew")
    order = np.array([list(names).index(name) for name in told["files"]])
    packed = Packed(
        tuple(told["files"]),
        kept["file"],
        kept["offsets"],
        survey.unpacked(kept["rows"]) if "rows" in kept else None,
    )
    skipped = {why: (count, tuple(shown)) for why, (count, shown) in told["skipped"].items()}
    parts: dict[Part, tuple[int, int]] = {part: tuple(ends) for part, ends in told["parts"].items()}
    return Listing(
        root, tuple(told["classes"]), parts, told["places"], kept["names"].tobytes(),
        kept["sizes"], times[order][kept["file"]], kept["labels"], skipped, tuple(told["notes"]),
        packed=packed,
    )  # fmt: skip
