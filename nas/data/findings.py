"""What inspecting a folder of images finds, before any training: how many images of each class and
part, what was skipped and why, and what would prevent learning."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nas.data import datasets, imagefolder, survey
from nas.data.decoding import BLANK, CONVERTED
from nas.data.digests import numbered
from nas.data.imagefolder import Looked, Prepared
from nas.data.images import Part
from nas.data.listing import ORDER
from nas.data.walking import EXAMPLES, Skipped, with_count
from nas.errors import DataError, brief
from nas.job import DataRef
from nas.metrics import BALANCED
from nas.text import counted, named

Said = tuple[str, npt.NDArray[np.int64]]  # a sentence, and the rows of the images that it counts
FEW = 3  # images per class to train on, on average, below which a warning says so
ENOUGH = 30  # images to validate on, below which a warning says so: one is 3 points of accuracy
IMBALANCE = 10  # largest over smallest class, from which on a warning says so


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """``root``: the folder or the table. ``classes`` and ``parts``: images of each, as they will be
    used; ``held_out``: the parts drawn from train. ``sizes``: height and width of the smallest, the
    median and the largest image. ``skipped``: the count of each reason, and examples. ``notes`` are
    decisions, ``warnings`` spoil a result, ``problems`` stop every training, each with what to do;
    the other fields leave out the images that a problem names. ``named``: the count and examples of
    the images that a note or a warning is about."""

    root: str
    classes: dict[str, int]
    parts: dict[Part, int]
    places: dict[Part, str]
    held_out: tuple[Part, ...]
    shape: tuple[int, int, int]
    sizes: tuple[tuple[int, int], ...]
    skipped: Skipped
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]
    identity: str
    named: Skipped


def examine(ref: DataRef, followed: Collection[str] = ()) -> Findings:
    """As ``inspect``, but raises DataError where there are problems, with all of them."""
    found = inspect(ref, followed)
    if found.problems:
        raise DataError("; ".join(found.problems))
    return found


def inspect(ref: DataRef, followed: Collection[str] = ()) -> Findings:
    """Inspects all images of a folder or a table. Problems are classes without images, unreadable
    images, and train images that are all of a single colour or copies of one. ``followed`` names
    what was asked for, objectives and recipe settings: it is not advised again.

    Raises DataError where fewer than two classes are left without the unreadable images.
    """
    wrong: tuple[str, ...] = ()
    if not ref.skip_unreadable:
        wrong = imagefolder.problems(imagefolder.look(imagefolder.all_of(ref)))
    try:
        taken = dataclasses.replace(ref, skip_unreadable=True) if wrong else ref
        return _inspect(taken, wrong, followed)
    except DataError as error:
        raise DataError("; ".join([*wrong, str(error)])) from error


def _inspect(ref: DataRef, wrong: tuple[str, ...], followed: Collection[str]) -> Findings:
    images = imagefolder.prepared(imagefolder.whole(dataclasses.replace(ref, identity="")))
    looked = imagefolder.look(imagefolder.all_of(ref))
    every = np.concatenate([images.rows[part] for part in images.info.parts])
    copies = numbered(looked.survey.rows["digest"])
    counts = np.bincount(images.labels[every], minlength=len(images.info.classes))
    lost = hopeless(ref, looked, images, copies)
    try:
        loaded = {part: datasets.load(ref, part) for part in ORDER}
    except DataError as error:  # copies of one image cannot be split either
        raise DataError("; ".join(lost) or str(error)) from error
    noted = decided(ref, looked, images, every)
    warned = [*divided(ref, looked, images), *doubtful(looked, images, every, copies)]
    skipped = dict(looked.listing.skipped)
    if looked.reasons:
        shown = [brief(f"{name} ({why})") for name, why in looked.reasons.items()]
        skipped["unreadable"] = len(shown), tuple(shown[:EXAMPLES])
    missing = tuple(part for part in ORDER if part not in images.info.parts)
    by_part = {
        part: np.bincount(of.labels[of.rows], minlength=len(counts)) for part, of in loaded.items()
    }
    classes = images.info.classes
    return Findings(
        root=str(Path(ref.dir)),
        classes=dict(zip(classes, counts.tolist(), strict=True)),
        parts={part: len(loaded[part]) for part in ORDER},
        places=looked.listing.places,
        held_out=missing,
        shape=images.info.shape,
        sizes=sizes(looked, every),
        skipped=skipped,
        notes=(*looked.listing.notes, *(text for text, _ in noted)),
        warnings=(
            *(text for text, _ in warned),
            *equal(classes),
            *uneven(classes, by_part["train"], followed),
            *coarse(len(loaded["validation"])),
            *absent(classes, by_part),
        ),
        problems=(*wrong, *lost),
        identity=images.identity,
        named=examples(looked, [*noted, *warned]),
    )


def examples(looked: Looked, said: Sequence[Said]) -> Skipped:
    """How many images each sentence counts, and the first few; only sentences that count any."""
    counts = {text: rows for text, rows in said if len(rows)}
    paths = looked.listing.paths() if counts else []  # takes .2 s for a million
    return {
        text: (len(rows), tuple(brief(paths[row]) for row in rows[:EXAMPLES].tolist()))
        for text, rows in counts.items()
    }


def hopeless(
    ref: DataRef, looked: Looked, images: Prepared, copies: npt.NDArray[np.int64]
) -> list[str]:
    rows, root = images.rows["train"], Path(ref.dir)
    if (looked.decoded.states[rows] == BLANK).all():
        return [
            f"each of the {len(rows)} images to train on in {root} is of a single colour: nothing "
            f"can be learned from them"
        ]
    if (copies[rows] == copies[rows[0]]).all():
        return [
            f"the {len(rows)} images to train on in {root} are all copies of one: nothing can be "
            f"learned from them"
        ]
    return []


def sizes(looked: Looked, every: npt.NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    rows = looked.survey.rows[every]
    order = np.argsort(rows["height"].astype(np.int64) * rows["width"], kind="stable")
    ends = rows[order[[0, len(order) // 2, -1]]]
    return tuple((int(row["height"]), int(row["width"])) for row in ends)


def decided(
    ref: DataRef,
    looked: Looked,
    images: Prepared,
    every: npt.NDArray[np.int64],
) -> list[Said]:
    """What was decided about unusual images."""
    notes: list[Said] = []
    if len(rows := every[looked.survey.has(survey.FRAMES)[every]]):
        images_have = counted(len(rows), "image has", "images have")
        notes.append((f"{images_have} several frames: the first is taken", rows))
    if len(rows := every[looked.survey.has(survey.OWN_RANGE)[every]]):
        text = (
            f"{counted(len(rows), 'image holds', 'images hold')} floats or 32-bit integers: each "
            "is scaled from its least value (black) to its greatest (white)"
        )
        notes.append((text, rows))
    if len(rows := every[looked.decoded.states[every] == CONVERTED]):
        text = (
            f"{counted(len(rows), 'image has', 'images have')} a colour profile other than "
            "sRGB's: their colours are converted to sRGB"
        )
        notes.append((text, rows))
    train = images.rows["train"]
    groups = len(distinct(images.groups[train]))
    if copied := len(train) - groups:
        text = (
            f"{counted(copied, 'image is a copy', 'images are copies')} of others: both stay in "
            "one split"
        )
        if ref.group_by or looked.listing.groups:
            in_parts = sum(len(distinct(images.groups[rows])) for rows in images.rows.values())
            whole = in_parts == len(distinct(images.groups[every]))
            text = f"{len(train):,} images{'' if whole else ' of train'} in "
            text += f"{counted(groups, 'group')}, copies together"
            text += ": each stays in one split" if whole else ""
        _, first = np.unique(images.groups[train], return_index=True)
        notes.append((text, np.delete(train, first)))
    return notes


def divided(ref: DataRef, looked: Looked, images: Prepared) -> list[Said]:
    """Groups that the parts, as they are given, do not keep whole: splits are drawn of train."""
    if not (ref.group_by or looked.listing.groups):
        return []
    groups = imagefolder.grouped(looked.listing, ref.group_by)
    warnings: list[Said] = []
    for one, other in combinations(images.info.parts, 2):
        there = images.rows[other]
        if len(rows := there[np.isin(groups[there], groups[images.rows[one]])]):
            groups_have = counted(len(distinct(groups[rows])), "group has", "groups have")
            warnings.append((f"{groups_have} images in both {one} and {other}", rows))
    return warnings


def doubtful(
    looked: Looked,
    images: Prepared,
    every: npt.NDArray[np.int64],
    copies: npt.NDArray[np.int64],
) -> list[Said]:
    """Copies where there should be none, and blank images."""
    warnings: list[Said] = []
    for one, other in combinations(images.info.parts, 2):
        there = images.rows[other]
        if len(rows := there[np.isin(copies[there], copies[images.rows[one]])]):
            text = (
                f"{counted(len(rows), 'image')} of {other} "
                f"{'is a copy' if len(rows) == 1 else 'are copies'} of images of {one}"
            )
            warnings.append((text, rows))
    classes = len(images.info.classes)
    pairs = distinct(copies[every] * classes + images.labels[every])
    torn = np.flatnonzero(np.bincount(pairs // classes) > 1)
    if len(torn):
        rows = every[np.isin(copies[every], torn)]
        rows = rows[np.argsort(copies[rows], kind="stable")]  # copies of one side by side
        images_have = counted(len(torn), "image has", "images have")
        warnings.append((f"{images_have} copies in two classes or more", rows))
    if len(rows := every[looked.decoded.states[every] == BLANK]):
        images_are = counted(len(rows), "image is", "images are")
        warnings.append((f"{images_are} of a single colour", rows))
    return warnings


def distinct(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """np.unique hashes, which takes a second for a million distinct numbers; this takes a tenth."""
    ranked = np.sort(numbers)
    firsts: npt.NDArray[np.int64] = ranked[np.concatenate([[True], ranked[1:] != ranked[:-1]])]
    return firsts


def equal(classes: tuple[str, ...]) -> list[str]:
    """A warning where names of classes are one number, as a spreadsheet writes 1, 1.0 and 01."""
    of: dict[Decimal, list[str]] = {}
    for name in classes:
        with contextlib.suppress(InvalidOperation):
            if (number := Decimal(name)).is_finite():
                of.setdefault(number, []).append(name)
    alike = [names for names in of.values() if len(names) > 1]
    if not alike:
        return []
    told = "; ".join(" and ".join(names) for names in alike[:EXAMPLES])
    more = "; ..." if len(alike) > EXAMPLES else ""
    return [
        f"classes whose names are one number are told apart: {told}{more} (where they are "
        "the same, write them in one way)"
    ]


def uneven(
    classes: tuple[str, ...], trained: npt.NDArray[np.int64], followed: Collection[str] = ()
) -> list[str]:
    """Warnings where classes have few images to train on, or, unless all advice is ``followed``,
    far fewer than another."""
    total, there = int(trained.sum()), trained > 0
    warnings = []
    if total < FEW * len(classes):
        warnings.append(
            f"{counted(total, 'image')} to train on for {len(classes):,} classes: too few of each "
            "(labels that are numbers to predict are no classes)"
        )
    most, least = int(trained.argmax()), int(np.where(there, trained, total).argmin())
    advice = {
        BALANCED: f"--objective {BALANCED},params does",
        "class_weights=balanced": "--recipe class_weights=balanced helps",
    }
    left = [text for name, text in advice.items() if name not in followed]
    if trained[most] >= IMBALANCE * trained[least] and left:
        hidden = ": accuracy will hardly show whether it is learned"
        warnings.append(
            f"{counted(int(trained[most]), 'image')} of the class {named(classes[most])} to train "
            f"on and {trained[least]:,} of {named(classes[least])}"
            f"{'' if BALANCED in followed else hidden} ({', '.join(left)})"
        )
    return warnings


def coarse(count: int) -> Iterator[str]:
    """A warning where an accuracy on so few images of validation says little."""
    if 0 < count < ENOUGH:
        yield (
            f"{counted(count, 'image')} to validate on: one of them is {100 / count:.1f} points of "
            "accuracy, so networks hardly differ beyond luck"
        )


def absent(
    classes: tuple[str, ...], by_part: Mapping[Part, npt.NDArray[np.int64]]
) -> Iterator[str]:
    """A warning for each part without images of some classes."""
    for part in ORDER:
        counts = zip(classes, by_part[part], strict=True)
        names = [named(name) for name, count in counts if not count]
        of = "the class" if len(names) == 1 else f"{len(names):,} classes:"
        more = ", ..." if len(names) > EXAMPLES else ""
        if names:
            yield f"there is no {part} image of {of} {', '.join(names[:EXAMPLES])}{more}"


def lines(found: Findings) -> list[str]:
    """The findings as a few lines of text."""
    total = sum(found.classes.values())
    ranked = sorted(found.classes.items(), key=lambda item: -item[1])
    classes = ", ".join(f"{brief(named(name), 40)} {count:,}" for name, count in ranked[:6])
    if len(ranked) > 6:
        classes += f", ... {brief(named(ranked[-1][0]), 40)} {ranked[-1][1]:,}"
    made = [
        f"{counted(total, 'image')} in {counted(len(ranked), 'class', 'classes')} "
        f"({classes}) of {brief(found.root)}"
    ]
    parts = []
    for part, count in found.parts.items():
        place = "held out" if part in found.held_out else brief(found.places[part], 60)
        parts.append(f"{part} {count:,}" + ("" if place == "." else f" ({place})"))
    made.append(", ".join(parts))
    least, middle, largest = (f"{width}x{height}" for height, width in found.sizes)
    of = f"{least} pixels" if least == largest else f"{least} to {largest} pixels, mostly {middle}"
    channels, height, width = found.shape
    made.append(f"{of}, read as {width}x{height} in {'grey' if channels == 1 else 'colour'}")
    for reason, (count, examples) in sorted(found.skipped.items()):
        made.append(f"skipped: {with_count(reason, count)}{some(found, count, examples)}")
    for kind, texts in (("", found.notes), ("warning: ", found.warnings)):
        made += [f"{kind}{text}{some(found, *found.named.get(text, (0, ())))}" for text in texts]
    return [brief(line, 1000) for line in made]


def some(found: Findings, count: int, examples: Sequence[str]) -> str:
    """Up to a few examples of ``count`` files, in parentheses; empty where there are none."""
    more = ", ..." if count > len(examples) else ""
    names = ", ".join(name.removeprefix(f"{found.root}/") for name in examples)
    return f" ({names}{more})" if names else ""
