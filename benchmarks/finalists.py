"""The quality of ``nas report``'s pick: the true accuracy of the winner, at equal trainings.

    python benchmarks/finalists.py --data ../shared/benchmarks --seeds 20

A search of 60 evaluations on a table of trained networks; then its finalists, the best of the
posterior front, are trained again: each equally often, by sequential halving with as many
trainings, and by sequential halving with the posterior as the prior, which is what ``nas report``
does. A training is a random one of the table's, with added ``noise`` (in standard deviations of the
metric). Reports the regret: how much better the best network evaluated by the search is, in the
metric's units; the mean of 80 draws per seed, and the standard error over seeds.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState
from search_efficiency import Study
from search_tasks import DIRECTIONS, Network, Task, macro, mixed, transnas

from nas import pareto
from nas.driver.halving import Prior, halve
from nas.samplers.ehvi import EHVISampler

EVALUATIONS, DRAWS, TOP, SEEDS = 60, 80, 3, 3


@dataclass(frozen=True)
class Found:
    """What a search has: of each network the truth and the training, and what is believed."""

    networks: tuple[Network, ...]
    priors: tuple[Prior, ...]
    finalists: tuple[int, ...]
    luck: float  # variance of a training about what is believed of it
    noise: float

    def train(self, k: int, rng: np.random.Generator) -> float:
        return float(rng.choice(self.networks[k].trainings) + self.noise * rng.standard_normal())


def search(task: Task, seed: int, noise: float) -> Found:
    everything = np.array([network.truth for network in task.networks])
    luck = noise * everything[:, 0].std()
    rng = np.random.default_rng([seed, 7])
    sampler = EHVISampler(seed, task.problem(2))
    study = Study(task, sampler, 2)
    networks: list[Network] = []
    measured: list[float] = []
    while len(networks) < EVALUATIONS:
        network = task.look(study.ask())
        if network is None:
            study.tell(None)
            continue
        networks.append(network)
        measured.append(float(rng.choice(network.trainings) + luck * rng.standard_normal()))
        study.tell([measured[-1], network.cost])
    done = study._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    believed = sampler.believed(study._study, done)
    assert believed is not None
    means, deviations = believed.mean[:, 0], believed.deviation[:, 0]
    front = pareto.front(np.stack([means, [n.cost for n in networks]], axis=1), DIRECTIONS)
    return Found(
        networks=tuple(networks),
        priors=tuple(Prior(float(m), float(d)) for m, d in zip(means, deviations, strict=True)),
        finalists=tuple(sorted(front, key=lambda k: -means[k])[:TOP]),
        luck=float(np.mean((np.array(measured) - means) ** 2)),
        noise=luck,
    )


def equally(found: Found, rng: np.random.Generator) -> int:
    means = [np.mean([found.train(k, rng) for _ in range(SEEDS)]) for k in found.finalists]
    return found.finalists[int(np.argmax(means))]


def halved(found: Found, rng: np.random.Generator, priors: Sequence[Prior]) -> int:
    some = found.finalists
    order, _ = halve(priors, SEEDS * len(some), found.luck, lambda k, _: found.train(some[k], rng))
    return some[order[0]]


WAYS: dict[str, Callable[[Found, np.random.Generator], int]] = {
    "believed, nothing trained again": lambda found, _: found.finalists[0],
    "each 3 times": equally,
    "halving": lambda found, rng: halved(found, rng, [Prior(0.0, math.inf)] * len(found.finalists)),
    "halving, beliefs as priors": lambda found, rng: halved(
        found, rng, [found.priors[k] for k in found.finalists]
    ),
    "the truth": lambda found, _: max(found.finalists, key=lambda k: found.networks[k].truth[0]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="What a pick is worth.")
    parser.add_argument("--data", type=Path, default=Path("../shared/benchmarks"))
    parser.add_argument("--problems", default="macro:0;macro:.15;class_scene:.15;mixed:0")
    parser.add_argument("--seeds", type=int, default=20)
    told = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tasks: dict[str, Callable[[], Task]] = {
        "macro": lambda: macro(told.data),
        "class_scene": lambda: transnas(told.data, "class_scene"),
        "mixed": mixed,
    }
    for problem in told.problems.split(";"):
        name, _, noise = problem.partition(":")
        task = tasks[name]()
        searches = [search(task, seed, float(noise)) for seed in range(told.seeds)]
        print(f"{name}, noise {float(noise):g}", flush=True)
        for way, pick in WAYS.items():
            regrets = []
            for seed, found in enumerate(searches):
                rng = np.random.default_rng(seed)
                best = max(network.truth[0] for network in found.networks)
                picks = [found.networks[pick(found, rng)].truth[0] for _ in range(DRAWS)]
                regrets.append(best - np.mean(picks))
            error = np.std(regrets, ddof=1) / math.sqrt(len(regrets))
            print(f"  {way:32} {np.mean(regrets):.3f} ± {error:.3f}", flush=True)


if __name__ == "__main__":
    main()
