"""``nas doctor``: checks this installation, with a remedy for each problem."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from nas.errors import NasError, NoRecord, brief
from nas.processes import cores
from nas.text import counted, shown_url
from nas.workers import mps

PACKAGES = ("torch", "torchvision", "optuna", "ray", "sqlalchemy", "optuna-dashboard")
TINY = "INPUT(1, 8, 8) -> FLATTEN -> FC(10)"


@dataclass(frozen=True, slots=True)
class Finding:
    """A part of the installation: its state, and the remedy if it does not work."""

    part: str
    works: bool
    found: str
    remedy: str = ""


def examine(storage: str) -> list[Finding]:
    """Checks everything that a search needs; takes a few seconds, as it trains a network."""
    findings = [Finding("python", True, f"{platform.python_version()} at {sys.executable}")]
    for part, look in _LOOKS.items():
        try:
            findings += look(storage)
        except Exception as error:  # any error is a finding
            failure = f"{type(error).__name__}: {brief(str(error), 300)}"
            findings.append(Finding(part, False, failure, _REMEDY[part]))
    return findings


def _packages(storage: str) -> Iterator[Finding]:
    for name in PACKAGES:
        yield Finding(name, True, importlib.metadata.version(name))


def _device(storage: str) -> Iterator[Finding]:
    import torch

    from nas.workers.machine import cards

    threads = torch.get_num_threads()
    yield Finding("processor", True, f"{cores()} cores, torch uses {threads} threads")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(i)
            memory = device.total_memory / 2**30
            torch.ones(8, device=f"cuda:{i}").sum().item()
            yield Finding(f"GPU {i}", True, f"{device.name}, {memory:.0f} GiB")
        with mps.shared() as environ:
            through = environ or "CUDA_MPS_PIPE_DIRECTORY" in os.environ
        how = "through CUDA MPS" if through else f"taking turns: {mps.CONTROL} is missing or fails"
        yield Finding("GPU shared", True, f"{how}, when several candidates train on one")
    elif there := cards():
        failure = f"{len(there)} in this machine, none of which torch {torch.__version__} can use"
        yield Finding("GPU", False, failure, _REMEDY["device"])
    else:
        yield Finding("GPU", True, "none: candidates train on the CPU")


def _database(storage: str) -> Iterator[Finding]:
    from nas.store import open_store
    from nas.store.urls import file_of, parse

    shown = shown_url(storage)
    try:
        store = open_store(storage, write=False, patience=2.0)
    except NasError as error:
        path = file_of(parse(storage)) if isinstance(error, NoRecord) else None
        if path and not path.exists():
            free = shutil.disk_usage(path.absolute().parent).free / 2**30
            yield Finding("database", True, f"{shown}: not there yet; {free:.0f} GiB free")
            return
        yield Finding("database", False, str(error), _REMEDY["database"])
        return
    found = f"{shown}: {counted(len(store.studies()), 'study', 'studies')}"
    file = file_of(parse(storage))
    if file and not os.access(file, os.W_OK):
        found = f"{found}; read-only: nothing can be written there"
    yield Finding("database", True, found)
    store.close()


def _data(storage: str) -> Iterator[Finding]:
    from nas.data import DATASETS, describe
    from nas.job import DataRef

    info = describe(DataRef())
    yield Finding(
        "data", True, f"digits is available: {counted(len(info.classes), 'class', 'classes')}"
    )
    yield Finding("datasets", True, ", ".join(DATASETS))


def _worker(storage: str) -> Iterator[Finding]:
    from nas.job import DataRef, Failure, Job
    from nas.job.pool import Done, Event
    from nas.workers import open_pool

    events: list[Event] = []
    with contextlib.closing(open_pool(1)) as pool:
        pool.submit(0, Job(pattern=TINY, data=DataRef(), epochs=1, latency=False))
        while not isinstance(last := events[-1] if events else None, Done):
            events += pool.wait(1.0)
    if isinstance(last.outcome, Failure):
        raise NasError(last.outcome.reason)
    yield Finding("worker", True, "one trained a network for an epoch of digits")


_LOOKS: Mapping[str, Callable[[str], Iterator[Finding]]] = {
    "packages": _packages,
    "device": _device,
    "database": _database,
    "data": _data,
    "worker": _worker,
}
_REMEDY: Mapping[str, str] = {
    "packages": "reinstall the package in this environment: pip install nas-patterns",
    "device": "check the driver with nvidia-smi; on the CPU: nas search --gpus-per-trial 0",
    "database": "check --storage or NAS_STORAGE, and `nas db upgrade`",
    "data": "pip install scikit-learn",
    "worker": "search in this process with --workers 0",
}
