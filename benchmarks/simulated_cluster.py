"""How busy a search keeps a cluster of simulated trainings, and what the driver costs.

    python benchmarks/simulated_cluster.py [--slots 64] [--seconds 10] [--trials 1000]
        [--samplers random,default] [--every 500] [--filled 0]

The clock advances with the driver's processor time and jumps while it waits: an hour of a cluster
takes only as long as its driver computes, and the machine's other work and its disk are left out. A
training takes a time drawn from its architecture's fingerprint, within a factor of two of
``--seconds``, and its accuracy is a formula. Busy is the share of the slots' time spent training,
from the first ask until the last training begins; with the first fill, in which every slot waits
for its first candidate, and without. Prints a table in Markdown, a row per ``--every`` trials; the
first row includes the first fill. With ``--filled`` the study begins with that many random finished
trials: what a search costs late in a study is then known in minutes.
"""

from __future__ import annotations

import argparse
import heapq
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from driver_overhead import fill

from nas.driver import leases, loop
from nas.driver.plan import Plan
from nas.driver.tally import Status
from nas.job import Job, Result
from nas.job.pool import Done, Event
from nas.language.architecture import parse
from nas.spaces.space import load_space
from nas.store import open_store


class Clock:
    """The time since it was made: real time, and what was skipped."""

    def __init__(self) -> None:
        self.begun, self.skipped = time.process_time(), 0.0

    def now(self) -> float:
        return time.process_time() - self.begun + self.skipped

    def sleep(self, seconds: float) -> None:
        self.skipped += max(0.0, seconds)


@contextmanager
def told_by(clock: Clock) -> Iterator[None]:
    """The driver's loop and its leases by another clock than the machine's."""
    machine: Any = loop.time
    loop.time = leases.time = SimpleNamespace(monotonic=clock.now, sleep=clock.sleep)  # type: ignore[assignment]
    try:
        yield
    finally:
        loop.time = leases.time = machine


class Simulated:
    """A pool of simulated slots, each busy with a training until the clock says otherwise."""

    def __init__(self, slots: int, seconds: float, clock: Clock) -> None:
        self.slots, self.seconds, self.clock = slots, seconds, clock
        self.ends: list[tuple[float, int, Job]] = []
        self.begun: list[tuple[float, float]] = []  # of every training: when, and for how long

    def submit(self, ticket: int, job: Job) -> None:
        length = self.seconds * 2 ** random.Random(job.pattern).uniform(-1, 1)
        self.begun.append((self.clock.now(), length))
        heapq.heappush(self.ends, (self.clock.now() + length, ticket, job))

    def wait(self, timeout: float) -> list[Event]:
        if self.ends:
            self.clock.sleep(min(self.ends[0][0] - self.clock.now(), timeout))
        events: list[Event] = []
        while self.ends and self.ends[0][0] <= self.clock.now():
            _, ticket, job = heapq.heappop(self.ends)
            events.append(Done(ticket, Result(metrics={"accuracy": accuracy(job)}, seconds=1.0)))
        return events

    def cancel(self, ticket: int) -> None:
        self.ends = [end for end in self.ends if end[1] != ticket]
        heapq.heapify(self.ends)

    def close(self) -> None:
        self.ends.clear()

    def busy(self, since: float, until: float) -> float:
        """The share of the slots' time between two moments in which they train."""
        spent = (min(when + length, until) - max(when, since) for when, length in self.begun)
        return sum(max(0.0, part) for part in spent) / (self.slots * max(until - since, 1e-9))


def accuracy(job: Job) -> float:
    """Grows with the size, but for luck."""
    network = parse(job.pattern)
    luck = random.Random(network.fingerprint).random()
    return 1 - 1 / (2 + network.params / 1e4) - 0.3 * luck


@dataclass(frozen=True)
class Moment:
    """After ``done`` trials: the cluster's clock and the driver's processor seconds."""

    done: int
    clock: float
    processor: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="resnet_like")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--samplers", default="random,default")
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--filled", type=int, default=0)
    told = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{told.slots} slots, trainings of about {told.seconds:g} s, {os.cpu_count()} cores.\n")
    print("| sampler | trials | busy, these | driver, ms a trial | memory, MiB |")
    print("|---|--:|--:|--:|--:|")
    for sampler in told.samplers.split(","):
        with tempfile.TemporaryDirectory() as folder:
            simulate(told, sampler, f"sqlite:///{Path(folder, 'record.db')}")


def prefill(url: str, plan: Plan, count: int) -> None:
    store = open_store(url)
    fill(store, plan, count)
    store.close()


def simulate(told: argparse.Namespace, sampler: str, url: str) -> None:
    plan = Plan(
        study="simulated",
        space=load_space(told.space, (3, 32, 32), 10),
        job=Job(pattern="", evaluator="simulated_cluster:formula", latency=False),
        trials=told.filled + told.trials,
        sampler=sampler,
    )
    if told.filled:  # by another process: its memory is not the driver's
        filling = multiprocessing.get_context("spawn").Process(
            target=prefill, args=(url, plan, told.filled)
        )
        filling.start()
        filling.join()
    clock = Clock()
    pool, begun = Simulated(told.slots, told.seconds, clock), time.process_time()
    last = [Moment(told.filled, 0.0, 0.0)]

    def look(status: Status) -> None:
        before = last[0]
        # Once the last training has begun, slots are idle for want of trials, not of the driver.
        if status.done < before.done + told.every or len(pool.begun) == told.trials:
            return
        memory = int(Path("/proc/self/statm").read_text().split()[1]) / 256  # of pages of 4 KiB
        now = Moment(status.done, clock.now(), time.process_time() - begun)
        cost = 1e3 * (now.processor - before.processor) / (now.done - before.done)
        share = f"{pool.busy(before.clock, now.clock):.1%}"
        print(f"| {sampler} | {now.done:,} | {share} | {cost:.0f} | {memory:.0f} |", flush=True)
        last[0] = now

    store = open_store(url)
    with told_by(clock):
        loop.search(plan, store, pool, look)
    store.close()
    end = max(when for when, _ in pool.begun)
    filled = pool.begun[min(told.slots, len(pool.begun)) - 1][0]
    whole, steady = pool.busy(0.0, end), pool.busy(filled, end)
    print(f"| {sampler} | all, with the first fill of {filled:.0f} s | {whole:.1%} | | |")
    print(f"| {sampler} | all, after it | {steady:.1%} | | |", flush=True)


if __name__ == "__main__":
    main()
