"""Evaluates a candidate: measures its latency, trains it and saves its weights; any error is a
Failure."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from nas import data
from nas.data.batches import Normal, statistics
from nas.errors import NasError
from nas.job import Epoch, Failure, FailureKind, Job, Latency, Outcome, Report, Result
from nas.job.job import allowed
from nas.language.architecture import Architecture
from nas.training import latency
from nas.training.card import Card
from nas.training.device import alone, available, bf16_pays, threads_for, with_threads
from nas.training.models import save_model
from nas.training.train import Diverged, begin, check_images, fit, scores

log = logging.getLogger(__name__)


@alone()
def evaluate(job: Job, report: Report, *, checkpoint: str | Path | None = None) -> Outcome:
    """Builds, trains and measures the job's architecture on the available device.

    ``report`` is called with each Epoch; ``checkpoint`` is a file, or a URL that fsspec knows, to
    save to and resume from. Without epochs only the latency is measured. If the job bounds the
    latency, it is measured first, as it does not depend on the weights, and nothing is trained if
    it is too high. Any error of the candidate is a Failure, with the curve so far.
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
        bf16 = bf16_pays(architecture, device)
        measured, refused = None, False
        if job.latency and job.most_ms:
            measured = latency_of(job, module, architecture, device)
            refused = measured.ms > allowed(job.most_ms, measured.device)
        if job.epochs and not refused:
            with with_threads(threads_for(architecture)):
                fit(
                    module,
                    job,
                    told,
                    device=device,
                    checkpoint=checkpoint,
                    bf16=bf16,
                    normal=normal,
                )
        if job.latency and measured is None:
            measured = latency_of(job, module, architecture, device)
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
    metrics = scores(curve)
    return Result(
        metrics=metrics,
        curve=tuple(curve),
        latency=measured,
        seconds=time.perf_counter() - began,
        device=latency.fingerprint(device),
        model=written(job, module, normal, metrics) if job.model and curve else "",
        refused=refused,
    )


def latency_of(
    job: Job, module: nn.Module, architecture: Architecture, device: torch.device
) -> Latency:
    """The latency that the job knows on this device, or a measurement."""
    known = job.known.get(latency.fingerprint(device, threads=1))
    return known or latency.measure(module, architecture.input, device)


def written(
    job: Job, module: nn.Module, normal: Normal | None, metrics: Mapping[str, float]
) -> str:
    """Writes the model to ``job.model`` and returns that; empty, with a warning, where that fails:
    the result is valid without."""
    normal = normal or statistics(data.load(job.data, "train"))
    try:
        save_model(job.model, module, Card.of_job(job, data.describe(job.data), normal, metrics))
    except Exception as error:  # a file system of fsspec's raises what its library raises
        log.warning("the weights were not kept: %s", error)
        return ""
    return job.model
