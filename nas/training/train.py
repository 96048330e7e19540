"""The one training loop: SGD with Nesterov momentum under a schedule, exact in its repetition.

``evaluate`` is what a worker calls for a candidate; ``fit`` is the loop itself, which ``nas train``
uses too; ``score`` tells the accuracy of finished weights, on the test images by default.

On the CPU a seed, a thread count and a kind of processor give the same weights to the bit, resumed
from a checkpoint or not. On a GPU cuDNN's choice of kernels leaves the last bits open.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nas import data
from nas.data.batches import (
    RESIDENT,
    Normal,
    Prepare,
    Source,
    augmentation,
    batches,
    preparation,
    statistics,
)
from nas.errors import DataError, NasError, RecipeError
from nas.job import DataRef, Epoch, Failure, FailureKind, Job, Outcome, Recipe, Report, Result
from nas.job.schedule import SCHEDULES, cycle, shared
from nas.language.architecture import Architecture, parse
from nas.language.expression import Shape, leaves
from nas.language.layers import Conv
from nas.metrics import ACCURACY
from nas.training import latency
from nas.training.checkpoint import Training, keep, resume
from nas.training.network import build

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 10.0  # a save of a small network takes 3 to 20 ms, most of it fsync
EVALUATION_BATCH = 512


class Diverged(Exception):
    """The loss or the logits are no longer finite; the message says where."""


def evaluate(job: Job, report: Report, *, checkpoint: str | Path | None = None) -> Outcome:
    """Builds, trains and measures the job's architecture on the device at hand.

    ``report`` is called with each Epoch; ``checkpoint`` is a file (or a URL that fsspec knows) to
    keep and to resume from.
    Without epochs the latency alone is measured. Whatever goes wrong with the candidate is a
    Failure, with the curve so far.
    """
    began = time.perf_counter()
    curve: list[Epoch] = []

    def told(point: Epoch) -> None:
        curve.append(point)
        report(point)

    def failure(kind: FailureKind, reason: str) -> Failure:
        seconds = time.perf_counter() - began
        return Failure(kind=kind, reason=reason, seconds=seconds, curve=tuple(curve))

    device = available()
    try:
        check_images(job.data)
        architecture, module, normal = begin(job, device)
        bf16 = profits(architecture, device)
        if job.epochs:
            fit(module, job, told, checkpoint=checkpoint, device=device, bf16=bf16, normal=normal)
        measured = latency.measure(module, architecture.input, device) if job.latency else None
    except Diverged as error:
        return failure("diverged", str(error))
    except NasError as error:
        return failure("error", str(error))
    except (torch.OutOfMemoryError, MemoryError) as error:
        return failure("out_of_memory", str(error).partition("\n")[0] or "no memory left")
    except Exception as error:
        if "DefaultCPUAllocator" in str(error):  # a RuntimeError, on the CPU
            return failure("out_of_memory", str(error).partition("\n")[0])
        log.info("the candidate failed", exc_info=True)
        return failure("error", f"{type(error).__name__}: {error}")
    return Result(
        metrics={ACCURACY: curve[-1].accuracy} if curve else {},
        curve=tuple(curve),
        latency=measured,
        seconds=time.perf_counter() - began,
        device=latency.fingerprint(device),
    )


@functools.lru_cache(maxsize=4)
def check_images(ref: DataRef) -> None:
    """Raises DataError where the images here are others than those that ``ref`` is about: those of
    another node, or overwritten since the search began. Once a process: it looks at each file."""
    if ref.identity and (here := data.identity(ref)) != ref.identity:
        raise DataError(
            f"the images of {ref.dir or ref.name} on this machine are others ({here}) than those "
            f"of the search ({ref.identity})"
        )


def begin(job: Job, device: torch.device) -> tuple[Architecture, nn.Module, Normal | None]:
    """The job's architecture on its data, its module before the first step, and the normalisation
    that initial weights ask for. Raises NasError."""
    info = data.describe(job.data)
    architecture = parse(job.pattern, info.shape, len(info.classes))
    with seeded(job.seed, device):
        module = build(architecture)
    normal = begin_from(job.recipe.init, module, architecture) if job.recipe.init else None
    return architecture, module, normal


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
    """Trains ``module`` in place for ``job.epochs`` and returns the curve.

    With a ``checkpoint`` file it goes on from there, to the weights that an uninterrupted training
    has, and keeps the file as it goes. ``normal`` is the normalisation that initial weights ask
    for; without, the training images'. Images beyond ``budget`` bytes are streamed. Raises
    Diverged, StudyError for a checkpoint of another training, DataError.
    """
    recipe, epochs = job.recipe, job.epochs
    if recipe.freeze >= epochs:
        raise RecipeError(f"recipe.freeze is {recipe.freeze}: must be below the {epochs} epochs")
    size = data.describe(job.data).shape[1:]
    images = data.load(job.data, "train")
    train = Source.of(images, device, budget)
    validation = Source.of(data.load(job.data, "validation"), device, budget)
    normal = normal or statistics(images)
    generator = torch.Generator().manual_seed(job.seed)
    augment = augmentation(normal, size, recipe, generator)
    plain = preparation(normal, size)

    module.to(device).to(memory_format=torch.channels_last)
    training = Training(job, module, sgd(module, recipe), generator, device, curve=[])
    batch = min(recipe.batch, len(train))
    steps = len(train) // batch  # the rest of a shuffled epoch is left out: all batches are alike
    resumable = shared(recipe.schedule, recipe.freeze, epochs)
    with seeded(job.seed, device), cudnn_benchmark():
        began = saved = time.perf_counter()
        if checkpoint:
            resume(training, checkpoint)
        for point in training.curve:
            report(point)
        if training.curve:
            began -= training.curve[-1].seconds
        for epoch in range(len(training.curve), epochs):
            order = torch.randperm(len(train), generator=generator)[: steps * batch]
            first, last = cycle(epoch, recipe.freeze, epochs)
            losses = train_epoch(
                training,
                batches(train, order, batch, augment),
                [
                    recipe.lr * SCHEDULES[recipe.schedule](n, steps, last - first, recipe.warmup)
                    for n in range((epoch - first) * steps, (epoch + 1 - first) * steps)
                ],
                trainable(module, head_only=epoch < recipe.freeze),
                bf16,
            )
            point = Epoch(
                epoch=epoch + 1,
                train_loss=finite_mean(losses, epoch + 1),
                accuracy=accuracy_of(module, validation, plain, bf16),
                seconds=time.perf_counter() - began,
            )
            if math.isnan(point.accuracy):
                raise Diverged(f"the validation logits are not finite after epoch {epoch + 1}")
            training.curve.append(point)
            report(point)
            due = time.perf_counter() - saved >= CHECKPOINT_SECONDS and epoch + 1 < resumable
            if checkpoint and (due or epoch + 1 == resumable):
                keep(training, checkpoint)
                saved = time.perf_counter()
    return tuple(training.curve)


def train_epoch(
    training: Training,
    epoch: Iterable[tuple[Tensor, Tensor]],
    rates: list[float],
    live: list[nn.Parameter],
    bf16: bool,
) -> list[Tensor]:
    """A step for each batch of the epoch, at its learning rate, on the ``live`` parameters; returns
    the losses, left on the device."""
    recipe, optimizer = training.job.recipe, training.optimizer
    losses = []
    for (x, y), rate in zip(epoch, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(training.device.type, torch.bfloat16, enabled=bf16):
            loss = loss_of(training.module(x), y, recipe)
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(live, recipe.clip, foreach=True)
        optimizer.step()
        losses.append(loss.detach())
    return losses


def score(
    module: nn.Module,
    ref: DataRef,
    *,
    part: data.Part = "test",
    device: torch.device | None = None,
    normal: Normal | None = None,
) -> float:
    """The module's accuracy, as a fraction, on a part of the data; NaN where its logits are not
    finite. ``normal`` as in ``fit``."""
    device = device or available()
    normal = normal or statistics(data.load(ref, "train"))
    module.to(device).to(memory_format=torch.channels_last)
    source = Source.of(data.load(ref, part), device)
    plain = preparation(normal, data.describe(ref).shape[1:])
    return accuracy_of(module, source, plain, bf16=False)


# The parts of a step.


def sgd(module: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Weight decay on matrices and kernels only: on biases and BN's scales it costs accuracy
    (He et al. 2019, "Bag of tricks", 3.1)."""
    weights = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        fused=True,  # 0.2 ms a step less than foreach, of 5 ms, for 20,000 parameters on one core
    )
    if recipe.momentum:
        # The same first step; but torch's fused one fails where some parameters, frozen until
        # then, have no momentum yet and others have.
        for parameter in module.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def loss_of(output: Tensor | tuple[Tensor, list[Tensor]], labels: Tensor, recipe: Recipe) -> Tensor:
    """Cross-entropy with label smoothing, and the auxiliary classifiers' weighed by recipe.aux."""
    logits, auxiliary = output if isinstance(output, tuple) else (output, [])
    smoothing = recipe.label_smoothing
    loss = cross_entropy(logits, labels, label_smoothing=smoothing)
    for aux in auxiliary:
        loss = loss + recipe.aux * cross_entropy(aux, labels, label_smoothing=smoothing)
    return loss


