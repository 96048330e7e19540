"""The pool without Ray: jobs one after another in this process."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

from nas.job import Epoch, Failure, Job, Outcome
from nas.job.pool import Done, Event, Reported
from nas.processes import Process, children, end
from nas.workers.keeper import adopt_orphans
from nas.workers.run import refuse_removed, run
from nas.workers.seat import CANCELLED, over_time

# The process has one stdout and one adopter of orphans: jobs of searches in other threads wait. Not
# the lock of ``nas.training.device.alone``, as an evaluator may train in threads.
_ONE_JOB = threading.RLock()


class InProcess:
    """The pool without Ray, for tests and debuggers: ``wait`` runs the next job to its end, unless
    its timeout is 0.

    The time limit is checked when the job reports; a job that crashes takes this process with it.
    """

    slots = 1

    def __init__(self, time_limit: float = 0.0) -> None:
        self._time_limit = time_limit or float("inf")
        self._directory = os.getcwd()
        self._jobs: dict[int, Job | None] = {}  # None: cancelled

    def submit(self, ticket: int, job: Job) -> None:
        refuse_removed(self._directory, job)
        self._jobs[ticket] = job

    def wait(self, timeout: float) -> list[Event]:
        if not self._jobs or timeout <= 0:
            return []
        ticket = next(iter(self._jobs))
        job = self._jobs.pop(ticket)
        curve: list[Epoch] = []
        outcome = self._run(job, curve) if job else Failure(kind="cancelled", reason=CANCELLED)
        return [*(Reported(ticket, epoch) for epoch in curve), Done(ticket, outcome)]

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
            # Prints are no data.
            with _ONE_JOB, contextlib.redirect_stdout(sys.stderr), _forks_ended():
                return run(job, report, passing=(KeyboardInterrupt, _OverTime))
        except _OverTime:
            seconds = time.monotonic() - begun
            reason = over_time(self._time_limit)
            return Failure(kind="timeout", reason=reason, seconds=seconds, curve=tuple(curve))


class _OverTime(BaseException):
    """Ends a job from within its report; not an Exception, which an evaluator might catch."""


@contextlib.contextmanager
def _forks_ended() -> Iterator[None]:
    """Ends processes forked within, and their orphans; but not what other threads of this process
    start meanwhile."""
    if sys.platform != "linux":
        yield
        return
    here, before = os.getpid(), {child for _, child in children(os.getpid())}
    others = set(map(int, os.listdir("/proc/self/task"))) - {threading.get_native_id()}
    adopted = adopt_orphans(True)
    try:
        yield
    finally:
        while left := [
            child for task, child in children(here) if child not in before and task not in others
        ]:
            end(map(Process.of, left))
            for child in left:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child, os.WNOHANG)
        adopt_orphans(adopted)
