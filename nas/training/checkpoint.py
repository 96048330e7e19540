"""Checkpoints: all state that the next epoch depends on, in files of ``nas.artifacts``.

A file is a line with the format and the payload's SHA-256, then the payload by torch.save.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nas import artifacts
from nas.errors import StudyError
from nas.job import Epoch, Job
from nas.job.schedule import shared

log = logging.getLogger(__name__)

FORMAT = b"nas-checkpoint-1"


@dataclass(frozen=True, slots=True)
class Training:
    """The state of a training. ``generator`` draws order and augmentation; ``average`` is the
    moving average of the weights, if the recipe has one; ``init`` the digest of the file of initial
    weights, if there is one."""

    job: Job
    module: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    device: torch.device
    curve: list[Epoch]
    average: AveragedModel | None = None
    init: str = ""


def keep(training: Training, path: str | Path) -> None:
    """Saves the training; logs a warning where that fails."""
    cuda = training.device.type == "cuda"
    state = {
        "identity": training.job.training_key,
        "init": training.init,
        "module": training.module.state_dict(),
        "average": training.average.state_dict() if training.average else None,
        "optimizer": training.optimizer.state_dict(),
        "generator": training.generator.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(training.device) if cuda else None,
        "curve": [dataclasses.asdict(point) for point in training.curve],
    }
    try:
        save(path, state)
    except Exception as error:  # a file system of fsspec's raises what its library raises
        log.warning("no checkpoint written: %s", error)


def resume(training: Training, path: str | Path) -> None:
    """Restores what ``keep`` saved, if there is anything readable.

    Raises StudyError for a checkpoint of another training, or past the job's epochs.
    """
    try:
        state = load(path)
    except Exception as error:
        log.warning("no checkpoint read, training starts over: %s", error)
        return
    if state is None:
        return
    job = training.job
    if state["identity"] != job.training_key:
        raise StudyError(f"{path} belongs to another training: name another file or remove it")
    if state.get("init", training.init) != training.init:  # older checkpoints do not tell
        raise StudyError(
            f"{path} began from other weights than {job.recipe.init} has now: name another file or "
            "remove it"
        )
    epoch, most = len(state["curve"]), shared(job.recipe.schedule, job.recipe.freeze, job.epochs)
    if epoch > most:
        raise StudyError(
            f"{path} is at epoch {epoch}: {job.epochs} epochs can resume from {most} at most"
        )
    training.module.load_state_dict(state["module"])
    if training.average:
        training.average.load_state_dict(state["average"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.generator.set_state(state["generator"])
    torch.set_rng_state(state["torch"])
    if training.device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], training.device)
    training.curve[:] = [Epoch(**point) for point in state["curve"]]


def digest_of(init: str) -> str:
    """The SHA-256 of a file of initial weights; empty for none, and for a network's name."""
    file = Path(init).expanduser()
    return hashlib.sha256(file.read_bytes()).hexdigest() if init and file.is_file() else ""


def scored(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict in a checkpoint that is scored: the average, if there is one."""
    average = state.get("average")
    if not average:
        return dict(state["module"])
    prefix = "module."
    return {k.removeprefix(prefix): v for k, v in average.items() if k.startswith(prefix)}


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Writes ``state`` to ``path``, a file or a URL; what was there becomes ``path.previous``.

    Raises OSError, or what fsspec raises, where that fails; then the old file stays.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    digest = hashlib.sha256(payload).hexdigest().encode()
    artifacts.write(path, FORMAT + b" " + digest + b"\n" + payload)


def load(path: str | Path) -> dict[str, Any] | None:
    """The newest intact checkpoint at ``path``, or None. A damaged one is renamed to ``path.torn``
    with a warning, and the one before it is used. No code in a file is run."""
    return artifacts.newest(path, parse)


def parse(data: bytes) -> dict[str, Any]:
    line, _, payload = data.partition(b"\n")
    if line != FORMAT + b" " + hashlib.sha256(payload).hexdigest().encode():
        raise ValueError("its checksum does not fit")
    state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise TypeError("it holds no dictionary")
    return state
