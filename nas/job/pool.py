"""The interface of what runs a search's jobs; the implementations are in ``workers``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nas.job import Epoch, Job, Outcome


@dataclass(frozen=True, slots=True)
class Reported:
    """A running job reported a point of its training curve."""

    ticket: int
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Done:
    """A job ended: the last event of its ticket."""

    ticket: int
    outcome: Outcome


Event = Reported | Done


class Pool(Protocol):
    """Runs jobs in parallel. The caller gives each job a unique number, its ticket.

    A job's events come in order: ``Reported`` for each epoch, and one ``Done`` at the end.
    """

    @property
    def slots(self) -> int:
        """How many jobs may run at once; on a cluster it changes with the nodes."""

    def submit(self, ticket: int, job: Job) -> None:
        """Starts the job when a slot is free; returns at once."""

    def wait(self, timeout: float) -> list[Event]:
        """Waits up to ``timeout`` seconds for the first event and returns all; empty on timeout,
        and at once when no job is running."""

    def cancel(self, ticket: int) -> None:
        """Ends the job; its ``Done`` with a ``Failure`` of kind "cancelled" follows. A job that has
        ended keeps its outcome; an unknown ticket is ignored."""

    def close(self) -> None:
        """Ends all jobs and processes of the pool. May be called twice."""
