"""Evaluators of the tests of faults: what they answer follows from the architecture alone, so that
a checker knows it too."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from evaluators import daemon

from nas.job import Epoch

SECONDS = "FAULTS_SECONDS"  # environment variable: how long an epoch takes
PACE = "FAULTS_PACE"  # environment variable: a file that says so instead, at any moment
FREEZE = "FAULTS_FREEZE"  # environment variable: a file for as long as which ``freezes`` waits
FOLDER = "FAULTS_FOLDER"  # environment variable: where checkpoints and the log of epochs are


def seconds() -> float:
    if PACE in os.environ:
        return float(Path(os.environ[PACE]).read_text())
    return float(os.environ.get(SECONDS, 0))


def accuracy(fingerprint: str) -> float:
    return int(fingerprint[:6], 16) / 16**6


def fails(fingerprint: str) -> bool:
    """One of four architectures raises, each time that it is tried."""
    return int(fingerprint[-1], 16) % 4 == 0


def stub(architecture: Any, *, fidelity: int, seed: int, report: Any) -> dict[str, float]:
    return trained(architecture.fingerprint, range(1, fidelity + 1), report)


def keeps(architecture: Any, *, fidelity: int, seed: int, report: Any) -> dict[str, float]:
    """As ``stub``, with a checkpoint an epoch, and a line in a log for each one trained."""
    from nas.training.checkpoint import load, save

    fingerprint = architecture.fingerprint
    path = Path(os.environ[FOLDER]) / fingerprint
    state = load(path) or {"epochs": 0}

    def keep(epoch: Epoch) -> None:
        with path.with_name("epochs").open("a") as log:
            print(fingerprint, epoch.epoch, file=log)
        save(path, {"epochs": epoch.epoch})
        report(epoch)

    return trained(fingerprint, range(state["epochs"] + 1, fidelity + 1), keep)


def freezes(architecture: Any, *, fidelity: int, seed: int, report: Any) -> dict[str, float]:
    """As ``stub``, but the first one makes a file and waits until it is gone."""
    if told := os.environ.pop(FREEZE, None):
        Path(told).touch()
        while Path(told).exists():
            time.sleep(0.05)
    return stub(architecture, fidelity=fidelity, seed=seed, report=report)


def strays(architecture: Any, *, fidelity: int, seed: int, report: Any) -> dict[str, float]:
    """As ``stub``, but it leaves a process that is nobody's child."""
    daemon()
    return stub(architecture, fidelity=fidelity, seed=seed, report=report)


def lingers(architecture: Any, *, fidelity: int, seed: int, report: Any) -> dict[str, float]:
    """As ``stub``, but until its batch job was put back twice one of two hardly comes to an end."""
    if int(os.environ.get("SLURM_RESTART_COUNT", 0)) < 2 and architecture.fingerprint[0] < "8":
        time.sleep(600)
    return stub(architecture, fidelity=fidelity, seed=seed, report=report)


def trained(fingerprint: str, epochs: range, report: Any) -> dict[str, float]:
    for epoch in epochs:
        begun = time.monotonic()
        while (left := begun + seconds() - time.monotonic()) > 0:  # the pace may change meanwhile
            time.sleep(min(left, 0.05))
        report(Epoch(epoch=epoch, train_loss=1 / epoch, accuracy=0.5, seconds=0.0))
        if fails(fingerprint):
            raise ValueError("an architecture that fails")
    return {"accuracy": accuracy(fingerprint)}
