"""What ``nas audit`` and ``nas report`` show: pages for a terminal, and the report as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from nas.metrics import by_arithmetic, metric, shown
from nas.report.screens import body_of, table

if TYPE_CHECKING:
    from nas.driver.audit import Audit, Rank
    from nas.driver.finalists import Finalist, Mean, Report


def audit_page(audit: Audit) -> RenderableType:
    """Every signal with its cost and its rank correlations, and what follows."""
    numbers = ("epochs", "Kendall", "of pairs right", "Spearman")
    listed = table("signal", *numbers, numbers=numbers)
    for signal in audit.signals:
        listed.add_row(
            signal.name,
            str(signal.epochs) if signal.epochs else "free",
            rank(signal.kendall),
            f"{50 * (1 + signal.kendall.value):.0f} %",
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
        else "no training-free score is surely better than params and MACs: none is worth using"
    )
    return [rung, free]


def rank(found: Rank) -> str:
    return f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


COSTS = by_arithmetic()
COLUMNS = (
    *("", "trial", "searched", "validation", "test"),
    *(metric(name).title for name in COSTS),
    "pattern",
)


def report_page(report: Report) -> RenderableType:
    """The finalists beside what they are compared with, and how to read it."""
    listed = table(*COLUMNS, numbers=COLUMNS[1:-1])
    for cells in lines(report):
        listed.add_row(*map(Text, cells))
    return Group(listed, Text(""), *map(Text, remarks(report)))


def report_markdown(report: Report) -> str:
    """The same as Markdown."""
    told = [f"# {report.study.name}: {report.study.space} on {report.study.shown_data}", ""]
    told += [" | ".join(["", *COLUMNS, ""]).strip(), "|" + "---|" * len(COLUMNS)]
    for cells in lines(report):
        shown = [*cells[:-1], f"`{cells[-1]}`"]
        told.append(" | ".join(["", *shown, ""]).strip())
    return "\n".join([*told, "", *remarks(report), ""])


def lines(report: Report) -> list[list[str]]:
    roles = ["winner", *["finalist"] * (len(report.finalists) - 1)]
    told = [line(f, role) for f, role in zip(report.finalists, roles, strict=True)]
    return told + [line(other, other.role) for other in report.beside]


def line(found: Finalist, role: str) -> list[str]:
    row = found.row
    searched = f"{100 * (row.accuracy or 0.0):.2f} %"
    return [
        role,
        str(row.number),
        searched,
        mean(found.validation),
        mean(found.test),
        *(shown(name, row.value(name)) for name in COSTS),
        body_of(row.pattern),
    ]


def mean(found: Mean) -> str:
    value, low, high = (f"{100 * end:.2f}" for end in (found.value, found.low, found.high))
    return f"{value} % ({low} to {high})"


def remarks(report: Report) -> list[str]:
    trainings, others = "one training", "not of other seeds"
    if report.seeds > 1:
        trainings, others = f"{report.seeds} trainings", "of other seeds"
    return [
        f"Validation and test: the mean of {trainings} of {report.epochs} epochs with seeds that "
        f"the search did not use, and its 95 % interval, of other images and {others}.",
        "Searched: the accuracy for which the search noticed it, with the luck of one training.",
        "The winner was chosen by validation; the test images chose nothing.",
    ]
