"""What a search says that going on will bring, beside what it brings: on tables of networks.

    python benchmarks/outlook.py --data ../shared/benchmarks --seeds 6

After 12, 24 and 50 trainings of a search with two objectives, as many again are foreseen
(``nas.driver.outlook``), and then done: by how much the metric is better at equal cost, on average
over the logarithm of the cost. "ratio" is what came over what was foreseen, of all forecasts
together; "held" the share inside the 80% intervals that a search prints.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState
from search_tasks import Task, macro, mixed, steps, transnas

from nas.driver.outlook import gains, interval
from nas.samplers.ehvi import EHVISampler

AFTER = (12, 24, 50)
SIGNS = np.array([-1.0, 1.0])  # the metric is maximised, the cost minimised


def minimised(values: np.ndarray) -> np.ndarray:
    """Values (..., 2) as the outlook weighs them, the cost by its logarithm."""
    return np.stack([-values[..., 0], np.log10(values[..., 1])], axis=-1)


def forecasts(task: Task, seed: int) -> dict[int, tuple[float, float, float, float]]:
    """By trainings: mean and ends of what as many again were foreseen to bring, and what came."""
    sampler = EHVISampler(seed, task.problem(2))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    rng = np.random.default_rng([seed, 7])
    foreseen, seen = {}, []
    while len(seen) < 2 * max(AFTER):
        params = task.suggest(trial := study.ask())
        network = task.look(params)
        if network is None:
            study.tell(trial, state=TrialState.FAIL)
            continue
        seen.append([float(rng.choice(network.trainings)), network.cost])
        study.tell(trial, seen[-1])
        if len(seen) in AFTER:
            futures = sampler.futures(study, len(seen))
            assert futures is not None
            foreseen[len(seen)] = gains(minimised(np.array(seen)), minimised(futures), 0)
    values = minimised(np.array(seen))
    came = {n: gains(values[:n], values[None, : 2 * n], 0)[0] for n in AFTER}
    return {n: (float(g.mean()), *interval(g), float(came[n])) for n, g in foreseen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="What going on is said to bring, and brings.")
    parser.add_argument("--data", type=Path, default=Path("../shared/benchmarks"))
    parser.add_argument("--seeds", type=int, default=6)
    told = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tasks = [macro(told.data), *(transnas(told.data, t) for t in ("class_scene", "jigsaw"))]
    tasks += [transnas(told.data, "room_layout"), mixed(), steps()]
    found = defaultdict(list)
    for task in tasks:
        for seed in range(told.seeds):
            for n, row in forecasts(task, seed).items():
                found[task.name, n].append(row)
                found["all", n].append(row)
        for name in (task.name, "all"):
            for n in AFTER:
                mean, low, high, came = np.array(found[name, n]).T
                held = ((low <= came) & (came <= high)).mean()
                ratio = came.sum() / mean.sum()
                print(f"{name}, {n}: ratio {ratio:.2f}, held {held:.2f} of {len(came)}", flush=True)


if __name__ == "__main__":
    main()
