"""Resolves options in the record: a database, a study, a trial, its images and weights."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.arguments import STORAGE
from nas.cli.options import identified, load_plugins
from nas.cli.settings import read_recipe, seed_within, within
from nas.driver.plan import RANDOM
from nas.errors import NasError, StudyError
from nas.job import DataRef, Job, Recipe
from nas.metrics import ACCURACY
from nas.store import Store, StudyRow, TrialRow, open_store
from nas.store.sameness import made_on
from nas.store.teachers import teacher_files
from nas.store.urls import parse as parse_url
from nas.workers.answers import POINTS
from nas.workers.run import source

if TYPE_CHECKING:
    from nas.training.card import Card


def artifacts_dir(artifacts: str, storage: str) -> str:
    """The directory or URL for checkpoints and models: the given one, or ``artifacts`` beside the
    database."""
    from nas.artifacts import absolute

    if artifacts or not storage.startswith("sqlite:///"):
        return absolute(artifacts or "artifacts")
    return str(Path(parse_url(storage).database or "").absolute().parent / "artifacts")


def kept_in(artifacts: str, storage: str, study: StudyRow) -> str:
    """The study's own folder in ``artifacts_dir``."""
    from nas.artifacts import study_folder

    return study_folder(artifacts_dir(artifacts, storage), study.folder)


def open_record(storage: str, *, create: bool = False, write: bool = False) -> Store:
    """The record, read-only by default: then no permission to write is needed."""
    return open_store(storage, create=create, write=create or write)


def opened(storage: str, study: str | None, *, write: bool = False) -> tuple[Store, StudyRow]:
    """The record, and its study of that name, or its only one."""
    store = open_record(storage, write=write)
    return store, study_in(store, study)


def study_in(store: Store, name: str | None) -> StudyRow:
    """The study of that name, or the only one (not counting ``nas report --compare``'s)."""
    if name is not None:
        return store.find_study(name)
    known = store.studies()
    beside = {f"{study.name}{RANDOM}" for study in known}
    known = [study for study in known if study.name not in beside] or known
    if len(known) != 1:
        names = ", ".join(study.name for study in known) or "none"
        raise StudyError(f"--study is needed: the database has {names}")
    return known[0]


def trial_network(storage: str, study: str | None, number: int) -> str:
    """A trial's pattern. Raises StudyError where it is not a network."""
    store, found = opened(storage, study)
    return network_of(store.trial(found.id, number))


def trial_weights(storage: str, study: str | None, number: int, needed: bool = True) -> str:
    """The file of a trial's weights. Raises StudyError where it is missing, or none was kept (empty
    then, unless ``needed``)."""
    store, found = opened(storage, study)
    row = store.trial(found.id, number)
    return weights_of(store, found, row) if needed or store.model(row) else ""


def weights_of(store: Store, study: StudyRow, row: TrialRow) -> str:
    from nas.training.models import card_of  # torch

    file = store.model(row)
    if not file:
        raise StudyError(f"{row.called} has no stored weights: {_made_again(study, row)}")
    if not there(file):
        raise StudyError(
            f"{file}, which held the weights of {row.called} of study {study.name}, is gone: "
            f"restore it, or {_made_again(study, row)}"
        )
    if not is_of(card_of(file), row):
        raise StudyError(
            f"{file}, which held the weights of {row.called} of study {study.name}, now holds "
            f"another network: {_made_again(study, row)}"
        )
    return file


def is_of(card: Card, row: TrialRow) -> bool:
    """Whether a model is the trial's: the same network and exactly the same accuracy."""
    accuracy = row.metrics.get(ACCURACY)
    same = card.metrics.get(ACCURACY, accuracy) == accuracy
    return same and card.architecture.fingerprint == row.fingerprint


def _made_again(study: StudyRow, row: TrialRow) -> str:
    if row.made:
        command = {"distilled": "distill", "pruned": "prune"}[row.made]
        return f"repeat the `nas {command}` that made it"
    named = f"--trial {row.number} --study {shlex.quote(study.name)}"
    if scored_by := study.evaluator:
        return (
            f"{scored_by} keeps its own; `nas export {named} -f python` writes the network without"
        )
    return f"`nas train {named}` trains it again"


