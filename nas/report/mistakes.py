"""The winner's confusion matrix and worst mistakes, for the report's page."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from nas.errors import brief
from nas.metrics import percent
from nas.report.evaluations import ORDER, WIDEST, confused_most, true_and_taken

if TYPE_CHECKING:
    from nas.training.evaluation import Evaluation

SHOWN = 24  # mistakes
SIDE = 96  # most pixels of a thumbnail: 24 as PNG or JPEG take 20 to 300 kB of the page
SMALL = 64  # most pixels of an image that is shown as the network saw it
NAME = 24  # characters of a class


def section(evaluation: Evaluation) -> str:
    """The section of the page, as HTML."""
    low, high = evaluation.interval
    wrong = int((~evaluation.right).sum())
    answer, share = evaluation.constant
    lead = (
        f"On the {len(evaluation):,} test images, {wrong:,} of them wrong: accuracy "
        f"{percent(evaluation.accuracy)} ({100 * low:.2f} to {100 * high:.2f}), balanced "
        f"{percent(evaluation.balanced_accuracy)}; always answering {brief(answer, NAME)} has "
        f"{percent(share)}. Of the winner's trainings it is the one that "
        "did best on the validation images."
    ).replace(" %", "\N{NO-BREAK SPACE}%")
    few = len(evaluation.classes) <= WIDEST
    return (
        f'<section id="mistakes"><h2>Where the winner errs</h2><p class="note">{escape(lead)}</p>'
        f"{_matrix(evaluation) if few else _pairs(evaluation)}{_worst(evaluation, wrong)}</section>"
    )


def _matrix(evaluation: Evaluation) -> str:
    names = [escape(brief(name, NAME)) for name in evaluation.classes]
    counts = evaluation.confusion
    heads = "".join(f'<th scope="col"><span>{name}</span></th>' for name in names)
    lines = []
    for a, (name, row, score) in enumerate(zip(names, counts, evaluation.by_class, strict=True)):
        whole = max(1, int(row.sum()))
        cells = "".join(
            f'<td class="{"right" if a == b else "wrong"}" style="--share:{n / whole:.3f}" '
            f'title="{name} taken for {names[b]}: {n:,} of {whole:,}">{f"{n:,}" if n else ""}</td>'
            for b, n in enumerate(map(int, row))
        )
        recall = percent(score.recall) if score.images else ""
        lines.append(f'<tr><th scope="row">{name}</th>{cells}<td class="number">{recall}</td></tr>')
    return (
        '<div class="scroll"><table class="matrix">'
        f'<tr><th class="faint">is \\ taken for</th>{heads}<th class="number">recall</th></tr>'
        f"{''.join(lines)}</table></div>"
    )


def _pairs(evaluation: Evaluation) -> str:
    names = [escape(brief(name, 2 * NAME)) for name in evaluation.classes]
    lines = "".join(
        f'<tr><td>{names[a]}</td><td>{names[b]}</td><td class="number">{n:,}</td></tr>'
        for n, a, b in confused_most(evaluation)
    )
    head = '<tr><th>is</th><th>taken for</th><th class="number">images</th></tr>'
    return f'<div class="scroll"><table class="pairs">{head}{lines}</table></div>' if lines else ""


def _worst(evaluation: Evaluation, wrong: int) -> str:
    if not wrong:
        return "<p>No mistakes.</p>"
    tiles = []
    for number in evaluation.mistakes(SHOWN):
        of = true_and_taken(evaluation, number)
        (truth, own), (taken, most) = ((escape(brief(name, 2 * NAME)), p) for name, p in of)
        # A name that is not UTF-8 is escaped bytewise.
        file = evaluation.name(number).encode(errors="backslashreplace").decode()
        tiles.append(
            f'<figure><img src="{_thumbnail(evaluation, number)}" alt="{truth}">'
            f"<figcaption><b>{truth}</b>, {own:.0f}&nbsp;%<br>taken for {taken}, {most:.0f}&nbsp;%"
            f"<br><code>{escape(brief(file, 120))}</code></figcaption></figure>"
        )
    heading = f"The {len(tiles)} worst mistakes" if wrong > len(tiles) else "All mistakes"
    return f'<h3>{heading}</h3><p class="note">{ORDER}</p><div class="worst">{"".join(tiles)}</div>'


def _thumbnail(evaluation: Evaluation, number: int) -> str:
    """An image as a data URL: as the network saw it where it is small, otherwise a small JPEG."""
    shown = evaluation.pixels(number).transpose(1, 2, 0)
    image = Image.fromarray(shown[..., 0] if shown.shape[2] == 1 else shown)
    out = io.BytesIO()
    if max(image.size) <= SMALL:
        kind = "png"
        image.save(out, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.thumbnail((SIDE, SIDE))
        image.save(out, "JPEG", quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
