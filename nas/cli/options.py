"""From command line options to plans, jobs, spaces and data."""

from __future__ import annotations

import dataclasses
import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from nas import durations, plugins
from nas.cli.patterns import closed_or_space, space_on
from nas.cli.settings import (
    beside,
    bounds,
    constraint,
    objective,
    once,
    read_recipe,
    recipe_in,
    seed_within,
    split,
    within,
)
from nas.driver.plan import Keep, Plan
from nas.driver.profiles import in_search
from nas.driver.rungs import geometric, read
from nas.errors import NasError, nearest
from nas.job import DataRef, Job, Recipe
from nas.metrics import arithmetic
from nas.samplers import LEARNING, SAMPLERS
from nas.spaces.preflight import refuse_empty
from nas.spaces.space import Space
from nas.text import counted
from nas.workers.answers import POINTS
from nas.workers.run import source, takes_recipe

TRIALS = 40  # default, without --trials and --budget


def load_plugins(paths: Iterable[Path]) -> tuple[str, ...]:
    """Loads plug-in files; returns their absolute paths, for the workers."""
    files = tuple(str(path.resolve()) for path in paths)
    for file in files:
        plugins.load(file)
    return files


def data_ref(
    dataset: str | None, data: str, size: int = 0, skip_unreadable: bool = False, group_by: str = ""
) -> DataRef:
    """The data of the options: a directory without a data set's name is an image folder; without
    either, it is digits. Raises NasError for an option about image files with a data set that has
    none of the user's."""
    name = dataset or ("imagefolder" if data else DataRef().name)
    if group_by or skip_unreadable:
        from nas.data.datasets import DATASETS

        if name == DataRef().name or (name in DATASETS and DATASETS[name].torchvision):
            option = f"--group-by {group_by}" if group_by else "--skip-unreadable"
            raise NasError(f"{option}: is about image files of yours, and {name} has none")
    return DataRef(
        name=name,
        dir=str(Path(data).resolve()) if data else "",
        size=size,
        skip_unreadable=skip_unreadable,
        group_by=group_by,
    )


def fetch(ref: DataRef) -> None:
    from nas.data import download

    download(ref)


def identified(ref: DataRef) -> tuple[DataRef, str]:
    """The reference with its images' identity, and a description for people. Reads images that are
    new to this machine. A size that the images already have becomes 0, so that results without it
    are reused."""
    from nas.data import describe, identity, summary

    place = f" of {ref.dir}" if ref.dir else ""
    # First, as it reads every file, and later steps reuse its findings.
    ref = dataclasses.replace(ref, identity=identity(ref))
    own = dataclasses.replace(ref, size=0)
    if ref.size and describe(own).shape == describe(ref).shape:
        ref = own
    return ref, f"{summary(ref)}{place}"


def plan(
    space: str,
    ref: DataRef,
    *,
    epochs: int,
    study: str | None = None,
    trials: int | None = None,
    budget: str | None = None,
    download: bool = False,
    seed: int = 0,
    sampler: str = "default",
    objectives: Sequence[str] = (),
    constraints: Sequence[str] = (),
    recipe: Sequence[str] = (),
    plugins: Iterable[Path] = (),
    evaluator: str = "",
    rungs: str = "off",
    artifacts: str = "",
    keep: Keep = "front",
    teachers: Sequence[str] = (),
    older: Sequence[str] = (),
) -> Plan:
    """The plan of ``nas search``'s options, checked before anything is written."""
    seconds = None if budget is None else durations.read(budget, "--budget")
    if trials is None and seconds is None:
        trials = TRIALS
    if trials is not None:
        within("--trials", trials, 10_000_000)
    within("--epochs", epochs, POINTS)
    seed_within(seed)
    if evaluator and not re.fullmatch(r"[\w.]+:[\w.]+", evaluator):
        raise NasError(f"--evaluator {evaluator!r}: must be MODULE:FUNCTION")
    files = load_plugins(plugins)
    if download:
        fetch(ref)
    images = ""
    if not evaluator:
        ref, images = identified(ref)
    loaded = space_on(space, ref)
    loaded = dataclasses.replace(
        loaded,
        objectives=once("--objective", map(objective, split(objectives))) or loaded.objectives,
        constraints=bounds(loaded.constraints, map(constraint, constraints)),
    )
    loaded = in_search(loaded)
    levels = read(rungs, epochs)
    if sampler not in SAMPLERS:
        raise NasError(f"--sampler: unknown sampler {sampler}; {nearest(sampler, SAMPLERS)}")
    if teachers and evaluator:
        raise NasError(
            f"--teacher {teachers[0]}: an evaluator does its own training, without teachers"
        )
    if evaluator and ref.group_by:
        raise NasError(
            f"--group-by {ref.group_by}: is about splits, and an evaluator makes its own"
        )
    if evaluator and not takes_recipe(evaluator):
        searched = [f"recipe.{key}" for key in loaded.recipe if key not in loaded.fixed]
        if recipe or searched:
            what = f"--recipe {recipe[0]}" if recipe else f"{loaded.name} searches {searched[0]}"
            raise NasError(f"{what}: {evaluator} has no parameter recipe, so it would not be told")
    if older and sampler not in LEARNING:
        raise NasError(
            f"--from {older[0]}: --sampler {sampler} learns only from its own study; "
            f"{LEARNING[0]} can use older ones"
        )
    teachers, taught = taught_by(teachers, ref)
    settings = [*recipe, *taught]
    loaded = beside(loaded, settings)
    if levels and not evaluator and not any(text.startswith("schedule=") for text in recipe):
        settings.append("schedule=rungs")
    job = Job(
        pattern="",
        recipe=read_recipe(settings),
        data=ref,
        epochs=epochs,
        seed=seed,
        evaluator=evaluator,
        source=source(evaluator, files),
        plugins=files,
        teachers=tuple(teachers),
    )
    return Plan(
        study=study or f"{loaded.name}-{called(ref)}",
        space=loaded,
        job=job,
        trials=trials,
        seconds=seconds,
        sampler=sampler,
        rungs=levels,
        artifacts=artifacts,
        keep=keep,
        older=tuple(dict.fromkeys(older)),
        images=images,
    )


