"""``nas train``: one architecture by the loop that a search uses, with a final test score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from nas.errors import NasError
from nas.job import Epoch, Job, Latency, Report
from nas.language.architecture import Architecture
from nas.training import latency
from nas.training.train import Diverged, available, begin, fit, profits, score


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training. ``test`` is the accuracy on images that nothing was chosen by."""

    architecture: Architecture
    curve: tuple[Epoch, ...]
    test: float
    latency: Latency
    weights: Path


def train(job: Job, report: Report, *, checkpoint: Path, weights: Path) -> Trained:
    """Trains, or goes on from ``checkpoint``, and writes the state dict to ``weights``.

    Interrupted at any moment, it goes on from the last checkpoint; on the CPU to the same weights
    as an uninterrupted training. Raises NasError, also where the training diverges.
    """
    device = available()
    architecture, module, normal = begin(job, device)
    bf16 = profits(architecture, device)
    try:
        curve = fit(
            module, job, report, checkpoint=checkpoint, device=device, bf16=bf16, normal=normal
        )
    except Diverged as error:
        raise NasError(f"the training diverged: {error}; try a smaller --recipe lr=") from None
    test = score(module, job.data, device=device, normal=normal)
    weights.parent.mkdir(parents=True, exist_ok=True)
    part = weights.with_name(weights.name + ".part")
    torch.save({k: v.cpu() for k, v in module.state_dict().items()}, part)
    part.replace(weights)
    measured = latency.measure(module, architecture.input, device)
    return Trained(architecture, curve, test, measured, weights)
