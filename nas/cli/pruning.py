"""``nas prune``: a narrower network with a trained one's weights, beside one from scratch."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from nas.cli.distilling import (
    check_numbers,
    enter_and_tell,
    images_of,
    is_number,
    model_files,
    tell_epochs,
)
from nas.cli.models import file_name
from nas.cli.output import begin_work, directory
from nas.cli.record import check_dataset, check_images, data_of, opened
from nas.cli.settings import read_recipe
from nas.errors import NasError
from nas.job import Job, Recipe
from nas.job.recipe import UNTAUGHT
from nas.metrics import count, percent
from nas.report import screens
from nas.report import smaller as pages
from nas.report.images import tell as tell_images
from nas.training.beside import beside
from nas.training.evaluation import evaluate
from nas.training.models import load_model, save_once
from nas.training.prune import By, pruned, renormalised
from nas.workers.run import source


def prune_and_show(
    text: str,
    width: float,
    by: str,
    *,
    study: str | None,
    storage: str,
    epochs: int,
    seeds: int,
    dataset: str,
    data: str,
    seed: int,
    recipe: Sequence[str],
    plugins: tuple[str, ...],
    folder: Path,
) -> None:
    """Prunes a model and trains it on, and beside it the same network from scratch for as many
    epochs as both trainings of the pruned one had; a line an epoch on stderr."""
    begin_work()
    directory(folder, "models")
    if by not in get_args(By):
        raise NasError(f"--by {by}: must be {' or '.join(get_args(By))}")
    check_numbers(epochs, seeds, seed)
    files = model_files(text, storage, study, "MODEL")
    if len(files) != 1:
        raise NasError(f"MODEL {text}: must be one model file or trial number")
    (file,) = files
    model = load_model(file)
    narrow = pruned(model, width, by, seed)  # type: ignore[arg-type]
    store, row = None, None
    if study or is_number(text):
        store, row = opened(storage, study, write=True)
        check_dataset(row, dataset or None)
    if row and is_number(text):
        ref = data_of(row, data)
    else:
        ref = images_of([file], dataset or None, data or (row.directory if row else ""))
        if row:
            check_images(row, ref)
    tell_images(Job(pattern="", data=ref))
    if not model.card.epochs:
        raise NasError(f"{file} does not record its epochs, which the control needs")
    before = evaluate(model, ref, "validation").accuracy  # images that it cannot take are refused
    renormalised(narrow, ref, seed)
    start = folder / f"pruned-{narrow.digest}.safetensors"
    settings = read_recipe(
        [*recipe, f"init={start}"], Recipe.of(model.card.recipe).but({**UNTAUGHT, "freeze": 0})
    )
    save_once(start, narrow)
    own, made = model.architecture.params, narrow.architecture.params
    print(f"nas: {count(made)} params of {count(own)}: {narrow.architecture}", file=sys.stderr)
    after = evaluate(narrow, ref, "validation").accuracy
    before_training = f"{percent(after)} before further training, {percent(before)} unpruned"
    print(f"nas: validation accuracy {before_training}", file=sys.stderr)
    way = Job(
        pattern=str(narrow.architecture),
        recipe=settings,
        data=ref,
        epochs=epochs,
        seed=seed,
        source=source("", plugins),
        plugins=plugins,
    )
    control = dataclasses.replace(
        way, recipe=way.recipe.but({"init": ""}), epochs=model.card.epochs + epochs
    )
    jobs = {"pruned": way, "control": control}
    found = beside(jobs, seeds, folder, file_name, tell_epochs(jobs, seeds, store, row))
    screens.out(pages.beside_page(("pruned", "from scratch"), found))
    if store and row:
        of = f"trial {text}" if is_number(text) else Path(text).stem
        enter_and_tell(store, row, way, found, "pruned", of)
