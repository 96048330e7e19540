"""The pool on this machine: a seat per slot, each served by a thread of this process.

A search's own machine needs no Ray: its start took 6 of the 12 seconds from Enter to the first
training step, and its processes 440 MiB. What must be ended lives in the seats' child processes,
which end with this process, however it ends (``nas.workers.seat``).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from nas.errors import NasError, brief
from nas.job import Epoch, Failure, Job, Outcome
from nas.job.pool import Done, Event, Reported
from nas.processes import cores
from nas.workers.machine import at_once, environ, fitting, room, visible_cards
from nas.workers.run import refuse_removed
from nas.workers.seat import CANCELLED, Seat


def open_local(
    *,
    workers: int | None,
    gpus: float | None,
    time_limit: float,
    memory_limit: int,
    memory_need: int,
    training: bool,
    jobs: int | None,
) -> LocalPool:
    """The pool behind ``nas.workers.open_pool``, which explains and checks the arguments."""
    if memory_limit > room():
        asked, free = memory_limit / 2**30, room() / 2**30
        raise NasError(f"memory per trial is {asked:g} GiB: this machine has {free:.1f} GiB")
    need = memory_limit or memory_need
    most, threads = at_once(workers, need, jobs)
    return LocalPool(
        [
            Seat(
                time_limit=time_limit,
                memory_limit=memory_limit or room() // most,
                directory=os.getcwd(),
                path=tuple(sys.path),
                environ=environ(threads, share, names),
                shares_gpu=0 < share < 1,
                training=training,
            )
            for names, share in shares(most, gpus, visible_cards(), need)
        ],
        jobs,
    )


def shares(
    most: int, gpus: float | None, cards: Mapping[str, int], need: int
) -> list[tuple[str, float]]:
    """For each of ``most`` slots its GPUs, as in CUDA_VISIBLE_DEVICES, and its share of them.

    ``cards`` are bytes of memory by name. Slots take the GPUs in turns, each ``gpus`` of one, or so
    many whole ones; with None they share all, as many on each as trainings of ``need`` bytes
    fit. Raises NasError where there are too few.

    >>> shares(3, None, {"0": 80 << 30, "1": 80 << 30}, 0)
    [('0', 0.5), ('1', 1.0), ('0', 0.5)]
    """
    if gpus == 0 or (gpus is None and not cards):
        return [("", 0.0)] * most
    whole = max(1, int(gpus or 1))
    groups = [[*cards][k : k + whole] for k in range(0, len(cards) - whole + 1, whole)]
    if gpus is None:
        fits = [fitting(memory, need) for memory in cards.values()]
        fits = fits if sum(fits) >= most else [most] * len(fits)
    else:
        fits = [int(1 / gpus + 1e-6) or 1] * len(groups)
    taken = [
        ",".join(group)
        for turn in range(most)
        for group, fit in zip(groups, fits, strict=True)
        if turn < fit
    ][:most]
    if len(taken) < most:
        raise NasError(f"{most} at once do not fit with {gpus:g} GPUs each: there are {len(cards)}")
    on = Counter(taken)
    return [(names, gpus or 1 / on[names]) for names in taken]


class LocalPool:
    """A ``nas.job.pool.Pool`` over the seats of this machine; ``open_local`` makes one."""

    def __init__(self, seats: Sequence[Seat], jobs: int | None = None) -> None:
        self.slots = len(seats)
        self._directory = os.getcwd()
        self._events = SimpleQueue[Event]()
        # More processes at once than cores only delay each other: the others start with their jobs.
        # And where no jobs are to come, as in a study that is done, none starts.
        later = len(seats) - (0 if jobs == 0 else cores())
        self._slots = [_Slot.open(s, self._events, k >= later) for k, s in enumerate(seats)]
        self._idle = [*self._slots]  # the last is taken first, as its process has all imported
        self._waiting: dict[int, Job] = {}
        self._running: dict[int, _Slot] = {}

    def submit(self, ticket: int, job: Job) -> None:
        refuse_removed(self._directory, job)
        self._waiting[ticket] = job
        self._start()

    def _start(self) -> None:
        while self._waiting and self._idle:
            ticket, slot = next(iter(self._waiting)), self._idle.pop()
            self._running[ticket] = slot
            slot.jobs.put((ticket, self._waiting.pop(ticket)))

    def wait(self, timeout: float) -> list[Event]:
        if not self._running and self._events.empty():
            return []
        found: list[Event] = []
        with contextlib.suppress(Empty):
            found.append(self._events.get(timeout=max(0.0, timeout)))
            while True:
                found.append(self._events.get_nowait())
        for event in found:
            if isinstance(event, Done) and event.ticket in self._running:
                self._idle.append(self._running.pop(event.ticket))
        self._start()
        return found

    def cancel(self, ticket: int) -> None:
        if self._waiting.pop(ticket, None):
            self._events.put(Done(ticket, Failure(kind="cancelled", reason=CANCELLED)))
        elif ticket in self._running:
            self._running[ticket].seat.cancel(ticket)

    def close(self) -> None:
        self._waiting.clear()
        for ticket, slot in self._running.items():
            slot.seat.cancel(ticket)
        for slot in self._slots:
            slot.jobs.put(None)
        for slot in self._slots:
            slot.thread.join()
        self._running.clear()


Jobs = SimpleQueue[tuple[int, Job] | None]  # with their tickets; None: no more


@dataclass(frozen=True, slots=True, eq=False)
class _Slot:
    """A seat, the thread that alone uses it (but for ``Seat.cancel``), and the jobs for it."""

    seat: Seat
    jobs: Jobs
    thread: threading.Thread

    @classmethod
    def open(cls, seat: Seat, events: SimpleQueue[Event], ahead: bool) -> _Slot:
        """Starts the thread, and ``ahead`` of the first job the seat's process."""
        jobs: Jobs = SimpleQueue()
        told = seat, jobs, events, ahead
        thread = threading.Thread(target=_serve, args=told, name="nas-seat", daemon=True)
        thread.start()
        return cls(seat, jobs, thread)


def _serve(seat: Seat, jobs: Jobs, events: SimpleQueue[Event], ahead: bool) -> None:
    with contextlib.closing(seat):
        if ahead:
            with contextlib.suppress(Exception):  # what fails here fails again with a job
                seat.prepare()
        while told := jobs.get():
            ticket, job = told
            outcome: Outcome | None = None
            try:
                for item in seat.run(ticket, job):
                    if isinstance(item, Epoch):
                        events.put(Reported(ticket, item))
                    else:
                        outcome = item
            except Exception as error:  # such as no room for another process
                reason = brief(f"{type(error).__name__}: {error}", 300)
                outcome = Failure(kind="worker_died", reason=reason)
            assert outcome, "a seat's last item is the outcome"
            events.put(Done(ticket, outcome))
