"""``nas train``, ``predict``, ``evaluate`` and ``export``: from a pattern or a trial to a model in
use."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.arguments import (
    HOW,
    MODELS,
    ON,
    OUTPUT,
    STORAGE,
    Data,
    Dataset,
    Download,
    GroupBy,
    KindOfImages,
    Plugin,
    Recipe,
    SkipUnreadable,
    Storage,
    StudyName,
    Trial,
    a_file,
    a_file_or_directory,
)

ModelFile = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A file of `nas train`, `nas cascade`, or `nas export -f onnx`."
    ),
]


EXPORTS: Mapping[str, str] = {
    "pattern": "",
    "python": ".py",
    "onnx": ".onnx",
    "pt2": ".pt2",
    "safetensors": ".safetensors",
}


def train(
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="PATTERN_OR_NAME", help="A closed pattern or a zoo network."),
    ] = None,
    trial: Trial = None,
    study: StudyName = None,
    storage: Storage = STORAGE,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            help="How long it is trained.  [default: as the study, or 20]",
            rich_help_panel=HOW,
        ),
    ] = None,
    dataset: Dataset = None,
    data: Data = "",
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=0,
            max=16_384,
            help="Resize images to SIZE x SIZE pixels (0: no).  "
            "[default: as the weights of --init ask, otherwise no]",
            rich_help_panel=ON,
        ),
    ] = None,
    skip_unreadable: SkipUnreadable = False,
    group_by: GroupBy = "",
    download: Download = False,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            help="The same seed draws the same.  [default: the trial's, or 0]",
            rich_help_panel=HOW,
        ),
    ] = None,
    init: Annotated[
        str,
        typer.Option(
            "--init",
            metavar="NAME_OR_FILE",
            help="Begin with torchvision's weights of NAME or NAME:MEMBER, as "
            "resnet50:IMAGENET1K_V1, or with a file's.",
            rich_help_panel=HOW,
        ),
    ] = "",
    freeze: Annotated[
        int,
        typer.Option(
            "--freeze",
            help="Train the head alone for so many epochs first.",
            rich_help_panel=HOW,
        ),
    ] = 0,
    recipe: Recipe = None,
    plugin: Plugin = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR|FILE.safetensors",
            parser=a_file_or_directory,
            help="For checkpoint and model; or the model itself, its checkpoint beside it.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("nas-train"),
) -> None:
    """Train one architecture to a model, and score it once on the test images; --trial takes data,
    recipe and size from the record. The same command resumes."""
    from nas.cli.models import train_and_show
    from nas.cli.options import data_ref, single_job
    from nas.cli.output import resumable
    from nas.cli.record import trial_job
    from nas.cli.settings import starting
    from nas.errors import NasError

    if (pattern is None) == (trial is None):
        raise NasError("give a pattern or a network's name, or --trial N: one of them")
    settings = starting(recipe or [], init, freeze)
    job = (
        single_job(
            pattern,
            data_ref(dataset, data, skip_unreadable=skip_unreadable, group_by=group_by),
            epochs=20 if epochs is None else epochs,
            size=size,
            download=download,
            seed=seed or 0,
            recipe=settings,
            plugins=plugin or [],
        )
        if pattern is not None
        else trial_job(
            storage,
            study,
            trial or 0,
            epochs=epochs,
            dataset=dataset,
            data=data,
            size=size,
            seed=seed,
            recipe=settings,
            plugins=plugin or [],
        )
    )
    with resumable("the same command goes on from the last checkpoint"):
        train_and_show(job, output)


def predict(
    model: ModelFile,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Images, and directories with images at any depth."),
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="table|csv|json",
            help="How it is printed.",
            rich_help_panel=OUTPUT,
        ),
    ] = "table",
    top: Annotated[
        int,
        typer.Option(
            "--top",
            help="How many classes to tell of each.",
            rich_help_panel=OUTPUT,
        ),
    ] = 1,
    plugin: Plugin = None,
) -> None:
    """The class of each image, and its probability."""
    from nas.cli.models import predict_and_show
    from nas.cli.options import load_plugins

    load_plugins(plugin or [])
    predict_and_show(model, paths, format, top)


def evaluate(
    model: ModelFile,
    other: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Another, to compare on the same images."),
    ] = None,
    dataset: KindOfImages = "",
    data: Data = "",
    skip_unreadable: SkipUnreadable = False,
    part: Annotated[
        str,
        typer.Option(
            "--part",
            metavar="test|validation|train|all",
            help="Which of them.  [default: test; all of a folder without parts "
            "that it was not trained on]",
            rich_help_panel=ON,
        ),
    ] = "",
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="table|json",
            help="How it is printed.",
            rich_help_panel=OUTPUT,
        ),
    ] = "table",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="For confusion.csv, confusion.png and mistakes.png.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    plugin: Plugin = None,
) -> None:
    """How good a model is on images with labels, class by class; of two, whether they differ."""
    from nas.cli.models import evaluate_and_show
    from nas.cli.options import load_plugins

    load_plugins(plugin or [])
    evaluate_and_show(
        model,
        other,
        dataset=dataset,
        data=data,
        skip_unreadable=skip_unreadable,
        part=part,
        format=format,
        output=output,
    )


def export(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="PATTERN_OR_MODEL",
            help="A model's file; without weights a pattern, a network or a trial's number.",
        ),
    ] = None,
    trial: Trial = None,
    study: StudyName = None,
    storage: Storage = STORAGE,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="python|pattern|onnx|pt2|safetensors",
            help="What to write.  [default: as FILE ends, otherwise python]",
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
            help="Where to.  [default: text to stdout, others here, by the model's name]",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="fp32|fp16|int8",
            help="Of ONNX: fp32, fp16, or int8, quantised by training images (--data, as it was "
            "trained on); told with the accuracy and latency that each has.",
            rich_help_panel=OUTPUT,
        ),
    ] = "fp32",
    dataset: KindOfImages = "",
    data: Data = "",
    plugin: Plugin = None,
) -> None:
    """A model for elsewhere, checked to answer as it does in torch; of a pattern the network alone.

    ONNX takes pixels, uint8 (images, channels, height, width) as decoded, and answers logits; the
    normalisation is inside, classes and size are metadata.
    """
    from nas.cli.models import export_lowered, export_model, export_pattern
    from nas.cli.options import closed_pattern, load_plugins
    from nas.cli.output import form_of
    from nas.cli.record import check_there, trial_network, trial_weights
    from nas.errors import NasError

    load_plugins(plugin or [])
    if what is not None and re.fullmatch("[0-9]{1,8}", what) and trial is None:
        trial, what = int(what), None
    if (what is None) == (trial is None):
        raise NasError("give a model, a pattern or a network's name, or --trial N: one of them")
    format = form_of(format, output, EXPORTS, "python")
    if precision != "fp32" and format != "onnx":
        raise NasError(f"--precision {precision}: is of ONNX alone (-f onnx)")
    as_text = format == "pattern" or (format == "python" and output is None)
    pattern, file, name = "", "", ""
    if trial is not None:
        pattern, name = trial_network(storage, study, trial), f"trial-{trial}"
        if not as_text:
            file = trial_weights(storage, study, trial, needed=format != "python")
    elif what is not None and (os.path.isfile(what) or Path(what).suffix in MODELS):
        check_there(what)
        file, name = what, Path(what).stem
    elif what is not None:
        pattern = closed_pattern(what)
    if file.endswith(".json"):
        from nas.cli.cascades import export_cascade

        if precision != "fp32":
            raise NasError(f"--precision {precision}: a cascade is exported as it is, fp32")
        export_cascade(file, format, output)
        return
    if not file:
        export_pattern(pattern, format, output)
    elif precision != "fp32":
        export_lowered(file, precision, output or Path(f"{name}.{precision}.onnx"), dataset, data)
    else:
        export_model(file, format, output, name, kept=trial is not None)
