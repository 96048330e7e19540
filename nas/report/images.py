"""Shows the images that a network will be trained on: findings as text, and a sheet."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from nas import artifacts
from nas.data import cache, datasets, findings
from nas.data.findings import Findings
from nas.errors import DataError, NasError, brief, nearest
from nas.job import DataRef, Job
from nas.report import fonts
from nas.text import counted, named, size_text

SHOWN, CLASSES = 8, 24  # images per class on a sheet, and classes
SIDE = 72  # least pixels of an image's side on a sheet


def tell(job: Job, aloud: bool = True, objectives: Collection[str] = ()) -> None:
    """Prints the findings on a job's images to stderr, if they are the user's own files, but no
    advice that its recipe or the ``objectives`` follow. Raises DataError where they cannot be
    trained on."""
    if job.data.name == "imagefolder" and not job.evaluator:
        followed = {*objectives, f"class_weights={job.recipe.class_weights}"}
        for line in findings.lines(findings.examine(job.data, followed)) if aloud else ():
            print(f"nas: {line}", file=sys.stderr)


def check(ref: DataRef, format: str, sheet: Path | None) -> None:
    """Prints the findings to stdout as text or json, and draws the sheet. Raises NasError; for
    problems of the images only after that."""
    if format not in ("text", "json"):
        raise NasError(f"--format {format}: must be text or json")
    found = findings.inspect(ref)
    if format == "json":
        page = dataclasses.asdict(found)
        page["skipped"] = {reason: count for reason, (count, _) in found.skipped.items()}
        page["examples"] = {reason: list(names) for reason, (_, names) in found.skipped.items()}
        page["named"] = {text: list(names) for text, (_, names) in found.named.items()}
        print(json.dumps(page, indent=2))
    else:
        for problem in found.problems:
            print(f"problem: {brief(problem, 10_000)}")
        if found.problems:
            print("without what is named above:")
        print("\n".join([*findings.lines(found), f"identity {found.identity}"]))
    if sheet:
        draw(ref, found, sheet)
        print(f"nas: written to {sheet}", file=sys.stderr)
    if count := len(found.problems):
        these = "1 problem stops" if count == 1 else f"{count} problems stop"
        raise DataError(f"{found.root}: {these} every training on these images (see the output)")


def draw(ref: DataRef, found: Findings, path: Path) -> None:
    """A PNG with a few training images of each class, as the network will see them."""
    from PIL import Image, ImageDraw

    images = datasets.load(ref, "train")
    labels = images.labels[images.rows]
    _, height, width = found.shape
    scale = max(1, -(-SIDE // max(height, width)))
    names = list(found.classes)[:CLASSES]
    row, column, margin = height * scale + 22, width * scale + 4, 6
    fonts.tell_lacking(names)
    captions = [
        fonts.showable(f"{brief(named(name), 60)}, {counted(found.classes[name], 'image')}")
        for name in names
    ]
    most = min(SHOWN, int(np.bincount(labels).max(initial=0)))
    wide = max(
        [most * column, *(math.ceil(fonts.font(10, each).getlength(each)) for each in captions)]
    )
    canvas = Image.new("RGB", (wide + 2 * margin, len(names) * row + margin), "white")
    pen = ImageDraw.Draw(canvas)
    for number, caption in enumerate(captions):
        of_class = np.flatnonzero(labels == number)
        top = number * row + margin
        pen.text((margin, top), caption, "black", fonts.font(10, caption))
        # Spread over the class: neighbours in a folder are often alike.
        for place, at in enumerate(np.linspace(0, len(of_class) - 1, SHOWN).round().astype(int)):
            if place >= len(of_class):
                break
            chosen = of_class[place if len(of_class) < SHOWN else at]
            pixels = images.pixels[images.rows[chosen]].transpose(1, 2, 0)
            image = Image.fromarray(np.ascontiguousarray(pixels.squeeze()))
            grown = image.resize((width * scale, height * scale), Image.Resampling.NEAREST)
            canvas.paste(grown, (margin + place * column, top + 14))
    drawn = io.BytesIO()
    canvas.save(drawn, format="PNG")
    artifacts.replace(path, drawn.getvalue())


def kept(remove: Sequence[str], days: float | None) -> None:
    """Prints the cached decoded images, and removes those of these names (or "all"), and those
    unused for ``days``. Raises NasError for an unknown name."""
    there = cache.kept()
    names = [each.name for each in there]
    for name in remove:
        if name not in (*names, "all"):
            raise NasError(f"--remove {name}: {nearest(name, [*names, 'all'])}")
    chosen = {each.folder for each in there if "all" in remove or each.name in remove}
    if days is not None:
        if not days >= 0:
            raise NasError(f"--older {days}: must be a number of days, 0 or more")
        chosen |= {each.folder for each in cache.older(days)}
    for each in there:
        state = "in use" if cache.in_use(each.folder) else ""
        if each.folder in chosen:
            state = "removed" if cache.remove(each.folder) else "in use, stays"
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.used))
        shape = "x".join(map(str, each.shape)) or "unfinished"
        line = f"{each.name}  {size_text(each.bytes):>10}  {used}  {shape:20}  {brief(each.root)}"
        print(f"{line}  {state}".rstrip())
    left = cache.kept()
    print(
        f"nas: {size_text(sum(each.bytes for each in left))} of at most "
        f"{size_text(cache.limit())} ({cache.ROOM} sets it) in {cache.folder()}",
        file=sys.stderr,
    )
