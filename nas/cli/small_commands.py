"""``nas distill``, ``cascade`` and ``prune``: from large networks to small ones, or to several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.arguments import (
    HOW,
    STORAGE,
    WHAT,
    Data,
    Dataset,
    Epochs,
    KindOfImages,
    Plugin,
    Recipe,
    Seed,
    Storage,
    StudyName,
    a_file,
    output_to,
)

Seeds = Annotated[
    int,
    typer.Option(
        "--seeds", help="Seeds, one training of each variant per seed.", rich_help_panel=HOW
    ),
]
Output = Annotated[
    Path,
    output_to("DIR", "Directory for the models."),
]


def distill(
    context: typer.Context,
    teacher: Annotated[
        list[str],
        typer.Option(
            "--teacher",
            metavar="MODEL|N|front|NAME",
            help="Model file, trial number, the whole front, or a zoo network with --init; "
            "the outputs of several are averaged.",
            rich_help_panel=WHAT,
        ),
    ],
    student: Annotated[
        str,
        typer.Option(
            "--student",
            metavar="PATTERN|NAME|N",
            help="Pattern, zoo network or trial number.",
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
            help="Weights of a zoo teacher: torchvision's NAME, or a file.",
            rich_help_panel=HOW,
        ),
    ] = "",
    seeds: Seeds = 5,
    epochs: Epochs = None,
    dataset: Dataset = None,
    data: Data = "",
    seed: Seed = 0,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            help="Temperature that softens the outputs.  [default: 2]",
            rich_help_panel=HOW,
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            "--weight",
            help="Weight of the teacher; the labels get the rest.  [default: 0.9]",
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
    """Train a student on its teacher's outputs, and as a control the same student without a
    teacher. With --study, or a trial's number, the student becomes a point of that study."""
    from nas.cli.distilling import distill_and_show
    from nas.cli.options import load_plugins
    from nas.cli.output import resumable
    from nas.cli.paired import Options, of_record
    from nas.cli.settings import split
    from nas.cli.unused import FOR_TRIALS, refuse_typed
    from nas.errors import NasError

    if not of_record(study, *teacher, student):
        refuse_typed(context, FOR_TRIALS, "--storage")
    losses = {"temperature": temperature, "distill": weight, "attention": attention or None}
    settings = [f"{name}={value}" for name, value in losses.items() if value is not None]
    told = {text.partition("=")[0] for text in split(recipe or [])}
    for name, value in losses.items():
        if value is not None and name in told:
            option = "weight" if name == "distill" else name
            raise NasError(f"--{option} and --recipe {name} are one setting: give one of the two")
    options = Options(
        study=study,
        storage=storage,
        seeds=seeds,
        epochs=epochs,
        dataset=dataset,
        data=data,
        seed=seed,
        recipe=[*(recipe or []), *settings],
        plugins=load_plugins(plugin or []),
        folder=output,
    )
    with resumable():
        distill_and_show(teacher, student, init, options)


def cascade(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL...]", help="Model files, instead of a study's front."),
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
            help="Cost of an image; latencies are measured here.",
            rich_help_panel=WHAT,
        ),
    ] = "latency_ms",
    accuracy: Annotated[
        str,
        typer.Option(
            "--accuracy",
            metavar="best|0.9",
            help="Validation accuracy to reach at the least cost; best: the best network's.",
            rich_help_panel=WHAT,
        ),
    ] = "best",
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", help="Instead, maximise accuracy at this mean cost.", rich_help_panel=WHAT
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="logistic",
            help="Classical method to add as a member.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    output: Annotated[
        Path, output_to("FILE.json", "Its members are written next to it.", a_file)
    ] = Path("nas-cascade/cascade.json"),
    plugin: Plugin = None,
) -> None:
    """Chain networks: a cheap one answers where it is confident, an expensive one the rest."""
    from nas.cli import cascades
    from nas.cli.options import load_plugins
    from nas.cli.unused import refuse_typed

    load_plugins(plugin or [])
    if models:
        refuse_typed(context, "model files are given, not a study", "--study", "--storage")
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
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model file or trial number.")],
    width: Annotated[
        float,
        typer.Option("--width", help="Fraction of every width to keep.", rich_help_panel=WHAT),
    ] = 0.5,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="scale|norm",
            help="Rank channels by BN's scale or by their filter's norm.",
            rich_help_panel=WHAT,
        ),
    ] = "scale",
    study: StudyName = None,
    storage: Storage = STORAGE,
    epochs: Annotated[
        int, typer.Option("--epochs", help="Epochs of further training.", rich_help_panel=HOW)
    ] = 5,
    seeds: Seeds = 5,
    dataset: KindOfImages = "",
    data: Data = "",
    seed: Seed = 0,
    recipe: Recipe = None,
    plugin: Plugin = None,
    output: Output = Path("nas-prune"),
) -> None:
    """Make a trained network narrower and train it further, with the same network from scratch as
    a control. With --study, or a trial's number, it becomes a point of that study."""
    from nas.cli.options import load_plugins
    from nas.cli.output import resumable
    from nas.cli.paired import Options, of_record
    from nas.cli.pruning import prune_and_show
    from nas.cli.unused import FOR_TRIALS, refuse_typed

    if not of_record(study, model):
        refuse_typed(context, FOR_TRIALS, "--storage")
    options = Options(
        study=study,
        storage=storage,
        seeds=seeds,
        epochs=epochs,
        dataset=dataset or None,
        data=data,
        seed=seed,
        recipe=recipe or [],
        plugins=load_plugins(plugin or []),
        folder=output,
    )
    with resumable():
        prune_and_show(model, width, by, options)
