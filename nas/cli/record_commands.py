"""``nas status``, ``pareto``, ``dashboard``, ``report`` and ``db``: what the record has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.arguments import (
    HOW,
    OUTPUT,
    STORAGE,
    WHAT,
    WHERE,
    Artifacts,
    Data,
    Plugin,
    Storage,
    StudyName,
    a_file,
)

db = typer.Typer(help="The database.", no_args_is_help=True)


def status(storage: Storage = STORAGE) -> None:
    """The studies of a database and how far each has come."""
    from nas.cli.record import open_record
    from nas.report import screens

    screens.out(screens.studies_table(open_record(storage)))


def pareto(
    study: StudyName = None,
    storage: Storage = STORAGE,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="table|json|csv|svg|png",
            help="svg, png: a picture.  [default: as FILE ends, otherwise table]",
            rich_help_panel=OUTPUT,
        ),
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            parser=a_file,
            help="Write it there, not to stdout; folders that are missing are made.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    believed: Annotated[
        bool,
        typer.Option(
            "--believed",
            help="With what all trials together say of it; in a table, json or csv.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            metavar="accuracy:max,latency_ms@rpi5:min",
            help="Instead of the study's own.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            "--constraint",
            metavar="'latency_ms@rpi5<=20'",
            help="Besides the study's own.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    cascade: Annotated[
        list[Path] | None,
        typer.Option(
            "--cascade",
            metavar="FILE.json",
            help="Draw a cascade beside them; repeatable.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """The Pareto front of a study: as a table, as data, or as a picture."""
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
    row = asked_of(row, objective or [], constraint or [])
    fronts.front_out(
        *(store, row, form, output),
        believed=believed, cascades=cascade or [], asked=bool(objective),
    )  # fmt: skip


def dashboard(
    storage: Storage = STORAGE,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65_535, help="0: any that is free.")
    ] = 8080,
    artifacts: Annotated[
        Path, typer.Option("--artifacts", metavar="DIR", help="Where the drawings are kept.")
    ] = Path("nas-artifacts"),
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Another name it has; repeatable."),
    ] = None,
) -> None:
    """The Optuna dashboard on the record, with the front of each study drawn."""
    import warnings

    warnings.simplefilter("ignore")  # what torch and Optuna tell developers, for every page
    from nas.cli.record import open_record
    from nas.report.dashboard import serve

    # A server's record may begin here; a file that is not there is more likely a mistake.
    store = open_record(storage, create=not storage.startswith("sqlite:"), write=True)
    serve(store, host=host, port=port, artifacts=artifacts, names=allow_host or ())


def report(
    study: StudyName = None,
    storage: Storage = STORAGE,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            help="Trainings of each in the mean, more of those near the best.",
            rich_help_panel=HOW,
        ),
    ] = 3,
    top: Annotated[
        int,
        typer.Option(
            "--top",
            help="How many to train again, the best of the front by what is believed of them, not "
            "by one training; 0: a page of the record alone.",
            rich_help_panel=HOW,
        ),
    ] = 3,
    compare: Annotated[
        str,
        typer.Option(
            "--compare",
            metavar="random",
            help="Beside a random search of equal cost.",
            rich_help_panel=HOW,
        ),
    ] = "",
    data: Data = "",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            help="Jobs at once of a random search; 0: in this process.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.html|FILE.md",
            parser=a_file,
            help="Write it as a page, or as Markdown.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    artifacts: Artifacts = "",
    plugin: Plugin = None,
) -> None:
    """The winner, honestly: the best trained again with other seeds, scored once on test.

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
    """Create the record, or bring it up to date."""
    from nas.cli.record import open_record

    open_record(storage, create=True).close()
    print("the record is up to date", file=sys.stderr)
