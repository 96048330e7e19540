"""``nas train``, ``predict``, ``evaluate`` and ``export``: from a pattern or a trial to a deployed
model."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.arguments import (
    HOW,
    MODELS,
    MOST_PIXELS,
    ON,
    OUTPUT,
    STORAGE,
    Data,
    Dataset,
    Download,
    Epochs,
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
    formats,
    output_to,
)

if TYPE_CHECKING:
    from nas.job import DataRef
    from nas.training.card import Card

ModelFile = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Model file from `nas train`, `nas cascade` or `nas export -f onnx`."
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
    context: typer.Context,
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="PATTERN_OR_NAME", help="Closed pattern or zoo network."),
    ] = None,
    trial: Trial = None,
    study: StudyName = None,
    storage: Storage = STORAGE,
    epochs: Epochs = None,
    dataset: Dataset = None,
    data: Data = "",
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=0,
            max=MOST_PIXELS,
            help="Resize images to SIZE x SIZE pixels (0: automatic).  "
            "[default: as the --init weights require, otherwise 0]",
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
            help="Random seed.  [default: the trial's, or 0]",
            rich_help_panel=HOW,
        ),
    ] = None,
    init: Annotated[
        str,
        typer.Option(
            "--init",
            metavar="NAME_OR_FILE",
            help="Initial weights: torchvision's NAME or NAME:MEMBER, such as "
            "resnet50:IMAGENET1K_V1, or a file.",
            rich_help_panel=HOW,
        ),
    ] = "",
    freeze: Annotated[
        int,
        typer.Option(
            "--freeze",
            help="Epochs to train the head alone first.",
            rich_help_panel=HOW,
        ),
    ] = 0,
    recipe: Recipe = None,
    plugin: Plugin = None,
    output: Annotated[
        Path,
        output_to(
            "DIR|FILE.safetensors",
            "Directory for checkpoint and model; or the model file, checkpoint beside it.",
            a_file_or_directory,
        ),
    ] = Path("nas-train"),
) -> None:
    """Train one architecture and score the model once on the test images. With --trial, data,
    recipe and size come from the record. The same command resumes."""
    from nas.cli.models import train_and_show
    from nas.cli.options import data_ref, single_job
    from nas.cli.output import resumable
    from nas.cli.record import trial_job
    from nas.cli.settings import starting
    from nas.cli.unused import FOR_TRIALS, refuse_typed
    from nas.errors import NasError

    if (pattern is None) == (trial is None):
        raise NasError("give either a pattern or a network's name, or --trial N")
    if trial is None:
        refuse_typed(context, FOR_TRIALS, "--study", "--storage")
    else:
        why = "with --trial, the images are read as its study read them"
        refuse_typed(context, why, "--skip-unreadable", "--group-by", "--download")
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
    with resumable("the same command resumes from the last checkpoint"):
        train_and_show(job, output)


def predict(
    model: ModelFile,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="Images, or directories, which are searched at any depth."
        ),
    ],
    format: Annotated[str, formats("table|csv|json")] = "table",
    top: Annotated[
        int,
        typer.Option(
            "--top",
            help="Number of classes to show per image.",
            rich_help_panel=OUTPUT,
        ),
    ] = 1,
    plugin: Plugin = None,
) -> None:
    """Predict the class of each image, with its probability; unsure: it is below 50 %."""
    from nas.cli.models import predict_and_show
    from nas.cli.options import load_plugins

    load_plugins(plugin or [])
    predict_and_show(model, paths, format, top)


def evaluate(
    model: ModelFile,
    other: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Second model, to compare on the same images."),
    ] = None,
    dataset: KindOfImages = "",
    data: Data = "",
    skip_unreadable: SkipUnreadable = False,
    part: Annotated[
        str,
        typer.Option(
            "--part",
            metavar="test|validation|train|all",
            help="Which split.  [default: test; all images of a folder without splits "
            "that has none of those trained on]",
            rich_help_panel=ON,
        ),
    ] = "",
    format: Annotated[str, formats("table|json")] = "table",
    output: Annotated[
        Path | None,
        output_to(
            "DIR",
            "Directory for confusion.csv, confusion.png and mistakes.png; of two models, for one "
            "directory each.",
        ),
    ] = None,
    plugin: Plugin = None,
) -> None:
    """Evaluate a model on labelled images, class by class; or test whether two models differ."""
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
    context: typer.Context,
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="PATTERN_OR_MODEL",
            help="Model file, or trial number; or without weights, a pattern or zoo network.",
        ),
    ] = None,
    trial: Trial = None,
    study: StudyName = None,
    storage: Storage = STORAGE,
    format: Annotated[
        str,
        formats(
            "python|pattern|onnx|pt2|safetensors",
            "What to write.  [default: by FILE's ending, otherwise python]",
        ),
    ] = "",
    output: Annotated[
        Path | None,
        output_to(
            "FILE",
            "Output file.  [default: text to stdout, others here, named after the model]",
            a_file,
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="fp32|fp16|int8",
            help="For ONNX. Test accuracy and latency of each precision are reported, on --data (a "
            "trial's are in the record); int8 is quantised on the training images.",
            rich_help_panel=OUTPUT,
        ),
    ] = "fp32",
    dataset: KindOfImages = "",
    data: Data = "",
    plugin: Plugin = None,
) -> None:
    """Export a model, checked to give the same outputs as in torch; or a pattern's bare network.

    ONNX takes decoded pixels, uint8 (images, channels, height, width), and returns logits;
    normalisation is built in, and classes and size are metadata.
    """
    from nas.cli.models import export_lowered, export_model, export_pattern
    from nas.cli.options import load_plugins
    from nas.cli.output import form_of, writable
    from nas.cli.patterns import closed_pattern
    from nas.cli.record import check_there, trial_images, trial_network, trial_weights
    from nas.cli.unused import FOR_TRIALS, refuse_typed
    from nas.errors import NasError

    load_plugins(plugin or [])
    if what is not None and re.fullmatch("[0-9]{1,8}", what) and trial is None:
        trial, what = int(what), None
    if (what is None) == (trial is None):
        raise NasError("give either a model, a pattern or a network's name, or --trial N")
    if trial is None:
        refuse_typed(context, FOR_TRIALS, "--study", "--storage")
    if precision == "fp32":
        why = "fp32 is exported without images; they are for --precision fp16 and int8"
        refuse_typed(context, why, "--data", "--dataset")
    format = form_of(format, output, EXPORTS, "python")
    if output is not None:
        writable(output)
    if precision != "fp32" and format != "onnx":
        raise NasError(f"--precision {precision}: is for ONNX only (-f onnx)")
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

        def images(card: Card) -> DataRef:
            if trial is not None and not dataset:
                return trial_images(storage, study, data)
            from nas.training.evaluation import data_for

            return data_for(card, dataset, str(Path(data).resolve()) if data else "", file)

        export_lowered(file, precision, output or Path(f"{name}.{precision}.onnx"), images)
    else:
        export_model(file, format, output, name, kept=trial is not None)
