"""``nas trials``: what the record has of each."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from nas.cli.arguments import STORAGE, Storage, StudyName

app = typer.Typer(help="The trials of a study.", no_args_is_help=True)


@app.command()
def ls(
    study: StudyName = None,
    storage: Storage = STORAGE,
    state: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--state", help="finished, stopped, failed, running ...; repeatable."),
    ] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="table, json or csv")] = "table",
) -> None:
    """The trials of a study."""
    from nas.cli.options import open_record, study_in
    from nas.report import screens

    store = open_record(storage)
    row = study_in(store, study)
    screens.rows_out(row, list(store.trials(row.id)), state or [], format)


@app.command()
def show(
    number: Annotated[int, typer.Argument(min=0, max=10_000_000, help="The trial's number.")],
    study: StudyName = None,
    storage: Storage = STORAGE,
) -> None:
    """One trial: its architecture, recipe, curve and attempts."""
    from nas.cli.options import open_record, study_in
    from nas.report import screens

    store = open_record(storage)
    row = study_in(store, study)
    screens.out(screens.trial_page(store, row, store.trial(row.id, number)))
