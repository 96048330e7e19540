"""Calibration of the sampler's intervals: how often they contain values it has not seen.

    python benchmarks/calibration.py --data ../shared/benchmarks --seeds 2

On tables of trained networks, after 50 and 100 trainings drawn at random, or chosen by the search
for the metric alone ("one") or for the metric and its cost ("two"): the share of untrained networks
inside their 80% posterior intervals, over the whole table and among its best tenth, and the share
of cases in which that is from 70 to 90%. The truth is the mean of all trainings of a network.
"""

from __future__ import annotations

import argparse
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, create_trial
from search_efficiency import Study
from search_tasks import Params, Task, macro, transnas

from nas.samplers.ehvi import EHVISampler
from nas.samplers.encoding import Encoding

COUNTS = (50, 100)
UNSEEN = 1200  # networks whose intervals are checked: 80% of these is known to 1.2%
TASKS = ("class_object", "room_layout", "jigsaw", "autoencoder", "normal", "segmentsemantic")


def tables(data: Path) -> dict[str, Callable[[], Task]]:
    made = {"macro": lambda: macro(data), "macro, params": lambda: macro(data, "params")}
    for task in ("class_scene", *TASKS):
        made[task] = lambda task=task: transnas(data, task)  # type: ignore[misc]
    return made


def unseen(
    task: Task, seen: set[tuple[object, ...]], seed: int
) -> list[tuple[Params, list[float]]]:
    """Parameter sets of networks that are not ``seen``, with their metric and cost."""
    chance, rng = random.Random(seed), np.random.default_rng(seed)
    encoding = Encoding.of(task.distributions)
    found: dict[tuple[object, ...], tuple[Params, list[float]]] = {}
    for row in rng.permutation(encoding.every()):
        params = encoding.params(row)
        whole = task.complete(params, chance) if task.complete else params
        network, key = task.look(whole), tuple(whole.values())
        if network is not None and key not in seen:
            found.setdefault(key, (whole, list(network.truth)))
        if len(found) == UNSEEN:
            break
    return list(found.values())


def held(task: Task, mode: str, seed: int) -> Iterator[tuple[int, float, float]]:
    """After each of ``COUNTS``: the shares inside, of all and of the best tenth."""
    objectives = 1 if mode == "one" else 2
    sampler = EHVISampler(seed, task.problem(objectives))
    asked = Study(task, RandomSampler(seed) if mode == "random" else sampler, objectives)
    rng = np.random.default_rng(seed)
    seen: set[tuple[object, ...]] = set()
    while len(seen) < max(COUNTS):
        params = asked.ask()
        network = task.look(params)
        if network is None:
            asked.tell(None)
            continue
        asked.tell([float(rng.choice(network.trainings)), network.cost][:objectives])
        seen.add(tuple(params.values()))
        if len(seen) in COUNTS:
            others = unseen(task, seen, seed)
            trials = [_trial(task, params, truth[:objectives]) for params, truth in others]
            judge = EHVISampler(seed, task.problem(objectives))
            found = judge.believed(asked._study, trials)
            assert found is not None
            truth = np.array([values[0] for _, values in others])
            low, high = (end[:, 0] for end in found.interval(0.8))
            inside = (low <= truth) & (truth <= high)
            best = truth >= np.quantile(truth, 0.9)
            yield len(seen), float(inside.mean()), float(inside[best].mean())


def _trial(task: Task, params: Params, values: list[float]) -> FrozenTrial:
    domains = {name: task.distributions[name] for name in params}
    return create_trial(params=params, distributions=domains, values=values)


def main() -> None:
    parser = argparse.ArgumentParser(description="What intervals are worth.")
    parser.add_argument("--data", type=Path, default=Path("../shared/benchmarks"))
    parser.add_argument("--problems", default="", help="names, separated by ';' (default: all)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    told = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = tables(told.data)
    shares: list[tuple[float, float]] = []
    for name in told.problems.split(";") if told.problems else known:
        task = known[name]()
        own: list[tuple[float, float]] = []
        for seed in range(told.first_seed, told.first_seed + told.seeds):
            for mode in ("random", "two", "one"):
                own += [(everywhere, top) for _, everywhere, top in held(task, mode, seed)]
        print(f"{name:16} {summary(own)}", flush=True)
        shares += own
    print(f"{'all':16} {summary(shares)}")


def summary(shares: list[tuple[float, float]]) -> str:
    told = np.array(shares)
    within = ((told >= 0.7) & (told <= 0.9)).mean(axis=0)
    return "held {:.3f}, best tenth {:.3f}; cases within 70 to 90%: {:.2f}, {:.2f} of {}".format(
        *told.mean(axis=0), *within, len(told)
    )


if __name__ == "__main__":
    main()
