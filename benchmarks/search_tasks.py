"""The problems of ``search_efficiency.py``: tables of trained networks, and a made-up space."""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import Trial

import nas
from nas import pareto
from nas.driver import proposals
from nas.samplers.encoding import Encoding
from nas.samplers.problem import Problem

DIRECTIONS: tuple[pareto.Direction, ...] = ("max", "min")

Params = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """What is known of one network: the metric after each of its trainings, and its cost."""

    trainings: tuple[float, ...]
    cost: float

    @property
    def truth(self) -> tuple[float, float]:
        return float(np.mean(self.trainings)), self.cost


@dataclass(frozen=True)
class Task:
    """A space, and the network of each of its parameter sets (None: the set is no network).

    ``networks`` are all there are, or a fair sample and the best that are known; ``needs`` what a
    parameter needs to be active: another one, at least so great.
    """

    name: str
    suggest: Callable[[Trial], Params]
    look: Callable[[Params], Network | None]
    networks: tuple[Network, ...]
    distributions: Mapping[str, BaseDistribution]
    complete: Callable[[Params, random.Random], Params] | None = None
    proposals: int = 1000
    needs: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @cached_property
    def everything(self) -> NDArray[np.float64]:
        """The truths of all networks, (n, 2)."""
        return np.array([network.truth for network in self.networks])

    @cached_property
    def worst(self) -> NDArray[np.float64]:
        """The corner behind all of them: the least metric and the greatest cost."""
        return pareto.reference_point(self.everything, DIRECTIONS)

    @cached_property
    def corner(self) -> NDArray[np.float64]:
        """Where a front begins to count: the lower quartile of the metric, the greatest cost."""
        return np.array([np.quantile(self.everything[:, 0], 0.25), self.worst[1]])

    @cached_property
    def _whole(self) -> float:
        return pareto.hypervolume(self.everything, self.corner, DIRECTIONS)

    def share(self, truths: ArrayLike) -> float:
        """The hypervolume of ``truths`` (m, 2) before the corner, over that of all networks."""
        return pareto.hypervolume(truths, self.corner, DIRECTIONS) / self._whole

    def problem(self, objectives: int) -> Problem:
        def known(params: Params) -> dict[int, float] | None:
            network = self.look(params)
            return None if network is None else {1: network.cost} if objectives == 2 else {}

        return Problem(
            distributions=self.distributions,
            known=known,
            complete=self.complete,
            proposals=self.proposals,
        )


def table(
    name: str,
    networks: Mapping[tuple[Any, ...], Network],
    suggest: Callable[[Trial], Params],
    distributions: Mapping[str, BaseDistribution],
    complete: Callable[[Params, random.Random], Params] | None = None,
) -> Task:
    """A task whose networks stand in a table by the values of their parameters."""
    look = lambda params: networks.get(tuple(params.values()))  # noqa: E731
    return Task(name, suggest, look, tuple(networks.values()), distributions, complete)


