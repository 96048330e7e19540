"""How long trainings will take, by a few steps of a few networks, before any is trained."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from nas import data
from nas.data.batches import batches
from nas.job import Job, Recipe
from nas.language.architecture import Architecture
from nas.training.device import available, bf16_pays, seeded, with_threads
from nas.training.graph import step_of
from nas.training.train import begin, set_up

NETWORKS = 5  # of a space: at the middles of as many equal shares of its draws, by MACs
WARM, STEPS = 3, 8  # steps that are not timed, and those that are
SECONDS = 0.5  # of timed steps are enough, and so is a single one that takes as long
IN_ALL = 4.0  # seconds after which no further network is timed: the rest are estimated by MACs
# MACs of a forward pass that are enough for a step on a CPU, and the least images of it: a
# mobilenet_like network of 316 million MACs took 0.87 times as long an image by 12 as by 64.
WORK, IMAGES = 4e9, 2
LONG = 4.0  # seconds of a step, of which what comes once (0.1 to 0.5 on a CPU) is a small part
FORWARD = 1 / 3  # of a step's time, which also goes back twice: an image that is only scored


def spread(draws: Sequence[tuple[Architecture, Recipe]]) -> list[tuple[Architecture, Recipe]]:
    """``NETWORKS`` of the draws, whose mean time represents all: the middle one of each equal
    share, by MACs."""
    ordered = sorted(draws, key=lambda draw: draw[0].macs)
    few = min(NETWORKS, len(ordered))
    return [ordered[(2 * n + 1) * len(ordered) // (2 * few)] for n in range(few)]


def timed(
    draws: Sequence[tuple[Architecture, Recipe]], seconds: Callable[[Architecture, Recipe], float]
) -> list[float]:
    """``seconds`` of each draw, the one with the middle of the MACs first; once ``IN_ALL`` seconds
    have gone, of those that are left by the MACs of the nearest one that was timed."""
    ranked = sorted(range(len(draws)), key=lambda n: draws[n][0].macs)
    middle = ranked[len(ranked) // 2 :][:1]
    began, took = time.monotonic(), dict[int, float]()
    for n in [*middle, *(n for n in ranked if n not in middle)]:
        macs = draws[n][0].macs
        if took and time.monotonic() - began > IN_ALL:
            near = min(took, key=lambda other: abs(draws[other][0].macs - macs))
            took[n] = took[near] * macs / max(1, draws[near][0].macs)
        else:
            took[n] = seconds(*draws[n])
    return [took[n] for n in range(len(draws))]


def epoch_seconds(job: Job, threads: int) -> float:
    """Seconds that an epoch of the job will take on this machine with ``threads`` threads, from its
    first steps on its own images. Nothing is kept. Raises NasError."""
    device = available()
    job = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, freeze=0))
    with with_threads(threads), seeded(job.seed, device):
        return _epoch_seconds(job, device)


def _epoch_seconds(job: Job, device: torch.device) -> float:
    architecture, module, normal = begin(job, device)
    start = set_up(module, job, device, normal)
    training, train, batch = start.training, start.train, start.batch
    if device.type == "cpu":
        batch = min(batch, max(IMAGES, int(WORK / max(1, architecture.macs))))
    module.train()
    step = step_of(training, list(module.parameters()), bf16_pays(architecture, device))
    order = torch.randint(len(train), ((WARM + STEPS) * batch,), generator=training.generator)
    ended = [_now(device)]
    for x, y in batches(train, order, batch, start.augment):
        step(x, y, job.recipe.lr)
        if training.average:
            training.average.update_parameters(module)
        ended.append(_now(device))
        warm = ended[WARM:]
        # Of a whole batch the first step will do, or where it is long, as of large photographs: of
        # a few images it is mostly what comes once.
        took = ended[-1] - (warm or ended)[0]
        if took >= SECONDS and (batch == start.batch or len(ended) > 2 or took >= LONG):
            break
    counted = ended[WARM:] if len(ended) > WARM + 1 else ended[-2:]
    # The median: one that the machine kept waiting is not most of an epoch.
    an_image = statistics.median(b - a for a, b in pairwise(counted)) / batch
    steps = len(train) // start.batch * start.batch
    return an_image * (steps + FORWARD * len(data.load(job.data, "validation")))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