def taught_by(
    files: Sequence[str], ref: DataRef | None = None
) -> tuple[tuple[str, ...], list[str]]:
    """The absolute paths of teachers' files, and the recipe setting with their digest. Raises
    NasError where a teacher does not fit the images."""
    if not files:
        return (), []
    from nas.data import describe
    from nas.training import teacher
    from nas.training.models import load_model

    models = [load_model(file) for file in files]
    if ref is not None:
        info = describe(ref)
        for model, file in zip(models, files, strict=True):
            teacher.check(model, info, file)
    places = (file if "://" in file else str(Path(file).expanduser().resolve()) for file in files)
    return tuple(places), [f"teacher={teacher.digest_of(models)}"]


def called(ref: DataRef) -> str:
    """The images' part of a default study name: the data set's name, or a folder's with some digits
    of its identity, as many folders are called "train"."""
    if ref.name != "imagefolder":
        return ref.name
    return "-".join(filter(None, [Path(ref.dir).name, ref.identity[:6]]))


def audited(
    space: str,
    ref: DataRef,
    *,
    epochs: int,
    rungs: str,
    seed: int,
    recipe: Sequence[str],
    plugins: Iterable[Path],
) -> tuple[Space, Job, tuple[int, ...]]:
    """The space, the job and the rungs of ``nas audit``."""
    within("--epochs", epochs, POINTS)
    seed_within(seed)
    levels = read(rungs, epochs, geometric)  # all rungs: the audit decides which to trust
    if not levels:
        fewest = next(n for n in itertools.count(1) if geometric(n))
        raise NasError(
            f"--rungs {rungs}: an audit of {counted(epochs, 'epoch')} needs a rung below them: "
            f"give some, such as --rungs {max(1, epochs // 2)},{epochs}, or from {fewest} --epochs "
            "on auto"
        )
    files = load_plugins(plugins)
    loaded = space_on(space, ref)
    job = Job(
        pattern="",
        recipe=recipe_in(loaded, recipe),
        data=ref,
        epochs=epochs,
        seed=seed,
        source=source("", files),
        plugins=files,
    )
    return loaded, job, levels


def single_job(
    pattern: str,
    ref: DataRef,
    *,
    epochs: int,
    size: int | None = None,
    download: bool = False,
    seed: int = 0,
    recipe: Sequence[str] = (),
    plugins: Iterable[Path] = (),
    teachers: Sequence[str] = (),
) -> Job:
    """The job of ``nas train``, for a closed pattern, or a closed space (name or file) with its
    recipe. Raises NothingFound where the network breaks the file's bounds.

    Images are resized to ``size``; None: to the size that the initial weights require.
    """
    within("--epochs", epochs, POINTS)
    seed_within(seed)
    places, taught = taught_by(teachers)  # the training checks them against the images
    recipe = [*recipe, *taught]
    settings = read_recipe(recipe)
    files = load_plugins(plugins)
    if size is None:
        size = initial_size(settings.init) if settings.init else 0
    ref = dataclasses.replace(ref, size=size)
    if download:
        fetch(ref)
    ref, _ = identified(ref)
    architecture, space = closed_or_space(pattern, ref)
    if architecture is None:
        raise NasError(f"{space.name if space else pattern} is a search space: use `nas search`")
    if space is not None:
        settings = _of_file(space, recipe)
    return Job(
        pattern=str(architecture),
        recipe=settings,
        data=ref,
        epochs=epochs,
        seed=seed,
        source=source("", files),
        plugins=files,
        teachers=places,
    )


def _of_file(space: Space, recipe: Sequence[str]) -> Recipe:
    if searched := [key for key in space.recipe if key not in space.fixed]:
        raise NasError(f"{space.name} searches recipe.{searched[0]}: use `nas search`")
    refuse_empty(space)
    if unmet := {*space.constraints} - {*arithmetic(space.sample(0), space.constraints)}:
        print(
            f"nas: warning: {space.name}: the bounds on {', '.join(sorted(unmet))} are a search's: "
            "one training is shown whatever it measures",
            file=sys.stderr,
        )
    return recipe_in(space, recipe)


def initial_size(init: str) -> int:
    """The side in pixels that pretrained weights or a model require; 0 for a file of weights
    alone."""
    from nas.training import states, weights

    if weights.pretrained_name(init):
        return weights.preprocessing(init).size
    card = states.card_in(Path(init).expanduser())
    return card.input[1] if card and card.input[1] == card.input[2] else 0
