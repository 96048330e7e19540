"""Images in files: a directory of class folders, DIR/CLASS/*.jpg, or DIR/train/CLASS/*.jpg with
val/ and test/ beside it; a table (CSV) that names them; or tar files that hold them (``shards``).

Files are listed (``listing``), examined (``survey``) and decoded (``decoding``) once, in several
processes with progress, before anything trains; all unreadable ones are reported together. As each
trial of a search has its own process, decoding in each would cost hours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nas.data import arrays, cache, decoding, digests, listing, shards, splits, survey, table, tars
from nas.data.decoding import CONVERTED, FAILED, FORM, Decoded
from nas.data.encoded import Encoded
from nas.data.footprint import ROOM
from nas.data.images import Images, Info, Labels, Part, refuse_placeless
from nas.data.listing import Listing
from nas.data.survey import Survey
from nas.errors import DataError, brief
from nas.job import DataRef
from nas.text import counted

KEPT = 512 * 512  # the most pixels of images that keep the size that all of them have
LARGEST = 224  # the side that other images are resized to, at most
NAMED = 20  # unreadable images that a refusal names
GROUPED = 1  # version of the groups: increased whenever the same images get others


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """The files, their survey and their decoded images. ``side`` is the median shorter side in
    pixels; ``reasons`` say why some cannot be read, by path relative to the root."""

    listing: Listing
    survey: Survey
    decoded: Decoded
    side: int
    reasons: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Images ready to train on: the rows of each part in one mapped array, and the groups that
    splits keep together (copies of an image, and those of ``ref.group_by``). ``side`` is the median
    shorter side of the files, in pixels; ``sketches`` are those of the parts' files."""

    info: Info
    identity: str
    decoded: Decoded
    labels: Labels
    groups: npt.NDArray[np.int64]
    rows: dict[Part, npt.NDArray[np.int64]]
    side: int
    sketches: dict[Part, digests.Sketch]


def describe(ref: DataRef) -> Info:
    """Images of one size keep it, up to 512x512 pixels. Others are resized to a square of the
    median shorter side, at most 224; ``ref.size`` gives another. All grey: one channel, otherwise
    three.

    Raises DataError for a directory without class folders, and for classes without images and
    files that are no image or not whole, all of them in one.
    """
    return prepared(whole(ref)).info


def labels(ref: DataRef, part: Part) -> Labels:
    """The class number of each image of a part."""
    images = prepared(whole(ref))
    return images.labels[images.rows[part]]


def read(ref: DataRef, part: Part) -> Images:
    """The images of a part, decoded. Raises DataError for those that cannot be."""
    images = prepared(whole(ref))
    return Images(images.decoded.pixels, images.labels, images.rows[part], images.groups)


def names(ref: DataRef) -> list[str]:
    """Each image's path relative to the root, in the order of the arrays."""
    return look(all_of(ref)).listing.paths()


def identity(ref: DataRef) -> str:
    """A digest of the classes, of each image's bytes, class and part, and of the groups of a table
    or tars, which affect the split; ``ref.identity`` if this machine has those images decoded."""
    if ref.identity and recall(ref):
        return ref.identity
    first.cache_clear()  # the files as they are now
    look.cache_clear()
    prepared.cache_clear()
    return prepared(dataclasses.replace(whole(ref), identity="")).identity


def sketch(ref: DataRef, part: Part) -> digests.Sketch:
    """The sketch of a part's files."""
    return prepared(whole(ref)).sketches[part]


def roomy(ref: DataRef) -> DataRef:
    """The same images, larger to crop from: squares of 8/7 of the side, or of the files' median
    side; ``ref`` itself where that is not larger."""
    images = prepared(whole(ref))
    height, width = images.info.shape[1:]
    side = min(round(ROOM * height), images.side)
    return dataclasses.replace(ref, size=side) if height == width and side > height else ref


def whole(ref: DataRef) -> DataRef:
    """The reference before its split."""
    return dataclasses.replace(ref, split_seed=0)


def all_of(ref: DataRef) -> DataRef:
    """The reference to all files, readable or not."""
    return dataclasses.replace(whole(ref), identity="", skip_unreadable=False)


@functools.lru_cache(maxsize=4)
def first(ref: DataRef) -> tuple[Listing, Survey]:
    """Lists and surveys the files of a reference without a size, once for all sizes."""
    root = location(ref)
    if files := tars.files(ref.dir):
        found = shards.listing(*files)
    else:
        found = listing.listing(root) if root.is_dir() else table.listing(root, ref.group_by)
    return found, survey.survey(found)


