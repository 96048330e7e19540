"""The pool on a Ray cluster: one actor per slot, each holding a ``Seat``.

A job is one call of an actor's generator, which streams epochs and the outcome back to the driver:
there is no queue to lose or clean up, and an actor that dies fails its own stream. An empty job
takes 1.9 ms; two slots finish 360 to 470 of them per second.

Ray neither restarts actors nor retries calls: the search learns of a dead worker, and requeues.
``max_calls``, Ray's way to release GPU memory, is for tasks; here the seat's child is replaced
instead (see ``nas.workers.seat``). Actors belong to the driver and end with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

# Before the import, which reads it: disables Ray's usage reports.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.errors import NasError, brief
from nas.interrupts import handled_as_before
from nas.job import Epoch, Failure, Job
from nas.job.pool import Done, Event, Reported
from nas.training.footprint import PROCESS
from nas.workers.machine import ANSWER, cards, environ, fitting
from nas.workers.seat import CANCELLED, Seat

log = logging.getLogger(__name__)

CENSUS = 2.0  # seconds between two checks of the cluster's nodes
IDLE = 10.0  # seconds that an idle seat is kept: others may wait for its resources
CONTROL = "control"  # the concurrency group of what must not wait for a job
FAREWELL = 10.0  # seconds for the seats to end their children, before Ray ends the seats


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one slot takes of its node: ``cpus``, ``gpus`` (may be a fraction), ``memory`` bytes."""

    cpus: float
    gpus: float
    memory: int = 0

    def slots(self, resources: Mapping[str, float]) -> int:
        """How many such shares fit into one node's resources, given by Ray's names.

        >>> Share(cpus=1, gpus=0.4).slots({"CPU": 16.0, "GPU": 2.0})  # a fraction is of one GPU
        4
        """
        fits = resources.get("CPU", 0.0) / self.cpus
        if self.gpus:
            per_gpu = int(1 / self.gpus + 1e-6) if self.gpus < 1 else 1 / self.gpus
            fits = min(fits, resources.get("GPU", 0.0) * per_gpu)
        if self.memory:
            fits = min(fits, resources.get("memory", 0.0) / self.memory)
        return int(fits + 1e-6)


def open_ray(
    address: str,
    *,
    workers: int | None,
    gpus: float | None,
    cpus: float,
    time_limit: float,
    memory_limit: int,
    memory_need: int,
) -> RayPool:
    """The pool behind ``nas.workers.open_pool``, which explains and checks the arguments."""
    with joined(address) as joining:
        if gpus is None:
            gpus = 1 / _at_once_on_a_card(memory_limit or memory_need) if _gpus() else 0.0
        share = Share(cpus=cpus, gpus=gpus, memory=memory_limit)
        if not memory_limit:
            share = replace(share, memory=_request(share, memory_need))
        leave = joining.pop_all()
    return RayPool(
        share=share,
        most=workers,
        leave=leave,
        seat={
            "time_limit": time_limit,
            "memory_limit": memory_limit,
            "directory": os.getcwd(),
            "path": tuple(sys.path),
            "environ": environ(max(1, int(cpus)), share.gpus),
            "shares_gpu": 0 < share.gpus < 1,
        },
    )


@dataclass(slots=True)
class _Joined:
    """The one cluster that a process can have joined, shared by its pools: its address, and what
    leaves it with the last pool."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    pools: int = 0
    address: str = ""
    leave: ExitStack = field(default_factory=ExitStack)


_joined = _Joined()


def joined(address: str) -> ExitStack:
    """The cluster for one more pool of this process, shared by searches in several threads; the
    first joins it. Returns what releases it: the last leaves it, unless the caller had joined it
    before. Raises NasError."""
    with _joined.turn:
        if not _joined.pools:
            _joined.leave = ExitStack() if ray.is_initialized() else _connect(address)
            _joined.address = address
        elif _joined.address != address:
            raise NasError(
                f"a search of this process runs on the cluster {_joined.address}, and a process "
                f"has one Ray: search on the cluster {address} in another process, or after it"
            )
        _joined.pools += 1
    leave = ExitStack()
    leave.callback(_left)
    return leave


def _left() -> None:
    with _joined.turn:
        _joined.pools -= 1
        if not _joined.pools:
            _joined.leave.close()


def _connect(address: str) -> ExitStack:
    """Joins a running cluster; returns what leaves it."""
    try:
        # Ray waits more than ten minutes for a head that is gone; connecting to its port does not.
        # Ray's own reading of "auto" and RAY_ADDRESS has no public name (2.60).
        resolved = canonicalize_bootstrap_address_or_die(address)
        host, _, port = resolved.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
        with handled_as_before():
            ray.init(address=resolved, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, AssertionError, RayError) as error:
        reason = brief(str(error), 300)
        raise NasError(f"Ray cluster {address!r} cannot be joined: {reason}") from error
    leave = ExitStack()
    leave.callback(ray.shutdown)
    return leave


def _request(share: Share, need: int) -> int:
    """The memory, in bytes, that a slot requests of its node for a predicted ``need``: that of its
    process only if it trains on a GPU; at most that of the largest node, so that a mere prediction
    never leaves a cluster without slots."""
    roomiest = max((n.get("memory", 0.0) for n in _nodes().values() if share.slots(n)), default=0.0)
    return int(min(need, PROCESS if share.gpus else need, roomiest))


def _at_once_on_a_card(need: int) -> int:
    """How many trainings share a GPU of the cluster, by its smallest; 1 where the need or the GPUs'
    memory is unknown."""
    look = ray.remote(num_cpus=0)(cards)
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node, resources in _nodes().items()
        if resources.get("GPU")
    ]
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=ANSWER)
    memories = list[int]()
    for node in ready:
        with contextlib.suppress(RayError):  # its node died meanwhile
            memories += ray.get(node)
    return fitting(min(memories), need) if need and memories else 1


def _nodes() -> dict[str, Mapping[str, float]]:
    """What each node of the cluster has, as Ray names both."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}


