"""What a search finds in a given time, where an improvement counts by what it takes.

    python benchmarks/by_the_hour.py --data ../shared/benchmarks --seeds 10

Tables of trained networks, and two made-up spaces; a training takes seconds in proportion to the
network's cost (FLOPs; of ``mixed`` the parameters), and a tenth of the mean whatever it is. The
score is the hypervolume of metric and cost, as in ``search_efficiency.py``, after as many seconds
as 10, 20, 30 and 40 trainings take on average: of the search by trials, and where an expected
improvement is divided by the seconds to a power (``nas.samplers.ehvi.PAID``). Differences are
seed by seed; means and standard errors.
"""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState
from search_tasks import Network, Params, Task, macro, mixed, steps, transnas

from nas.samplers import ehvi

MARKS = (10, 20, 30, 40)  # average trainings


def run(task: Task, seed: int, power: float) -> list[float]:
    """The hypervolume at each of ``MARKS``, over all there is."""
    drawn = task.everything[:2000] if task.name in ("mixed", "steps") else task.everything
    mean = drawn[:, 1].mean()

    def took(network: Network) -> float:
        return float(0.1 + 0.9 * network.cost / mean)

    def seconds(params: Params) -> float:
        network = task.look(params)
        return took(network) if network else 1.0

    problem = dataclasses.replace(task.problem(2), seconds=seconds if power else None)
    ehvi.PAID = power
    sampler = ehvi.EHVISampler(seed, problem)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    rng = np.random.default_rng([seed, 7])
    scores: list[float] = []
    spent, truths = 0.0, []
    while len(scores) < len(MARKS):
        params = task.suggest(trial := study.ask())
        network = task.look(params)
        if network is None:
            study.tell(trial, state=TrialState.FAIL)
            continue
        spent += took(network)
        while len(scores) < len(MARKS) and spent > MARKS[len(scores)]:  # it ends too late
            scores.append(task.share(truths))
        study.tell(trial, [float(rng.choice(network.trainings)), network.cost])
        truths.append(network.truth)
    return scores


def shown(values: np.ndarray) -> str:
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0 * values[0]
    return "  ".join(f"{m:+.3f} ± {e:.3f}" for m, e in zip(values.mean(axis=0), error, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="What a search finds in so many seconds.")
    parser.add_argument("--data", type=Path, default=Path("../shared/benchmarks"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--powers", default="0.5,1", help="beside 0, the search by trials")
    told = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tasks = [macro(told.data), *(transnas(told.data, t) for t in ("class_scene", "jigsaw"))]
    tasks += [transnas(told.data, "room_layout"), mixed(), steps()]
    powers = [0.0, *map(float, told.powers.split(","))]
    found = defaultdict(list)
    for seed in range(told.seeds):
        for task in tasks:
            for power in powers:
                found[task.name, power].append(run(task, seed, power))
        print(f"{seed + 1} of {told.seeds} seeds", flush=True)
        more = defaultdict(list)
        for task in tasks:
            plain = np.array(found[task.name, 0.0])
            print(f"{task.name}, by trials: {shown(plain)}")
            for power in powers[1:]:
                difference = np.array(found[task.name, power]) - plain
                more[power] += [*difference]
                print(f"{task.name}, power {power:g}: {shown(difference)}")
        for power, differences in more.items():
            print(f"all, power {power:g}: {shown(np.array(differences))}", flush=True)


if __name__ == "__main__":
    main()
