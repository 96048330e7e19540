"""Shows a trial's estimate: in a table, as plain data, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nas.metrics import metric, percent, shown
from nas.text import counted

if TYPE_CHECKING:
    from nas.driver.beliefs import Belief, Beliefs
    from nas.store import StudyRow, TrialRow


def cell(name: str, found: Belief | None, *, short: bool = False) -> str:
    """The estimate of metric ``name`` with its interval; if ``short``, the interval only; empty
    without an estimate."""
    if found is None:
        return ""
    low, high = (shown(name, end).partition(" ")[0] for end in (found.low, found.high))
    return f"{low} to {high}" if short else f"{shown(name, found.mean)} ({low} to {high})"


def fields(beliefs: Beliefs | None, row: TrialRow) -> dict[str, float | None]:
    """The columns NAME_believed and the ends of its 80% interval, by name."""
    if beliefs is None or not beliefs.name:
        return {}
    found = beliefs.by.get(row.id)
    ends: tuple[Any, ...] = (found.mean, found.low, found.high) if found else (None, None, None)
    names = (f"{beliefs.name}_believed{end}" for end in ("", "_low", "_high"))
    return dict(zip(names, ends, strict=True))


def note(study: StudyRow, beliefs: Beliefs | None, rows: Sequence[TrialRow] = ()) -> str:
    """The explanation of the column "believed" of ``rows``, or why there is none; empty where
    nothing is estimated in this study."""
    if beliefs is None or not beliefs.name:
        return ""
    if beliefs.lacking:
        return (
            f"{metric(beliefs.name).title} is that of one {study.once}, luck included; an estimate "
            f"without it needs {counted(beliefs.lacking, 'more finished trial')}"
        )
    if not beliefs.by or (rows and not any(row.id in beliefs.by for row in rows)):
        return ""
    images = "" if study.evaluator else " on these validation images"
    sentence = (
        f"believed: estimated from all trials{images}, without the luck of one {study.once}, so "
        "compare networks by it; in brackets an 80 % interval, wider on the better "
        "side because the best networks exceed what a model predicts"
    )
    if not beliefs.sure:
        sentence += f"; such intervals held only {percent(beliefs.held)} of values not seen before"
    if any(row.id not in beliefs.by for row in rows):
        sentence += "; networks that the search did not propose have no estimate"
    return sentence
