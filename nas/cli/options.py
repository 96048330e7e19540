"""What the command line's options mean: a plan, a space on its data, a study in its record."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nas import plugins
from nas.driver.plan import RANDOM, Keep, Plan
from nas.driver.rungs import geometric, read
from nas.errors import NasError, RecipeError, StudyError, brief, nearest
from nas.job import DataRef, Job, Recipe
from nas.job.recipe import RECIPES
from nas.language.architecture import DEFAULT_INPUT, Architecture, parse
from nas.language.pattern import Call, write
from nas.language.pattern import read as read_pattern
from nas.metrics import METRICS, Direction
from nas.samplers import SAMPLERS
from nas.spaces.space import Bound, Space, load_space, read_bound, read_direction, shipped
from nas.store import Store, StudyRow, TrialRow, open_store
from nas.store.connect import parse as parse_url
from nas.workers.answers import POINTS
from nas.workers.run import source

T = TypeVar("T")


def load_plugins(paths: Iterable[Path]) -> tuple[str, ...]:
    """Registers what plug-in files have; their full paths, for the workers."""
    files = tuple(str(path.resolve()) for path in paths)
    for file in files:
        plugins.load(file)
    return files


def data_ref(
    dataset: str | None, data: str, size: int, skip_unreadable: bool = False, group_by: str = ""
) -> DataRef:
    """A directory alone is a folder of images; without one, digits are."""
    name = dataset or ("imagefolder" if data else DataRef().name)
    return DataRef(
        name=name,
        dir=str(Path(data).resolve()) if data else "",
        size=size,
        skip_unreadable=skip_unreadable,
        group_by=group_by,
    )


def identified(ref: DataRef) -> tuple[DataRef, str]:
    """The images with their identity, and what people are told of them. Reads new ones whole."""
    from nas.data import identity, summary

    place = f" of {ref.dir}" if ref.dir else ""
    return dataclasses.replace(ref, identity=identity(ref)), f"{summary(ref)}{place}"


def space_on(space: str, ref: DataRef) -> Space:
    """A space on the shape and the classes of a data set."""
    from nas.data import describe

    info = describe(ref)
    return load_space(space, (info.channels, info.height, info.width), len(info.classes))


def closed_or_space(
    text: str, ref: DataRef | None = None, size: int = 0
) -> tuple[Architecture | None, Space | None]:
    """What ``nas show`` is given: an architecture (with its space where it has a name), or an open
    space alone. Without a data set, ``size`` is that of its own images, or of digits."""
    if text not in shipped() and not text.endswith((".yaml", ".yml")):
        if "->" not in text and "(" not in text:
            raise NasError(f"unknown network or space {text}; {nearest(text, shipped())}")
        if ref is None:
            return _parsed(text, size), None
        from nas.data import describe

        info = describe(ref)
        return parse(text, (info.channels, info.height, info.width), len(info.classes)), None
    space = load_space(text, size=size) if ref is None else space_on(text, ref)
    return (space.sample(0) if space.closed else None), space


def _parsed(text: str, size: int) -> Architecture:
    first = read_pattern(text).items[0]
    if not size or (isinstance(first, Call) and first.args):
        architecture = parse(text)
        if size and architecture.input[1:] != (size, size):
            raise NasError(f"--size {size}: the pattern begins with {write(first)}")
        return architecture
    return parse(text, (DEFAULT_INPUT[0], size, size))


def drawn(architecture: Architecture | None, space: Space | None, output: Path) -> None:
    """Writes the drawing of what ``closed_or_space`` found. Raises NasError, before it writes."""
    if output.suffix.lower() != ".svg":
        raise NasError(
            f"--output {output}: must end in .svg; a browser prints that as PDF, and rsvg-convert "
            "or Inkscape makes it a PNG"
        )
    if architecture is None:
        name = space.name if space else ""
        raise NasError(
            f"{name} is a search space: a network of it can be drawn, such as one that "
            f"`nas space sample {name}` prints"
        )
    try:
        output.write_text(architecture.svg(space.name if space else ""), encoding="utf-8")
    except OSError as error:
        raise NasError(f"--output {output}: {error.strerror}") from None


def plan(
    *,
    space: str,
    study: str | None,
    trials: int,
    epochs: int,
    dataset: str | None,
    data: str,
    size: int,
    download: bool,
    seed: int,
    sampler: str,
    objectives: Sequence[str],
    constraints: Sequence[str],
    recipe: Sequence[str],
    plugins: Iterable[Path],
    evaluator: str,
    rungs: str,
    artifacts: str,
    keep: Keep = "front",
    skip_unreadable: bool = False,
    group_by: str = "",
) -> Plan:
    """The plan that the options of ``nas search`` describe, checked before anything is written."""
    _within("--trials", trials, 10_000_000)
    _within("--epochs", epochs, POINTS)
    if not 0 <= seed < 1 << 32:
        raise NasError(f"--seed {seed}: must be from 0 to 4294967295")
    if evaluator and not re.fullmatch(r"[\w.]+:[\w.]+", evaluator):
        raise NasError(f"--evaluator {evaluator!r}: must be MODULE:FUNCTION")
    files = load_plugins(plugins)
    ref = data_ref(dataset, data, size, skip_unreadable, group_by)
    if download:
        from nas.data import download as fetch

        fetch(ref)
    loaded = space_on(space, ref)
    loaded = dataclasses.replace(
        loaded,
        objectives=_once("--objective", map(_objective, _split(objectives))) or loaded.objectives,
        constraints=_bounds(loaded.constraints, map(_constraint, constraints)),
    )
    levels = read(rungs, epochs)
    if levels and not evaluator and not any(text.startswith("schedule=") for text in recipe):
        recipe = [*recipe, "schedule=rungs"]
    if sampler not in SAMPLERS:
        raise NasError(f"--sampler: unknown sampler {sampler}; {nearest(sampler, SAMPLERS)}")
    job = Job(
        pattern="",
        recipe=_recipe(recipe),
        data=ref,
        epochs=epochs,
        seed=seed,
        evaluator=evaluator,
        source=source(evaluator, files),
        plugins=files,
    )
    planned = Plan(
        study=study or f"{loaded.name}-{called(ref)}",
        space=loaded,
        job=job,
        trials=trials,
        sampler=sampler,
        rungs=levels,
        artifacts=artifacts,
        keep=keep,
    )
    if evaluator:
        return planned
    ref, images = identified(ref)  # last, as it reads what it has not seen yet
    return dataclasses.replace(
        planned,
        study=study or f"{loaded.name}-{called(ref)}",
        job=dataclasses.replace(job, data=ref),
        images=images,
    )


def called(ref: DataRef) -> str:
    """The images in a study's name: the name of their kind, or of a folder with a part of its
    identity, as many folders are called "train"."""
    if ref.name != "imagefolder":
        return ref.name
    return "-".join(filter(None, [Path(ref.dir).name, ref.identity[:6]]))


def audited(
    space: str,
    epochs: int,
    rungs: str,
    dataset: str | None,
    data: str,
    size: int,
    seed: int,
    recipe: Sequence[str],
    plugins: Iterable[Path],
    skip_unreadable: bool = False,
    group_by: str = "",
) -> tuple[Space, Job, tuple[int, ...]]:
    """The space, the job and the rungs of ``nas audit``."""
    _within("--epochs", epochs, POINTS)
    levels = read(rungs, epochs, geometric)  # which of them to trust is asked
    if not levels:
        raise NasError(f"--rungs {rungs}: an audit of {epochs} epochs needs a rung below them")
    files = load_plugins(plugins)
    ref = data_ref(dataset, data, size, skip_unreadable, group_by)
    job = Job(
        pattern="",
        recipe=_recipe(recipe),
        data=ref,
        epochs=epochs,
        seed=seed,
        source=source("", files),
        plugins=files,
    )
    return space_on(space, ref), job, levels


def single_job(
    pattern: str,
    *,
    epochs: int,
    dataset: str | None,
    data: str,
    size: int | None,
    download: bool,
    seed: int,
    init: str,
    freeze: int,
    recipe: Sequence[str],
    plugins: Iterable[Path],
    skip_unreadable: bool = False,
    group_by: str = "",
) -> Job:
    """The job of ``nas train``, on a closed pattern or the name of a closed space.

    Images are resized to ``size``, or where that is None as pretrained weights or a model to begin
    with ask.
    """
    _within("--epochs", epochs, POINTS)
    own = {"init": init, "freeze": freeze}
    settings = _recipe([*recipe, *(f"{name}={value}" for name, value in own.items() if value)])
    files = load_plugins(plugins)
    if size is None:
        size = _asked(settings.init) if settings.init else 0
    ref = data_ref(dataset, data, size, skip_unreadable, group_by)
    if download:
        from nas.data import download as fetch

        fetch(ref)
    ref, _ = identified(ref)
    architecture, space = closed_or_space(pattern, ref)
    if architecture is None:
        raise NasError(
            f"{space.name if space else pattern} is a search space: `nas search` takes it"
        )
    return Job(
        pattern=str(architecture),
        recipe=settings,
        data=ref,
        epochs=epochs,
        seed=seed,
        source=source("", files),
        plugins=files,
    )


def trial_job(
    storage: str,
    study: str | None,
    number: int,
    *,
    epochs: int | None,
    dataset: str | None,
    data: str,
    size: int | None,
    seed: int | None,
    init: str,
    freeze: int,
    recipe: Sequence[str],
    plugins: Iterable[Path],
) -> Job:
    """The job of ``nas train --trial``: the record has everything but the directory of the images,
    and what is told here goes before it. Raises StudyError, DataError."""
    files = load_plugins(plugins)
    store = open_record(storage)
    row = study_in(store, study)
    trial = store.trial(row.id, number)
    if dataset not in (None, row.dataset):
        raise StudyError(f"--dataset {dataset}: study {row.name!r} is on {row.dataset}")
    if epochs is not None:
        _within("--epochs", epochs, POINTS)
    own = {"init": init, "freeze": freeze}
    told = [*recipe, *(f"{name}={value}" for name, value in own.items() if value)]
    ref = data_of(row, data)
    return Job(
        pattern=_network_of(trial),
        recipe=_recipe(told, Recipe.of(trial.recipe)),
        data=ref if size is None else dataclasses.replace(ref, size=size),
        epochs=epochs or row.settings["epochs"],
        seed=trial.seed if seed is None else seed,
        source=source("", files),
        plugins=files,
    )


def data_of(study: StudyRow, folder: str) -> DataRef:
    """The images of a study, where they were or in another folder. Raises DataError, and StudyError
    where they are others."""
    from nas.data import describe

    path = str(Path(folder).resolve()) if folder else study.directory
    ref = DataRef(
        name=study.dataset,
        dir=path,
        split_seed=study.settings["split_seed"],
        skip_unreadable=study.settings.get("skip_unreadable", False),
        group_by=study.settings.get("group_by", ""),
    )
    channels, height, width = study.settings["input"]
    info = describe(ref)
    if (info.channels, info.height, info.width) != (channels, height, width):
        ref = dataclasses.replace(ref, size=height)
    ref, about = identified(ref)
    if ref.identity != study.images:
        earlier = study.images_about or "images that nas did not tell apart then"
        raise StudyError(f"study {study.name!r} was made on {earlier}, and these are {about}")
    return ref


def _asked(init: str) -> int:
    """The side of the images that pretrained weights or a model ask for; 0 where ``init`` is a file
    of weights alone."""
    from nas.training import states, weights

    if weights.pretrained_name(init):
        return weights.preprocessing(init).size
    card = states.card_in(Path(init).expanduser())
    return card.input[1] if card and card.input[1] == card.input[2] else 0


def _within(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise NasError(f"{name} {brief(str(value), 40)}: must be 1 or more, up to {most}")


def _split(texts: Sequence[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _objective(text: str) -> tuple[str, Direction]:
    name, colon, direction = text.partition(":")
    if not name or not (colon or name in METRICS):
        raise NasError(f"--objective {text!r}: must be NAME:max or NAME:min")
    return name, read_direction(direction if colon else METRICS[name].direction,
                                f"--objective {text}")  # fmt: skip


def _constraint(text: str) -> tuple[str, Bound]:
    match = re.fullmatch(r"\s*(\w+)\s*([<>]=.*)", text)
    if not match:
        raise NasError(f"--constraint {text!r}: must be as 'params<=1e6' or 'accuracy>=0.9'")
    return match[1], read_bound(match[2], f"--constraint {text!r}")


def _once(option: str, told: Iterable[tuple[str, T]]) -> dict[str, T]:
    found: dict[str, T] = {}
    for name, value in told:
        if name in found:
            raise NasError(f"{option} {name}: given twice; each metric once")
        found[name] = value
    return found


def _bounds(own: Mapping[str, Bound], told: Iterable[tuple[str, Bound]]) -> dict[str, Bound]:
    """The space's own constraints with those that are told: one bound a metric, which goes before
    the space's own where it is to the same side."""
    given = _once("--constraint", told)
    for name, bound in given.items():
        if name in own and own[name].upper != bound.upper:
            raise NasError(
                f"--constraint {name} {bound}: the space has {name} {own[name]}, and a metric has "
                "one bound"
            )
    return {**own, **given}


