"""``nas distill``: what its options mean, and what it shows."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nas.cli.arguments import MODELS
from nas.cli.models import file_name
from nas.cli.options import (
    closed_or_space,
    data_ref,
    identified,
    initial_size,
    taught_by,
)
from nas.cli.output import begin_work, directory
from nas.cli.record import check_dataset, data_of, opened, trial_network, trial_weights, weights_of
from nas.cli.settings import MOST_SEED, read_recipe, recipe_in, seed_within, within
from nas.data import describe
from nas.driver.latencies import with_latencies
from nas.driver.made import Made, enter
from nas.driver.plan import recipe_of, space_of
from nas.driver.time_budget import TimeBudget
from nas.driver.tradeoffs import nothing_found, pareto
from nas.errors import NasError, StudyError, nearest
from nas.job import DataRef, Epoch, Job, Recipe
from nas.job.recipe import UNTAUGHT
from nas.language.architecture import parse
from nas.metrics import count, percent
from nas.report import screens
from nas.report import smaller as pages
from nas.report.images import tell as tell_images
from nas.report.progress import Left
from nas.report.screens import span
from nas.spaces.space import Space
from nas.spaces.zoo import names as zoo_names
from nas.store import Store, StudyRow
from nas.text import counted
from nas.training.beside import Beside, Tell, beside
from nas.training.device import machine
from nas.training.evaluation import data_for
from nas.training.models import Model, card_of, save_once
from nas.training.teacher import shared_stages
from nas.training.weights import zoo_model
from nas.workers.answers import POINTS
from nas.workers.run import source

EPOCHS = 20  # of a student of no study


def distill_and_show(
    teachers: Sequence[str],
    student: str,
    *,
    study: str | None,
    storage: str,
    init: str,
    seeds: int,
    epochs: int | None,
    dataset: str | None,
    data: str,
    seed: int,
    recipe: Sequence[str],
    plugins: tuple[str, ...],
    folder: Path,
) -> None:
    """Trains a student with its teacher and without, a line an epoch on stderr; both side by side
    on stdout."""
    begin_work()
    directory(folder, "models")
    check_numbers(EPOCHS if epochs is None else epochs, seeds, seed)
    base, ref, store, row = Recipe(), None, None, None
    if study or any(map(is_number, [*teachers, student])) or "front" in teachers:
        store, row = opened(storage, study, write=True)
        check_dataset(row, dataset)
        base, ref = recipe_of(space_of(row), Recipe.of(row.recipe)), data_of(row, data)
        epochs = row.settings["epochs"] if epochs is None else epochs
    files = [file for text in teachers for file in model_files(text, storage, study)]
    ref = ref or images_of(files, dataset, data, init)
    tell_images(Job(pattern="", data=ref))
    if zoo := [text for text in teachers if text in zoo_names()]:
        files += [_zoo(name, init, ref, folder) for name in zoo]
    elif init:
        raise NasError(f"--init {init}: is only for a teacher from the zoo, given by name")
    places, taught = taught_by(files, ref)
    pattern, space = _pattern(student, storage, study, ref)
    settings, base = [*recipe, *taught], base.but(UNTAUGHT)
    way = Job(
        pattern=pattern,
        recipe=recipe_in(space, settings, base) if space else read_recipe(settings, base),
        data=ref,
        epochs=EPOCHS if epochs is None else epochs,
        seed=seed,
        source=source("", plugins),
        plugins=plugins,
        teachers=places,
    )
    if way.recipe.attention:  # asked of the maps alone, before anything is trained or counted
        shared_stages(parse(pattern), [card_of(file).architecture for file in places])
    control = dataclasses.replace(way, recipe=way.recipe.but(UNTAUGHT), teachers=())
    _tell_sizes(places, pattern)
    jobs = {"distilled": way, "control": control}
    found = beside(jobs, seeds, folder, file_name, tell_epochs(jobs, seeds, store, row))
    screens.out(pages.beside_page(("distilled", "without a teacher"), found))
    if store and row:
        name = f"trial {student}" if is_number(student) else Path(student).stem
        of = "" if "->" in student or "(" in student else name
        enter_and_tell(store, row, way, found, "distilled", of)


def enter_and_tell(
    store: Store, study: StudyRow, job: Job, found: Beside, made: Made, of: str
) -> None:
    """Makes the first seed's training a point of the study, measured once as its others are, and
    says whether it is on the front."""
    row = enter(store, study, job, found.way.trained[0], made, of)
    try:
        rows, _ = with_latencies(store, study, list(store.trials(study.id)))
        there = any(best.id == row.id for best in pareto(study, rows))
        place = "on the front" if there else "not on the front"
    except StudyError as error:  # it is entered, whatever that front is
        place = f"but no front: {error}"
    told = pages.entered(study.name, row, place, found.test)
    print(f"nas: {told}", file=sys.stderr)


def check_numbers(epochs: int, seeds: int, seed: int) -> None:
    """Raises NasError for numbers of trainings that are none, before anything is written."""
    within("--epochs", epochs, POINTS)
    within("--seeds", seeds, 10_000)
    seed_within(seed, MOST_SEED - seeds)


def tell_epochs(
    jobs: Mapping[str, Job], seeds: int, store: Store | None = None, study: StudyRow | None = None
) -> Tell:
    """Says how many trainings and epochs there are, and how long they take where the trials of a
    study tell; and has each epoch be told in a line, with the time that is left."""
    sides = list(jobs)
    works = [job.epochs for _ in range(seeds) for job in jobs.values()]
    left = Left(works)
    told = f"{counted(len(works), 'training')}, {counted(sum(works), 'epoch')} in all"
    macs = parse(next(iter(jobs.values())).pattern).macs
    rows = store.trials(study.id) if store and study else ()
    if seconds := TimeBudget.recorded(rows, machine()).expected(macs, sum(works)):
        told += f", about {span(seconds)} judging by the study's trials"
    print(f"nas: {told}", file=sys.stderr, flush=True)

    def tell(side: str, job: Job, point: Epoch) -> None:
        place = (job.seed - jobs[side].seed) * len(sides) + sides.index(side)
        rest = left.told(place, point.epoch / job.epochs, point.seconds)
        scored = f"validation accuracy {percent(point.accuracy)}"
        where = f"{side}, seed {job.seed}, epoch {point.epoch} of {job.epochs}"
        print(f"nas: {where}: {scored}{rest}", file=sys.stderr, flush=True)

    return tell


def _tell_sizes(files: Sequence[str], pattern: str) -> None:
    own, most = parse(pattern).params, max(card_of(f).architecture.params for f in files)
    told = f"the student has {count(own)} params, its largest teacher {count(most)}"
    larger = ": the student is larger" if own > most else ""
    print(f"nas: {told}{larger}", file=sys.stderr)


def is_number(text: str) -> bool:
    return text.isdecimal() and text.isascii() and len(text) < 9


def model_files(text: str, storage: str, study: str | None, option: str = "--teacher") -> list[str]:
    """The files of the models that an option names; none of a zoo network. Raises NasError."""
    if text in zoo_names():
        return []
    if text == "front":
        store, row = opened(storage, study)
        # Without what was distilled: the same command has the same teachers again.
        rows = [each for each in store.trials(row.id) if not each.made]
        if not (front := pareto(row, rows)):
            raise nothing_found(row, rows)
        kept = [each for each in front if store.model(each)]
        if not kept:
            raise StudyError(f"study {row.name!r} has kept no weights of its front (--keep front)")
        return [weights_of(store, row, each) for each in kept]
    if is_number(text):
        return [trial_weights(storage, study, int(text))]
    if os.path.isfile(text) or "://" in text or Path(text).suffix in MODELS:
        return [text]
    raise NasError(
        f"{option} {text}: must be a model file, a trial number, front, or a zoo network; "
        f"{nearest(text, zoo_names())}"
    )


def images_of(files: Sequence[str], dataset: str | None, data: str, init: str = "") -> DataRef:
    """The images that a model was trained on, or others as it takes them."""
    if not files:
        size = initial_size(init) if init else 0
        return identified(data_ref(dataset, data, size))[0]
    card = card_of(files[0])
    folder = str(Path(data).resolve()) if data else ""
    ref = data_for(card, dataset or "", folder, files[0])
    ref, _ = identified(ref)
    _, height, width = card.input
    if describe(ref).shape[1:] != (height, width) and height == width:
        ref = dataclasses.replace(ref, size=height)
    if card.identity and ref.identity != card.identity:
        print(
            "nas: the model was trained on other images: it may have seen some of these test "
            "images",
            file=sys.stderr,
        )
    return ref


def _zoo(name: str, init: str, ref: DataRef, folder: Path) -> str:
    """Writes a network of the zoo with its weights as a model, and says where."""
    if not init:
        raise NasError(f"--teacher {name}: needs weights: --init {name}, or a file")
    network, card = zoo_model(name, init, describe(ref))
    file = folder / f"{name}.safetensors"
    save_once(file, Model(network, card))
    return str(file)


def _pattern(text: str, storage: str, study: str | None, ref: DataRef) -> tuple[str, Space | None]:
    """Of a student the pattern, and the space that its file is."""
    if is_number(text):
        return trial_network(storage, study, int(text)), None
    architecture, space = closed_or_space(text, ref)
    if architecture is None:
        raise NasError(
            f"--student {space.name if space else text}: is a search space; `nas search --teacher` "
            "trains all its candidates with a teacher"
        )
    return str(architecture), space
