"""Shared by ``nas distill`` and ``nas prune``: options, and the comparison with a control."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.cli.arguments import MODELS
from nas.cli.models import file_name
from nas.cli.options import data_ref, identified, initial_size
from nas.cli.output import begin_work, directory
from nas.cli.record import check_dataset, opened, trial_weights, weights_of
from nas.cli.settings import MOST_SEED, seed_within, within
from nas.data import describe
from nas.driver.latencies import with_latencies
from nas.driver.made import Made, enter
from nas.driver.time_budget import TimeBudget
from nas.driver.tradeoffs import nothing_found, pareto
from nas.errors import NasError, StudyError, nearest
from nas.job import DataRef, Epoch, Job, Recipe
from nas.language.architecture import parse
from nas.metrics import percent
from nas.report import screens
from nas.report import smaller as pages
from nas.report.progress import Left
from nas.report.screens import span
from nas.spaces.zoo import names as zoo_names
from nas.store import Store, StudyRow
from nas.store.teachers import note_verdict
from nas.text import counted
from nas.training.device import machine
from nas.training.evaluation import data_for
from nas.training.models import card_of
from nas.training.paired import Tell, train_paired
from nas.workers.answers import POINTS
from nas.workers.run import source


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options that both commands take, as given; ``plugins`` are loaded."""

    study: str | None
    storage: str
    seeds: int
    epochs: int | None
    dataset: str | None
    data: str
    seed: int
    recipe: Sequence[str]
    plugins: tuple[str, ...]
    folder: Path

    def begin(self) -> None:
        """Raises NasError for a number out of range, and a folder that is a file, before anything
        is written."""
        begin_work()
        directory(self.folder, "models")
        if self.epochs is not None:
            within("--epochs", self.epochs, POINTS)
        within("--seeds", self.seeds, 10_000)
        seed_within(self.seed, MOST_SEED - self.seeds)

    def opened(self) -> tuple[Store, StudyRow]:
        """The study that the network is added to."""
        store, study = opened(self.storage, self.study, write=True)
        check_dataset(study, self.dataset)
        return store, study

    def job(
        self,
        pattern: str,
        recipe: Recipe,
        ref: DataRef,
        epochs: int,
        teachers: tuple[str, ...] = (),
    ) -> Job:
        return Job(
            pattern=pattern,
            recipe=recipe,
            data=ref,
            epochs=epochs,
            seed=self.seed,
            source=source("", self.plugins),
            plugins=self.plugins,
            teachers=teachers,
        )


def compare_and_show(
    options: Options,
    made: Made,
    treatment: Job,
    control: Job,
    title: str,
    entered: tuple[Store, StudyRow] | None,
    of: str,
) -> None:
    """Trains both with each seed, a line per epoch on stderr, and prints them side by side;
    ``title`` is the control's. With a study, ``entered``, the first seed's training becomes a trial
    of it, ``made`` from the network called ``of``, and its place on the front is printed."""
    jobs = {made: treatment, "control": control}
    tell = tell_epochs(jobs, options.seeds, entered)
    found = train_paired(jobs, options.seeds, options.folder, file_name, tell)
    screens.out(pages.paired_page((made, title), found, trial=entered is not None))
    if entered is None:
        return
    store, study = entered
    row = enter(store, study, treatment, found.treatment.trained[0], made, of)
    note_verdict(store, study.id, row.number, pages.verdict(found.validation, title))
    try:
        rows, _ = with_latencies(store, study, list(store.trials(study.id)))
        there = any(best.id == row.id for best in pareto(study, rows))
        place = "on the front" if there else "not on the front"
    except StudyError as error:  # it has been added; only its place is unknown
        place = f"but no front: {error}"
    print(f"nas: {pages.entered(title, study.name, row, place, found)}", file=sys.stderr)


def tell_epochs(
    jobs: Mapping[str, Job], seeds: int, record: tuple[Store, StudyRow] | None = None
) -> Tell:
    """Prints how many trainings and epochs there will be, and how long they will take where the
    study's trials tell; returns what prints a line per epoch, with the time left."""
    arms = list(jobs)
    works = [job.epochs for _ in range(seeds) for job in jobs.values()]
    left = Left(works)
    sentence = f"{counted(len(works), 'training')}, {counted(sum(works), 'epoch')} in all"
    macs = parse(next(iter(jobs.values())).pattern).macs
    rows = record[0].trials(record[1].id) if record else ()
    if seconds := TimeBudget.recorded(rows, machine()).expected(macs, sum(works)):
        sentence += f", about {span(seconds)} judging by the study's trials"
    print(f"nas: {sentence}", file=sys.stderr, flush=True)

    def tell(arm: str, job: Job, point: Epoch) -> None:
        place = (job.seed - jobs[arm].seed) * len(arms) + arms.index(arm)
        rest = left.clause(place, point.epoch / job.epochs, point.seconds)
        scored = f"validation accuracy {percent(point.accuracy)}"
        where = f"{arm}, seed {job.seed}, epoch {point.epoch} of {job.epochs}"
        print(f"nas: {where}: {scored}{rest}", file=sys.stderr, flush=True)

    return tell


def is_number(text: str) -> bool:
    return text.isdecimal() and text.isascii() and len(text) < 9


def of_record(study: str | None, *texts: str) -> bool:
    """Whether a study is named, or by any of ``texts`` a network of one."""
    return bool(study) or any(text == "front" or is_number(text) for text in texts)


def model_files(text: str, storage: str, study: str | None, option: str = "--teacher") -> list[str]:
    """The files of the models that an option names; none for a zoo network. Raises NasError."""
    if text in zoo_names():
        return []
    if text == "front":
        store, row = opened(storage, study)
        # Without distilled networks, so that the same command finds the same teachers again.
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
    """The images that a model was trained on, or others of its input shape."""
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
