"""The index of images in tars: where each lies, in a file, so that tars are read only once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.data import arrays, survey
from nas.data.images import Part
from nas.data.listing import Listing, Packed
from nas.errors import DataError

INDEX = "index.safetensors"  # beside the tars that ``nas data pack`` made
FORM = 1


def keep(
    path: Path, found: Listing, names: Sequence[str], lengths: Sequence[int], rows: Any = None
) -> None:
    """Writes what ``restored`` reads, with the ``rows`` of a survey, if any, which save a later
    one. Raises DataError."""
    assert found.packed
    kept: arrays.Arrays = {
        "names": np.frombuffer(found.names, np.uint8),
        "sizes": found.sizes,
        "labels": found.labels,
        "file": found.packed.file,
        "offsets": found.packed.offsets,
    }
    names_of_groups = sorted({*found.groups})
    if found.groups:
        numbers = {name: n for n, name in enumerate(names_of_groups)}
        kept["groups"] = np.array([numbers[name] for name in found.groups], np.int64)
    if rows is not None:
        kept["rows"] = rows.view(np.uint8).reshape(len(rows), -1)
    facts = {
        "form": FORM,
        "classes": found.classes,
        "parts": found.parts,
        "places": found.places,
        "notes": found.notes,
        "skipped": found.skipped,
        "files": list(names),
        "lengths": list(lengths),
        "groups": names_of_groups,
    }
    try:
        arrays.save(path, kept, facts)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def restored(
    path: Path, root: Path, names: Sequence[str], lengths: Sequence[int], times: Any
) -> Listing:
    """The listing stored in an index. Raises OSError, ValueError or KeyError where the file is not
    an index, and DataError where it belongs to other tars."""
    kept, facts = arrays.load(path)
    if facts["form"] != FORM:
        raise ValueError("an index of another version")
    numbers = {name: number for number, name in enumerate(names)}
    for name, length in zip(facts["files"], facts["lengths"], strict=True):
        if name not in numbers:
            raise DataError(f"{path} lists {name}, which is not there")
        if length != (here := lengths[numbers[name]]):
            raise DataError(f"{root / name} has {here:,} bytes: {path} says {length:,}")
    if other := sorted(numbers.keys() - {*facts["files"]}):
        raise DataError(f"{root / other[0]} is not in {path}: without that file, all is read again")
    order = np.array([numbers[name] for name in facts["files"]])
    packed = Packed(
        tuple(facts["files"]),
        kept["file"],
        kept["offsets"],
        survey.unpacked(kept["rows"]) if "rows" in kept else None,
    )
    named = facts.get("groups", [])
    groups = tuple(named[n] for n in kept["groups"].tolist()) if "groups" in kept else ()
    skipped = {why: (count, tuple(shown)) for why, (count, shown) in facts["skipped"].items()}
    parts: dict[Part, tuple[int, int]] = {
        part: tuple(ends) for part, ends in facts["parts"].items()
    }
    return Listing(
        root, tuple(facts["classes"]), parts, facts["places"], kept["names"].tobytes(),
        kept["sizes"], times[order][kept["file"]], kept["labels"], skipped, tuple(facts["notes"]),
        groups, packed,
    )  # fmt: skip
