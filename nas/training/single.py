"""``nas train``: trains one architecture as a search does, with a final test score."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch.nn import Module

from nas import artifacts, data
from nas.data.batches import statistics
from nas.errors import MachineError, NasError
from nas.job import Epoch, Job, Latency, Recipe, Report
from nas.language.architecture import Architecture, parse
from nas.metrics import arithmetic
from nas.training import latency
from nas.training.card import Card, image_entries
from nas.training.device import alone, available, bf16_pays, threads_for, with_threads
from nas.training.models import Model, create_model, load_model, occupied, room_for, save_model
from nas.training.train import Diverged, begin, fit, score, scores


class NotTrained(NasError):
    """The training diverged."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training. ``test`` is the test accuracy as a fraction, ``device`` the fingerprint
    of the device it was trained on, ``file`` that of the model (None: not written)."""

    architecture: Architecture
    curve: tuple[Epoch, ...]
    test: float
    latency: Latency
    device: str
    model: Model
    file: str | Path | None


def training_id(job: Job) -> str:
    """12 hexadecimal digits, a hash of all that a training's weights depend on."""
    key = f"{parse(job.pattern).fingerprint} {job.key} {job.seed}"
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def free_to_train(job: Job, file: Path) -> None:
    """Raises NasError where a file that the user did not name exists, unless it holds the model of
    this very job, which training it again reproduces."""
    if not file.exists():
        return
    try:
        card = load_model(file).card
        asked = parse(job.pattern, card.architecture.input, len(card.classes))
        images = {**image_entries(job.data), "dataset": card.dataset}  # a name, whatever they are
        same = {name: getattr(card, name) for name in images} == images
        own = (card.architecture, card.seed, card.epochs, Recipe.of(card.recipe))
    except NasError:
        asked, own, same = None, None, False
    if not same or own != (asked, job.seed, job.epochs, job.recipe):
        raise occupied(file)


def _still_free(job: Job, file: Path, module: Module, card: Card) -> None:
    try:
        free_to_train(job, file)
    except NasError:
        kept = file.with_name(f"{file.stem}-{training_id(job)}{file.suffix}")
        save_model(kept, module, card)
        raise MachineError(
            f"{file} has another training's model, which was written meanwhile: this one's is "
            f"{kept}"
        ) from None


@alone()
def train(
    job: Job,
    report: Report,
    *,
    checkpoint: str | Path | None = None,
    file: str | Path | None = None,
    over: bool = True,
) -> Trained:
    """Trains, resuming from ``checkpoint``, and writes the model to ``file``; both are files, or
    URLs that fsspec knows.

    Interrupted, it resumes from the last checkpoint, on the CPU to the same weights as an
    uninterrupted training. Raises NasError, before the training if the file cannot be written, and
    NotTrained if the training diverges. Without ``over``, another training's model that was written
    to ``file`` meanwhile is kept: raises MachineError, with this one saved beside it.
    """
    device = available()
    architecture, module, normal = begin(job, device)
    if file is not None and "://" not in str(file):
        artifacts.reserve(Path(file), room_for(architecture))
    normal = normal or statistics(data.load(job.data, "train"))
    bf16 = bf16_pays(architecture, device)
    with with_threads(threads_for(architecture)):
        try:
            curve = fit(
                module, job, report, checkpoint=checkpoint, device=device, bf16=bf16, normal=normal
            )
        except Diverged as error:
            advice = f"the training diverged: {error}; try a smaller --recipe lr="
            raise NotTrained(advice) from None
        test = score(module, job.data, device=device, normal=normal)
        where = latency.fingerprint(device)
    measured = latency.measure(module, architecture.input, device)
    found = scores(curve) | arithmetic(architecture)
    metrics = found | {"test_accuracy": test, "latency_ms": measured.ms}
    card = Card.of_job(job, data.describe(job.data), normal, metrics)
    model = Model(module, card).to(device).eval()
    if file is not None and (over or not create_model(Path(file), module, card)):
        if not over:
            _still_free(job, Path(file), module, card)
        save_model(file, module, card)
    return Trained(architecture, curve, test, measured, where, model, file)