def trainable(module: nn.Module, head_only: bool) -> list[nn.Parameter]:
    """Sets the module to train, whole or only its last layer with weights; the rest then stays as
    it is, BN's statistics included. Returns the parameters that learn."""
    module.train(not head_only)
    _, head = head_of(module)
    head.train()
    live = list((head if head_only else module).parameters())
    for parameter in module.parameters():
        parameter.requires_grad_(not head_only)
    for parameter in live:
        parameter.requires_grad_()
    return live


def head_of(module: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the last layer with weights."""
    return [(n, m) for n, m in module.named_modules() if [*m.parameters(recurse=False)]][-1]


def begin_from(init: str, module: nn.Module, architecture: Architecture) -> Normal | None:
    """Loads the weights that ``recipe.init`` names; returns the normalisation that they ask for.

    Raises NasError where they do not fit. A head for another number of classes stays as it is.
    """
    from nas.training.weights import initial_state  # torchvision's models take a second to import

    start = initial_state(init, architecture)
    module.load_state_dict(start.state, strict=False)
    return start.normal


def accuracy_of(module: nn.Module, source: Source, prepare: Prepare, bf16: bool) -> float:
    module.eval()
    correct = torch.zeros((), dtype=torch.int64, device=source.device)
    finite = torch.ones((), dtype=torch.bool, device=source.device)
    everything = torch.arange(len(source))
    with torch.inference_mode(), torch.autocast(source.device.type, torch.bfloat16, enabled=bf16):
        for x, y in batches(source, everything, prepare.at_once(EVALUATION_BATCH), prepare):
            logits = module(x)
            correct += (logits.argmax(1) == y).sum()
            finite &= logits.isfinite().all()
    return correct.item() / len(source) if finite else math.nan


def finite_mean(losses: list[Tensor], epoch: int) -> float:
    """The epoch's mean loss. Raises Diverged. Read once an epoch: each reading makes a GPU wait."""
    values = torch.stack(losses).float().cpu()
    (wrong,) = torch.nonzero(~values.isfinite(), as_tuple=True)
    if len(wrong):
        step = int(wrong[0])
        raise Diverged(f"the loss is {values[step]:g} in epoch {epoch}, step {step + 1}")
    return values.mean().item()


# The device.


def available() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def profits(architecture: Architecture, device: torch.device) -> bool:
    """Whether bf16 autocast pays. A rule of the hardware and the network, not a timing: a timing's
    noise would change the numbers of a repetition.

    benchmarks/training.py --precision on one core of an EPYC 9004, step time of bf16 over float32,
    both in channels last (which itself pays nearly always, 1.0 to 2 times): residual, dense and
    VGG-like networks of 1 to 40 million MACs 0.57 to 0.91, linear 1.0 to 1.2, LeNet 0.86 to 1.2;
    depthwise 3x3 convolutions 0.4 to 0.75, but strided ones 1.4 to 12, and 5x5 1.0 to 2. Not yet
    measured on a GPU.
    """
    if architecture.macs < 1_000_000:
        return False
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can = torch.cpu.get_capabilities()
    if not (can.get("avx512_bf16", False) or can.get("amx_bf16", False)):
        return False
    return not any(
        _slow_in_bf16(layer, x) or _wrong_in_bf16(layer, x)
        for layer, x in leaves(architecture.expression, architecture.input)
        if isinstance(layer, Conv)
    )


def _slow_in_bf16(conv: Conv, x: Shape) -> bool:
    return conv.groups == x[0] > 1 and (conv.stride > 1 or conv.kernel > 3)


def _wrong_in_bf16(conv: Conv, x: Shape) -> bool:
    """oneDNN's weight gradient (torch 2.14) leaves the taps that a strided kernel never lays on the
    map as the memory was, NaN at times: seen for every kernel larger than its map."""
    return conv.stride > 1 and conv.kernel > min(x[1:])


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's own generators (initial weights, dropout) at ``seed``, and afterwards as before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def cudnn_benchmark() -> Iterator[None]:
    """cuDNN times its kernels for each shape once: all our batches are of one shape."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        yield
