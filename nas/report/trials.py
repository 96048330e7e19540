"""Trials as a table, JSON or CSV, and the page of one."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nas.errors import NasError, PatternError, brief, nearest
from nas.language.pattern import Call, read
from nas.metrics import ACCURACY, METRICS, metric, on_device, percent, shown, usual
from nas.report import believed
from nas.report.screens import console, drawing, out, table
from nas.store import EVALUATED, Store, StudyRow, TrialRow, TrialState
from nas.store.teachers import teacher_of
from nas.text import cell, counted

if TYPE_CHECKING:
    from nas.driver.beliefs import Beliefs

NARROW = 100  # on terminals with fewer columns, only the interval of an estimate is shown
REFUSED = "refused: latency over the bound, measured before training"


def trial_dict(study: StudyRow, row: TrialRow) -> dict[str, Any]:
    """A trial as plain data for JSON and CSV: the columns of the view ``tradeoffs`` and more."""
    fields: dict[str, Any] = {
        "study": study.name,
        "trial": row.number,
        "state": row.state,
        "baseline": row.baseline or None,
        "teacher": teacher_of(study, row) or None,
        "pattern": row.pattern,
        "fingerprint": row.fingerprint,
        **{name: _plain(row.value(name)) for name in usual()},
        "latency_low": row.latency_low,
        "latency_high": row.latency_high,
        "device": row.latency_device or row.device,
        "epochs": row.epochs,
        "seconds": row.seconds,
        "trainings": row.trainings,
    }
    last = {"failure": row.failure, "reason": row.reason}
    own = {*fields, *last, "sampled"} - {*usual()}
    others = [name for name in (*dict(study.objectives), *row.metrics) if name not in usual()]
    # An evaluator may call a metric "seconds", as a column of the trial is called.
    fields |= {f"metrics.{n}" if n in own else n: _plain(row.value(n)) for n in others}
    fields |= {f"recipe.{name}": row.recipe[name] for name in searched([row])}
    return fields | last


def _plain(value: float) -> float | int | None:
    """A number for JSON and CSV: integers as such, NaN as None."""
    if math.isnan(value):
        return None
    return int(value) if value.is_integer() and abs(value) > 1 else value


def searched(rows: Iterable[TrialRow]) -> list[str]:
    """The recipe settings that were sampled in any of the trials."""
    names = (name.removeprefix("recipe.") for r in rows for name in r.sampled if "recipe." in name)
    return list(dict.fromkeys(names))


def in_states(rows: Sequence[TrialRow], states: Sequence[str]) -> list[TrialRow]:
    """The trials in any of ``states`` (empty: all). Raises NasError for an unknown state."""
    known = get_args(TrialState)
    for state in states:
        if state not in known:
            raise NasError(f"--state {state}: must be one of {', '.join(known)}")
    return [row for row in rows if not states or row.state in states]


def ordered(study: StudyRow, rows: Sequence[TrialRow], name: str) -> list[TrialRow]:
    """Sorts by a metric, best first, in the study's or the metric's usual direction; by "seconds",
    "epochs" or "trial" ascending; without a name not at all. A metric may be called by its heading.
    Raises NasError for a metric that no trial has."""
    own = {"trial": "number", "epochs": "epochs", "seconds": "seconds"}
    if not name:
        return list(rows)
    if name in own:
        return sorted(
            rows, key=lambda row: (getattr(row, own[name]) is None, getattr(row, own[name]))
        )
    known = dict.fromkeys(
        [*METRICS, *dict(study.objectives), *(n for r in rows for n in r.metrics)]
    )
    # A heading of the table names its metric too.
    name = next((each for each in known if name in (each, metric(each).title)), name)
    if name not in known:
        raise NasError(f"--sort {name}: no trial has it; {nearest(name, [*known, *own])}")
    sign = -1 if dict(study.objectives).get(name, metric(name).direction) == "max" else 1

    def key(row: TrialRow) -> tuple[bool, float]:
        value = row.value(name)
        return (math.isnan(value), 0.0 if math.isnan(value) else sign * value)

    return sorted(rows, key=key)


def note_devices(rows: Iterable[TrialRow]) -> None:
    """Prints a note if trials have latencies on different devices."""
    devices = sorted({row.latency_device for row in rows if row.latency_device})
    if len(devices) > 1:
        print(f"latencies are of {len(devices)} devices, not to be compared: {'; '.join(devices)}")


def note_damaged(rows: Iterable[TrialRow]) -> None:
    """Prints to stderr which trials have a text that is no pattern. Names are not looked up: they
    may be a plug-in's."""
    for row in rows:
        try:
            first = read(row.pattern).items[0]
            lacks = "" if isinstance(first, Call) and first.name == "INPUT" else "it has no INPUT"
        except PatternError as error:
            lacks = str(error)
        if lacks and (row.is_network or not row.baseline):
            text = f"trial {row.number}: its pattern in the record is damaged: {lacks}"
            print(f"nas: {brief(text)}", file=sys.stderr)


