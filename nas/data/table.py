"""A table that names images: a CSV of ``file,label[,part][,group]``, one image per row.

In UTF-8 or, with a byte order mark, UTF-16, which spreadsheets write. The separator is the one with
which the first line names the most known columns.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import unquote, urlsplit

from nas.data import kinds
from nas.data.images import Part
from nas.data.listing import ORDER, Listing, build, told_apart, unknown_label
from nas.data.walking import ABSENT, Gathered, mark
from nas.errors import DataError, brief
from nas.text import counted, shown_url

ENDINGS = (".csv", ".tsv")
BETWEEN = (",", ";", "\t", "|")
NAMES: Mapping[str, tuple[str, ...]] = {
    "file": ("file", "filename", "file_name", "path", "filepath", "image", "image_path"),
    "label": ("label", "class", "class_name", "target", "category"),
    "part": ("part", "split", "subset", "set"),
    "group": ("group",),
}


class Named(NamedTuple):
    """A row of a table. Rows sort by class, then by name."""

    label: str
    file: str
    group: str


def listing(path: Path, group_by: str = "") -> Listing:
    """The images that a table names, relative to the table's directory.

    ``part`` takes the names of part folders (``kinds.PARTS``); empty is train. ``group`` names
    groups that splits keep whole; ``group_by`` names another column for it. Rows without a label
    are counted and left out. Raises DataError, with the line.
    """
    found = Gathered()
    named, unused = read(path, group_by, found)
    classes = sorted({image.label for image in named["train"]})
    if len(classes) < 2:
        raise DataError(
            f"{path} names {counted(len(classes), 'class', 'classes')} to train on: at "
            "least two are needed"
        )
    told_apart(path, classes)
    root, numbers = path.parent, {name: n for n, name in enumerate(classes)}
    parts: dict[Part, tuple[int, int]] = {}
    groups = []
    for part in ORDER:
        began = len(found)
        for label, name, group in sorted(named[part]):
            if label not in numbers:
                raise unknown_label(f"{path}: {name}", part, label, classes)
            add(root, name, numbers[label], found)
            groups.append(group)
        if len(found) > began:
            parts[part] = began, len(found)
    notes = [f"read as {path.name} tells"]
    if unused:
        columns = counted(len(unused), "column is", "columns are")
        called = (brief(name, 40) if name.strip() else "one without a name" for name in unused)
        notes.append(f"{columns} not used: {', '.join(called)}")
    return build(root, classes, found, parts, dict.fromkeys(parts, path.name), notes,
                 groups if any(groups) else ())  # fmt: skip


def read(
    path: Path, group_by: str, found: Gathered
) -> tuple[dict[Part, list[Named]], tuple[str, ...]]:
    """The rows of each part, and the columns that are not used; what is left out is counted in
    ``found``. Raises DataError, with the line."""
    named: dict[Part, list[Named]] = {part: [] for part in ORDER}
    either: list[Named] = []  # of validation or test
    unused: tuple[str, ...] = ()
    at = 0  # the last line read
    above, rows = "", None
    try:
        with path.open(newline="", encoding=encoding(path)) as file:
            above = separated(path, file)
            rows = csv.DictReader(file, delimiter=above or between(file), strict=True)
            columns = found_columns(path, rows.fieldnames or [], group_by)
            known = {*columns.values()}
            unused = tuple(name for name in rows.fieldnames or [] if name not in known)
            at = rows.line_num + bool(above)
            for row in rows:
                began, at = at + 1, rows.line_num + bool(above)
                where = f"{path}, line {at}"
                # An unquoted comma in a name: the text behind it would be taken for the label.
                if None in row:
                    raise DataError(
                        f"{where} has {len(row) - 1 + len(row[None])} fields, and the first line "
                        f"{len(row) - 1}: a name with a comma stands in quotes"
                    )
                cells = {key: (row[name] or "").strip() for key, name in columns.items()}
                name, label = on_disk(cells["file"], where), cells["label"]
                if "\0" in name + "".join(cells.values()):
                    raise DataError(f"{where} holds a NUL character: it is no text")
                if "\n" in "".join(cells.values()):
                    raise DataError(
                        f"{path}, line {began}: a quote is opened that line {at} closes: no name "
                        "goes on in another line"
                    )
                if not label:
                    found.skip("unlabelled", name)
                    continue
                if why := kinds.unread(name):
                    found.skip(why, name)
                    continue
                parts = parts_named(cells.get("part", ""), where)
                of = named[parts[0]] if len(parts) == 1 else either
                of.append(Named(label, name, cells.get("group", "")))
    except UnicodeError as error:
        raise DataError(
            f"{path} is neither UTF-8 nor UTF-16 ({error}): save it as UTF-8"
        ) from error
    except csv.Error as error:
        rule = ": a quote that is opened is closed before the next column, and in the same line"
        last = rows.reader.line_num + bool(above) if rows else 0
        if "field limit" in str(error) and last <= at + 1:  # a long cell, of one line
            rule = ""
        raise DataError(f"{path}, line {at + 1}: {error}{rule}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from error
    named["validation" if named["test"] else "test"] += either
    return named, unused


def encoding(path: Path) -> str:
    """By the byte order mark; UTF-8 without one. Raises OSError."""
    with path.open("rb") as file:
        begin = file.read(2)
    return "utf-16" if begin in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def separated(path: Path, file: IO[str]) -> str:
    """The separator that a line ``sep=;`` above the header sets, which Excel writes but does not
    show; empty without one. Leaves the file at the header."""
    line = file.readline().strip("\r\n ").strip('"')
    if not line.lower().startswith("sep="):
        file.seek(0)
        return ""
    mark = line[4:]
    if len(mark) != 1:
        raise DataError(f"{path}, line 1: {line!r}: one character stands between the columns")
    return mark


def on_disk(name: str, where: str) -> str:
    """The path of a file in a table, converted from a file: URL of this machine where it is one."""
    scheme, colon, rest = name.partition(":")
    if not colon or (scheme.lower() != "file" and not rest.startswith("//")):
        return name
    try:
        url = urlsplit(name)
    except ValueError as error:
        raise DataError(f"{where}: {shown_url(name)} is no URL: {error}") from error
    if scheme.lower() != "file" or url.netloc.lower() not in ("", "localhost"):
        raise DataError(
            f"{where}: {shown_url(name)} is not on this machine's disk, from which images are "
            "read: fetch them, and name the files"
        )
    if url.query or url.fragment:
        raise DataError(f"{where}: {shown_url(name)}: in a URL # is written %23 and ? is %3F")
    return unquote(url.path)


def between(file: IO[str]) -> str:
    """The separator: the one of ``BETWEEN`` with which the first line names the most known columns,
    or the comma."""
    line = file.readline()
    file.seek(0)

    def known(mark: str) -> int:
        names = {name.strip().lower() for name in next(csv.reader([line], delimiter=mark), [])}
        return sum(bool(names & {*each}) for each in NAMES.values())

    return max(BETWEEN, key=known)


def found_columns(path: Path, names: Sequence[str], group_by: str) -> dict[str, str]:
    """The name in the header of each column in NAMES. Raises DataError."""
    names = [name for name in names if name.strip()]  # a comma at the end, or an index
    lower = {name.strip().lower(): name for name in names}
    if len(lower) < len(names):
        raise DataError(f"{path} has two columns of one name in its first line: {', '.join(names)}")
    columns = {}
    for key, known in NAMES.items():
        named = [name for folded, name in lower.items() if folded in known]
        if len(named) > 1:
            raise DataError(
                f"{path} has {len(named)} columns that may be the {key}, {' and '.join(named)}: "
                f"must be one of them; take out the {'others' if len(named) > 2 else 'other'}, "
                f"or give it another name than {', '.join(known)}"
            )
        if named:
            columns[key] = named[0]
    for key in ("file", "label"):
        if key not in columns:
            raise DataError(
                f"{path} has no column {key!r} in its first line, but "
                f"{', '.join(names) or 'none'}: must be one of {', '.join(NAMES[key])}"
            )
    if group_by:
        if group_by.lower() not in lower:
            raise DataError(f"--group-by {group_by}: {path} has the columns {', '.join(names)}")
        columns["group"] = lower[group_by.lower()]
    return columns


def parts_named(name: str, where: str) -> tuple[Part, ...]:
    parts, rest = kinds.part_of(name)
    if name and (not parts or rest):
        raise DataError(f"{where}: the part {name!r} is none of train, validation, test")
    return parts or ("train",)


def add(root: Path, name: str, label: int, found: Gathered) -> None:
    """Adds a file as the table names it; with Windows' backslashes replaced where it is missing."""
    for each in dict.fromkeys((name, name.replace("\\", "/"))):
        try:
            state = (root / each).stat()
        except OSError:
            continue
        found.add(each, state.st_size, mark(state), label)
        return
    found.add(name, *ABSENT, label)
