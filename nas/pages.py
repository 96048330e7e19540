"""What ``nas audit`` and ``nas report`` show: pages for a terminal, and the report as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from nas.screens import table

if TYPE_CHECKING:
    from nas.audit import Audit, Rank


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
