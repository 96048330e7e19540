"""``nas search`` and ``nas audit``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Annotated, Literal

import typer

from nas.cli.arguments import (
    HOW,
    RECORD,
    STORAGE,
    WHAT,
    WHERE,
    Artifacts,
    Data,
    Dataset,
    Download,
    GroupBy,
    Plugin,
    Recipe,
    Seed,
    Size,
    SkipUnreadable,
    Space,
    Storage,
)
from nas.samplers import SAMPLERS
from nas.text import counted


def search(
    space: Space = "",
    storage: Storage = STORAGE,
    study: Annotated[
        str | None,
        typer.Option(
            "--study",
            help="Study name; an existing study is resumed.  [default: SPACE-IMAGES]",
            rich_help_panel=RECORD,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            help="Total trials of the study.  [default: 40; no limit with --budget]",
            rich_help_panel=HOW,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="2h|1h30m|45min|90s",
            help="Time limit of this command; no trial starts that is expected to exceed it.",
            rich_help_panel=HOW,
        ),
    ] = None,
    epochs: Annotated[
        int,
        typer.Option(
            "--epochs",
            help="Training epochs per candidate.",
            rich_help_panel=HOW,
        ),
    ] = 20,
    dataset: Dataset = None,
    data: Data = "",
    size: Size = 0,
    download: Download = False,
    skip_unreadable: SkipUnreadable = False,
    group_by: GroupBy = "",
    seed: Seed = 0,
    older: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="STUDY",
            help="Warm-start from an older study of 10 networks or more; repeatable.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    sampler: Annotated[
        str,
        typer.Option(
            "--sampler",
            metavar="|".join(SAMPLERS),
            help="Sampler that proposes candidates.",
            rich_help_panel=WHAT,
        ),
    ] = "default",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=0,
            help="Parallel trials; 0: in this process.  [default: one per core, memory permitting]",
            rich_help_panel=WHERE,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="Running Ray cluster: host:port or auto.", rich_help_panel=WHERE
        ),
    ] = None,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-trial",
            min=0,
            help="GPUs per trial; may be a fraction, such as 0.25.  [default: shared]",
            rich_help_panel=WHERE,
        ),
    ] = None,
    cpus_per_trial: Annotated[
        float,
        typer.Option(
            "--cpus-per-trial",
            metavar="N",
            help="CPU cores per trial, on a cluster.",
            rich_help_panel=WHERE,
        ),
    ] = 1.0,
    memory_per_trial: Annotated[
        float,
        typer.Option(
            "--memory-per-trial",
            metavar="GIB",
            help="Memory to reserve, and the limit (0: as predicted; an equal share).",
            rich_help_panel=WHERE,
        ),
    ] = 0.0,
    time_limit: Annotated[
        float,
        typer.Option(
            "--time-limit",
            min=0,
            help="Time limit of a trial in seconds (0: none).",
            rich_help_panel=HOW,
        ),
    ] = 0.0,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            metavar="accuracy:max,params:min",
            help="Replaces the space's objectives.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            "--constraint",
            metavar="'params<=1e6'",
            help="In addition to the space's constraints.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    recipe: Recipe = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="resnet18,hog_svm",
            help="Zoo networks or classical methods to train as baselines.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher",
            metavar="MODEL",
            help="Model file that teaches each candidate; the outputs of several are averaged.",
            rich_help_panel=HOW,
        ),
    ] = None,
    plugin: Plugin = None,
    evaluator: Annotated[
        str,
        typer.Option(
            "--evaluator",
            metavar="MODULE:FUNCTION",
            help="Your own function, called instead of training.",
            rich_help_panel=HOW,
        ),
    ] = "",
    rungs: Annotated[
        str,
        typer.Option(
            "--rungs",
            metavar="off|auto|3,7,20",
            help="Epochs at which candidates may be stopped early.",
            rich_help_panel=HOW,
        ),
    ] = "off",
    artifacts: Artifacts = "",
    keep: Annotated[
        Literal["front", "all", "none"],
        typer.Option("--keep", help="Networks whose weights are kept.", rich_help_panel=RECORD),
    ] = "front",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check and show the plan, and how long it would take, without searching.",
            rich_help_panel=WHERE,
        ),
    ] = False,
) -> None:
    """Search a space for the best trade-offs, or resume a search."""
    since = time.monotonic()  # the start of a time budget
    from nas.cli import searches
    from nas.cli.dry_run import rehearse
    from nas.cli.options import data_ref, plan
    from nas.cli.output import resumable
    from nas.cli.record import artifacts_dir
    from nas.cli.unused import refuse_unused
    from nas.errors import NasError
    from nas.job.pool import Pool
    from nas.spaces.space import open_spaces
    from nas.workers import check as check_pool
    from nas.workers import open_pool

    if not space:
        raise NasError(
            f"--space is needed: a file, or one of {', '.join(open_spaces())}; `nas space ls` "
            "describes each, and resnet_like is a good start"
        )
    baselines = [name for text in baseline or [] for name in text.split(",")]
    refuse_unused(
        evaluator=evaluator,
        artifacts=artifacts,
        keep=keep,
        baselines=baselines,
        workers=workers,
        address=address,
        gpus_per_trial=gpus_per_trial,
        cpus_per_trial=cpus_per_trial,
        memory_per_trial=memory_per_trial,
        time_limit=time_limit,
    )
    searched = plan(
        space,
        data_ref(dataset, data, size, skip_unreadable, group_by),
        epochs=epochs,
        study=study,
        trials=trials,
        budget=budget,
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
        teachers=teacher or [],
        older=older or [],
    )
    if rungs == "auto":
        levels = ", ".join(map(str, searched.rungs[:-1]))
        none = f"{counted(epochs, 'epoch')} a training leave room for none"
        told = f"after {levels} of {epochs} epochs" if levels else none
        print(f"nas: --rungs auto: {told}", file=sys.stderr)
    check_pool(workers, gpus_per_trial, time_limit, memory_per_trial, cpus_per_trial)
    if dry_run:
        rehearse(searched, storage, workers, memory_per_trial * 2**30, baselines)
        return
    if (gpus_per_trial or 0) > 1 and not evaluator:
        raise NasError(
            f"--gpus-per-trial is {gpus_per_trial:g}: a training uses one GPU, at most 1 "
            "(an --evaluator may use more)"
        )

    def pool(need: Callable[[], int], jobs: int | None) -> Pool:
        return open_pool(
            workers,
            address,
            gpus_per_trial,
            time_limit,
            memory_per_trial,
            cpus_per_trial,
            need,
            training=not evaluator,
            jobs=jobs,
        )

    with resumable(f"the same command resumes study {searched.study}"):
        searches.search_and_show(searched, storage, pool, baselines, since)


def audit(
    space: Space,
    count: Annotated[
        int,
        typer.Option(
            "--count",
            help="Architectures to train in full, 5 or more.",
            rich_help_panel=HOW,
        ),
    ] = 8,
    epochs: Annotated[
        int,
        typer.Option(
            "--epochs",
            help="Epochs of a full training.",
            rich_help_panel=HOW,
        ),
    ] = 20,
    rungs: Annotated[
        str,
        typer.Option(
            "--rungs", metavar="auto|3,7,20", help="Epochs to score after.", rich_help_panel=HOW
        ),
    ] = "auto",
    dataset: Dataset = None,
    data: Data = "",
    size: Size = 0,
    skip_unreadable: SkipUnreadable = False,
    group_by: GroupBy = "",
    seed: Seed = 0,
    recipe: Recipe = None,
    plugin: Plugin = None,
) -> None:
    """How well early accuracies, sizes and training-free scores predict the final ranking."""
    from nas.cli import reports
    from nas.cli.options import audited, data_ref

    reports.audit_and_show(
        *audited(
            space,
            data_ref(dataset, data, size, skip_unreadable, group_by),
            epochs=epochs,
            rungs=rungs,
            seed=seed,
            recipe=recipe or [],
            plugins=plugin or [],
        ),
        count=count,
    )