@functools.lru_cache(maxsize=4)
def look(ref: DataRef) -> Looked:
    """Lists, surveys and decodes, or reuses the cache. Raises DataError."""
    found, seen = first(dataclasses.replace(ref, size=0))
    shape, side = shape_of(ref, found, seen)
    kept = decoding.decoded(found, seen, shape)
    names = found.paths() if kept.errors else []
    return Looked(found, seen, kept, side, {names[n]: kept.errors[n] for n in sorted(kept.errors)})


def location(ref: DataRef) -> Path:
    refuse_placeless(ref)
    path = Path(ref.dir)
    if tars.is_pattern(ref.dir) or path.suffix == tars.ENDING:
        return path
    if path.is_dir() or (path.is_file() and path.suffix.lower() in table.ENDINGS):
        return path
    state = "is no directory, no table (.csv) and no .tar" if path.exists() else "does not exist"
    raise DataError(f"{path} {state}: the data set {ref.name} is read from there")


def shape_of(ref: DataRef, found: Listing, seen: Survey) -> tuple[tuple[int, int, int], int]:
    """(channels, height, width), from the images of all parts except test; and the files' median
    shorter side in pixels."""
    which = seen.has(survey.SEEN)
    begin, end = found.parts.get("test", (0, 0))
    which[begin:end] = False
    if not which.any():
        names = found.paths()
        raise unreadable(found.root, len(found), {names[n]: w for n, w in seen.errors.items()})
    sides = np.stack([seen.rows["height"], seen.rows["width"]], 1)[which]
    side = int(np.median(sides.min(1)))
    if ref.size:
        height = width = ref.size
    elif (sides == sides[0]).all() and sides[0].prod() <= KEPT:
        height, width = map(int, sides[0])
    else:
        height = width = min(LARGEST, side)
    return (1 if seen.has(survey.GREY)[which].all() else 3, height, width), side


@functools.lru_cache(maxsize=4)
def prepared(ref: DataRef) -> Prepared:
    """The images of ``ref``, from the cache without reading files if it has ``ref.identity``.
    Raises DataError, also where the files have another identity."""
    if ref.identity and (known := recall(ref)):
        return known
    looked = look(all_of(ref))
    found, kept = looked.listing, looked.decoded
    if not ref.skip_unreadable and (wrong := problems(looked)):
        raise DataError("; ".join(wrong))
    good = kept.states != FAILED
    rows = {part: np.arange(*ends)[good[slice(*ends)]] for part, ends in found.parts.items()}
    counts = np.bincount(found.labels[rows["train"]], minlength=len(found.classes))
    for name, count in zip(found.classes, counts, strict=True):
        if not count:
            raise DataError(f"no image of the class {name} in {ref.dir} can be read")
    bytes_ = looked.survey.rows["digest"]
    own = grouped(found, "")[np.concatenate([*rows.values()])] if found.groups else None
    converted = any((kept.states[n] == CONVERTED).any() for n in rows.values())
    actual = digests.identity(
        found.classes,
        [(part, found.labels[n], bytes_[n]) for part, n in rows.items()],
        own,
        "sRGB" if converted else "",
    )
    if ref.identity not in ("", actual):
        raise DataError(
            f"the images in {ref.dir} are not those that this was started with: "
            f"{sum(map(len, rows.values()))} in "
            f"{counted(len(found.classes), 'class', 'classes')} here and now"
        )
    # Sorting all digests and joining them takes seconds for a million: once a set. The same images
    # may lie in other rows there, where other files beside them could not be read.
    known = recall(dataclasses.replace(ref, identity=actual))
    if known and known.decoded.folder == kept.folder:
        return known
    channels, height, width = kept.pixels.shape[1:]
    info = Info(channels=channels, height=height, width=width, classes=found.classes,
                parts=tuple(rows))  # fmt: skip
    copies = digests.numbered(bytes_)
    copies[~good] += len(copies) * (1 + np.flatnonzero(~good))  # two empty files are no copies
    groups = splits.together(copies, grouped(found, ref.group_by))
    sketches = {part: digests.sketch(bytes_[n]) for part, n in rows.items()}
    images = Prepared(info, actual, kept, found.labels, groups, rows, looked.side, sketches)
    remember(ref, images)
    return images


