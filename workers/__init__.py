"""Who runs jobs: seats on Ray, here or on a cluster, or this process. ``open_pool`` is the door."""

from __future__ import annotations

from nas.errors import NasError
from nas.interrupts import deferred
from nas.job.pool import Pool
from nas.workers.in_process import InProcess


def open_pool(
    workers: int | None,
    address: str | None = None,
    gpus_per_trial: float | None = None,
    time_limit: float = 0.0,
    memory_limit: float = 0,
    cpus_per_trial: float = 1.0,
    memory_need: int = 0,
) -> Pool:
    """A pool that is ready to take jobs; the caller closes it.

    ``workers``: how many jobs may run at once; 0 runs them in this process, without Ray, and None
    takes one for each core here, as far as memory goes, or as many as fit into the cluster.
    ``address`` is ``host:port`` of a running cluster (``auto``: the one of this machine); without
    it Ray is started here and ends with the pool. ``gpus_per_trial`` may be a fraction; None
    shares this machine's GPUs evenly, and lets as many trials share a cluster's as gains and fits,
    one where ``memory_need`` is unknown.
    ``time_limit`` is in seconds a trial, 0 for none; ``memory_limit`` in bytes a trial, 0 for an
    equal share of this machine's, or all of a node's. ``cpus_per_trial`` counts on a cluster only.
    ``memory_need``, in bytes, is what a trial is predicted to hold (``nas.training.footprint``; 0:
    unknown): without a ``memory_limit`` it tells how many fit, and limits none.

    Raises NasError for a number outside its domain, more than the machine has, or a cluster that
    does not answer.
    """
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
        "memory limit": (
            0 <= memory_limit < float("inf"),
            memory_limit,
            "bytes, 0 (an equal share) or more",
        ),
        "cpus per trial": (0 < cpus_per_trial <= 1024, cpus_per_trial, "above 0 and up to 1024"),
    }
    for name, (ok, value, rule) in rules.items():
        if not ok:
            raise NasError(f"{name} is {value!r}: must be {rule}")
    if workers == 0:
        return InProcess(time_limit)
    with deferred():  # what is compiled may swallow an interrupt amid its import
        from nas.workers.cluster import open_ray

    return open_ray(
        workers=workers,
        address=address,
        gpus=gpus_per_trial,
        cpus=cpus_per_trial,
        time_limit=time_limit,
        memory_limit=int(memory_limit),
        memory_need=memory_need,
    )
