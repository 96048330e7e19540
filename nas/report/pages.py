"""The output of ``nas audit`` and ``nas report``: terminal pages, and the report as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from nas.metrics import ACCURACY, by_arithmetic, metric, percent, shown
from nas.report import believed
from nas.report.screens import table
from nas.report.trials import body_of, caveats
from nas.text import counted

if TYPE_CHECKING:
    from nas.driver.audit import Audit, Rank
    from nas.driver.finalists import Finalist, Mean, Report


def audit_page(audit: Audit) -> RenderableType:
    """Every signal with its cost and its rank correlations, and the conclusions."""
    numbers = ("epochs", "Kendall", "of pairs right", "Spearman")
    listed = table("signal", *numbers, numbers=numbers)
    for signal in audit.signals:
        listed.add_row(
            signal.name,
            str(signal.epochs) if signal.epochs else "free",
            rank(signal.kendall),
            "" if math.isnan(signal.right) else f"{100 * signal.right:.0f} %",
            rank(signal.spearman),
        )
    spread = [subject.final for subject in audit.subjects]
    return Group(
        Text(
            f"{len(spread)} architectures, accuracy at the end {100 * min(spread):.2f} % to "
            f"{100 * max(spread):.2f} %; intervals are of 95 %"
        ),
        Text(""),
        listed,
        Text(""),
        *(Text(line) for line in verdict(audit)),
    )


def verdict(audit: Audit) -> list[str]:
    whole = max(audit.subjects[0].scores)
    rung = (
        f"the cheapest rung to trust is {audit.trusted} epochs: --rungs {audit.trusted},{whole}"
        if audit.trusted
        else "no rung can be trusted on so few architectures: --rungs off, or audit more (--count)"
    )
    free = (
        f"{' and '.join(audit.better)}: better than params and MACs"
        if audit.better
        else "no training-free score is significantly better than params and MACs: use none"
    )
    return [rung, free]


def rank(found: Rank) -> str:
    return f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def columns(report: Report) -> list[str]:
    """The table's column titles; estimates have columns only if there are any."""
    heads = ["", "trial", "searched", "trainings", "validation", "test"]
    if any(found.belief for found in report.finalists):
        heads.insert(3, "believed")
    return [*heads, *(metric(name).title for name in by_arithmetic()), "pattern"]


def report_page(report: Report) -> RenderableType:
    """The finalists and their baselines, and how to read the table."""
    titles = columns(report)
    listed = table(*titles, numbers=titles[1:-1])
    for cells in lines(report):
        listed.add_row(*map(Text, cells))
    return Group(listed, Text(""), *map(Text, [*choice(report), *remarks(report)]))


def report_markdown(report: Report) -> str:
    """The report as Markdown."""
    document = [f"# {report.study.name}: {report.study.searched}", ""]
    titles = columns(report)
    document += [" | ".join(["", *titles, ""]).strip(), "|" + "---|" * len(titles)]
    for cells in lines(report):
        shown = [*cells[:-1], f"`{cells[-1]}`"]
        document.append(" | ".join(["", *shown, ""]).strip())
    return "\n".join([*document, "", *choice(report), *remarks(report), ""])


def lines(report: Report) -> list[list[str]]:
    roles = ["winner", *["finalist"] * (len(report.finalists) - 1)]
    titles = columns(report)
    rows = [line(f, role, titles) for f, role in zip(report.finalists, roles, strict=True)]
    return rows + [line(other, other.role, titles) for other in report.beside]


def line(found: Finalist, role: str, titles: Sequence[str]) -> list[str]:
    row = found.row
    cells = {
        "": role,
        "trial": str(row.number),
        "searched": f"{100 * (row.accuracy or 0.0):.2f} %",
        "believed": believed.cell(ACCURACY, found.belief),
        "trainings": str(len(found.trainings)),
        "validation": mean(found.validation),
        "test": mean(found.test),
        **{metric(name).title: shown(name, row.value(name)) for name in by_arithmetic()},
        "pattern": body_of(row),
    }
    return [cells[title] for title in titles]


def mean(found: Mean) -> str:
    value, low, high = (f"{100 * end:.2f}" for end in (found.value, found.low, found.high))
    return f"{value} % ({low} to {high})"


def choice(report: Report) -> list[str]:
    """Sentences on the choice: why a finalist is not on the front shown, why the search's most
    accurate network is not the winner, and which cheaper one may be as good; empty if none apply.
    """
    sentences = []
    off = [
        f"trial {row.number}" + (f" ({there.called} is no worse in anything)" if there else "")
        for row, there in report.off_front
    ]
    if off:
        sentences.append(
            f"Not on the front as measured by the search: {', '.join(off)}. Finalists are "
            "chosen by their estimates from all trials, without the luck of one training."
        )
    lost = {row.id for row, _ in report.lost}  # these have their own explanation
    searched = [row for row in report.searched if row.id not in lost]
    top = max(searched, key=lambda row: row.value(ACCURACY), default=report.winner.row)
    if (top.fingerprint, top.job_key) != (report.winner.row.fingerprint, report.winner.row.job_key):
        again = next((f for f in report.finalists if f.row.id == top.id), None)
        sentences.append(
            f"Trial {top.number} was the most accurate of the search; "
            + (
                f"retrained it reached {percent(again.validation.value)} on validation, the winner "
                f"{percent(report.winner.validation.value)}, and the earlier estimates of both "
                "count as well."
                if again
                else "others have better estimates, so it was not retrained."
            )
        )
    if alike := report.cheaper:
        low, high = (
            f"{100 * end:+.2f}" for end in report.winner.validation.above(alike.validation)
        )
        sentences.append(
            f"Trial {alike.row.number} may be as good as the winner, trial "
            f"{report.winner.row.number}: the winner's validation accuracy less its own is "
            f"{low} to {high} points, not significant, and it has {saved(report, alike)}."
        )
    return sentences


def saved(report: Report, found: Finalist) -> str:
    """A finalist's cost, and how much it saves compared with the winner."""
    cost = report.cost
    own, most = found.row.value(cost), report.winner.row.value(cost)
    times = f": {most / own:.1f} times less" if own > 0 else ""
    return f"{shown(cost, own)} {metric(cost).title} instead of {shown(cost, most)}{times}"


def remarks(report: Report) -> list[str]:
    least, most = (end(len(f.trainings) for f in report.finalists) for end in (min, max))
    trainings = f"{least} to {most} trainings" if least < most else f"{most} trainings"
    others = "other seeds"
    if most < 2:
        trainings, others = "one training", "not over other seeds"
    epochs = counted(report.epochs, "epoch")
    sentences = [
        f"Validation and test: the mean of {trainings} of {epochs} with seeds that the search did "
        f"not use, and its 95 % interval, over other images and {others}.",
        "Searched: the accuracy that the search measured, with the luck of one training.",
    ]
    if "believed" in columns(report):
        sentences.append("Believed: estimated from all trials, without that luck; 80 % interval.")
    if least < most == len(report.winner.trainings):
        sentences.append(
            "Each was trained once, then in rounds the better half so far, by validation and the "
            "earlier estimate."
        )
    sentences.append(
        "The winner was chosen by validation and by its earlier estimate; the test images chose "
        "nothing."
    )
    told = caveats(report.study, [found.row for found in report.beside])
    sentences += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in told]
    sentences += [f"Left out: trial {row.number}, {why}." for row, why in report.lost]
    return sentences
