"""``nas distill``, ``cascade`` and ``prune``: from large networks to small ones, or to several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.arguments import (
    HOW,
    OUTPUT,
    STORAGE,
    WHAT,
    Data,
    Dataset,
    KindOfImages,
    Plugin,
    Recipe,
    Seed,
    Storage,
    StudyName,
    a_file,
)

Seeds = Annotated[
    int, typer.Option("--seeds", help="Trainings of each, with and without.", rich_help_panel=HOW)
]
Output = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="DIR", help="For the models.", rich_help_panel=OUTPUT),
]


def distill(
    teacher: Annotated[
        list[str],
        typer.Option(
            "--teacher",
            metavar="MODEL|N|front|NAME",
            help="A model's file, a trial's number, the whole front, or a zoo network with --init; "
            "of several the mean of their outputs.",
            rich_help_panel=WHAT,
        ),
    ],
    student: Annotated[
        str,
        typer.Option(
            "--student",
            metavar="PATTERN|NAME|N",
            help="A pattern, a zoo network or a trial.",
            rich_help_panel=WHAT,
        ),
    ],
    study: StudyName = None,
    storage: Storage = STORAGE,
    init: Annotated[
        str,
        typer.Option(
            "--init",
            metavar="NAME_OR_FILE",
            help="A zoo teacher's weights: torchvision's of NAME, or a file's.",
            rich_help_panel=HOW,
        ),
    ] = "",
    seeds: Seeds = 5,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            help="How long each is trained.  [default: as the study's, else 20]",
            rich_help_panel=HOW,
        ),
    ] = None,
    dataset: Dataset = None,
    data: Data = "",
    seed: Seed = 0,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature", help="What softens the outputs.  [default: 2]", rich_help_panel=HOW
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            "--weight",
            help="Of the teacher, the rest the labels'.  [default: 0.9]",
            rich_help_panel=HOW,
        ),
    ] = None,
    attention: Annotated[
        float,
        typer.Option(
            "--attention", help="Weight of attention transfer (0: off).", rich_help_panel=HOW
        ),
    ] = 0.0,
    recipe: Recipe = None,
    plugin: Plugin = None,
    output: Output = Path("nas-distill"),
) -> None:
    """Train a student by its teacher's outputs, beside the same student without a teacher. Of a
    study (--study, or a trial's number) it is then a point."""
    from nas.cli import distilling
    from nas.cli.options import load_plugins
    from nas.cli.output import resumable

    losses = {"temperature": temperature, "distill": weight, "attention": attention or None}
    settings = [f"{name}={value}" for name, value in losses.items() if value is not None]
    with resumable():
        distilling.distill_and_show(
            teacher,
            student,
            study=study,
            storage=storage,
            init=init,
            seeds=seeds,
            epochs=epochs,
            dataset=dataset,
            data=data,
            seed=seed,
            recipe=[*(recipe or []), *settings],
            plugins=load_plugins(plugin or []),
            folder=output,
        )


def cascade(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL...]", help="Models' files, instead of a study's front."),
    ] = None,
    study: StudyName = None,
    storage: Storage = STORAGE,
    dataset: KindOfImages = "",
    data: Data = "",
    cost: Annotated[
        str,
        typer.Option(
            "--cost",
            metavar="latency_ms|macs|params",
            help="What an image costs; latencies are measured here.",
            rich_help_panel=WHAT,
        ),
    ] = "latency_ms",
    accuracy: Annotated[
        str,
        typer.Option(
            "--accuracy",
            metavar="best|0.9",
            help="Demanded at the least cost, on validation; best: that of the best network.",
            rich_help_panel=WHAT,
        ),
    ] = "best",
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", help="The highest accuracy at this mean cost instead.", rich_help_panel=WHAT
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="logistic",
            help="A classical member besides.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.json",
            parser=a_file,
            help="Its members lie beside it.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("nas-cascade/cascade.json"),
    plugin: Plugin = None,
) -> None:
    """Networks in turn: a cheap one answers where it is sure, a dear one what is left."""
    from nas.cli import cascades
    from nas.cli.options import load_plugins

    load_plugins(plugin or [])
    cascades.cascade_and_show(
        models or [],
        study=study,
        storage=storage,
        data=data,
        dataset=dataset,
        cost=cost,
        accuracy=accuracy,
        budget=budget,
        baselines=baseline or [],
        output=output,
    )


def prune(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model's file, or a trial's number.")
    ],
    width: Annotated[
        float,
        typer.Option("--width", help="Of every width, the part to keep.", rich_help_panel=WHAT),
    ] = 0.5,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="scale|norm",
            help="What keeps a channel: BN's scale, its filter's norm.",
            rich_help_panel=WHAT,
        ),
    ] = "scale",
    study: StudyName = None,
    storage: Storage = STORAGE,
    epochs: Annotated[
        int, typer.Option("--epochs", help="How long it is trained on.", rich_help_panel=HOW)
    ] = 5,
    seeds: Seeds = 5,
    dataset: KindOfImages = "",
    data: Data = "",
    seed: Seed = 0,
    recipe: Recipe = None,
    plugin: Plugin = None,
    output: Output = Path("nas-prune"),
) -> None:
    """A trained network made narrower and trained on, beside the same one from scratch. Of a study
    (--study, or a trial's number) it is then a point."""
    from nas.cli import pruning
    from nas.cli.options import load_plugins
    from nas.cli.output import resumable

    with resumable():
        pruning.prune_and_show(
            model,
            width,
            by,
            study=study,
            storage=storage,
            epochs=epochs,
            seeds=seeds,
            dataset=dataset,
            data=data,
            seed=seed,
            recipe=recipe or [],
            plugins=load_plugins(plugin or []),
            folder=output,
        )
