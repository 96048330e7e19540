"""The data for the script of the report's page: all positions and texts, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nas.driver.beliefs import Beliefs
from nas.driver.finalists import Finalist, Report
from nas.driver.tradeoffs import feasible
from nas.errors import NasError
from nas.language.architecture import Architecture
from nas.language.expression import show as shape_text
from nas.metrics import ACCURACY, count, metric, shown, usual
from nas.report import believed, pages
from nas.report.front import axes, directions
from nas.report.plot import Axis
from nas.report.trials import body_of, places, state_of
from nas.store import StudyRow, TrialRow

DRAWN = 1_500_000  # most characters of drawings in a page; further stages are listed as text


def script(
    study: StudyRow,
    rows: Sequence[TrialRow],
    best: Sequence[TrialRow],
    report: Report | None,
    beliefs: Beliefs | None,
) -> str:
    x, y = axes(study)
    own = (name for row in rows for name in row.metrics)
    names = list(dict.fromkeys([y, x, *dict(study.objectives), *study.constraints, *usual(), *own]))
    names = [name for name in names if any(math.isfinite(row.value(name)) for row in rows)]
    again = {f.row.number: f for f in (*report.finalists, *report.beside)} if report else {}
    ends = [end for f in again.values() for end in (f.validation.low, f.validation.high)]
    across = {
        name: Axis.of(
            name,
            [row.value(name) for row in rows if row.state not in ("failed", "refused")]
            + (ends if name == ACCURACY else []),
        )
        for name in names
    }
    words: dict[str, int] = {}
    front = {row.number for row in best}

    def trial(row: TrialRow) -> dict[str, Any]:
        architecture = _network(row)
        places = [_place(across[name], row.value(name)) for name in names]
        return {
            "number": row.number,
            "state": state_of(row),
            "baseline": row.baseline,
            "called": row.called,
            "made": row.made,
            "front": row.number in front,
            "feasible": feasible(study, row),
            "pattern": row.pattern,
            "body": body_of(row),
            "at": places if row.evaluated else None,
            "shown": [shown(name, row.value(name)) for name in names],
            "epochs": 0 if row.state == "refused" else row.epochs,
            "seconds": None if row.seconds is None else round(row.seconds, 1),
            **_range(across, again.get(row.number)),
            **_believed(beliefs, row),
            "more": _more(study, row, again.get(row.number)),
            "stages": _stages(architecture, words) if architecture else None,
        }

    chosen = report.winner.row if report else best[0] if best else rows[0] if rows else None
    believed_in = beliefs.name if beliefs and beliefs.by else None
    return embedded(
        {
            "axes": [
                {
                    "title": metric(name).title,
                    "label": axis.title,
                    "direction": directions(study, name)[0],
                    "ticks": [(round(at, 4), text) for at, text in axis.ticks],
                }
                for name, axis in across.items()
            ],
            "across": [names.index(name) if name in names else 0 for name in (x, y)],
            "chosen": chosen.number if chosen else None,
            "trials": [trial(row) for row in rows],
            "words": list(words),  # of the trials' stages
            "believed": names.index(believed_in) if believed_in in names else None,
            "drawings": drawings([f.row for f in again.values()] + list(best)),
        }
    )


def drawings(rows: Iterable[TrialRow]) -> dict[int, str]:
    """The networks as SVG, as many as the page has room for."""
    found: dict[int, str] = {}
    room = DRAWN
    for row in rows:
        if row.number not in found and (architecture := _network(row)):
            drawn = architecture.svg(row.called)
            room -= len(drawn)
            if room < 0:
                break
            found[row.number] = drawn
    return found


def _range(across: Mapping[str, Axis], again: Finalist | None) -> dict[str, Any]:
    """The interval of the accuracy of one that was trained again, by the number of its axis."""
    if again is None or ACCURACY not in across:
        return {}
    mean, axis = again.validation, across[ACCURACY]
    ends = [_place(axis, value) for value in (mean.low, mean.value, mean.high)]
    return {"range": {list(across).index(ACCURACY): ends}}


def _believed(beliefs: Beliefs | None, row: TrialRow) -> dict[str, Any]:
    found = beliefs.by.get(row.id) if beliefs else None
    if beliefs is None or found is None:
        return {}
    return {"believed": [round(found.mean, 6), believed.cell(beliefs.name, found)]}


def _place(axis: Axis, value: float) -> float | None:
    return round(axis.at(value), 4) if math.isfinite(value) else None


def _network(row: TrialRow) -> Architecture | None:
    try:
        return row.architecture
    except NasError:
        return None  # a classical method, or of a plug-in that is not loaded


def _stages(architecture: Architecture, words: dict[str, int]) -> list[list[Any]]:
    """The stages as in a terminal's drawing; texts are indices into ``words``, as networks share
    most of them."""

    def word(text: str) -> int:
        return words.setdefault(text, len(words))

    found = []
    for text, steps in architecture.stages():
        params = sum(step.cost.params for step in steps)
        share = round(params / max(1, architecture.params), 3)
        shape = word(shape_text(steps[-1].cost.shape))
        macs = sum(step.cost.macs for step in steps)
        sizes = [count(size) if size else "" for size in (params, macs)]
        found.append([word(text), shape, *sizes, share])
    return found


def _more(study: StudyRow, row: TrialRow, again: Finalist | None) -> dict[str, str]:
    page = {
        "validation": pages.mean(again.validation) if again else "",
        "test": pages.mean(again.test) if again else "",
        **places(study, [row]),
        "failure": row.reason or "",
        "sampled": ", ".join(f"{name}={value}" for name, value in row.sampled.items())
        if not row.baseline
        else "",
    }
    return {name: text for name, text in page.items() if text}


def embedded(value: Any) -> str:
    """JSON that cannot close the script element around it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
