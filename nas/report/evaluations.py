"""The output of ``nas evaluate``: a page, the confusion matrix as CSV and as a picture, and a sheet
of the worst mistakes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nas.errors import brief
from nas.metrics import percent
from nas.report import fonts
from nas.report.screens import table
from nas.text import cell, counted

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from nas.training.evaluation import Comparison, Evaluation

WIDEST = 20  # most classes whose confusion matrix fits a terminal
SHEET = 40  # mistakes on a sheet
ORDER, TITLE = "Lowest probability of the true class first.", 22  # and pixels of it on a sheet
COLUMNS = 6
TILE, CAPTION, GAP = 128, 144, 16  # pixels there: an image's side, a caption, between captions


def with_interval(of: Evaluation) -> str:
    """The accuracy, and its 95% interval."""
    low, high = of.interval
    return f"{percent(of.accuracy)}  ({100 * low:.2f} to {100 * high:.2f})"


def evaluation_page(evaluation: Evaluation) -> RenderableType:
    """The scores, each class's, and the confusion matrix or the most confused classes."""
    rows = table("", "")
    rows.show_header = False
    answer, share = evaluation.constant
    for name, text in {
        "images": f"{len(evaluation):,} ({evaluation.part})",
        "accuracy": with_interval(evaluation),
        f"always {brief(answer, 20)}": percent(share),
        "balanced accuracy": percent(evaluation.balanced_accuracy),
        "calibration error": percent(evaluation.calibration_error),
    }.items():
        rows.add_row(Text(name), text)
    numbers = ("images", "precision", "recall")
    each = table("class", *numbers, numbers=numbers)
    for score in evaluation.by_class:
        # Precision is undefined for a class never predicted, recall for one without images.
        shares = ("" if math.isnan(s) else percent(s) for s in (score.precision, score.recall))
        shown = (f"{score.images:,}", *shares)
        each.add_row(Text(brief(score.name)), *shown)
    return Group(rows, Text(""), each, Text(""), _confused(evaluation))


def _confused(evaluation: Evaluation) -> Table:
    counts, names = evaluation.confusion, [brief(name, 20) for name in evaluation.classes]
    if len(names) <= WIDEST:
        matrix = table("true \\ predicted", *names, numbers=names)
        for name, row in zip(names, counts, strict=True):
            matrix.add_row(Text(name), *(str(n) if n else "·" for n in row))
        return matrix
    most = table("true", "predicted", "images", numbers=["images"])
    for n, a, b in confused_most(evaluation):
        most.add_row(Text(names[a]), Text(names[b]), str(n))
    return most


def confused_most(evaluation: Evaluation) -> list[tuple[int, int, int]]:
    """(images, true class, predicted class) of each kind of mistake, the most frequent first."""
    counts = enumerate(evaluation.confusion.tolist())
    pairs = [(n, a, b) for a, row in counts for b, n in enumerate(row) if n and a != b]
    return sorted(pairs, key=lambda pair: -pair[0])[:WIDEST]


def comparison_page(names: Sequence[str], comparison: Comparison) -> RenderableType:
    """The result of McNemar's test on two models."""
    first, second = (brief(name) for name in names)
    verdict = "they differ" if comparison.p < 0.05 else "no significant difference"
    return Group(
        Text(f"right with {first} alone: {counted(comparison.only_first, 'image')}"),
        Text(f"right with {second} alone: {counted(comparison.only_second, 'image')}"),
        Text(f"McNemar's exact test: p = {comparison.p:.3g}: {verdict}"),
    )


