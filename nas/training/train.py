"""The training loop.

``fit`` is the loop, for candidates (``nas.training.candidate``) and ``nas train`` alike; ``score``
measures the accuracy of trained weights, on the test images by default.

On the CPU, the same seed, thread count and kind of processor give bit-identical weights, resumed
from a checkpoint or not. On a GPU the last bits depend on cuDNN's choice of kernels.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nas import data
from nas.data.batches import (
    Normal,
    Prepare,
    Source,
    augmentation,
    batches,
    preparation,
    statistics,
)
from nas.data.footprint import RESIDENT, SCORED, at_once
from nas.errors import DataError, RecipeError
from nas.job import DataRef, Epoch, Job, Recipe, Report
from nas.job.schedule import SCHEDULES, cycle, shared
from nas.language.architecture import Architecture, parse
from nas.language.expression import leaves, show
from nas.language.layers import BatchNorm
from nas.metrics import ACCURACY, BALANCED
from nas.text import counted
from nas.training.checkpoint import Training, digest_of, keep, resume
from nas.training.device import available, seeded
from nas.training.graph import Forward, Step, eager_forward, forward_of, step_of
from nas.training.network import build
from nas.training.step import Average, balanced, optimizer_of, trainable
from nas.training.teacher import Teacher
from nas.training.turns import training as in_turns

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 10.0  # a save of a small network takes 3 to 20 ms, most of it fsync


class Diverged(Exception):
    """The loss or the logits are not finite; the message says where."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Accuracy and balanced accuracy, as fractions: the latter is the mean recall of the classes
    that occur (Brodersen et al. 2010, "The balanced accuracy and its posterior distribution")."""

    accuracy: float
    balanced_accuracy: float


def scores(curve: Sequence[Epoch]) -> dict[str, float]:
    """The metrics of a training: those of its last epoch; none without epochs."""
    if not curve:
        return {}
    metrics = {ACCURACY: curve[-1].accuracy, BALANCED: curve[-1].balanced_accuracy}
    return {name: value for name, value in metrics.items() if value is not None}


@functools.lru_cache(maxsize=4)
def check_images(ref: DataRef) -> None:
    """Raises DataError where the images on this machine differ from ``ref.identity``: another
    node's, or overwritten since the search began. Cached, as it looks at each file."""
    if ref.identity and (here := data.identity(ref)) != ref.identity:
        raise DataError(
            f"the images of {ref.dir or ref.name} on this machine ({here}) are not those "
            f"of the search ({ref.identity})"
        )


def train_images(job: Job) -> DataRef:
    """The images to train on: with random crops, larger ones than those that are scored."""
    return data.roomy(job.data) if job.recipe.resized_crop else job.data


def prepare(job: Job) -> None:
    """Fills this machine's cache for a job: decoded images, which may take hours, and their
    statistics. Raises NasError."""
    check_images(job.data)
    for ref in dict.fromkeys((job.data, train_images(job))):
        data.load(ref, "train")
    statistics(data.load(job.data, "train"))


def begin(job: Job, device: torch.device) -> tuple[Architecture, nn.Module, Normal | None]:
    """The job's architecture, its initial module, and the normalisation that its initial weights
    require (None: the training images'). Raises NasError."""
    info = data.describe(job.data)
    architecture = parse(job.pattern, info.shape, len(info.classes))
    if job.epochs:
        check_batch(architecture, min(job.recipe.batch, len(data.load(train_images(job), "train"))))
    with seeded(job.seed, device):
        module = build(architecture)
    normal = begin_from(job.recipe.init, module, architecture) if job.recipe.init else None
    return architecture, module, normal


def check_batch(architecture: Architecture, batch: int) -> None:
    """Raises RecipeError for a batch of one image where batch normalisation would see one number
    per channel, without a deviation. All batches have the same size: an epoch drops the rest."""
    for number, step in enumerate(architecture.steps, 1) if batch == 1 else ():
        for layer, x in leaves(step.node, step.x):
            if isinstance(layer, BatchNorm) and math.prod(x[1:]) == 1:
                raise RecipeError(
                    f"batches are of 1 image: must be of 2 or more (recipe.batch) for the BN in "
                    f"element {number}, {step}, where {show(x)} reaches it: of one number a "
                    "channel there is no deviation"
                )