def there(file: str) -> bool:
    return "://" in file or Path(file).expanduser().is_file()


def check_there(file: str) -> None:
    """Raises NasError for a missing model file; if the default record (SQLite only, as a server may
    be slow to answer) knows which trial's weights it held, the message says how to recreate it."""
    path = Path(file).expanduser()
    if "://" in file or path.exists():
        return
    sentence = f"{file}: No such file or directory: must be a model"
    storage = os.environ.get("NAS_STORAGE") or os.environ.get("OPTUNA_STORAGE") or STORAGE
    if storage.startswith("sqlite"):
        with contextlib.suppress(NasError, OSError):
            sentence += _whose(open_record(storage), os.path.realpath(path))
    raise NasError(sentence)


def _whose(store: Store, file: str) -> str:
    for study in store.studies():
        for row in store.trials(study.id):
            if row.model and os.path.realpath(row.model) == file:
                again = _made_again(study, row)
                return f"; it held the weights of {row.called} of study {study.name}: {again}"
    return ""


def network_of(row: TrialRow) -> str:
    if row.baseline and not row.is_network:
        raise StudyError(f"trial {row.number} is {row.baseline}, a classical method, not a network")
    return str(row.architecture)


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
    recipe: Sequence[str],
    plugins: Iterable[Path],
) -> Job:
    """The job of ``nas train --trial``: as recorded, except for the options given here. Raises
    StudyError, DataError."""
    files = load_plugins(plugins)
    store, row = opened(storage, study)
    trial = store.trial(row.id, number)
    check_dataset(row, dataset)
    if epochs is not None:
        within("--epochs", epochs, POINTS)
    if seed is not None:
        seed_within(seed)
    if trial.made:
        raise StudyError(
            f"trial {number}, {trial.baseline}, was made by `nas distill` or `nas prune`, which "
            "retrain it together with its control"
        )
    ref = data_of(row, data)
    return Job(
        pattern=network_of(trial),
        recipe=read_recipe(recipe, Recipe.of(trial.recipe)),
        data=ref if size is None else dataclasses.replace(ref, size=size),
        epochs=epochs or row.settings["epochs"],
        seed=trial.seed if seed is None else seed,
        source=source("", files),
        plugins=files,
        teachers=teacher_files(row),
    )


def data_of(study: StudyRow, folder: str) -> DataRef:
    """A study's images, in their recorded place or in ``folder``. Raises DataError, and StudyError
    for other images."""
    from nas.data import describe

    if evaluator := study.evaluator:
        raise StudyError(
            f"study {study.name!r} was scored by {evaluator} and has no images; train one of its "
            "networks with `nas train PATTERN --data DIR`"
        )
    path = str(Path(folder).resolve()) if folder else study.directory
    ref = DataRef(
        name=study.dataset,
        dir=path,
        split_seed=study.settings["split_seed"],
        skip_unreadable=study.settings.get("skip_unreadable", False),
        group_by=study.settings.get("group_by", ""),
    )
    channels, height, width = study.settings["input"]
    ref, about = identified(ref)
    if describe(ref).shape != (channels, height, width):
        ref = dataclasses.replace(ref, size=height)
    check_images(study, ref, about)
    return ref


def trial_images(storage: str, study: str | None, folder: str) -> DataRef:
    """As ``data_of``, of a study in the record."""
    store, row = opened(storage, study)
    with contextlib.closing(store):
        return data_of(row, folder)


def check_dataset(study: StudyRow, dataset: str | None) -> None:
    """Raises StudyError for another data set than the study's; None: not given."""
    if dataset not in (None, study.dataset):
        raise StudyError(f"--dataset {dataset}: study {study.name!r} is on {study.dataset}")


def check_images(study: StudyRow, ref: DataRef, about: str = "others") -> None:
    """Raises StudyError where the study used other images than ``ref``, described by ``about``."""
    if ref.identity != study.images:
        raise StudyError(f"study {study.name!r} was {made_on(study, ref.identity, about)}")