def problems(looked: Looked) -> tuple[str, ...]:
    """All problems that ``skip_unreadable`` would skip, each with a remedy."""
    found = looked.listing
    wrong = refused_folders(found)
    if looked.reasons:
        wrong.append(str(unreadable(found.root, len(found), looked.reasons)))
    return tuple(wrong)


def refused_folders(
    found: Listing, remedy: str = ", or --skip-unreadable leaves it out"
) -> list[str]:
    return [f"{text}; add images to this class, remove its folder{remedy}" for text in found.empty]


def unreadable(
    root: Path,
    count: int,
    reasons: dict[str, str],
    remedy: str = "--skip-unreadable leaves out what cannot (in Python skip_unreadable=True)",
) -> DataError:
    """The error that lists unreadable images, with the remedy."""
    shown = [f"{root / name} ({why})" for name, why in list(reasons.items())[:NAMED]]
    more = f" and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    reasons_text = brief(f"{', '.join(shown)}{more}", 10_000)
    return DataError(
        f"{len(reasons)} of {counted(count, 'image')} cannot be read: {reasons_text}; {remedy}"
    )


def grouped(found: Listing, group_by: str) -> npt.NDArray[np.int64]:
    """Each image's group number (images,). ``group_by`` is a regular expression, searched in paths
    relative to the root: images with the same match (or matched groups) share a group, one without
    a match is alone. Of a table it names the column whose groups are in ``found``; groups of tars
    are kept in addition. Raises DataError where no path matches."""
    names: list[object]
    if found.groups and group_by and found.packed:
        alone = dataclasses.replace(found, groups=())
        return splits.together(grouped(found, ""), grouped(alone, group_by))
    if found.groups:
        names = [group or n for n, group in enumerate(found.groups)]
    elif not group_by:
        return np.arange(len(found))
    else:
        try:
            pattern = re.compile(group_by)
        except re.error as error:
            raise DataError(
                f"--group-by {group_by!r} is not a regular expression: {error}"
            ) from error
        paths = found.paths()
        matches = [pattern.search(path) for path in paths]
        if not any(matches):
            raise DataError(f"--group-by {group_by!r} matches no file, not {brief(paths[0])}")
        names = [(m.groups() or m[0]) if m else n for n, m in enumerate(matches)]
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


# The cache that spares each trial reading the files: 1.28 million stats take seconds.


def place(ref: DataRef, identity: str, root: str = "") -> Path:
    form = GROUPED, FORM, digests.SKETCH, KEPT, LARGEST
    key = repr((*form, identity, ref.size, ref.skip_unreadable, ref.group_by, root)).encode()
    return cache.folder() / "prepared" / f"{hashlib.sha256(key).hexdigest()[:32]}.safetensors"


def remember(ref: DataRef, images: Prepared) -> None:
    facts = [dataclasses.asdict(images.info), images.decoded.folder.name, images.side]
    kept: arrays.Arrays = {"labels": images.labels, "groups": images.groups}
    kept |= {f"rows of {part}": rows for part, rows in images.rows.items()}
    kept |= {f"sketch of {part}": each.view(np.int64) for part, each in images.sketches.items()}
    try:
        arrays.save(place(ref, images.identity, root_of(ref, images.decoded)), kept, facts)
    except OSError as error:
        raise cache.unwritable(error) from error


def root_of(ref: DataRef, images: Decoded) -> str:
    """The directory that images are read from; empty once they are decoded."""
    return os.path.abspath(ref.dir) if isinstance(images.pixels, Encoded) else ""


def recall(ref: DataRef) -> Prepared | None:
    for root in ("", os.path.abspath(ref.dir)):
        with contextlib.suppress(*cache.LOST):  # not on this machine
            kept, (info, folder, side) = arrays.load(place(ref, ref.identity, root))
            images = decoding.opened(cache.folder() / "images" / folder)
            info |= {"classes": tuple(info["classes"]), "parts": tuple(info["parts"])}
            rows: dict[Part, npt.NDArray[np.int64]] = {
                part: kept[f"rows of {part}"] for part in info["parts"]
            }
            sketches: dict[Part, digests.Sketch] = {
                part: kept[f"sketch of {part}"].view(np.uint64) for part in rows
            }
            return Prepared(Info(**info), ref.identity, images, kept["labels"], kept["groups"],
                            rows, side, sketches)  # fmt: skip
    return None