def evaluation_dict(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as plain data; undefined ratios are None."""

    def number(value: float) -> float | None:
        return None if value != value else value

    return {
        "part": evaluation.part,
        "images": len(evaluation),
        "accuracy": evaluation.accuracy,
        "interval": list(evaluation.interval),
        "always": dict(zip(("class", "accuracy"), evaluation.constant, strict=True)),
        "balanced_accuracy": evaluation.balanced_accuracy,
        "calibration_error": evaluation.calibration_error,
        "classes": {
            score.name: {
                "images": score.images,
                "precision": number(score.precision),
                "recall": number(score.recall),
            }
            for score in evaluation.by_class
        },
        "confusion": evaluation.confusion.tolist(),
    }


def confusion_csv(evaluation: Evaluation) -> str:
    """A row for each true class, a column for each predicted one."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [cell(name) for name in evaluation.classes]
    writer.writerow(["true", *names])
    for name, row in zip(names, evaluation.confusion.tolist(), strict=True):
        writer.writerow([name, *row])
    return out.getvalue()


def confusion_png(evaluation: Evaluation) -> bytes:
    """Each true class's images by predicted class: counts, coloured by their share of the row.
    Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = evaluation.confusion
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    names = [fonts.showable(brief(name, 20)) for name in evaluation.classes]
    side = min(40.0, 2.5 + 0.45 * len(names))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_fontproperties(fonts.file_for(label.get_text()))
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(names) <= 2 * WIDEST:
        for a, row in enumerate(counts):
            for b, n in enumerate(row):
                if n:
                    colour = "white" if shares[a, b] > 0.5 else "black"
                    axes.text(b, a, str(n), ha="center", va="center", size=8, color=colour)
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png")
    return out.getvalue()


def true_and_taken(
    evaluation: Evaluation, number: int
) -> tuple[tuple[str, float], tuple[str, float]]:
    """An image's class and the predicted one, each with its probability in percent."""

    def told(k: int) -> tuple[str, float]:
        return evaluation.classes[k], 100 * float(evaluation.probabilities[number, k])

    return told(int(evaluation.labels[number])), told(int(evaluation.predicted[number]))


def mistakes_png(evaluation: Evaluation) -> bytes:
    """The worst mistakes first, each with its class and the predicted one, and the probabilities of
    both."""
    from PIL import Image, ImageDraw

    wrong = evaluation.mistakes(SHEET)
    columns = max(1, min(COLUMNS, len(wrong)))
    rows = -(-len(wrong) // columns)
    wide, high = CAPTION + GAP, TILE + 58
    head = ORDER if len(wrong) > 1 else "" if wrong else "No mistakes."
    top = GAP + (TITLE if head else 0)
    sheet = Image.new("RGB", (columns * wide + GAP, rows * high + top), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), head, "black", fonts.font(12))
    for place, number in enumerate(wrong):
        pixels = evaluation.pixels(number)
        shown = pixels.transpose(1, 2, 0)
        image = Image.fromarray(shown[..., 0] if shown.shape[2] == 1 else shown).convert("RGB")
        # Enlarged without interpolation: the pixels that the network saw.
        scale = TILE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        x, y = GAP + place % columns * wide, top + place // columns * high
        sheet.paste(image.resize(size, Image.Resampling.NEAREST), (x, y))
        (truth, own), (taken, most) = true_and_taken(evaluation, number)
        lines = (
            (truth, f", {own:.0f} %", "black"),
            (f"taken for {taken}", f", {most:.0f} %", "#b00020"),
            ("/".join(evaluation.name(number).split("/")[-2:]), "", "#606060"),
        )
        for n, (line, end, ink) in enumerate(lines):
            whole = fonts.showable(brief(line))
            font = fonts.font(10, whole)
            text = cut(whole, end, partial(_fits, font))
            draw.text((x, y + TILE + 3 + 14 * n), text, ink, font)
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _fits(font: FreeTypeFont | ImageFont, text: str) -> bool:
    return font.getlength(text) <= CAPTION


def cut(text: str, end: str, fits: Callable[[str], bool]) -> str:
    """A text with its ``end``, which is never cut, shortened until it ``fits``."""
    if fits(text + end):
        return text + end
    while text and not fits(f"{text}…{end}"):
        text = text[:-1]
    return f"{text}…{end}"