@dataclass(frozen=True, slots=True)
class Start:
    """A training before its first step: its module on the device, the images, their normalisation
    and augmentation, and the batch size."""

    training: Training
    train: Source
    normal: Normal
    augment: Prepare
    batch: int


def set_up(
    module: nn.Module,
    job: Job,
    device: torch.device,
    normal: Normal | None = None,
    budget: int = RESIDENT,
) -> Start:
    """The start of ``fit``, with its arguments."""
    recipe, info = job.recipe, data.describe(job.data)
    train = Source.of(data.load(train_images(job), "train"), device, budget)
    normal = normal or statistics(data.load(job.data, "train"))
    generator = torch.Generator().manual_seed(job.seed)
    augment = augmentation(normal, info.shape[1:], recipe, generator, len(info.classes))
    module.to(device).to(memory_format=torch.channels_last)
    training = Training(
        job,
        module,
        optimizer_of(module, recipe),
        generator,
        device,
        curve=[],
        average=Average(module, recipe.ema) if recipe.ema else None,
        init=digest_of(recipe.init),
    )
    return Start(training, train, normal, augment, min(recipe.batch, len(train)))


def fit(
    module: nn.Module,
    job: Job,
    report: Report,
    *,
    device: torch.device,
    checkpoint: str | Path | None = None,
    bf16: bool = False,
    normal: Normal | None = None,
    budget: int = RESIDENT,
) -> tuple[Epoch, ...]:
    """Trains ``module`` in place for ``job.epochs`` and returns the curve. With ``recipe.ema`` the
    averaged weights are scored after each epoch, and are the final ones.

    With a ``checkpoint`` file it resumes from there, to the weights of an uninterrupted training,
    and updates the file. ``normal`` is the normalisation that initial weights require (None: the
    training images'). Images beyond ``budget`` bytes are streamed. Raises Diverged, StudyError for
    another training's checkpoint, and DataError.
    """
    recipe, epochs = job.recipe, job.epochs
    if recipe.freeze >= epochs:
        raise RecipeError(
            f"recipe.freeze is {recipe.freeze}: must be below the {counted(epochs, 'epoch')}"
        )
    start = set_up(module, job, device, normal, budget)
    training, train, batch = start.training, start.train, start.batch
    info, images = data.describe(job.data), data.load(job.data, "train")
    validation = Source.of(data.load(job.data, "validation"), device, budget)
    as_scored = preparation(start.normal, info.shape[1:])
    scored = training.average or module
    teacher = weights = None
    if recipe.teacher:
        teacher = Teacher.of(job, module, start.normal, device, images)
    if recipe.class_weights == "balanced":
        weights = balanced(images.labels[images.rows], len(info.classes)).to(device)
    steps = len(train) // batch  # the rest of a shuffled epoch is dropped
    resumable = shared(recipe.schedule, recipe.freeze, epochs)
    step: Step | None = None
    forward = forward_of(scored, device, bf16)
    # Of one epoch alone: a graph would take longer to capture than it saves.
    ending = eager_forward(scored, device, bf16=False) if bf16 else forward
    watched = teacher.watching() if teacher else contextlib.nullcontext()
    with seeded(job.seed, device), watched, in_turns(device) as between:
        began = saved = time.perf_counter()
        if checkpoint:
            resume(training, checkpoint)
        for point in training.curve:
            report(point)
        if training.curve:
            began -= training.curve[-1].seconds
        for epoch in range(len(training.curve), epochs):
            order = torch.randperm(len(train), generator=training.generator)[: steps * batch]
            live = trainable(module, head_only=epoch < recipe.freeze)
            if step is None or epoch == recipe.freeze:
                step = step_of(training, live, bf16, weights, teacher)
            given = batches(train, order, batch, start.augment)
            if teacher:
                given = teacher.following(given, order.split(batch))
            lrs = rates(recipe, epoch, epochs, steps)
            losses = train_epoch(training, step, given, lrs, between)
            train_loss = finite_mean(losses, epoch + 1)
            scored.eval()
            # The final scores are in full precision, as the model is saved: in bf16, 2 of 360
            # images were classified otherwise.
            answer = ending if epoch + 1 == epochs else forward
            found = scores_of(answer, validation, as_scored, between)
            if math.isnan(found.accuracy):
                raise Diverged(f"the validation logits are not finite after epoch {epoch + 1}")
            point = Epoch(
                epoch=epoch + 1,
                train_loss=train_loss,
                accuracy=found.accuracy,
                balanced_accuracy=found.balanced_accuracy,
                seconds=time.perf_counter() - began,
            )
            training.curve.append(point)
            report(point)
            due = time.perf_counter() - saved >= CHECKPOINT_SECONDS and epoch + 1 < resumable
            if checkpoint and (due or epoch + 1 == resumable):
                keep(training, checkpoint)
                saved = time.perf_counter()
    if training.average:
        module.load_state_dict(training.average.module.state_dict())
    return tuple(training.curve)


