"""``nas prune``: a narrower network with a trained one's weights, beside one from scratch."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import get_args

from nas.cli.paired import Options, compare_and_show, images_of, is_number, model_files, of_record
from nas.cli.record import check_images, data_of
from nas.cli.settings import read_recipe
from nas.errors import NasError
from nas.job import Job, Recipe
from nas.job.recipe import UNTAUGHT
from nas.metrics import count, percent
from nas.report.images import tell as tell_images
from nas.training.evaluation import evaluate
from nas.training.models import load_model, save_once
from nas.training.prune import By, pruned, renormalised


def prune_and_show(text: str, width: float, by: str, options: Options) -> None:
    """Prunes a model and trains it further; the control is the same network from scratch, trained
    for as many epochs as the pruned one had before and after pruning."""
    options.begin()
    epochs = options.epochs
    assert epochs is not None  # the command has a default
    if by not in get_args(By):
        raise NasError(f"--by {by}: must be {' or '.join(get_args(By))}")
    files = model_files(text, options.storage, options.study, "MODEL")
    if len(files) != 1:
        raise NasError(f"MODEL {text}: must be one model file or trial number")
    (file,) = files
    model = load_model(file)
    narrow = pruned(model, width, by, options.seed)  # type: ignore[arg-type]
    entered = options.opened() if of_record(options.study, text) else None
    study = entered[1] if entered else None
    if study and is_number(text):
        ref = data_of(study, options.data)
    else:
        folder = options.data or (study.directory if study else "")
        ref = images_of([file], options.dataset, folder)
        if study:
            check_images(study, ref)
    tell_images(Job(pattern="", data=ref))
    if not model.card.epochs:
        raise NasError(f"{file} does not record its epochs, which the control needs")
    before = evaluate(model, ref, "validation").accuracy  # images that it cannot take are refused
    renormalised(narrow, ref, options.seed)
    start = options.folder / f"pruned-{narrow.digest}.safetensors"
    recipe = read_recipe(
        [*options.recipe, f"init={start}"],
        Recipe.of(model.card.recipe).but({**UNTAUGHT, "freeze": 0}),
    )
    save_once(start, narrow)
    own, made = model.architecture.params, narrow.architecture.params
    print(f"nas: {count(made)} params of {count(own)}: {narrow.architecture}", file=sys.stderr)
    after = evaluate(narrow, ref, "validation").accuracy
    before_training = f"{percent(after)} before further training, {percent(before)} unpruned"
    print(f"nas: validation accuracy {before_training}", file=sys.stderr)
    further = options.job(str(narrow.architecture), recipe, ref, epochs)
    control = dataclasses.replace(
        further, recipe=recipe.but({"init": ""}), epochs=model.card.epochs + epochs
    )
    of = f"trial {text}" if is_number(text) else Path(text).stem
    compare_and_show(options, "pruned", further, control, "from scratch", entered, of)
