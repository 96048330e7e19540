"""What the search asks of whoever runs its jobs. No ray, no torch: the pools are in ``workers``."""

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
    """Runs jobs side by side. The caller numbers each job with a ticket of its own, used once.

    A job's events come in order, ``Reported`` for each reported epoch and one ``Done`` at the end.
    """

    @property
    def slots(self) -> int:
        """How many jobs may run at once; on a cluster it follows the nodes that come and go."""

    def submit(self, ticket: int, job: Job) -> None:
        """Starts the job as soon as there is room, and returns at once."""

    def wait(self, timeout: float) -> list[Event]:
        """What has happened: blocks up to ``timeout`` seconds for the first event.

        Returns an empty list when the time is over, and at once when no job is under way.
        """

    def cancel(self, ticket: int) -> None:
        """Ends the job; its ``Done`` with a ``Failure`` of kind "cancelled" follows.

        A job that ended meanwhile keeps the outcome it has; an unknown ticket is ignored.
        """

    def close(self) -> None:
        """Ends every job and every process of the pool. Closing twice is fine."""