def _gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]


class RayPool:
    """A ``nas.job.pool.Pool`` over Ray actors; ``open_ray`` makes one.

    Seats are created on demand and kept as long as there is work for them; the slots change with
    the nodes.
    """

    def __init__(
        self,
        *,
        share: Share,
        most: int | None,
        leave: ExitStack,
        seat: Mapping[str, Any],
    ) -> None:
        self._share = share
        self._most = most
        self._leave = leave
        self._seat = seat
        options: dict[str, Any] = {
            "num_cpus": share.cpus,
            "num_gpus": share.gpus,
            "memory": share.memory or None,
            "max_restarts": 0,
            "max_task_retries": 0,
            "concurrency_groups": {CONTROL: 1},  # cancel and close are heard while a job runs
            "scheduling_strategy": "SPREAD",
        }
        self._actor: Any = ray.remote(**options)(Seat)
        self._waiting: dict[int, Job] = {}
        self._cancelled: list[int] = []  # tickets that were still waiting
        self._running: dict[Any, tuple[int, Any]] = {}  # a job's stream: its ticket and seat
        self._idle: list[tuple[float, Any]] = []  # since when, and the seat
        self._counted = (0.0, 0)

    @property
    def slots(self) -> int:
        when, count = self._counted
        if time.monotonic() - when > CENSUS or not when:
            count = sum(map(self._share.slots, _nodes().values()))
            self._counted = time.monotonic(), count
        return min(count, self._most) if self._most else count

    def submit(self, ticket: int, job: Job) -> None:
        self._waiting[ticket] = job
        self._start()

    def _start(self) -> None:
        """Starts waiting jobs while slots are free; a seat beyond those would never start."""
        while self._waiting and (self._idle or len(self._running) < self.slots):
            ticket, job = next(iter(self._waiting.items()))
            del self._waiting[ticket]
            seat = self._idle.pop()[1] if self._idle else self._actor.remote(**self._seat)
            stream = seat.run.options(num_returns="streaming").remote(ticket, job)
            self._running[stream] = ticket, seat

    def _make_room(self) -> None:
        """Releases seats that have been idle for long: another driver may need their resources, or
        a seat of ours that was requested while a dead node still counted."""
        while self._idle and time.monotonic() - self._idle[0][0] > IDLE:
            ray.kill(self._idle.pop(0)[1])

    def wait(self, timeout: float) -> list[Event]:
        self._start()
        self._make_room()
        if self._cancelled:
            failure = Failure(kind="cancelled", reason=CANCELLED)
            cancelled, self._cancelled = self._cancelled, []
            return [Done(ticket, failure) for ticket in cancelled]
        streams = list(self._running)
        if not streams:
            if self._waiting:  # for a node: the cluster has none at present
                time.sleep(min(timeout, CENSUS))
            return []
        ready, _ = ray.wait(streams, timeout=timeout)
        if ready and len(streams) > 1:
            ready, _ = ray.wait(streams, num_returns=len(streams), timeout=0)
        return [self._next(stream) for stream in ready]

    def _next(self, stream: Any) -> Event:
        ticket, seat = self._running[stream]
        try:
            item = ray.get(next(stream))
        except (RayError, StopIteration) as error:
            del self._running[stream]
            ray.kill(seat)
            reason = brief(str(error), 300) or type(error).__name__
            return Done(ticket, Failure(kind="worker_died", reason=reason))
        if isinstance(item, Epoch):
            return Reported(ticket, item)
        del self._running[stream]
        self._idle.append((time.monotonic(), seat))
        return Done(ticket, item)

    def cancel(self, ticket: int) -> None:
        if self._waiting.pop(ticket, None):
            self._cancelled.append(ticket)
        for running, seat in self._running.values():
            if running == ticket:
                seat.cancel.options(concurrency_group=CONTROL).remote(ticket)

    def close(self) -> None:
        seats = [seat for _, seat in [*self._idle, *self._running.values()]]
        self._idle, self._running, self._waiting, self._cancelled = [], {}, {}, []
        with self._leave:
            if ray.is_initialized():
                self._end(seats)

    def _end(self, seats: Sequence[Any]) -> None:
        ended = [seat.close.options(concurrency_group=CONTROL).remote() for seat in seats]
        if ended:
            ray.wait(ended, num_returns=len(ended), timeout=FAREWELL)
        for seat in seats:
            ray.kill(seat)
