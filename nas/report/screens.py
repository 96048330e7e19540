"""What a person sees on stdout: tables and drawings."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TextIO, get_args

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from nas import durations
from nas.errors import NasError, nearest
from nas.language.architecture import Architecture
from nas.language.expression import show as shape_text
from nas.metrics import ACCURACY, METRICS, arithmetic, count, metric, on_device, percent, shown
from nas.report import believed
from nas.spaces.space import Space
from nas.store import ENDED, Store, StudyRow, TrialRow, TrialState
from nas.text import cell, printable, styled

if TYPE_CHECKING:
    from nas.driver.beliefs import Beliefs
    from nas.driver.plan import Plan
    from nas.report.doctor import Finding
    from nas.training.single import Trained

NARROW = 100  # columns of a terminal on which an interval stands for what is believed
REFUSED = "refused: latency over the bound, measured before training"
PLAIN_WIDTH = 160  # where stdout is no terminal: a table in a file should not be folded


def out(renderable: RenderableType) -> None:
    """Prints data to stdout."""
    terminal = sys.stdout.isatty()
    screen = console(sys.stdout, width=None if terminal else PLAIN_WIDTH, soft_wrap=not terminal)
    screen.print(Plain(renderable))


def console(stream: TextIO, **options: Any) -> Console:
    """A console on which text is text: square brackets and colons mean nothing."""
    return Console(file=styled(stream), markup=False, emoji=False, **options)


@dataclass(frozen=True, slots=True)
class Plain:
    """What is shown, its text printable, its styles as they are."""

    shown: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self.shown, options):
            yield Segment(text if control else printable(text), style, control)


def table(*columns: str, numbers: Iterable[str] = (), title: str | None = None) -> Table:
    """A table without borders; the columns named in ``numbers`` are aligned to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for column in columns:
        right = column in set(numbers)
        made.add_column(column, justify="right" if right else "left", no_wrap=right)
    return made


