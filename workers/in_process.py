"""The pool without Ray: jobs one after another in this process."""

from __future__ import annotations

import contextlib
import sys
import time

from nas.job import Epoch, Failure, Job, Outcome
from nas.job.pool import Done, Event, Reported
from nas.workers.run import run
from nas.workers.seat import CANCELLED, over_time


class InProcess:
    """The twin without Ray, for tests and for a debugger: ``wait`` runs the next job to its end,
    unless it is given no time.

    The time limit is looked at when the job reports; a job that crashes takes this process along.
    """

    slots = 1

    def __init__(self, time_limit: float = 0.0) -> None:
        self._time_limit = time_limit or float("inf")
        self._jobs: dict[int, Job | None] = {}  # None: cancelled

    def submit(self, ticket: int, job: Job) -> None:
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
            with contextlib.redirect_stdout(sys.stderr):  # a job's prints are no data of ours
                return run(job, report)
        except _OverTime:
            seconds = time.monotonic() - begun
            reason = over_time(self._time_limit)
            return Failure(kind="timeout", reason=reason, seconds=seconds, curve=tuple(curve))


class _OverTime(BaseException):
    """Ends a job from within its report; no Exception, which an evaluator might catch."""
