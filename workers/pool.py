"""The pools: jobs on Ray, or one after another in this process. ``open_pool`` chooses."""

from __future__ import annotations

import contextlib
import sys
import time

from nas.errors import NasError
from nas.job import Epoch, Failure, Job, Outcome
from nas.pool import Done, Event, Pool, Progress
from workers.run import run
from workers.seat import CANCELLED, over_time


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
    shares this machine's GPUs evenly, and takes one a trial on a cluster that has any.
    ``time_limit`` is in seconds a trial, 0 for none; ``memory_limit`` in bytes a trial, 0 for an
    equal share of this machine's, or all of a node's. ``cpus_per_trial`` counts on a cluster only.
    ``memory_need``, in bytes, is what a trial is predicted to hold (``nas.footprint``; 0: unknown):
    without a ``memory_limit`` it tells how many fit, and limits none.

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
    from workers.cluster import open_ray

    return open_ray(
        workers=workers,
        address=address,
        gpus=gpus_per_trial,
        cpus=cpus_per_trial,
        time_limit=time_limit,
        memory_limit=int(memory_limit),
        memory_need=memory_need,
    )


class InProcess:
    """The twin without Ray, for tests and for a debugger: ``wait`` runs the next job to its end.

    The time limit is looked at when the job reports; a job that crashes takes this process along.
    """

    slots = 1

    def __init__(self, time_limit: float = 0.0) -> None:
        self._time_limit = time_limit or float("inf")
        self._jobs: dict[int, Job | None] = {}  # None: cancelled

    def submit(self, ticket: int, job: Job) -> None:
        self._jobs[ticket] = job

    def wait(self, timeout: float) -> list[Event]:
        if not self._jobs:
            return []
        ticket = next(iter(self._jobs))
        job = self._jobs.pop(ticket)
        curve: list[Epoch] = []
        outcome = self._run(job, curve) if job else Failure(kind="cancelled", reason=CANCELLED)
        return [*(Progress(ticket, epoch) for epoch in curve), Done(ticket, outcome)]

    def cancel(self, ticket: int) -> None:
        if ticket in self._jobs:
            self._jobs[ticket] = None

    def close(self) -> None:
        self._jobs.clear()

    def _run(self, job: Job, curve: list[Epoch]) -> Outcome:
        begun = time.monotonic()

        def report(epoch: Epoch) -> None:
            curve.append(epoch)
            if time.monotonic() - begun > self._time_limit:
                raise _OverTime

        try:
            with contextlib.redirect_stdout(sys.stderr):  # a job's prints are no data of ours
                return run(job, report)
        except _OverTime:
            seconds = time.monotonic() - begun
            reason = over_time(self._time_limit)
            return Failure(kind="timeout", reason=reason, seconds=seconds, curve=tuple(curve))


class _OverTime(BaseException):
    """Ends a job from within its report; no Exception, which an evaluator might catch."""