def span(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def heading(space: Space) -> Text:
    return Text(": ".join(filter(None, (space.name, space.about))), style="bold")


def drawing(architecture: Architecture, space: Space | None = None) -> RenderableType:
    """An architecture stage by stage: the map that leaves each, its params and MACs, and a bar for
    its share of the params."""
    columns = ("element", "out", "params", "MACs", "share of params")
    drawn = table(*columns, numbers=columns[1:4])
    drawn.columns[0].overflow = "fold"
    drawn.add_row("INPUT", shape_text(architecture.input), "", "", "")
    most = max(1, max(step.cost.params for step in architecture.steps))
    whole = max(1, architecture.params)
    for text, steps in architecture.stages():
        params = sum(step.cost.params for step in steps)
        macs = sum(step.cost.macs for step in steps)
        bar = "█" * math.ceil(24 * params / max(whole, most))
        drawn.add_row(
            Text(text),
            shape_text(steps[-1].cost.shape),
            count(params) if params else "",
            count(macs) if macs else "",
            Text(bar, style="cyan"),
        )
    total = [
        f"{architecture.params:,} params, {architecture.macs:,} MACs, "
        f"{len(architecture.steps)} elements, fingerprint {architecture.fingerprint}"
    ]
    if architecture.aux_params:
        total.append(f"besides {architecture.aux_params:,} params of auxiliary classifiers")
    head = [heading(space), Text("")] if space else []
    return Group(*head, drawn, Text(""), *map(Text, total))


def studies_table(store: Store) -> RenderableType:
    """The studies, oldest first, with what their trials took and the best of those that keep the
    constraints; a column for those states alone in which there is any trial."""
    from nas.driver.tradeoffs import feasible  # numpy

    studies = [(study, store.counts(study.id)) for study in store.studies()]
    states = [s for s in get_args(TrialState) if any(counts.get(s) for _, counts in studies)]
    listed = table(
        *("study", "space", "dataset", *states, "trained", "best", "created"),
        numbers=[*states, "trained", "best"],
    )
    for column in listed.columns[:3]:
        column.overflow = "fold"
    for study, counts in studies:
        name, direction = study.objectives[0]
        rows = list(store.trials(study.id, states=ENDED))
        values = [row.value(name) for row in rows if feasible(study, row)]
        known = [value for value in values if not math.isnan(value)]
        best = (max(known) if direction == "max" else min(known)) if known else None
        none = "none" if any(row.state in ("finished", "reused") for row in rows) else ""
        listed.add_row(
            study.name,
            study.space,
            study.shown_data,
            *(str(counts.get(state, "")) for state in states),
            span(math.fsum(row.seconds or 0.0 for row in rows)),
            shown(name, best) or none,
            datetime.fromtimestamp(study.created).strftime("%Y-%m-%d"),
        )
    return listed


def trial_dict(study: StudyRow, row: TrialRow) -> dict[str, Any]:
    """A trial as plain data, for JSON and CSV: the view ``tradeoffs`` and what was sampled."""
    told: dict[str, Any] = {
        "study": study.name,
        "trial": row.number,
        "state": row.state,
        "baseline": row.baseline or None,
        "pattern": row.pattern,
        "fingerprint": row.fingerprint,
        **{name: _plain(row.value(name)) for name in METRICS if metric(name).column},
        "latency_low": row.latency_low,
        "latency_high": row.latency_high,
        "device": row.latency_device or row.device,
        "epochs": row.epochs,
        "seconds": row.seconds,
        "trainings": row.trainings,
    }
    others = [name for name in (*dict(study.objectives), *row.metrics) if name not in told]
    told |= {name: _plain(row.value(name)) for name in others}
    told |= {f"recipe.{name}": row.recipe[name] for name in searched([row])}
    return told | {"failure": row.failure, "reason": row.reason}


def _plain(value: float) -> float | int | None:
    """A number for JSON and CSV: counts as whole numbers, nothing where there is none."""
    if math.isnan(value):
        return None
    return int(value) if value.is_integer() and abs(value) > 1 else value


def searched(rows: Iterable[TrialRow]) -> list[str]:
    """The settings of the recipe that the sampler chose for some of the trials."""
    names = (name.removeprefix("recipe.") for r in rows for name in r.sampled if "recipe." in name)
    return list(dict.fromkeys(names))


def in_states(rows: Sequence[TrialRow], states: Sequence[str]) -> list[TrialRow]:
    """Those in some of ``states``, of none all. Raises NasError for a state that there is not."""
    known = get_args(TrialState)
    for state in states:
        if state not in known:
            raise NasError(f"--state {state}: must be one of {', '.join(known)}")
    return [row for row in rows if not states or row.state in states]


def ordered(study: StudyRow, rows: Sequence[TrialRow], name: str) -> list[TrialRow]:
    """The best by a metric first, as the study's objective or the metric's usual direction has it;
    by "seconds", "epochs" or "trial" the least first; without a name as they are. Raises NasError
    for a metric that no trial has."""
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
    if name not in known:
        raise NasError(f"--sort {name}: no trial has it; {nearest(name, [*known, *own])}")
    sign = -1 if dict(study.objectives).get(name, metric(name).direction) == "max" else 1

    def key(row: TrialRow) -> tuple[bool, float]:
        value = row.value(name)
        return (math.isnan(value), 0.0 if math.isnan(value) else sign * value)

    return sorted(rows, key=key)


def tell_devices(rows: Iterable[TrialRow]) -> None:
    """Says so where the latencies of some trials are of several devices."""
    devices = sorted({row.latency_device for row in rows if row.latency_device})
    if len(devices) > 1:
        print(f"latencies are of {len(devices)} devices, not to be compared: {'; '.join(devices)}")


def tell_teachers(rows: Iterable[TrialRow]) -> None:
    """Says which trials were trained by a teacher's outputs: they are compared with others as what
    they are."""
    rows = list(rows)
    for teacher in dict.fromkeys(row.recipe.get("teacher", "") for row in rows):
        taught = [str(row.number) for row in rows if row.recipe.get("teacher", "") == teacher]
        if teacher:
            print(f"taught by {teacher}: {', '.join(taught)}")


def rows_out(
    study: StudyRow,
    rows: Sequence[TrialRow],
    format: str,
    among: Sequence[TrialRow] = (),
    beliefs: Beliefs | None = None,
) -> None:
    """Prints trials to stdout as a table, as JSON (a list) or as CSV; with what is believed of
    them, where that is told."""
    if format == "json":
        told = [
            trial_dict(study, row) | believed.plain(beliefs, row) | {"sampled": dict(row.sampled)}
            for row in rows
        ]
        print(json.dumps(told, indent=1, allow_nan=False))
    elif format == "csv":
        dicts = [trial_dict(study, row) | believed.plain(beliefs, row) for row in rows]
        names = list(dict.fromkeys(name for told in dicts for name in told))
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(map(cell, names or ["study", "trial"]))
        writer.writerows([cell(told.get(name)) for name in names] for told in dicts)
    elif format == "table":
        out(trials_table(study, rows, beliefs))
        if told_of := believed.note(beliefs):
            print(told_of)
        tell_devices(among or rows)
        tell_teachers(rows)
    else:
        raise NasError(f"--format {format}: must be table, json or csv")


def trials_table(
    study: StudyRow, rows: Sequence[TrialRow], beliefs: Beliefs | None = None
) -> Table:
    """Trials with the usual metrics and the study's other ones, what is believed of one of these,
    the settings that were searched, and the pattern."""
    usual = [name for name in METRICS if metric(name).column]
    names = list(dict.fromkeys([*usual, *dict(study.objectives), *study.constraints]))
    # On a terminal a line each; in a file nothing is cut off.
    terminal = sys.stdout.isatty()
    short = terminal and console(sys.stdout).width < NARROW
    known = beliefs if beliefs and any(row.id in beliefs.by for row in rows) else None
    columns: list[tuple[str, Callable[[TrialRow], str]]] = [("trial", lambda row: str(row.number))]
    for name in names:
        columns.append((metric(name).title, partial(_measured, name)))
        if known and known.name == name:
            columns.append(("believed", partial(_believed, known, short)))
    if any(row.trainings > 1 for row in rows):
        columns.append(("trainings", lambda row: str(row.trainings)))
    columns += [(name, partial(_setting, name)) for name in searched(rows)]
    titles = [title for title, _ in columns]
    plain = any(row.state not in ("finished", "reused") for row in rows)
    listed = table(*titles, *(["state"] if plain else []), "pattern", numbers=titles)
    overflow: Literal["ellipsis", "fold"] = "ellipsis" if terminal else "fold"
    for row in rows:
        state = [state_of(row)] if plain else []
        pattern = Text(row.baseline or body_of(row.pattern), no_wrap=terminal, overflow=overflow)
        listed.add_row(*(told(row) for _, told in columns), *state, pattern)
    return listed


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
    return f"{row.state} at {row.rungs[-1][0]} epochs" if at_rung else row.state


def body_of(pattern: str) -> str:
    """A canonical pattern without what all of a study share: INPUT and the last FC."""
    parts = pattern.split(" -> ")
    return " -> ".join(parts[1:-1]) if len(parts) > 2 else pattern


def trial_page(store: Store, study: StudyRow, row: TrialRow) -> RenderableType:
    """One trial: what was sampled, the architecture, the recipe, the curve, the attempts."""
    from nas.driver.tradeoffs import network  # numpy

    told = table("", "")
    told.show_header = False
    low, high = row.latency_low, row.latency_high
    others = [
        str(other.number)
        for other in store.trials(study.id, states=("finished", "reused"))
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
        "trained too": f"as trial {', '.join(others)}: the front has the mean" if others else "",
        "measured on": row.latency_device or "",
        "trained on": row.device or "",
        "seconds": f"{row.seconds:.1f}" if row.seconds else "",
        "epochs": str(row.epochs),
        "rungs": ", ".join(f"{percent(accuracy)} at {epochs}" for epochs, accuracy in row.rungs),
        "sampled": ", ".join(f"{k}={v}" for k, v in row.sampled.items()),
        "recipe": ", ".join(f"{k}={v}" for k, v in row.recipe.items() if v not in ("", 0, False)),
        "pattern": row.pattern,
    }
    for name, text in facts.items():
        if text:
            told.add_row(name, Text(text))
    parts: list[RenderableType] = [Text(f"trial {row.number}", style="bold"), told, Text("")]
    try:
        parts.append(drawing(row.architecture))
    except NasError as error:
        why = "a classical method, no network" if row.baseline else error
        parts.append(Text(f"no drawing: {why}"))
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


def trained_page(trained: Trained) -> RenderableType:
    """What ``nas train`` ends with."""
    told = table("", "")
    told.show_header = False
    last, measured = trained.curve[-1], trained.latency
    for name, text in {
        "validation accuracy": percent(last.accuracy),
        "test accuracy": percent(trained.test),
        "latency": f"{measured.ms:.3f} ms  ({measured.low:.3f} to {measured.high:.3f})",
        **{metric(n).title: f"{v:,.0f}" for n, v in arithmetic(trained.architecture).items()},
        "model": str(trained.file),
        "pattern": str(trained.architecture),
    }.items():
        told.add_row(name, Text(text))
    return told


def plan_table(plan: Plan, expected: str, done: int = 0, baselines: Sequence[str] = ()) -> Table:
    """What a search is to do, where so many of its trials are ``done``; ``baselines`` are not."""
    if plan.trials is None:
        trials = "as many as there is time for"
        trials += f", besides the {done} that have ended" if done else ""
    else:
        left = plan.trials - done
        more = f"{left} are left" if left > 0 else f"--trials {2 * done} goes on"
        trials = f"{plan.trials}, of which {done} have ended: {more}" if done else f"{plan.trials}"
    told = table("", "")
    told.show_header = False
    for name, text in {
        "study": plan.study,
        "trials": trials,
        **({"baselines": ", ".join(baselines)} if baselines else {}),
        "budget": "no limit" if plan.seconds is None else durations.show(plan.seconds),
        "time": expected,
        "epochs": str(plan.job.epochs),
        "rungs": ", ".join(map(str, plan.rungs)) or "off",
        "dataset": plan.job.data.name,
        "sampler": plan.sampler,
        "seed": str(plan.job.seed),
    }.items():
        told.add_row(name, text)
    return told


def findings_table(findings: Sequence[Finding]) -> Table:
    listed = table("", "part", "found", "what to do")
    for finding in findings:
        mark = Text("ok", style="green") if finding.works else Text("!!", style="bold red")
        listed.add_row(mark, finding.part, Text(finding.found), Text(finding.remedy))
    return listed
