"""``nas trials``: lists trials, and shows one."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from nas.cli.arguments import OUTPUT, STORAGE, Grouped, Storage, StudyName, formats
from nas.errors import StudyError

STATES = "finished|stopped|failed|reused|refused|running|paused|waiting"

app = typer.Typer(help="The trials of a study.", no_args_is_help=True)


@app.command(cls=Grouped)
def ls(
    study: StudyName = None,
    storage: Storage = STORAGE,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar=STATES,
            help="Only trials in this state; repeatable.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            metavar="METRIC",
            help="Best by this metric first; trials without it last.",
            rich_help_panel=OUTPUT,
        ),
    ] = "",
    limit: Annotated[
        int,
        typer.Option(
            "--limit",
            min=0,
            help="Show only the first ones (0: all).",
            rich_help_panel=OUTPUT,
        ),
    ] = 0,
    format: Annotated[str, formats("table|json|csv")] = "table",
) -> None:
    """List the trials of a study."""
    from nas.cli.record import opened
    from nas.driver.latencies import with_latencies
    from nas.report import trials

    store, row = opened(storage, study)
    rows = trials.in_states(list(store.trials(row.id)), state or [])
    with contextlib.suppress(StudyError):  # an ambiguous device: as the search measured them
        rows, _ = with_latencies(store, row, rows)
    rows = trials.ordered(row, rows, sort)[: limit or None]
    trials.rows_out(row, rows, format)
    if not rows:
        states = f" is {' or '.join(state)}" if state else ""
        print(f"nas: no trial of study {row.name}{states}", file=sys.stderr)


@app.command(cls=Grouped)
def show(
    number: Annotated[int, typer.Argument(min=0, max=10_000_000, help="Trial number.")],
    study: StudyName = None,
    storage: Storage = STORAGE,
) -> None:
    """Show one trial: its architecture, recipe, learning curve and attempts."""
    from nas.cli.record import opened
    from nas.report import screens, trials

    store, row = opened(storage, study)
    screens.out(trials.trial_page(store, row, store.trial(row.id, number)))