def note_teachers(study: StudyRow, rows: Iterable[TrialRow]) -> None:
    """Prints which trials learned from which teachers' outputs, so that they are not taken for
    ordinary ones."""
    for teacher, numbers in taught(study, rows).items():
        print(f"taught by {teacher}: {', '.join(map(str, numbers))}")


def classifiers_alone(rows: Iterable[TrialRow]) -> list[str]:
    """A remark for each classical method whose params and MACs leave out its features: beside a
    network's they look like those of all its work."""
    if not (names := {row.baseline: None for row in rows if row.baseline and not row.made}):
        return []
    from nas.training.classical import METHODS  # numpy and the images' formats

    return [
        f"{name}: params and MACs are those of the classifier alone; computing its "
        f"{METHODS[name].uncounted} is not counted"
        for name in names
        if name in METHODS and METHODS[name].uncounted
    ]


def caveats(study: StudyRow, rows: Sequence[TrialRow]) -> list[str]:
    """What is to be known of trials before they are compared by their numbers: what the costs of
    classical methods leave out, and what distilled and pruned networks gained over their controls,
    which are no trials."""
    verdicts = study.settings.get("verdicts", {})
    gained = [
        f"{row.called} beside its control, on validation: {verdicts[str(row.number)]}"
        for row in rows
        if row.made and str(row.number) in verdicts
    ]
    return [*classifiers_alone(rows), *gained]


def taught(study: StudyRow, rows: Iterable[TrialRow]) -> dict[str, list[int]]:
    """The numbers of the trials of each teacher."""
    found: dict[str, list[int]] = {}
    for row in rows:
        if teacher := teacher_of(study, row):
            found.setdefault(teacher, []).append(row.number)
    return found


def tell_caveats(study: StudyRow, rows: Sequence[TrialRow]) -> None:
    """Prints them to stderr, beside data that has no place for them."""
    for sentence in caveats(study, rows):
        print(f"nas: {sentence}", file=sys.stderr)


def rows_out(
    study: StudyRow,
    rows: Sequence[TrialRow],
    format: str,
    among: Sequence[TrialRow] = (),
    beliefs: Beliefs | None = None,
) -> None:
    """Prints trials to stdout as a table, JSON (a list) or CSV, with their estimates if given."""
    note_damaged(rows)
    if format == "json":
        dicts = [
            trial_dict(study, row) | believed.fields(beliefs, row) | {"sampled": dict(row.sampled)}
            for row in rows
        ]
        print(json.dumps(dicts, indent=1, allow_nan=False))
        tell_caveats(study, rows)
    elif format == "csv":
        dicts = [trial_dict(study, row) | believed.fields(beliefs, row) for row in rows]
        names = list(dict.fromkeys(name for each in dicts for name in each))
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(map(cell, names or ["study", "trial"]))
        writer.writerows([cell(each.get(name)) for name in names] for each in dicts)
        tell_caveats(study, rows)
    elif format == "table":
        out(trials_table(study, rows, beliefs))
        if sentence := believed.note(study, beliefs, rows):
            print(sentence)
        for sentence in caveats(study, rows):
            print(sentence)
        note_devices(among or rows)
        note_teachers(study, rows)
    else:
        raise NasError(f"--format {format}: must be table, json or csv")


def trials_table(
    study: StudyRow, rows: Sequence[TrialRow], beliefs: Beliefs | None = None
) -> Table:
    """Trials with the usual metrics and the study's own, estimates, sampled recipe settings and
    pattern."""
    # On a terminal each trial takes one line; in a file nothing is truncated.
    terminal = sys.stdout.isatty()
    short = terminal and console(sys.stdout).width < NARROW
    heads = columns(study, rows, beliefs, short=short)
    heads += [(name, partial(_setting, name)) for name in searched(rows)]
    titles = [title for title, _ in heads]
    with_state = not all(row.evaluated for row in rows)
    listed = table(*titles, *(["state"] if with_state else []), "pattern", numbers=titles)
    overflow: Literal["ellipsis", "fold"] = "ellipsis" if terminal else "fold"
    for row in rows:
        state = [state_of(row)] if with_state else []
        pattern = Text(body_of(row), no_wrap=terminal, overflow=overflow)
        listed.add_row(*(cell_of(row) for _, cell_of in heads), *state, pattern)
    return listed


