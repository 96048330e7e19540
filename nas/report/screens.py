"""Printing to stdout, tables and drawings."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO, get_args

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from nas import durations
from nas.language.architecture import Architecture
from nas.language.expression import show as shape_text
from nas.metrics import arithmetic, count, metric, percent, shown
from nas.spaces.space import Space
from nas.text import counted, printable, uncleaned

if TYPE_CHECKING:
    from nas.driver.plan import Plan
    from nas.report.doctor import Finding
    from nas.store import Store
    from nas.training.single import Trained

UNFOLDED = 100_000  # columns if stdout is not a terminal, so that each row of a table is one line


def out(renderable: RenderableType) -> None:
    """Prints data to stdout; if that is not a terminal, with lines of any length and without
    trailing blanks, for grep, diff and awk."""
    if sys.stdout.isatty():
        console(sys.stdout).print(Plain(renderable))
        return
    screen = console(sys.stdout, width=UNFOLDED, soft_wrap=True)
    with screen.capture() as captured:
        screen.print(Plain(renderable))
    stream = uncleaned(sys.stdout)
    stream.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def console(stream: TextIO, **options: Any) -> Console:
    """A console without markup and emoji codes in text."""
    return Console(file=uncleaned(stream), markup=False, emoji=False, **options)


@dataclass(frozen=True, slots=True)
class Plain:
    """Makes the text of a renderable printable, keeping its styles."""

    shown: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self.shown, options):
            yield Segment(text if control else printable(text), style, control)


def table(*columns: str, numbers: Iterable[str] = (), title: str | None = None) -> Table:
    """A table without borders; the columns in ``numbers`` are right-aligned."""
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
    """An architecture by stages: each one's output shape, params and MACs, and a bar for its share
    of the params."""
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
        f"{counted(len(architecture.steps), 'element')}, fingerprint {architecture.fingerprint}"
    ]
    if architecture.aux_params:
        total.append(f"besides {architecture.aux_params:,} params of auxiliary classifiers")
    head = [heading(space), Text("")] if space else []
    return Group(*head, drawn, Text(""), *map(Text, total))


def studies_table(store: Store) -> RenderableType:
    """The studies, oldest first, with the summed time of their trials and the best feasible value,
    and a column for each state that any trial is in."""
    from nas.driver.tradeoffs import feasible  # numpy
    from nas.store import ENDED, TrialState  # SQLAlchemy

    studies = [(study, store.counts(study.id)) for study in store.studies()]
    states = [s for s in get_args(TrialState) if any(counts.get(s) for _, counts in studies)]
    listed = table(
        *("study", "space", "dataset", *states, "device time", "best", "created"),
        numbers=[*states, "device time", "best"],
    )
    listed.columns[0].no_wrap = True  # names are copied
    for column in listed.columns[1:3]:
        column.overflow = "fold"
    for study, counts in studies:
        name, direction = study.objectives[0]
        rows = list(store.trials(study.id, states=ENDED))
        values = [row.value(name) for row in rows if feasible(study, row)]
        known = [value for value in values if not math.isnan(value)]
        best = (max(known) if direction == "max" else min(known)) if known else None
        none = "none" if any(row.evaluated for row in rows) else ""
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


def trained_page(trained: Trained) -> RenderableType:
    """The results of ``nas train``."""
    rows = table("", "")
    rows.show_header = False
    last, measured = trained.curve[-1], trained.latency
    for name, text in {
        "validation accuracy": percent(last.accuracy),
        "test accuracy": percent(trained.test),
        "latency": f"{measured.ms:.3f} ms  ({measured.low:.3f} to {measured.high:.3f})",
        **{metric(n).title: f"{v:,.0f}" for n, v in arithmetic(trained.architecture).items()},
        "model": str(trained.file),
        "pattern": str(trained.architecture),
    }.items():
        rows.add_row(name, Text(text))
    return rows


def plan_table(plan: Plan, expected: str, done: int = 0, baselines: Sequence[str] = ()) -> Table:
    """The plan of a search, with ``done`` trials and the ``baselines`` still to train."""
    if plan.trials is None:
        trials = "as many as there is time for"
        trials += f", in addition to the {done} done" if done else ""
    else:
        left = plan.trials - done
        more = f"{left} are left" if left > 0 else f"--trials {2 * done} continues"
        trials = f"{plan.trials}, of which {done} are done: {more}" if done else f"{plan.trials}"
    rows = table("", "")
    rows.show_header = False
    for name, text in {
        "study": plan.study,
        "trials": trials,
        **({"baselines": ", ".join(baselines)} if baselines else {}),
        "budget": "no limit" if plan.seconds is None else durations.show(plan.seconds),
        "time": expected,
        "epochs": str(plan.job.epochs),
        "rungs": ", ".join(map(str, plan.rungs)) or "off",
        **({"evaluator": of} if (of := plan.job.evaluator) else {"dataset": plan.job.data.name}),
        "sampler": plan.sampler,
        "seed": str(plan.job.seed),
    }.items():
        rows.add_row(name, text)
    return rows


def findings_table(findings: Sequence[Finding]) -> Table:
    listed = table("", "part", "found", "what to do")
    for finding in findings:
        mark = Text("ok", style="green") if finding.works else Text("!!", style="bold red")
        listed.add_row(mark, finding.part, Text(finding.found), Text(finding.remedy))
    return listed
