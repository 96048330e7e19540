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
from typing import Annotated, Literal, NoReturn, Optional

import typer

from nas.cli import data_commands, model_commands, space_commands, submit_commands, trial_commands
from nas.cli.arguments import (
    STORAGE,
    Artifacts,
    Data,
    Dataset,
    GroupBy,
    Plugin,
    Seed,
    Size,
    SkipUnreadable,
    Storage,
    StudyName,
)
from nas.samplers import SAMPLERS

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


# --- search --------------------------------------------------------------------------------------


@app.command()
def search(
    space: Annotated[str, typer.Option("--space", help="A shipped space or a space file.")],
    storage: Storage = STORAGE,
    study: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--study", help="Its name; the same name resumes.  [default: SPACE-IMAGES]"),
    ] = None,
    trials: Annotated[int, typer.Option("--trials", help="How many to have in all.")] = 40,
    epochs: Annotated[int, typer.Option("--epochs", help="How long each is trained.")] = 20,
    dataset: Dataset = None,
    data: Data = "",
    size: Size = 0,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set first.")] = False,
    skip_unreadable: SkipUnreadable = False,
    group_by: GroupBy = "",
    seed: Seed = 0,
    sampler: Annotated[
        str, typer.Option("--sampler", metavar="|".join(SAMPLERS), help="Who proposes.")
    ] = "default",
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--workers",
            min=0,
            help="Jobs at once; 0: in this process.  [default: one a core, if memory allows]",
        ),
    ] = None,
    address: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--address", help="A running Ray cluster, host:port or auto."),
    ] = None,
    gpus_per_trial: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--gpus-per-trial", min=0, help="May be a fraction, as 0.25.  [default: shared]"
        ),
    ] = None,
    cpus_per_trial: Annotated[
        float, typer.Option("--cpus-per-trial", metavar="N", help="On a cluster.")
    ] = 1.0,
    memory_per_trial: Annotated[
        float,
        typer.Option(
            "--memory-per-trial",
            metavar="GIB",
            help="Its room, and its limit (0: as predicted; a fair share).",
        ),
    ] = 0.0,
    time_limit: Annotated[
        float, typer.Option("--time-limit", min=0, help="Seconds a trial may take (0: no limit).")
    ] = 0.0,
    objective: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--objective", metavar="accuracy:max,params:min", help="Over the space's own."
        ),
    ] = None,
    constraint: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--constraint", metavar="'params<=1e6'", help="Besides the space's own."),
    ] = None,
    recipe: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--recipe", metavar="lr=0.05", help="A training setting; repeatable."),
    ] = None,
    baseline: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--baseline", metavar="resnet18,hog_svm", help="Zoo networks beside them."),
    ] = None,
    plugin: Plugin = None,
    evaluator: Annotated[
        str, typer.Option("--evaluator", metavar="MODULE:FUNCTION", help="Instead of training.")
    ] = "",
    rungs: Annotated[
        str,
        typer.Option("--rungs", metavar="off|auto|3,7,20", help="Epochs to stop candidates at."),
    ] = "off",
    artifacts: Artifacts = "",
    keep: Annotated[
        Literal["front", "all", "none"],
        typer.Option("--keep", help="Whose weights to keep, among the artifacts."),
    ] = "front",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show it; run nothing.")
    ] = False,
) -> None:
    """Search a space for the best trade-offs, or go on with a search."""
    from nas.cli import searches as run
    from nas.cli.options import artifacts_dir, plan

    searched = plan(
        space=space,
        study=study,
        trials=trials,
        epochs=epochs,
        dataset=dataset,
        data=data,
        size=size,
        skip_unreadable=skip_unreadable,
        group_by=group_by,
        download=download,
        seed=seed,
        sampler=sampler,
        objectives=objective or [],
        constraints=constraint or [],
        recipe=recipe or [],
        plugins=plugin or [],
        evaluator=evaluator,
        rungs=rungs,
        artifacts=artifacts_dir(artifacts, storage),
        keep=keep,
    )
    if dry_run:
        run.rehearse(searched, storage)
        return
    try:
        run.search_and_show(
            searched,
            storage,
            workers=workers,
            address=address,
            gpus_per_trial=gpus_per_trial,
            cpus_per_trial=cpus_per_trial,
            memory_per_trial=memory_per_trial,
            time_limit=time_limit,
            baselines=[name for text in baseline or [] for name in text.split(",")],
        )
    except KeyboardInterrupt:
        fail(f"interrupted; the same command goes on with study {searched.study}", 130)


