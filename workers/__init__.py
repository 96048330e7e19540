"""Runs jobs: in seats on this machine, on a Ray cluster, or in this process. See ``open_pool``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nas.errors import NasError
from nas.interrupts import deferred
from nas.job.pool import Pool
from nas.workers.in_process import InProcess
from nas.workers.local import open_local

MOST_GIB = 1 << 20


def open_pool(
    workers: int | None,
    address: str | None = None,
    gpus_per_trial: float | None = None,
    time_limit: float = 0.0,
    memory_per_trial: float = 0.0,
    cpus_per_trial: float = 1.0,
    memory_need: int | Callable[[], int] = 0,
    training: bool = False,
    jobs: int | None = None,
) -> Pool:
    """Opens a pool; the caller closes it.

    ``workers`` is the number of parallel jobs, each in a process of its own; 0 runs them in this
    process, one after another, and None means one per core here, as far as memory allows, or as
    many as fit into the cluster. ``address`` is ``host:port`` of a running Ray cluster (``auto``:
    this machine's); without it they run here. ``gpus_per_trial`` may be a fraction; None shares
    this machine's GPUs evenly, and a cluster's among as many trials as fit and gain (one if
    ``memory_need`` is unknown). Per trial, ``time_limit`` is in seconds (0: none) and
    ``memory_per_trial`` in GiB (0: an equal share of this machine's, or all of a node's);
    ``cpus_per_trial`` applies on a cluster only. ``memory_need`` is the predicted memory of a trial
    in bytes (``nas.training.footprint``; 0: unknown), which without ``memory_per_trial`` decides
    how many fit, but limits none; or what predicts it, asked in that case alone. ``training``: the
    jobs are trainings, and workers of this machine import what those need while the first is
    awaited. ``jobs``: how many there will be at most (None: unknown); this machine makes room for
    no more, and with 0 starts no process ahead.

    Raises NasError for a number outside its domain, more than the machine has, or a cluster that
    does not answer.
    """
    check(workers, gpus_per_trial, time_limit, memory_per_trial, cpus_per_trial)
    if workers == 0:
        return InProcess(time_limit)
    if callable(memory_need):
        memory_need = 0 if memory_per_trial else memory_need()
    limits: dict[str, Any] = {
        "workers": workers,
        "gpus": gpus_per_trial,
        "time_limit": time_limit,
        "memory_limit": int(memory_per_trial * 2**30),
        "memory_need": memory_need,
    }
    if not address:
        return open_local(**limits, training=training, jobs=jobs)
    with deferred():  # what is compiled may swallow an interrupt amid its import
        from nas.workers.cluster import open_ray

    return open_ray(address, cpus=cpus_per_trial, **limits)


def check(
    workers: int | None,
    gpus_per_trial: float | None,
    time_limit: float,
    memory_per_trial: float,
    cpus_per_trial: float,
) -> None:
    """Raises NasError for an argument of ``open_pool`` that is outside its domain."""
    rules = {
        "workers": (workers is None or 0 <= workers <= 100_000, workers, "0 to 100000"),
        "gpus per trial": (
            gpus_per_trial is None
            or 0 <= gpus_per_trial <= 1
            or (gpus_per_trial <= 1024 and gpus_per_trial == int(gpus_per_trial)),
            gpus_per_trial,
            "a fraction from 0 to 1, or a whole number",
        ),
        "time limit": (0 <= time_limit < float("inf"), time_limit, "seconds, 0 (none) or more"),
        "memory per trial": (
            0 <= memory_per_trial <= MOST_GIB,
            memory_per_trial,
            f"GiB, from 0 (an equal share) to {MOST_GIB:,}",
        ),
        "cpus per trial": (0 < cpus_per_trial <= 1024, cpus_per_trial, "above 0 and up to 1024"),
    }
    for name, (ok, value, rule) in rules.items():
        if not ok:
            raise NasError(f"{name} is {value!r}: must be {rule}")
