"""A table that names images: a CSV of ``file,label[,part][,group]``, one image a row."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from nas.data import kinds
from nas.data.images import Part
from nas.data.listing import ORDER, Gathered, Listing, build
from nas.errors import DataError, nearest

ENDINGS = {".csv": ",", ".tsv": "\t"}
NAMES = {
    "file": ("file", "filename", "file_name", "path", "filepath", "image", "image_path"),
    "label": ("label", "class", "class_name", "target", "category"),
    "part": ("part", "split", "subset", "set"),
    "group": ("group",),
}


def listing(path: Path, group_by: str = "") -> Listing:
    """The images that a table names; a file is meant from the table's directory.

    ``part`` takes the names that a folder of a part may have (``kinds.PARTS``), and is train where
    it is empty; ``group`` says what no split may part, and ``group_by`` may name another column. A
    row without a label is counted and left out. Raises DataError, with the line.
    """
    named: dict[Part, list[tuple[str, str, str]]] = {part: [] for part in ORDER}
    found = Gathered()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, delimiter=ENDINGS[path.suffix.lower()])
            columns = found_columns(path, rows.fieldnames or [], group_by)
            for row in rows:
                told = {key: (row[name] or "").strip() for key, name in columns.items()}
                name, label = told["file"], told["label"]
                if not label:
                    found.skip("unlabelled", name)
                    continue
                if why := kinds.unread(name):
                    found.skip(why, name)
                    continue
                part = part_named(told.get("part", ""), f"{path}, line {rows.line_num}")
                named[part].append((label, name, told.get("group", "")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from error
    train = named["train"]
    classes = sorted({label for label, *_ in train})
    if len(classes) < 2:
        raise DataError(f"{path} names {len(classes)} classes to train on: at least two are needed")
    root, numbers = path.parent, {name: n for n, name in enumerate(classes)}
    parts: dict[Part, tuple[int, int]] = {}
    groups = []
    for part in ORDER:
        began = len(found)
        for label, name, group in sorted(named[part]):
            if label not in numbers:
                raise DataError(
                    f"{path}: {name} of the {part} part has the label {label!r}, which no image to "
                    f"train on has: {nearest(label, classes)}"
                )
            add(root, name, numbers[label], found)
            groups.append(group)
        if len(found) > began:
            parts[part] = began, len(found)
    notes = [f"read as {path.name} tells"]
    return build(root, classes, found, parts, dict.fromkeys(parts, path.name), notes,
                 groups if any(groups) else ())  # fmt: skip


def found_columns(path: Path, names: Sequence[str], group_by: str) -> dict[str, str]:
    """What each column means, by its name in the first line."""
    lower = {name.strip().lower(): name for name in names}
    columns = {}
    for key, known in NAMES.items():
        if match := next((lower[name] for name in known if name in lower), None):
            columns[key] = match
    for key in ("file", "label"):
        if key not in columns:
            raise DataError(
                f"{path} has no column {key!r} in its first line, but {', '.join(names) or 'none'}"
            )
    if group_by:
        if group_by.lower() not in lower:
            raise DataError(f"--group-by {group_by}: {path} has the columns {', '.join(names)}")
        columns["group"] = lower[group_by.lower()]
    return columns


def part_named(name: str, where: str) -> Part:
    parts, rest = kinds.part_of(name)
    if name and (not parts or rest):
        raise DataError(f"{where}: the part {name!r} is none of train, validation, test")
    return parts[-1] if parts else "train"


def add(root: Path, name: str, label: int, found: Gathered) -> None:
    try:
        state = (root / name).stat()
        found.add(name, state.st_size, state.st_mtime_ns, label)
    except OSError:
        found.add(name, -1, 0, label)
