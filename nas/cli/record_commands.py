"""``nas status``, ``pareto``, ``dashboard``, ``report`` and ``db``: commands on the record."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.arguments import (
    HOW,
    OUTPUT,
    RECORD,
    STORAGE,
    WHAT,
    WHERE,
    Artifacts,
    Data,
    Plugin,
    Storage,
    StudyName,
    a_file,
    formats,
    output_to,
)

db = typer.Typer(help="The database.", no_args_is_help=True)


def status(storage: Storage = STORAGE) -> None:
    """List the studies of a database and the progress of each.

    The device time is the sum over the trials, of which several may run at once.
    """
    from nas.cli.record import open_record
    from nas.report import screens

    screens.out(screens.studies_table(open_record(storage)))


def pareto(
    study: StudyName = None,
    storage: Storage = STORAGE,
    format: Annotated[
        str,
        formats(
            "table|json|csv|svg|png",
            "Output format; svg and png draw.  [default: by FILE's ending, otherwise table]",
        ),
    ] = "",
    output: Annotated[
        Path | None,
        output_to("FILE", "Output file instead of stdout; missing folders are created.", a_file),
    ] = None,
    believed: Annotated[
        bool,
        typer.Option(
            "--believed",
            help="Add estimates from all trials together (table, json, csv).",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            metavar="accuracy:max,latency_ms@rpi5:min",
            help="Replaces the study's objectives.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            "--constraint",
            metavar="'latency_ms@rpi5<=20'",
            help="In addition to the study's constraints.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    cascade: Annotated[
        list[Path] | None,
        typer.Option(
            "--cascade",
            metavar="FILE.json",
            help="Cascade to draw as well; repeatable.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Show the Pareto front of a study as a table, as data or as a picture."""
    from nas.cli import fronts
    from nas.cli.output import form_of, writable
    from nas.cli.record import opened
    from nas.cli.settings import asked_of
    from nas.errors import NasError

    form = form_of(format, output, fronts.FORMATS, "table")
    if output:
        writable(output)
    if cascade and form not in ("svg", "png"):
        raise NasError(f"--cascade {cascade[0]}: is drawn in a picture, -f svg or png")
    store, row = opened(storage, study)
    row = asked_of(store, row, objective or [], constraint or [])
    fronts.front_out(
        *(store, row, form, output),
        believed=believed, cascades=cascade or [], asked=bool(objective),
    )  # fmt: skip


def dashboard(
    study: Annotated[
        str | None,
        typer.Option("--study", help="Study to open first; all are shown.", rich_help_panel=RECORD),
    ] = None,
    storage: Storage = STORAGE,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65_535, help="Port to listen on; 0: any free one.")
    ] = 8080,
    artifacts: Annotated[
        Path | None,
        typer.Option(
            "--artifacts",
            metavar="DIR",
            help="Directory for the drawings.",
            show_default="artifacts/dashboard, next to the database",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host", metavar="NAME", help="Additional host name to accept; repeatable."
        ),
    ] = None,
) -> None:
    """Open the Optuna dashboard on the record, with each study's front drawn."""
    import warnings

    warnings.simplefilter("ignore")  # torch's and Optuna's, meant for developers, on every page
    from nas.cli.record import artifacts_dir, open_record
    from nas.report.dashboard import serve

    # On a server the record may be created here; a missing file is more likely a mistake.
    store = open_record(storage, create=not storage.startswith("sqlite:"), write=True)
    drawings = artifacts or Path(artifacts_dir("", storage), "dashboard")
    names = allow_host or ()
    serve(store, host=host, port=port, artifacts=drawings, names=names, study=study)


def report(
    study: StudyName = None,
    storage: Storage = STORAGE,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            help="Mean number of trainings per finalist; those near the best get more.",
            show_default="3",
            rich_help_panel=HOW,
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option(
            "--top",
            help="Finalists to retrain: the front's best by their estimates from all trials, not "
            "by one training; 0, with -o FILE.html: the record alone.",
            rich_help_panel=HOW,
        ),
    ] = 3,
    compare: Annotated[
        str,
        typer.Option(
            "--compare",
            metavar="random",
            help="Compare with a random search of equal cost.",
            rich_help_panel=HOW,
        ),
    ] = "",
    data: Data = "",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            help="Parallel trials of the random search; 0: in this process.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        output_to("FILE.html|FILE.md", "Output file, an HTML page or Markdown.", a_file),
    ] = None,
    artifacts: Artifacts = "",
    plugin: Plugin = None,
) -> None:
    """The winner, honestly: the best, retrained with other seeds and scored once on test.

    What is trained is kept: interrupted, the same command goes on, and another one trains nothing
    twice.
    """
    from nas.cli.options import load_plugins
    from nas.cli.output import resumable
    from nas.cli.record import kept_in, opened

    plugins = load_plugins(plugin or [])
    store, row = opened(storage, study, write=bool(compare))
    from nas.cli.reports import report_and_show

    with resumable():
        report_and_show(
            store,
            row,
            data,
            seeds=seeds,
            top=top,
            compare=compare,
            workers=workers,
            output=output,
            plugins=plugins,
            folder=kept_in(artifacts, storage, row),
        )


@db.command("upgrade")
def upgrade(storage: Storage = STORAGE) -> None:
    """Create the record, or upgrade it to this version."""
    from nas.cli.record import open_record

    open_record(storage, create=True).close()
    print("the record is up to date", file=sys.stderr)