def columns(
    study: StudyRow, rows: Sequence[TrialRow], beliefs: Beliefs | None, *, short: bool = False
) -> list[tuple[str, Callable[[TrialRow], str]]]:
    """The columns of trials that have anything in them, without settings and pattern: each one's
    title and cell function."""
    known = beliefs if beliefs and any(row.id in beliefs.by for row in rows) else None
    heads: list[tuple[str, Callable[[TrialRow], str]]] = [("trial", lambda row: str(row.number))]
    asked = [*dict(study.objectives), *study.constraints]
    for name in dict.fromkeys([*usual(), *asked]):
        if name not in asked and all(math.isnan(row.value(name)) for row in rows):
            continue  # an evaluator may measure no latency, or no accuracy
        heads.append((metric(name).title, partial(_measured, name)))
        if known and known.name == name:
            heads.append(("believed", partial(_believed, known, short)))
    if any(row.trainings > 1 for row in rows):
        heads.append(("trainings", lambda row: str(row.trainings)))
    return heads


def _measured(name: str, row: TrialRow) -> str:
    return shown(name, row.value(name))


def _believed(beliefs: Beliefs, short: bool, row: TrialRow) -> str:
    return believed.cell(beliefs.name, beliefs.by.get(row.id), short=short)


def _setting(name: str, row: TrialRow) -> str:
    return str(row.recipe.get(name, ""))


def state_of(row: TrialRow) -> str:
    if row.state == "failed":
        return f"failed: {row.failure}"
    if row.state == "refused":
        return "refused: latency"
    at_rung = row.state in ("stopped", "paused")
    return f"{row.state} at {counted(row.rungs[-1][0], 'epoch')}" if at_rung else row.state


def body_of(row: TrialRow) -> str:
    """A trial's network in one line: its pattern without INPUT and the last FC, which all trials of
    a study share; or a baseline's name; or both for a distilled or pruned network."""
    parts = row.pattern.split(" -> ")
    body = " -> ".join(parts[1:-1]) if len(parts) > 2 else row.pattern
    return f"{row.baseline}: {body}" if row.made else row.baseline or body


def places(study: StudyRow, rows: Sequence[TrialRow]) -> dict[str, str]:
    """Where trials were measured and where they got their results, by a caption; or why none was
    trained."""
    found = {
        "measured on": {row.latency_device for row in rows},
        f"{'evaluated' if study.evaluator else 'trained'} on": {
            row.device for row in rows if row.state != "refused"
        },
    }
    listed = {title: "; ".join(sorted(filter(None, on))) for title, on in found.items()}
    refused = rows and all(row.state == "refused" for row in rows)
    return listed | ({"not trained": "its latency was over the bound"} if refused else {})


def trial_page(store: Store, study: StudyRow, row: TrialRow) -> RenderableType:
    """One trial: its parameters, the architecture, the recipe, the curve, the attempts."""
    from nas.driver.tradeoffs import network  # numpy

    rows = table("", "")
    rows.show_header = False
    low, high = row.latency_low, row.latency_high
    others = [
        str(other.number)
        for other in store.trials(study.id, states=EVALUATED, fingerprint=row.fingerprint)
        if network(other) == network(row) and other.number != row.number
    ]
    interval = f"  ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
    facts: Mapping[str, str] = {
        "study": study.name,
        "state": REFUSED if row.state == "refused" else row.state,
        "failure": f"{row.failure}: {row.reason}" if row.failure else "",
        **{
            metric(name).title: shown(name, row.value(name)) + interval * metric(name).device
            for name in dict.fromkeys([ACCURACY, *row.metrics, *on_device(METRICS)])
            if not metric(name).arithmetic
        },
        "trained too": f"as trial {', '.join(others)}: the front shows their mean"
        if others
        else "",
        **places(study, [row]),
        "seconds": f"{row.seconds:.1f}" if row.seconds else "",
        "epochs": "" if row.state == "refused" else str(row.epochs),
        "rungs": ", ".join(f"{percent(accuracy)} at {epochs}" for epochs, accuracy in row.rungs),
        "sampled": ", ".join(f"{k}={v}" for k, v in row.sampled.items()),
        "taught by": teacher_of(study, row),
        "recipe": ", ".join(f"{k}={v}" for k, v in row.recipe.items() if v not in ("", 0, False)),
        "pattern": row.pattern,
    }
    for name, text in facts.items():
        if text:
            rows.add_row(name, Text(text))
    parts: list[RenderableType] = [Text(f"trial {row.number}", style="bold"), rows, Text("")]
    try:
        parts.append(drawing(row.architecture))
    except NasError as error:
        why = "a classical method, no network" if row.baseline else error
        parts.append(Text(f"no drawing: {why}"))
    parts += map(Text, caveats(study, [row]))
    curve = store.curve(row.id)
    if curve:
        spots = "▁▂▃▄▅▆▇█"
        line = "".join(
            spots[min(7, max(0, int(8 * e.accuracy)))] for e in curve if e.accuracy == e.accuracy
        )
        parts += [Text(""), Text(f"accuracy by epoch  {line}  {percent(curve[-1].accuracy)}")]
    for attempt in store.attempts(row.id):
        if attempt.failure:
            parts.append(Text(f"attempt {attempt.number}: {attempt.failure}: {attempt.reason}"))
    return Group(*parts)