def rates(recipe: Recipe, epoch: int, epochs: int, steps: int) -> list[float]:
    """The learning rates (steps,) of an ``epoch``, counted from 0."""
    first, last = cycle(epoch, recipe.freeze, epochs)
    schedule = SCHEDULES[recipe.schedule]
    return [
        recipe.lr * schedule(n, steps, last - first, recipe.warmup)
        for n in range((epoch - first) * steps, (epoch + 1 - first) * steps)
    ]


def train_epoch(
    training: Training,
    step: Step,
    epoch: Iterable[tuple[Tensor, Tensor]],
    rates: Sequence[float],
    between: Callable[[], None] = lambda: None,
) -> list[Tensor]:
    """One step per batch, each at its learning rate; returns the losses, left on the device.
    ``between`` is called before each step."""
    losses = []
    for (x, y), rate in zip(epoch, rates, strict=True):
        between()
        losses.append(step(x, y, rate))
        if training.average:
            training.average.update_parameters(training.module)
    return losses


def score(
    module: nn.Module,
    ref: DataRef,
    *,
    part: data.Part = "test",
    device: torch.device | None = None,
    normal: Normal | None = None,
) -> float:
    """The module's accuracy on a part of the data, as a fraction; NaN if its logits are not finite.
    ``normal`` as in ``fit``."""
    device = device or available()
    normal = normal or statistics(data.load(ref, "train"))
    module.to(device).to(memory_format=torch.channels_last)
    source = Source.of(data.load(ref, part), device)
    as_scored = preparation(normal, data.describe(ref).shape[1:])
    module.eval()
    return scores_of(forward_of(module, device, bf16=False), source, as_scored).accuracy


def begin_from(init: str, module: nn.Module, architecture: Architecture) -> Normal | None:
    """Loads the weights that ``recipe.init`` names; returns the normalisation they require.

    A head for another number of classes is left as initialised. Raises NasError where the rest does
    not fit.
    """
    from nas.training.weights import initial_state  # torchvision's models take a second to import

    start = initial_state(init, architecture)
    module.load_state_dict(start.state, strict=False)
    return start.normal


def scores_of(
    forward: Forward,
    source: Source,
    prepare: Prepare,
    between: Callable[[], None] = lambda: None,
) -> Scores:
    """Scores all images of a source; NaN if any logit is not finite."""
    answers, right = [], []
    finite = torch.ones((), dtype=torch.bool, device=source.device)
    everything = torch.arange(len(source))
    for x, y in batches(source, everything, at_once(prepare.size, SCORED), prepare):
        between()
        logits = forward(x)
        answers.append(y)
        right.append(logits.argmax(1) == y)
        finite &= logits.isfinite().all()
    if not finite:
        return Scores(math.nan, math.nan)
    labels, correct = torch.cat(answers).cpu(), torch.cat(right).cpu()
    images = torch.bincount(labels)
    found = torch.bincount(labels[correct], minlength=len(images))
    recalls = found[images > 0] / images[images > 0].double()
    return Scores(correct.sum().item() / len(labels), recalls.mean().item())


def finite_mean(losses: list[Tensor], epoch: int) -> float:
    """The epoch's mean loss. Raises Diverged. Once per epoch, as reading synchronises a GPU."""
    values = torch.stack(losses).float().cpu()
    (wrong,) = torch.nonzero(~values.isfinite(), as_tuple=True)
    if len(wrong):
        step = int(wrong[0])
        raise Diverged(f"the loss is {values[step]:g} in epoch {epoch}, step {step + 1}")
    return values.mean().item()
