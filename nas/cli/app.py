"""The command line: each command parses its options, calls one function and prints.

Data goes to stdout, logs and progress to stderr. Exit status: 0 done, 2 wrong input, 3 no feasible
candidate, 130 interrupted and resumable, 1 anything else. Torch, ray and optuna are imported by the
commands that need them, so that ``nas --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from nas.cli import (
    data_commands,
    latency_commands,
    model_commands,
    search_commands,
    small_commands,
    space_commands,
    submit_commands,
    trial_commands,
)
from nas.cli.arguments import (
    HOW,
    OUTPUT,
    STORAGE,
    WHAT,
    WHERE,
    Artifacts,
    Data,
    Dataset,
    Grouped,
    Plugin,
    Size,
    Storage,
    StudyName,
    Trial,
    a_file,
)

app = typer.Typer(
    name="nas",
    help="Neural architecture search over block patterns: which network for your images?",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich help takes longer to import than all the rest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
db_app = typer.Typer(help="The database.", no_args_is_help=True)
app.add_typer(data_commands.app, name="data")
app.add_typer(latency_commands.app, name="latency")
app.add_typer(space_commands.app, name="space")
app.add_typer(trial_commands.app, name="trials")
app.add_typer(db_app, name="db")
app.add_typer(submit_commands.app, name="submit")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("nas-patterns"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Neural architecture search over block patterns: which network for your images?"""


def main() -> None:
    """The entry point: bad input becomes one sentence and an exit status, and so does a full disk,
    wherever it shows. Who closes the pipe that is written to wants no more."""
    from nas.errors import NasError, NothingFound
    from nas.text import open_terminal

    with open_terminal():
        try:
            try:
                app()
            finally:
                sys.stdout.flush()
        except NasError as error:
            fail(str(error), 3 if isinstance(error, NothingFound) else 2)
        except KeyboardInterrupt:
            fail("interrupted", 130)
        except OSError as error:
            try:
                sys.stdout.flush()
            except OSError:  # what is left in its buffer goes nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):
                sys.exit(1)
            where = error.filename or "standard output"
            fail(f"{where}: {error.strerror or error}", 1)


def fail(message: str, status: int) -> NoReturn:
    from nas.errors import brief

    with contextlib.suppress(OSError):  # nobody is there to be told
        print(f"nas: {brief(message, 2000)}", file=sys.stderr)
    sys.exit(status)


for command in (
    *(search_commands.search, search_commands.audit),
    *(model_commands.train, model_commands.predict),
    *(model_commands.evaluate, model_commands.export),
    *(small_commands.distill, small_commands.cascade, small_commands.prune),
):
    app.command(cls=Grouped)(command)


# --- architectures and spaces --------------------------------------------------------------------


@app.command(cls=Grouped)
def show(
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="PATTERN_OR_NAME", help="A pattern, a space or a zoo network."),
    ] = None,
    trial: Trial = None,
    study: StudyName = None,
    storage: Storage = STORAGE,
    dataset: Dataset = None,
    data: Data = "",
    size: Size = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.svg",
            parser=a_file,
            help="Draw it as a picture instead.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    plugin: Plugin = None,
) -> None:
    """Draw an architecture, stage by stage; or a space, with the domains of what is open.

    A pattern may be pasted as a table prints it, without INPUT and the last FC.
    """
    from nas.cli.options import closed_or_space, data_ref, drawn, load_plugins
    from nas.cli.record import trial_network
    from nas.errors import NasError
    from nas.report import screens
    from nas.report import spaces as pages

    load_plugins(plugin or [])
    if (pattern is None) == (trial is None):
        raise NasError("give a pattern or a name, or --trial N: one of them")
    if trial is not None:
        pattern = trial_network(storage, study, trial)
    assert pattern is not None
    ref = data_ref(dataset, data, size) if dataset or data else None
    architecture, space = closed_or_space(pattern, ref, size)
    if output is not None:
        drawn(architecture, space, output)
        print(f"nas: written to {output}", file=sys.stderr)
    elif architecture is not None:
        screens.out(screens.drawing(architecture, space))
    elif space is not None:
        screens.out(pages.space_page(space))


# --- what the record has -------------------------------------------------------------------------


@app.command(cls=Grouped)
def status(storage: Storage = STORAGE) -> None:
    """The studies of a database and how far each has come."""
    from nas.cli.record import open_record
    from nas.report import screens

    screens.out(screens.studies_table(open_record(storage)))


@app.command(cls=Grouped)
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


# --- elsewhere -----------------------------------------------------------------------------------


@app.command(cls=Grouped)
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


@app.command(cls=Grouped)
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
    from nas.cli.record import kept_in, opened

    plugins = load_plugins(plugin or [])
    store, row = opened(storage, study, write=bool(compare))
    from nas.cli.reports import report_and_show

    try:
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
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on", 130)


@db_app.command("upgrade")
def db_upgrade(storage: Storage = STORAGE) -> None:
    """Create the record, or bring it up to date."""
    from nas.cli.record import open_record

    open_record(storage, create=True).close()
    print("the record is up to date", file=sys.stderr)


@app.command(cls=Grouped)
def doctor(storage: Storage = STORAGE) -> None:
    """Versions, devices, database and Ray: what works, and what to do about what does not."""
    from nas.report import screens
    from nas.report.doctor import examine

    findings = examine(storage)
    screens.out(screens.findings_table(findings))
    if any(not finding.works for finding in findings):
        raise typer.Exit(1)
