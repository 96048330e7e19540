"""What a search finds with many slots: candidates asked for early, and several at once.

    python benchmarks/parallel_asks.py --data ../shared/benchmarks [--slots 64] [--seeds 6]
        [--evaluations 200] [--problems "macro;class_scene"] [--asked "in time;driver"]

The tables of ``search_efficiency.py``, and its sampler ``ehvi, told``. So many slots train, each
for a time drawn within a factor of two of ``--seconds``. ``in time``: one candidate whenever a slot
is free, and an ask takes no time. ``driver``: as the driver asks, ahead of need, several at once
where it falls behind, and late in the ``--evaluations`` for a network that was evaluated, where
that pays more; an ask takes its time. ``at once``: always as many as are wanted. Prints the
hypervolume found by and picked from the first evaluations to end, over that of the whole table: the
mean over seeds, the difference from ``in time`` seed by seed, and its standard error.
"""

from __future__ import annotations

import argparse
import heapq
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import Trial, TrialState
from search_tasks import DIRECTIONS, Params, Task, macro, mixed, transnas

from nas import pareto
from nas.driver.asking import AT_ONCE
from nas.driver.supply import AHEAD, LATE, LEARNED
from nas.samplers.ehvi import EHVISampler

ONE, MORE = 0.16, 0.02  # seconds of an ask, and of each further candidate of it
BEGUN = (TrialState.RUNNING, TrialState.COMPLETE)
COUNTS = (25, 50, 100, 150, 200, 300, 400)


class Slots:
    """Trains what the sampler proposes, ``slots`` at a time."""

    def __init__(
        self, task: Task, seed: int, slots: int, seconds: float, way: str, budget: int
    ) -> None:
        self.task, self.slots, self.seconds, self.way = task, slots, seconds, way
        self.budget = budget
        self.ahead = 0 if way == "in time" else max(slots // AHEAD, min(slots - 1, 1))
        self.sampler = EHVISampler(seed, task.problem(2))
        self.study = optuna.create_study(directions=["maximize", "minimize"], sampler=self.sampler)
        self.rng = np.random.default_rng([seed, 7])
        self.ready: deque[tuple[Trial, Params]] = deque()
        self.queued = 0
        self.ends: list[tuple[float, int, Trial, Params]] = []
        self.now = self.trained = 0.0

    def fill(self) -> bool:
        """One thing, as ``Supply.fill``; whether there was one to do."""
        room = self.slots - len(self.ends)
        if room and self.ready:
            trial, params = self.ready.popleft()
            length = self.seconds * 2 ** self.rng.uniform(-1, 1)
            heapq.heappush(self.ends, (self.now + length, trial.number, trial, params))
            self.trained += length
            return True
        ahead = max(room, self.ahead)
        if len(self.ready) >= ahead:
            return False
        short = len(self.ready) < ahead / 2 or self.way == "at once"
        self.ask(ahead - len(self.ready) if short and self.way != "in time" else 1)
        return True

    def ask(self, wanted: int) -> None:
        # The first fill is drawn at random in any way, and here the same for all.
        filled = len(self.study.get_trials(deepcopy=False)) >= self.slots
        if filled and self.way != "in time":
            self.now += MORE if self.queued else ONE
        told: list[Params] = []
        if filled and not self.queued and wanted > 1:
            told = self.sampler.propose(self.study, min(wanted, AT_ONCE))
        elif not self.queued and self.late() and (advice := self.sampler.advise(self.study)):
            told = [advice[0]]
        for params in told:
            self.study.enqueue_trial(params)
            self.queued += 1
        trial = self.study.ask()
        self.queued = max(0, self.queued - 1)
        params = self.task.suggest(trial)
        if self.task.look(params) is None:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.ready.append((trial, params))

    def late(self) -> bool:
        """As ``Supply.late``, by the trials that were asked for."""
        asked = len(self.study.get_trials(deepcopy=False, states=BEGUN))
        left = self.budget - asked
        return self.way == "driver" and asked >= LEARNED and left <= LATE * self.budget

    def evaluations(self) -> Iterator[tuple[float, float]]:
        """The truths of what was trained, as the trainings end."""
        while True:
            if (not self.ends or self.ends[0][0] > self.now) and self.fill():
                continue
            end, _, trial, params = heapq.heappop(self.ends)
            self.now = max(self.now, end)
            network = self.task.look(params)
            assert network is not None
            self.study.tell(trial, [float(self.rng.choice(network.trainings)), network.cost])
            yield network.truth


def scores(told: argparse.Namespace, task: Task, seed: int, way: str) -> list[tuple[float, float]]:
    """Found and picked at each of ``COUNTS``."""
    slots = Slots(task, seed, told.slots, told.seconds, way, told.evaluations)
    ended, reached = list[tuple[float, float]](), []
    for truth in slots.evaluations():
        ended.append(truth)
        if len(ended) in COUNTS:
            done = slots.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            truths = [_truth(task, trial.params) for trial in done]
            believed = slots.sampler.posterior(slots.study, done)[0]
            picked = [truths[k] for k in pareto.front(believed, DIRECTIONS)]
            reached.append((task.share(ended), task.share(picked)))
        if len(ended) >= told.evaluations:
            return reached
    raise AssertionError


def _truth(task: Task, params: Params) -> tuple[float, float]:
    network = task.look(params)
    assert network is not None
    return network.truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/benchmarks"))
    parser.add_argument("--problems", default="macro;class_scene")
    parser.add_argument("--asked", default="in time;driver")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a training")
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    told = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = {"macro": lambda: macro(told.data), "mixed": mixed}
    made["class_scene"] = lambda: transnas(told.data, "class_scene")
    tasks = [made[name]() for name in told.problems.split(";")]
    ways = told.asked.split(";")
    counts = [n for n in COUNTS if n <= told.evaluations]
    reached: dict[tuple[str, str], list[list[tuple[float, float]]]] = {}
    for seed in range(told.first, told.first + told.seeds):
        for task in tasks:
            for way in ways:
                reached.setdefault((task.name, way), []).append(scores(told, task, seed, way))
                print("raw", task.name, way, seed, reached[task.name, way][-1], flush=True)
    head = " | ".join(f"{name} {n}" for name in ("found", "picked") for n in counts)
    print(f"| {told.slots} slots | asked | {head} |\n|---|---|{'--:|' * 2 * len(counts)}")
    for (name, way), runs in reached.items():
        values, plain = (np.array(r) for r in (runs, reached[name, ways[0]]))
        cells = []
        for kind in (0, 1):
            for k in range(len(counts)):
                mean, away = values[:, k, kind].mean(), (values - plain)[:, k, kind]
                error = away.std(ddof=1) / np.sqrt(len(away))
                less = f" ({away.mean():+.3f} ± {error:.3f})" if way != ways[0] else ""
                cells.append(f"{mean:.3f}{less}")
        print(f"| {name} | {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
