"""What the driver does between two looks at its pool, in a search with rungs.

    python benchmarks/looks.py [--counts 100,300,600] [--slots 8] [--epochs 18]

A pool that answers by a formula reports every epoch of every job as an event of its own. Timed is
from what `wait` gives to the next `wait`: for an epoch's event, which changes nothing, and for the
end of a training, without the sampler's time, which draws at random. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import time
from collections import deque
from pathlib import Path

import optuna

from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.job import Epoch, Job, Result
from nas.job.pool import Done, Event, Reported
from nas.language.architecture import parse
from nas.spaces.space import load_space
from nas.store import open_store

RUNGS = (2, 6)
LAST = 100  # candidates whose events are timed at each count


class Formula:
    """Jobs that go on by an epoch a ``wait``, in turns; errors fall as a power of the epochs that
    is the architecture's own."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.jobs: deque[tuple[int, Job, int]] = deque()
        self.begun = 0
        self.since: tuple[str, float] | None = None
        self.took: list[tuple[int, str, float]] = []  # candidates so far, kind of event, seconds

    def submit(self, ticket: int, job: Job) -> None:
        self.begun += job.epochs == RUNGS[0]
        self.jobs.append((ticket, job, 1))

    def wait(self, timeout: float) -> list[Event]:
        if self.since and timeout:
            kind, then = self.since
            self.took.append((self.begun, kind, time.perf_counter() - then))
        self.since = None
        if not self.jobs or not timeout:
            return []
        ticket, job, epoch = self.jobs.popleft()
        done = epoch == job.epochs
        if not done:
            self.jobs.append((ticket, job, epoch + 1))
        event: Event = Reported(ticket, Epoch(epoch=epoch, train_loss=1.0, accuracy=0.5, seconds=0))
        if done:
            event = Done(ticket, Result(metrics={"accuracy": accuracy(job)}))
        self.since = ("end" if done else "epoch"), time.perf_counter()
        return [event]

    def cancel(self, ticket: int) -> None:
        pass

    def close(self) -> None:
        pass


def accuracy(job: Job) -> float:
    network = parse(job.pattern)
    own = random.Random(network.fingerprint)
    error = 0.1 + 0.15 * own.random() + 0.15 / math.log10(network.params)
    return max(0.0, 1 - error * (18 / job.epochs) ** (0.1 + 0.8 * own.random()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="resnet_like")
    parser.add_argument("--counts", default="100,300,600")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=18)
    told = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    counts = [int(count) for count in told.counts.split(",")]
    pool, waiting = Formula(told.slots), [0]
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{Path(folder, 'looks.db')}")
        plan = Plan(
            study="looks",
            space=load_space(told.space, (3, 32, 32), 10),
            job=Job(pattern="", evaluator="looks:formula", epochs=told.epochs, latency=False),
            trials=max(counts),
            sampler="random",
            rungs=(*RUNGS, told.epochs),
        )
        search(plan, store, pool, lambda status: waiting.append(status.paused))
        store.close()
    print(f"Up to {max(waiting)} candidates wait at a rung.\n")
    print(
        "| candidates | an epoch, ms | 90 % | a training's end, ms | 90 % |\n|--:|--:|--:|--:|--:|"
    )
    for count in counts:
        cells = []
        for kind in ("epoch", "end"):
            some = [t for n, k, t in pool.took if k == kind and count - LAST < n <= count]
            cells += [statistics.median(some), statistics.quantiles(some, n=10)[-1]]
        print(f"| {count} | {' | '.join(f'{1e3 * cell:.2f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
