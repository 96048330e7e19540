"""The pool on Ray: one actor per slot, each holding a ``Seat``; on this machine or on a cluster.

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
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

# Before the import, which reads it: disables Ray's usage reports.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.errors import NasError, brief
from nas.interrupts import handled_as_before
from nas.job import GIVEN_GPU, Epoch, Failure, Job
from nas.job.pool import Done, Event, Reported
from nas.training.footprint import PROCESS
from nas.workers import local_ray
from nas.workers.seat import CANCELLED, Seat, machine_memory

log = logging.getLogger(__name__)

ANSWER = 10.0  # seconds that a cluster's head may take to answer
CENSUS = 2.0  # seconds between two checks of the cluster's nodes
IDLE = 10.0  # seconds that an idle seat on a cluster is kept: others may wait for its resources
CONTROL = "control"  # the concurrency group of what must not wait for a job
A_CARD = 8  # trainings at once on a card: more gain nothing (benchmarks/card.py)
CONTEXT = 1 << 30  # bytes of a card that CUDA and its libraries take for a process
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
    *,
    workers: int | None,
    address: str | None,
    gpus: float | None,
    cpus: float,
    time_limit: float,
    memory_limit: int,
    memory_need: int,
) -> RayPool:
    """The pool behind ``nas.workers.open_pool``, which explains and checks the arguments."""
    if address:
        ours = local_ray.shared(address, lambda: _connect(address))
        if gpus is None:
            gpus = 1 / _at_once_on_a_card(memory_limit or memory_need) if _gpus() else 0.0
        share = Share(cpus=cpus, gpus=gpus, memory=memory_limit)
        if not memory_limit:
            share = replace(share, memory=_request(share, memory_need))
        threads, most = max(1, int(cpus)), workers
    else:
        most, threads = at_once(workers, memory_limit or memory_need)
        ours = local_ray.shared("", lambda: local_ray.start(most))
        have = _gpus()
        # Ray counts resources to four decimals
        share = Share(cpus=1, gpus=min(1.0, int(have / most * 1e4) / 1e4) if gpus is None else gpus)
        memory_limit = memory_limit or _room() // most
        if share.slots({"CPU": most, "GPU": have}) < most:
            if ours:
                ours.close()
            raise NasError(
                f"{most} at once do not fit with {share.gpus:g} GPUs each: there are {have:g}"
            )
        if ours:  # which another search of this process may use as well: ``most`` counts
            share = replace(share, cpus=0)
    return RayPool(
        share=share,
        most=most,
        fixed=not address,
        leave=ours or ExitStack(),  # a Ray that the caller started is not ended here
        seat={
            "time_limit": time_limit,
            "memory_limit": memory_limit,
            "directory": os.getcwd(),
            "path": tuple(sys.path),
            "environ": _environ(threads, share.gpus),
            "shares_gpu": 0 < share.gpus < 1,
        },
    )


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


def _room() -> int:
    return int(0.9 * machine_memory())


def at_once(workers: int | None, need: int) -> tuple[int, int]:
    """How many jobs this machine runs in parallel, and the threads of each. By default one per
    core, as far as memory allows (``need`` bytes each; 0: unknown), and no more than its GPUs take.
    With 0 ``workers``: in this process, with all threads."""
    cores, room = os.cpu_count() or 1, _room()
    if workers is not None:
        return max(1, workers), max(1, cores // max(1, workers))
    most = max(1, min(cores, room // need)) if need else cores
    if memories := visible_cards():
        most = min(most, sum(fitting(memory, need) for memory in memories))
    elif most < cores:
        held = f"a trial may need {need / 2**30:.1f} GiB, and {room / 2**30:.1f} are available"
        least = "most is for the images of a batch: a smaller --recipe batch=N or --size needs less"
        log.warning("%d at once on %d cores: %s; %s (--workers N runs N)", most, cores, held, least)
    return most, max(1, cores // most)


def fitting(memory: int, need: int) -> int:
    """How many trainings of ``need`` bytes should share a GPU with ``memory`` bytes."""
    return max(1, min(A_CARD, memory // (need + CONTEXT)))


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
    memories = [memory for node in ready for memory in ray.get(node)]
    return fitting(min(memories), need) if need and memories else 1


def visible_cards() -> list[int]:
    """As ``cards``, of those visible to this process."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return cards()[: None if seen is None else len(list(filter(str.strip, seen.split(","))))]


def cards() -> list[int]:
    """Bytes of memory of each GPU of this machine."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    lines = []
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # no such program, or no card
        lines = subprocess.run(
            query, capture_output=True, timeout=ANSWER, check=True
        ).stdout.splitlines()
    return [int(line) << 20 for line in lines if line.strip().isdigit()]


def _nodes() -> dict[str, Mapping[str, float]]:
    """What each node of the cluster has, as Ray names both."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}


def _gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]


def _environ(threads: int, gpus: float) -> dict[str, str]:
    """The environment variables that limit a trial to its share of the node."""
    environ = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)
    )
    if gpus == 0:
        environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all visible to an actor without GPUs
        return environ
    environ[GIVEN_GPU] = "1"
    if gpus < 1:
        # a candidate too big for its share fails by itself, not its neighbours on the GPU
        environ["PYTORCH_ALLOC_CONF"] = f"per_process_memory_fraction:{gpus:g}"
    return environ


class RayPool:
    """A ``nas.job.pool.Pool`` over Ray actors; ``open_ray`` makes one.

    Seats are created on demand and kept; on a cluster as long as there is work for them, and the
    slots change with the nodes.
    """

    def __init__(
        self,
        *,
        share: Share,
        most: int | None,
        fixed: bool,
        leave: ExitStack,
        seat: Mapping[str, Any],
    ) -> None:
        self._share = share
        self._most = most
        self._fixed = fixed
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
        if self._fixed and self._most:
            return self._most
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
        while not self._fixed and self._idle and time.monotonic() - self._idle[0][0] > IDLE:
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
