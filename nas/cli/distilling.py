"""``nas distill``: resolves its options, trains, and shows the results."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from nas.cli.options import taught_by
from nas.cli.paired import Options, compare_and_show, images_of, is_number, model_files, of_record
from nas.cli.patterns import closed_or_space
from nas.cli.record import data_of, trial_network
from nas.cli.settings import read_recipe, recipe_in
from nas.data import describe
from nas.driver.plan import recipe_of, space_of
from nas.errors import NasError
from nas.job import DataRef, Job, Recipe
from nas.job.recipe import UNTAUGHT
from nas.language.architecture import parse
from nas.metrics import count
from nas.report.images import tell as tell_images
from nas.spaces.space import Space
from nas.spaces.zoo import names as zoo_names
from nas.training.models import Model, card_of, save_once
from nas.training.teacher import shared_stages
from nas.training.weights import zoo_model

EPOCHS = 20  # of a student without a study


def distill_and_show(teachers: Sequence[str], student: str, init: str, options: Options) -> None:
    """Trains a student with its teachers and, as the control, without them."""
    options.begin()
    study, storage, data = options.study, options.storage, options.data
    base, ref, epochs, entered = Recipe(), None, EPOCHS, None
    if of_record(study, *teachers, student):
        entered = options.opened()
        row = entered[1]
        base, ref = recipe_of(space_of(row), Recipe.of(row.recipe)), data_of(row, data)
        epochs = row.settings["epochs"]
    files = [file for text in teachers for file in model_files(text, storage, study)]
    ref = ref or images_of(files, options.dataset, data, init)
    tell_images(Job(pattern="", data=ref))
    if zoo := [text for text in teachers if text in zoo_names()]:
        files += [_zoo(name, init, ref, options.folder) for name in zoo]
    elif init:
        raise NasError(f"--init {init}: is only for a teacher from the zoo, given by name")
    places, taught = taught_by(files, ref)
    pattern, space = _pattern(student, storage, study, ref)
    settings, base = [*options.recipe, *taught], base.but(UNTAUGHT)
    recipe = recipe_in(space, settings, base) if space else read_recipe(settings, base)
    epochs = epochs if options.epochs is None else options.epochs
    if recipe.attention:  # asked of the maps alone, before anything is trained or counted
        shared_stages(parse(pattern), [card_of(file).architecture for file in places])
    distilled = options.job(pattern, recipe, ref, epochs, places)
    control = dataclasses.replace(distilled, recipe=recipe.but(UNTAUGHT), teachers=())
    _tell_sizes(places, pattern)
    name = f"trial {student}" if is_number(student) else Path(student).stem
    of = "" if "->" in student or "(" in student else name
    compare_and_show(options, "distilled", distilled, control, "without a teacher", entered, of)


def _tell_sizes(files: Sequence[str], pattern: str) -> None:
    own, most = parse(pattern).params, max(card_of(f).architecture.params for f in files)
    sizes = f"the student has {count(own)} params, its largest teacher {count(most)}"
    larger = ": the student is larger" if own > most else ""
    print(f"nas: {sizes}{larger}", file=sys.stderr)


def _zoo(name: str, init: str, ref: DataRef, folder: Path) -> str:
    """Writes a network of the zoo with its weights as a model; returns the file."""
    if not init:
        raise NasError(f"--teacher {name}: needs weights: --init {name}, or a file")
    network, card = zoo_model(name, init, describe(ref))
    file = folder / f"{name}.safetensors"
    save_once(file, Model(network, card))
    return str(file)


def _pattern(text: str, storage: str, study: str | None, ref: DataRef) -> tuple[str, Space | None]:
    """A student's pattern, and its space if given as a closed space's file or name."""
    if is_number(text):
        return trial_network(storage, study, int(text)), None
    architecture, space = closed_or_space(text, ref)
    if architecture is None:
        raise NasError(
            f"--student {space.name if space else text}: is a search space; `nas search --teacher` "
            "trains all its candidates with a teacher"
        )
    return str(architecture), space
