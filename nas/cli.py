"""The command line: each command parses its options, calls one function and prints.

Data goes to stdout, logs and progress to stderr. Exit status: 0 done, 2 wrong input, 3 no feasible
candidate, 130 interrupted and resumable, 1 anything else. Torch, ray and optuna are imported by the
commands that need them, so that ``nas --help`` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

app = typer.Typer(
    name="nas",
    help="Neural architecture search over block patterns: which network for your images?",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich help takes longer to import than all the rest
    pretty_exceptions_enable=False,
    add_completion=False,
)
space_app = typer.Typer(help="Search spaces: list, show, check, sample.", no_args_is_help=True)
trials_app = typer.Typer(help="The trials of a study.", no_args_is_help=True)
db_app = typer.Typer(help="The database.", no_args_is_help=True)
app.add_typer(space_app, name="space")
app.add_typer(trials_app, name="trials")
app.add_typer(db_app, name="db")
submit_app = typer.Typer(
    help="Hand a whole search to a batch system: nas submit slurm -- search --space resnet_like",
    no_args_is_help=True,
)
app.add_typer(submit_app, name="submit")

Storage = Annotated[
    str,
    typer.Option(
        envvar=["NAS_STORAGE", "OPTUNA_STORAGE"],
        metavar="URL",
        help="The record: sqlite:///FILE or postgresql+psycopg://...",
        show_envvar=True,
    ),
]
STORAGE = "sqlite:///nas.db"
Dataset = Annotated[
    str, typer.Option("--dataset", help="The images; `nas doctor` lists the names.")
]
Data = Annotated[str, typer.Option("--data", metavar="DIR", help="The directory they are in.")]
Size = Annotated[int, typer.Option("--size", help="Resize images to SIZE x SIZE pixels (0: no).")]
StudyName = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it at run time
    typer.Option("--study", help="The study; where there is one only, that one."),
]
Plugin = Annotated[
    Optional[list[Path]],  # noqa: UP045
    typer.Option("--plugin", metavar="FILE.py", help="Registers blocks and data sets; repeatable."),
]
Seed = Annotated[int, typer.Option("--seed", help="The same seed draws the same.")]
SpaceName = Annotated[str, typer.Argument(metavar="SPACE", help="A shipped space or a file.")]


def main() -> None:
    """The entry point: bad input becomes one sentence and an exit status."""
    from nas.errors import NasError

    try:
        app()
    except NasError as error:
        fail(str(error), 3 if type(error).__name__ == "Infeasible" else 2)
    except KeyboardInterrupt:
        fail("interrupted", 130)


def fail(message: str, status: int) -> NoReturn:
    print(f"nas: {message}", file=sys.stderr)
    sys.exit(status)


# --- search --------------------------------------------------------------------------------------


@app.command()
def search(
    space: Annotated[str, typer.Option("--space", help="A shipped space or a space file.")],
    storage: Storage = STORAGE,
    study: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--study", help="Its name; the same name resumes.  [default: SPACE-DATASET]"),
    ] = None,
    trials: Annotated[int, typer.Option("--trials", help="How many to have in all.")] = 40,
    epochs: Annotated[int, typer.Option("--epochs", help="How long each is trained.")] = 20,
    dataset: Dataset = "digits",
    data: Data = "",
    size: Size = 0,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set first.")] = False,
    seed: Seed = 0,
    sampler: Annotated[str, typer.Option("--sampler", help="Who proposes.")] = "default",
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--workers", min=0, help="Jobs at once; 0: in this process.  [default: one a core]"
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
        typer.Option("--baseline", metavar="resnet18,linear", help="Zoo networks beside them."),
    ] = None,
    plugin: Plugin = None,
    evaluator: Annotated[
        str, typer.Option("--evaluator", metavar="MODULE:FUNCTION", help="Instead of training.")
    ] = "",
    rungs: Annotated[
        str,
        typer.Option("--rungs", metavar="off|auto|3,7,20", help="Epochs to stop candidates at."),
    ] = "off",
    artifacts: Annotated[
        str,
        typer.Option(
            "--artifacts",
            metavar="DIR",
            help="For checkpoints.  [default: artifacts, beside the database]",
        ),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show it; run nothing.")
    ] = False,
) -> None:
    """Search a space for the best trade-offs, or go on with a search."""
    from nas import run
    from nas.options import artifacts_dir, plan

    searched = plan(
        space=space,
        study=study,
        trials=trials,
        epochs=epochs,
        dataset=dataset,
        data=data,
        size=size,
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
    dataset: Dataset = "digits",
    data: Data = "",
    size: Size = 0,
    seed: Seed = 0,
    recipe: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--recipe", metavar="lr=0.05", help="A training setting; repeatable."),
    ] = None,
    plugin: Plugin = None,
) -> None:
    """How early accuracies, sizes and training-free scores rank networks, beside the end."""
    from nas import reports
    from nas.options import audited

    reports.audit_and_show(
        *audited(space, epochs, rungs, dataset, data, size, seed, recipe or [], plugin or []),
        count,
    )


@app.command()
def train(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN_OR_NAME", help="A closed pattern or a zoo network.")
    ],
    epochs: Annotated[int, typer.Option("--epochs", help="How long it is trained.")] = 20,
    dataset: Dataset = "digits",
    data: Data = "",
    size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--size",
            min=0,
            help="Resize images to SIZE x SIZE pixels (0: no).  "
            "[default: as the weights of --init NAME ask, otherwise no]",
        ),
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set first.")] = False,
    seed: Seed = 0,
    init: Annotated[
        str,
        typer.Option(
            "--init",
            metavar="NAME_OR_FILE",
            help="Begin with torchvision's weights of NAME or NAME:MEMBER, as "
            "resnet50:IMAGENET1K_V1, or with a file's.",
        ),
    ] = "",
    freeze: Annotated[
        int, typer.Option("--freeze", help="Train the head alone for so many epochs first.")
    ] = 0,
    recipe: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--recipe", metavar="lr=0.05", help="A training setting; repeatable."),
    ] = None,
    plugin: Plugin = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="For checkpoint and weights.")
    ] = Path("nas-train"),
) -> None:
    """Train one architecture, and score it once on the test images; the same command resumes."""
    from nas import run
    from nas.options import single_job

    job = single_job(
        pattern,
        epochs=epochs,
        dataset=dataset,
        data=data,
        size=size,
        download=download,
        seed=seed,
        init=init,
        freeze=freeze,
        recipe=recipe or [],
        plugins=plugin or [],
    )
    try:
        run.train_and_show(job, output)
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from the last checkpoint", 130)


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
    plugin: Plugin = None,
) -> None:
    """Draw an architecture, stage by stage; or a space, with the domains of what is open."""
    from nas import screens
    from nas.options import closed_or_space, load_plugins

    load_plugins(plugin or [])
    architecture, space = closed_or_space(pattern, dataset, data, size)
    if architecture is not None:
        screens.out(screens.drawing(architecture, space))
    elif space is not None:
        screens.out(screens.space_page(space))


@space_app.command("ls")
def space_ls() -> None:
    """The shipped spaces and the zoo of closed patterns."""
    from nas import screens

    screens.out(screens.space_list())


@space_app.command("show")
def space_show(
    space: SpaceName,
    dataset: Dataset = "digits",
    data: Data = "",
    size: Size = 0,
    plugin: Plugin = None,
) -> None:
    """A space: its pattern, and the domains of what is open."""
    from nas import screens
    from nas.options import load_plugins, space_on

    load_plugins(plugin or [])
    screens.out(screens.space_page(space_on(space, dataset, data, size)))


@space_app.command("check")
def space_check(
    space: SpaceName,
    dataset: Dataset = "digits",
    data: Data = "",
    size: Size = 0,
    draws: Annotated[
        int, typer.Option("--draws", min=10, max=1_000_000, help="How many to look at.")
    ] = 1000,
    seed: Seed = 0,
    plugin: Plugin = None,
) -> None:
    """A preflight: how many architectures, how large, what fits, what never matters."""
    from nas import screens
    from nas.options import load_plugins, space_on
    from nas.preflight import check

    load_plugins(plugin or [])
    loaded = space_on(space, dataset, data, size)
    screens.out(screens.preflight_page(loaded, check(loaded, draws=draws, seed=seed)))


@space_app.command("sample")
def space_sample(
    space: SpaceName,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=1_000_000, help="How many.")
    ] = 5,
    seed: Seed = 0,
    dataset: Dataset = "digits",
    data: Data = "",
    size: Size = 0,
    plugin: Plugin = None,
) -> None:
    """Random architectures of a space: fingerprint, params, MACs and pattern, tab-separated."""
    from nas.options import load_plugins, space_on

    load_plugins(plugin or [])
    loaded = space_on(space, dataset, data, size)
    for i in range(count):
        drawn = loaded.sample(seed + i)
        print(drawn.fingerprint, drawn.params, drawn.macs, drawn, sep="\t")


# --- what the record has -------------------------------------------------------------------------


@app.command()
def status(storage: Storage = STORAGE) -> None:
    """The studies of a database and how far each has come."""
    from nas import screens
    from nas.options import open_record

    screens.out(screens.studies_table(open_record(storage)))


@trials_app.command("ls")
def trials_ls(
    study: StudyName = None,
    storage: Storage = STORAGE,
    state: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--state", help="finished, stopped, failed, running ...; repeatable."),
    ] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="table, json or csv")] = "table",
) -> None:
    """The trials of a study."""
    from nas import screens
    from nas.options import open_record, study_in

    store = open_record(storage)
    row = study_in(store, study)
    screens.rows_out(row, list(store.trials(row.id)), state or [], format)


@trials_app.command("show")
def trials_show(
    number: Annotated[int, typer.Argument(help="The trial's number.")],
    study: StudyName = None,
    storage: Storage = STORAGE,
) -> None:
    """One trial: its architecture, recipe, curve and attempts."""
    from nas import screens
    from nas.options import open_record, study_in

    store = open_record(storage)
    row = study_in(store, study)
    screens.out(screens.trial_page(store, row, store.trial(row.id, number)))


@app.command()
def pareto(
    study: StudyName = None,
    storage: Storage = STORAGE,
    format: Annotated[str, typer.Option("--format", "-f", help="table, json or csv")] = "table",
) -> None:
    """The Pareto front of a study."""
    from nas import screens, tradeoffs
    from nas.options import open_record, study_in

    store = open_record(storage)
    row = study_in(store, study)
    screens.rows_out(row, tradeoffs.pareto(row, list(store.trials(row.id))), [], format)


# --- batch jobs ----------------------------------------------------------------------------------

Command = Annotated[
    list[str], typer.Argument(metavar="-- search ...", help="The nas command to run there.")
]
RayAddress = Annotated[
    str,
    typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard."),
]
RAY = "http://127.0.0.1:8265"
JobName = Annotated[str, typer.Argument(metavar="JOB", help="As `nas submit ray` printed it.")]


@submit_app.command("slurm")
def submit_slurm(
    command: Command,
    nodes: Annotated[int, typer.Option("--nodes", help="How many to ask Slurm for.")] = 1,
    cpus: Annotated[int, typer.Option("--cpus", help="Of each node.")] = 1,
    gpus: Annotated[int, typer.Option("--gpus", help="Of each node.")] = 0,
    minutes: Annotated[int, typer.Option("--minutes", help="Requeued and resumed after.")] = 60,
    grace: Annotated[int, typer.Option("--grace", help="Seconds to stop cleanly in.")] = 120,
    partition: Annotated[
        str, typer.Option("--partition", help="Slurm's.  [default: its own]")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="The job's name.")] = "nas",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script only.")] = False,
) -> None:
    """Write an sbatch script that starts Ray across the allocation, and submit it."""
    from workers import submit

    allocation = submit.Allocation(
        nodes=nodes,
        cpus=cpus,
        gpus=gpus,
        minutes=minutes,
        grace=grace,
        partition=partition,
        name=name,
    )
    script = submit.sbatch_script(command, allocation)
    print(script.rstrip() if dry_run else submit.submit_slurm(script))


@submit_app.command("ray")
def submit_ray(
    command: Command,
    address: RayAddress = RAY,
    follow: Annotated[bool, typer.Option(help="Print its output until it ends.")] = True,
) -> None:
    """Submit to a running Ray cluster's jobs; prints the job's name."""
    from workers import submit

    job = submit.submit_ray(command, address)
    print(job, flush=True)
    if follow:
        for text in submit.follow_ray(job, address):
            print(text, end="", file=sys.stderr, flush=True)
        if submit.status_ray(job, address) != "SUCCEEDED":
            raise typer.Exit(1)


@submit_app.command("status")
def submit_status(job: JobName, address: RayAddress = RAY) -> None:
    """How a Ray job stands."""
    from workers import submit

    print(submit.status_ray(job, address))


@submit_app.command("stop")
def submit_stop(job: JobName, address: RayAddress = RAY) -> None:
    """End a Ray job; the same search resumes."""
    from workers import submit

    if not submit.stop_ray(job, address):
        print("nas: it had ended before", file=sys.stderr)


# --- elsewhere -----------------------------------------------------------------------------------


@app.command()
def export(
    what: Annotated[
        str, typer.Argument(metavar="TRIAL_OR_PATTERN", help="A trial's number, or a pattern.")
    ],
    study: StudyName = None,
    storage: Storage = STORAGE,
    format: Annotated[str, typer.Option("--format", "-f", help="python or pattern")] = "python",
    plugin: Plugin = None,
) -> None:
    """Print a network as PyTorch source that stands alone, or as its canonical pattern."""
    from nas.options import exported, load_plugins

    load_plugins(plugin or [])
    print(exported(what, study, storage, format))


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
) -> None:
    """The Optuna dashboard on the record, with the front of each study drawn."""
    from nas.dashboard import serve
    from nas.options import open_record

    serve(open_record(storage), host=host, port=port, artifacts=artifacts)


@app.command()
def report(
    study: StudyName = None,
    storage: Storage = STORAGE,
    seeds: Annotated[int, typer.Option("--seeds", help="Trainings of each.")] = 3,
    top: Annotated[int, typer.Option("--top", help="How many of the front to train again.")] = 3,
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
        typer.Option("--output", "-o", metavar="FILE.md", help="Write it as Markdown too."),
    ] = None,
    plugin: Plugin = None,
) -> None:
    """The winner, honestly: the best trained again with other seeds, scored once on test."""
    from nas.options import load_plugins, open_record, study_in

    load_plugins(plugin or [])
    store = open_record(storage)
    row = study_in(store, study)
    from nas.reports import report_and_show

    report_and_show(
        store,
        row,
        data,
        seeds=seeds,
        top=top,
        compare=compare,
        workers=workers,
        output=output,
    )


@db_app.command("upgrade")
def db_upgrade(storage: Storage = STORAGE) -> None:
    """Create the record, or bring it up to date."""
    from nas.options import open_record

    open_record(storage, create=True).close()
    print("the record is up to date", file=sys.stderr)


@app.command()
def doctor(storage: Storage = STORAGE) -> None:
    """Versions, devices, database and Ray: what works, and what to do about what does not."""
    from nas import screens
    from nas.doctor import examine

    findings = examine(storage)
    screens.out(screens.findings_table(findings))
    if any(not finding.works for finding in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