def rows(path: Path) -> list[dict[str, str]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        return list(csv.DictReader(file))


def flat(name: str, path: Path, choices: list[str], metrics: list[str], cost: str) -> Task:
    """A table whose rows hold one column a choice."""
    read = rows(path)
    domains = {c: CategoricalDistribution(sorted({r[c] for r in read})) for c in choices}
    networks = {
        tuple(r[c] for c in choices): Network(tuple(float(r[m]) for m in metrics), float(r[cost]))
        for r in read
    }
    suggest = lambda t: {c: t.suggest_categorical(c, d.choices) for c, d in domains.items()}  # noqa: E731
    return table(name, networks, suggest, domains)


def macro(data: Path, cost: str = "flops") -> Task:
    domains = {f"layer{k}": CategoricalDistribution([0, 1, 2]) for k in range(8)}
    networks = {
        tuple(int(c) for c in r["arch"][1:]): Network(
            tuple(float(r[f"acc{k}"]) for k in range(3)), float(r[cost])
        )
        for r in rows(data / "nasbench_macro" / "nasbench_macro.csv.gz")
    }
    suggest = lambda t: {n: t.suggest_categorical(n, d.choices) for n, d in domains.items()}  # noqa: E731
    return table("macro" if cost == "flops" else f"macro, {cost}", networks, suggest, domains)


def transnas(data: Path, task: str, cost: str = "flops_class_scene") -> Task:
    modules = {f"module{k}": CategoricalDistribution([1, 2, 3, 4]) for k in range(6)}

    def suggest(t: Trial) -> Params:
        depth = t.suggest_int("depth", 4, 6)
        names = list(modules)[:depth]
        return {"depth": depth} | {n: t.suggest_categorical(n, [1, 2, 3, 4]) for n in names}

    def complete(params: Params, rng: random.Random) -> Params:
        depth = params.get("depth", rng.randint(4, 6))
        names = list(modules)[:depth]
        return {"depth": depth} | {n: params.get(n, rng.randint(1, 4)) for n in names}

    networks = {
        (int(r["depth"]), *(int(c) for c in r["arch"][1:])): Network(
            (float(r[task]),), float(r[cost])
        )
        for r in rows(data / "transnas_macro" / "transnas_macro.csv.gz")
    }
    name = task if cost.startswith("flops") else f"{task}, params"
    made = table(name, networks, suggest, {"depth": IntDistribution(4, 6), **modules}, complete)
    return replace(made, needs={"module4": ("depth", 5), "module5": ("depth", 6)})


def made_up_accuracy(params: Params) -> float:
    """An accuracy in percent, smooth in depth, width and kernels; each kind of block has its own.

    Plain blocks lose by depth, large kernels help where maps are large, two pools are the best, and
    every gain is worth less the more of it there is.
    """
    depth = plain = pools = 0
    capacity = 0.3 * np.log2(params["w0"] / 8)
    for k in range(1, params["M"] + 1):
        block, n = params[f"BLOCK[{k}]"], params[f"N[{k}]"]
        if block == "DENSE":
            width = 3.0 * params[f"DENSE.growth[{k}]"]
        else:
            width = params[f"BLOCK.width[{k}]"]
        kind = {"PLAIN": 0.8, "INCEPTION": 0.95, "RESIDUAL": 1.0, "DENSE": 1.05, "MBCONV": 0.9}
        gain = kind[block] * np.sqrt(n) * np.log2(width / 4)
        gain *= 1.0 + 0.2 / k * (params.get(f"BLOCK.kernel[{k}]", 3) == 5)
        gain *= 0.9 if params.get(f"RESIDUAL.bottleneck[{k}]") == 4 else 1.0
        gain *= 1.0 + 0.03 * params.get(f"MBCONV.expansion[{k}]", 0)
        capacity += gain
        depth += n
        plain += n * (block == "PLAIN")
        pools += params.get(f"POOL?[{k}]") == "present"
    capacity += 0.3 * params["K"]
    capacity *= (1.0 - 0.1 * abs(pools - 2)) / (1.0 + 0.01 * plain * depth)
    return float(94.0 - 60.0 * np.exp(-capacity / 6.0))


def mixed() -> Task:
    """The shipped space ``mixed``; its networks are 2,000 draws, and what evolution on the truth
    has on its front after 15,000 more."""
    space = nas.load_space("mixed")
    problem = proposals.problem(space, ("accuracy", "params"))
    assert problem.complete is not None

    @cache
    def network(items: tuple[tuple[str, Any], ...]) -> Network | None:
        params = dict(items)
        if (known := problem.known(params)) is None:
            return None
        noise = random.Random(repr(items))
        accuracy = made_up_accuracy(params)
        params_count = 10 ** known[1]  # as on the tables: costs in plain units
        return Network(tuple(accuracy + noise.gauss(0.0, 0.4) for _ in range(3)), params_count)

    def look(params: Params) -> Network | None:
        return network(tuple(sorted(params.items())))

    def suggest(t: Trial) -> Params:
        space.suggest(t)
        return dict(t.params)

    encoding = Encoding.of(problem.distributions)
    chance, rng = random.Random(0), np.random.default_rng(0)

    def those(rows: NDArray[np.float64]) -> list[tuple[NDArray[np.float64], Network]]:
        whole = [problem.complete(encoding.params(row), chance) for row in rows]
        return [(encoding.row(w), n) for w in whole if (n := look(w)) is not None]

    population = those(encoding.draw(rng, 2000))
    sample = [n for _, n in population]
    for _ in range(30):
        best = pareto.front([n.truth for _, n in population], DIRECTIONS)
        population = [population[k] for k in best]
        parents = np.array([row for row, _ in population])
        population += those(encoding.mutate(rng, parents[rng.integers(len(parents), size=500)]))
    networks = tuple(sample + [n for _, n in population])
    return Task(
        "mixed", suggest, look, networks, problem.distributions, problem.complete, problem.proposals
    )


def steps() -> Task:
    """Small ordered integers with interactions, made up: 28 of 3 to 8 values, as depths and widths.

    Each has a place of its own that is best, and misses it by less weight the later it stands; a
    third of the pairs of neighbours want to be alike, or apart. The cost is a sum of products of
    neighbours, and all constants are drawn once, with seed 0. The networks are 2,000 draws, and
    what evolution on the truth has after 30,000 more, by accuracy and by both.
    """
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 9, 28)
    domains = {f"x{k}": IntDistribution(1, int(size)) for k, size in enumerate(sizes)}
    place, weight = rng.random(28), np.exp(rng.normal(0.0, 0.7, 28)) / (1 + np.arange(28) / 14)
    pull, price = np.where(rng.random(27) < 1 / 3, rng.normal(0.0, 1.5, 27), 0.0), rng.random(27)

    def networks(x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Accuracies and costs, (n, 2), of integers (n, 28)."""
        u = (x - 1) / (sizes - 1)
        miss = ((u - place) ** 2 * weight).sum(axis=1)
        miss = miss + (pull * (u[:, 1:] - u[:, :-1]) ** 2).sum(axis=1)
        return np.stack([95.0 - 3.0 * miss, x[:, 1:] * x[:, :-1] @ price], axis=1)

    def look(params: Params) -> Network:
        accuracy, cost = networks(np.array([list(params.values())], dtype=float))[0]
        return Network((float(accuracy),), float(cost))

    encoding = Encoding.of(domains)
    drawn = encoding.draw(rng, 2000)
    found = [drawn]
    for objectives in (1, 2):
        population = drawn
        for _ in range(60):
            points = networks(population)
            best = np.argsort(-points[:, 0])[:40]
            if objectives == 2:
                best = pareto.front(points, DIRECTIONS)
            parents = population[best]
            chosen = rng.integers(len(parents), size=250)
            population = np.vstack([parents, encoding.mutate(rng, parents[chosen])])
        found.append(population)
    known = tuple(Network((float(a),), float(c)) for a, c in networks(np.vstack(found)))
    suggest = lambda t: {n: t.suggest_int(n, d.low, d.high) for n, d in domains.items()}  # noqa: E731
    return Task("steps", suggest, look, known, domains)