def _recipe(settings: Sequence[str], base: Recipe | None = None) -> Recipe:
    """What --recipe tells: a recipe's name, and settings that are other than in it or ``base``."""
    kinds: dict[str, Any] = {f.name: type(f.default) for f in dataclasses.fields(Recipe)}
    told: dict[str, Any] = {}
    named = False
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals and (named or told):
            raise RecipeError(f"--recipe {text}: one recipe's name at most, before any setting")
        if not equals:
            if text not in RECIPES:
                known = nearest(text, RECIPES)
                raise RecipeError(f"--recipe {text!r}: no setting NAME=VALUE, no recipe; {known}")
            base, named = RECIPES[text], True
            continue
        if name not in kinds:
            raise RecipeError(f"--recipe {name}: unknown setting; {nearest(name, kinds)}")
        told[name] = _setting(name, value, kinds[name])
    return Recipe.of(told, base)


def _setting(name: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return {"yes": True, "no": False, "true": True, "false": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        rule = "yes or no" if kind is bool else f"of type {kind.__name__}"
        raise RecipeError(f"--recipe {name}={text}: must be {rule}") from None


def artifacts_dir(artifacts: str, storage: str) -> str:
    """The directory for checkpoints, or its URL: the one given, or ``artifacts`` beside the
    database."""
    from nas.artifacts import absolute

    if artifacts or not storage.startswith("sqlite:///"):
        return absolute(artifacts or "artifacts")
    return str(Path(parse_url(storage).database or "").absolute().parent / "artifacts")


def kept_in(artifacts: str, storage: str, study: StudyRow) -> str:
    """The study's own folder in ``artifacts_dir``."""
    from nas.artifacts import part

    return "/".join([artifacts_dir(artifacts, storage).rstrip("/"), part(study.name)])


def open_record(storage: str, *, create: bool = False, write: bool = False) -> Store:
    """The record, to be read unless it is told otherwise: who only looks needs no right to write,
    and changes nothing."""
    return open_store(storage, create=create, write=create or write)


def study_in(store: Store, name: str | None) -> StudyRow:
    """The named study, or the only one beside what it was compared with."""
    if name is not None:
        return store.find_study(name)
    known = store.studies()
    beside = {f"{study.name}{RANDOM}" for study in known}
    known = [study for study in known if study.name not in beside] or known
    if len(known) != 1:
        told = ", ".join(study.name for study in known) or "none"
        raise StudyError(f"--study is needed: the database has {told}")
    return known[0]


def trial_network(storage: str, study: str | None, number: int) -> tuple[str, str]:
    """The pattern of a trial, and the file of its weights, empty where they are not kept. Raises
    StudyError where it is no network."""
    store = open_record(storage)
    row = store.trial(study_in(store, study).id, number)
    return _network_of(row), store.model(row)


def _network_of(row: TrialRow) -> str:
    if row.baseline and "->" not in row.pattern:
        raise StudyError(f"trial {row.number} is {row.baseline}, a classical method: no network")
    return row.pattern


def closed_pattern(text: str) -> str:
    """The pattern of a zoo network's name, or of a closed pattern. Raises NasError for a space."""
    closed, space = closed_or_space(text)
    if closed is None:
        raise NasError(f"{space.name if space else text} is a search space: it is not one network")
    return str(closed)