@app.command()
def audit(
    space: Annotated[str, typer.Option("--space", help="A shipped space or a space file.")],
    count: Annotated[int, typer.Option("--count", help="Architectures to train whole.")] = 8,
    epochs: Annotated[int, typer.Option("--epochs", help="Of a whole training.")] = 20,
    rungs: Annotated[
        str, typer.Option("--rungs", metavar="auto|3,7,20", help="Epochs to score at.")
    ] = "auto",
    dataset: Dataset = None,
    data: Data = "",
    size: Size = 0,
    skip_unreadable: SkipUnreadable = False,
    group_by: GroupBy = "",
    seed: Seed = 0,
    recipe: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--recipe", metavar="lr=0.05", help="A training setting; repeatable."),
    ] = None,
    plugin: Plugin = None,
) -> None:
    """How early accuracies, sizes and training-free scores rank networks, beside the end."""
    from nas.cli import reports
    from nas.cli.options import audited

    reports.audit_and_show(
        *audited(
            *(space, epochs, rungs, dataset, data, size, seed, recipe or [], plugin or []),
            *(skip_unreadable, group_by),
        ),
        count,
    )


app.command()(model_commands.train)
app.command()(model_commands.predict)
app.command()(model_commands.evaluate)
app.command()(model_commands.export)


# --- architectures and spaces --------------------------------------------------------------------


@app.command()
def show(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN_OR_NAME", help="A pattern, a space or a zoo network.")
    ],
    dataset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--dataset", help="Draw it on this data."),
    ] = None,
    data: Data = "",
    size: Size = 0,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", metavar="FILE.svg", help="Draw it as a picture instead."),
    ] = None,
    plugin: Plugin = None,
) -> None:
    """Draw an architecture, stage by stage; or a space, with the domains of what is open."""
    from nas.cli.options import closed_or_space, data_ref, drawn, load_plugins
    from nas.report import screens

    load_plugins(plugin or [])
    ref = data_ref(dataset, data, size) if dataset or data else None
    architecture, space = closed_or_space(pattern, ref, size)
    if output is not None:
        drawn(architecture, space, output)
        print(f"nas: written to {output}", file=sys.stderr)
    elif architecture is not None:
        screens.out(screens.drawing(architecture, space))
    elif space is not None:
        screens.out(screens.space_page(space))


# --- what the record has -------------------------------------------------------------------------


@app.command()
def status(storage: Storage = STORAGE) -> None:
    """The studies of a database and how far each has come."""
    from nas.cli.options import open_record
    from nas.report import screens

    screens.out(screens.studies_table(open_record(storage)))


@app.command()
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
        ),
    ] = "",
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", metavar="FILE", help="Write it there, not to stdout."),
    ] = None,
    believed: Annotated[
        bool,
        typer.Option(
            "--believed",
            help="With what all trials together say of it, beside what was measured once.",
        ),
    ] = False,
) -> None:
    """The Pareto front of a study: as a table, as data, or as a picture."""
    from nas.cli import fronts
    from nas.cli.options import open_record, study_in
    from nas.cli.output import form_of

    form = form_of(format, output, fronts.FORMATS, "table")
    store = open_record(storage)
    row = study_in(store, study)
    fronts.front_out(row, list(store.trials(row.id)), form, output, believed=believed)


# --- elsewhere -----------------------------------------------------------------------------------


@app.command()
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
        Optional[list[str]],  # noqa: UP045
        typer.Option("--allow-host", metavar="NAME", help="Another name it has; repeatable."),
    ] = None,
) -> None:
    """The Optuna dashboard on the record, with the front of each study drawn."""
    from nas.cli.options import open_record
    from nas.report.dashboard import serve

    # A server's record may begin here; a file that is not there is more likely a mistake.
    store = open_record(storage, create=not storage.startswith("sqlite:"), write=True)
    serve(store, host=host, port=port, artifacts=artifacts, names=allow_host or ())


@app.command()
def report(
    study: StudyName = None,
    storage: Storage = STORAGE,
    seeds: Annotated[
        int,
        typer.Option("--seeds", help="Trainings of each in the mean, more of those near the best."),
    ] = 3,
    top: Annotated[
        int,
        typer.Option(
            "--top", help="How many of the front to train again; 0: a page of the record alone."
        ),
    ] = 3,
    compare: Annotated[
        str,
        typer.Option("--compare", metavar="random", help="Beside a random search of equal cost."),
    ] = "",
    data: Data = "",
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--workers", help="Jobs at once of a random search; 0: in this process."),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.html|FILE.md",
            help="Write it as a page, or as Markdown.",
        ),
    ] = None,
    artifacts: Artifacts = "",
    plugin: Plugin = None,
) -> None:
    """The winner, honestly: the best trained again with other seeds, scored once on test.

    What is trained is kept: interrupted, the same command goes on, and another one trains nothing
    twice.
    """
    from nas.cli.options import kept_in, load_plugins, open_record, study_in

    plugins = load_plugins(plugin or [])
    store = open_record(storage, write=bool(compare))
    row = study_in(store, study)
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
    from nas.cli.options import open_record

    open_record(storage, create=True).close()
    print("the record is up to date", file=sys.stderr)


@app.command()
def doctor(storage: Storage = STORAGE) -> None:
    """Versions, devices, database and Ray: what works, and what to do about what does not."""
    from nas.report import screens
    from nas.report.doctor import examine

    findings = examine(storage)
    screens.out(screens.findings_table(findings))
    if any(not finding.works for finding in findings):
        raise typer.Exit(1)
