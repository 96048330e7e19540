"""What samplers find per evaluation, on tables of really trained networks.

    python benchmarks/search_efficiency.py --data ../shared/benchmarks --seeds 20
    python benchmarks/search_efficiency.py --csv FILE --choices a,b,c --metric accuracy --cost flops
    python benchmarks/search_efficiency.py --figure-only

The tables are NAS-Bench-Macro (8 layers of 3 kinds, three trainings each: an observation is one of
them, drawn; the truth is their mean) and TransNAS-Bench-101 macro (4 to 6 modules of 4 kinds; codes
that are no network count as failed trials, not as evaluations). With two objectives the score is
the hypervolume of what was evaluated ("found"), and of the front of what one would pick by the
observations, or by the model where there is one ("picked"), over that of the whole table; the
reference is the greatest cost and the lower quartile of the metric ("whole range": of what was
evaluated, with the worst of the table in both). With one it is the regret of the pick. Means and
standard errors go to ``docs/search_efficiency.json`` after every seed, and the figure beside it.

``ehvi, told`` knows the cost and which codes are networks; every other sampler is asked on the same
ordinary Optuna study. ``--speed`` measures the seconds of an ask by the number of trials instead.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import Trial, TrialState, create_trial

from nas import pareto
from nas.samplers import SAMPLERS
from nas.samplers.ehvi import EHVISampler, Problem

COUNTS = (10, 25, 50, 75, 100, 150, 200, 300, 400, 500)
DIRECTIONS: tuple[pareto.Direction, ...] = ("max", "min")
# Where a peer's asks grow slow it is given fewer evaluations, as its figures say.
LIMITS = {"optuna gp": 50, "optuna tpe": 200, "optuna tpe, multivariate": 200}
LIMITS |= {"ehvi, told": 100, "ehvi": 100}

Params = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Networks by code: each one's trainings, its true metric and its cost."""

    name: str
    suggest: Callable[[Trial], Params]
    distributions: Mapping[str, Any]
    trainings: Mapping[tuple[Any, ...], tuple[float, ...]]
    cost: Mapping[tuple[Any, ...], float]
    complete: Callable[[Params, random.Random], Params] | None = None

    def truth(self, code: tuple[Any, ...]) -> tuple[float, float]:
        return float(np.mean(self.trainings[code])), self.cost[code]

    def problem(self, objectives: int) -> Problem:
        def known(params: Params) -> dict[int, float] | None:
            code = tuple(params.values())
            if code not in self.cost:
                return None
            return {1: self.cost[code]} if objectives == 2 else {}

        return Problem(
            distributions=self.distributions, known=known, complete=self.complete, proposals=1000
        )


def rows(path: Path) -> list[dict[str, str]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        return list(csv.DictReader(file))


def flat(name: str, path: Path, choices: list[str], metrics: list[str], cost: str) -> Table:
    """A table whose rows hold one column a choice."""
    table = rows(path)
    domains = {c: CategoricalDistribution(sorted({r[c] for r in table})) for c in choices}
    return Table(
        name,
        lambda t: {c: t.suggest_categorical(c, d.choices) for c, d in domains.items()},
        domains,
        {tuple(r[c] for c in choices): tuple(float(r[m]) for m in metrics) for r in table},
        {tuple(r[c] for c in choices): float(r[cost]) for r in table},
    )


def macro(data: Path, cost: str = "flops") -> Table:
    table = rows(data / "nasbench_macro" / "nasbench_macro.csv.gz")
    domains = {f"layer{k}": CategoricalDistribution([0, 1, 2]) for k in range(8)}
    code = {r["arch"]: tuple(int(c) for c in r["arch"][1:]) for r in table}
    return Table(
        "macro" if cost == "flops" else f"macro, {cost}",
        lambda t: {n: t.suggest_categorical(n, d.choices) for n, d in domains.items()},
        domains,
        {code[r["arch"]]: tuple(float(r[f"acc{k}"]) for k in range(3)) for r in table},
        {code[r["arch"]]: float(r[cost]) for r in table},
    )


def transnas(data: Path, task: str, cost: str = "flops_class_scene") -> Table:
    table = rows(data / "transnas_macro" / "transnas_macro.csv.gz")
    modules = {f"module{k}": CategoricalDistribution([1, 2, 3, 4]) for k in range(6)}

    def suggest(t: Trial) -> Params:
        depth = t.suggest_int("depth", 4, 6)
        names = list(modules)[:depth]
        return {"depth": depth} | {n: t.suggest_categorical(n, [1, 2, 3, 4]) for n in names}

    def complete(params: Params, rng: random.Random) -> Params:
        depth = params.get("depth", rng.randint(4, 6))
        names = list(modules)[:depth]
        return {"depth": depth} | {n: params.get(n, rng.randint(1, 4)) for n in names}

    code = {r["arch"]: (int(r["depth"]), *(int(c) for c in r["arch"][1:])) for r in table}
    return Table(
        task if cost.startswith("flops") else f"{task}, params",
        suggest,
        {"depth": IntDistribution(4, 6), **modules},
        {code[r["arch"]]: (float(r[task]),) for r in table},
        {code[r["arch"]]: float(r[cost]) for r in table},
        complete,
    )


def sampler(name: str, seed: int, table: Table, objectives: int) -> optuna.samplers.BaseSampler:
    if name == "ehvi, told":
        return EHVISampler(seed, table.problem(objectives))
    if name == "optuna tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return SAMPLERS[name.removeprefix("optuna ").removesuffix(", multivariate")](seed)


def run(table: Table, name: str, seed: int, objectives: int, evaluations: int) -> dict[str, Any]:
    """One search: the scores at ``COUNTS``, the trials that failed, and the seconds it took."""
    rng = np.random.default_rng([seed, 7])
    everything = [table.truth(code) for code in table.cost]
    worst = pareto.reference_point(everything, DIRECTIONS)
    quartile = np.array([np.quantile([metric for metric, _ in everything], 0.25), worst[1]])
    whole, oracle = (pareto.hypervolume(everything, r, DIRECTIONS) for r in (worst, quartile))
    best = max(metric for metric, _ in everything)
    study = optuna.create_study(
        directions=["maximize", "minimize"][:objectives],
        sampler=sampler(name, seed, table, objectives),
    )
    truths: list[tuple[float, float]] = []
    scores: dict[str, dict[int, float]] = {"found": {}, "picked": {}, "whole range": {}}
    failed, start, asks = 0, time.perf_counter(), 0.0
    while len(truths) < evaluations:
        began = time.perf_counter()
        trial = study.ask()
        code = tuple(table.suggest(trial).values())
        asks += time.perf_counter() - began
        if code not in table.cost:
            study.tell(trial, state=TrialState.FAIL)
            failed += 1
            continue
        observed = float(rng.choice(table.trainings[code]))
        study.tell(trial, [observed, table.cost[code]][:objectives])
        truths.append(table.truth(code))
        if (n := len(truths)) in COUNTS:
            done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if isinstance(study.sampler, EHVISampler):
                believed = study.sampler.posterior(study, done)[0]
            else:
                believed = np.array([t.values for t in done])
            if objectives == 2:
                picked = [truths[k] for k in pareto.front(believed, DIRECTIONS)]
                scores["found"][n] = pareto.hypervolume(truths, quartile, DIRECTIONS) / oracle
                scores["picked"][n] = pareto.hypervolume(picked, quartile, DIRECTIONS) / oracle
                everywhere = pareto.hypervolume(truths, worst, DIRECTIONS)
                scores["whole range"][n] = everywhere / whole
            else:
                scores["found"][n] = best - max(metric for metric, _ in truths)
                scores["picked"][n] = best - truths[int(believed[:, 0].argmax())][0]
    seconds = time.perf_counter() - start
    return {**scores, "failed": failed, "seconds": seconds, "ask": asks / (failed + evaluations)}


def speed() -> dict[str, float]:
    """CPU seconds of an ask by finished trials: 25 parameters, two objectives."""
    rng = np.random.default_rng(0)
    domains = {f"x{k}": CategoricalDistribution([16, 32, 64]) for k in range(25)}
    measured = {}
    for n in (100, 500, 1000, 5000):
        study = optuna.create_study(
            directions=["maximize", "minimize"], sampler=SAMPLERS["default"](0)
        )
        codes = rng.choice([16, 32, 64], (n, 25))
        study.add_trials(
            [
                create_trial(
                    params={f"x{k}": int(v) for k, v in enumerate(code)},
                    distributions=domains,
                    values=[float(np.sqrt(code).sum() + rng.normal()), float(code.sum())],
                )
                for code in codes
            ]
        )
        took = []
        for _ in range(11):
            began = time.process_time()
            trial = study.ask(domains)
            took.append(time.process_time() - began)
            code = np.array(list(trial.params.values()))
            study.tell(trial, [float(np.sqrt(code).sum() + rng.normal()), float(code.sum())])
        measured[f"{n}, first"], measured[f"{n}, median"] = took[0], float(np.median(took[1:]))
    return measured


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Mean and standard error of every score, by problem and sampler."""
    table: dict[str, Any] = {}
    for key, several in runs.items():
        entry: dict[str, Any] = {"seeds": len(several)}
        for score in ("found", "picked", "whole range"):
            for n in several[0][score]:
                values = np.array([r[score][n] for r in several])
                error = values.std(ddof=min(1, len(values) - 1)) / np.sqrt(len(values))
                entry.setdefault(score, {})[n] = [round(values.mean(), 4), round(error, 4)]
        for name in ("failed", "seconds", "ask"):
            entry[name] = round(float(np.mean([r[name] for r in several])), 4)
        table[key] = entry
    return table


def draw(table: dict[str, Any], to: Path) -> None:
    """Hypervolume found against evaluations, the mean with a band of one standard error."""
    import matplotlib.pyplot as plt

    problems = sorted({k.split(" | ")[0] for k in table if k.split(" | ")[1] == "2"})
    figure, axes = plt.subplots(1, len(problems), figsize=(5.5 * len(problems), 4.2), squeeze=False)
    for axis, problem in zip(axes[0], problems, strict=True):
        for key, entry in sorted(table.items()):
            where, objectives, name = key.split(" | ")
            if (where, objectives) != (problem, "2"):
                continue
            counts = [int(n) for n in entry["found"]]
            mean, error = np.array(list(entry["found"].values()), dtype=float).T
            ours = name.startswith("ehvi")
            (line,) = axis.plot(counts, mean, label=name, linewidth=2.2 if ours else 1.1)
            axis.fill_between(counts, mean - error, mean + error, alpha=0.2, color=line.get_color())
        axis.set(title=problem, xlabel="evaluations", ylabel="hypervolume found / oracle")
        axis.set(xscale="log", ylim=(0.6, 1.005))
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(to, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="What samplers find per evaluation.")
    parser.add_argument("--data", type=Path, default=Path("../shared/benchmarks"))
    parser.add_argument("--csv", type=Path, help="a table of your own, one network a row")
    parser.add_argument("--choices", default="", help="its columns that are choices: a,b,c")
    parser.add_argument("--metric", default="accuracy", help="its trainings, maximised: acc0,acc1")
    parser.add_argument("--cost", default="flops", help="its cost, minimised")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--samplers", default="", help="names, separated by ';' (default: all)")
    parser.add_argument("--held-out", action="store_true", help="other columns of the tables")
    parser.add_argument("--out", type=Path, default=Path("docs/search_efficiency.json"))
    parser.add_argument("--figure-only", action="store_true")
    parser.add_argument("--speed", action="store_true")
    told = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    stored = json.loads(told.out.read_text()) if told.out.exists() else {}
    if told.speed:
        stored["speed"] = speed()
        told.out.write_text(json.dumps(stored))
        print(json.dumps(stored["speed"], indent=1))
        return
    figure = told.out.with_suffix(".png")
    if told.figure_only:
        draw(stored["scores"], figure)
        return
    if told.csv:
        choices, metrics = told.choices.split(","), told.metric.split(",")
        tables = [flat(told.csv.stem, told.csv, choices, metrics, told.cost)]
    elif told.held_out:
        params = "params_class_scene"
        tables = [macro(told.data, "params"), transnas(told.data, "class_object")]
        tables += [transnas(told.data, "jigsaw"), transnas(told.data, "autoencoder", params)]
    else:
        tables = [macro(told.data), transnas(told.data, "class_scene")]
    names = told.samplers.split(";") if told.samplers else [
        "ehvi, told", "ehvi", "random", "evolution", "optuna nsga2",
        "optuna tpe, multivariate", "optuna tpe", "optuna gp",
    ]  # fmt: skip
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in range(told.seeds):  # seeds outermost: an interrupted run has fewer of all
        for name in names:
            for table in tables:
                for objectives in (2, 1):
                    longest = told.evaluations if objectives == 2 else 100
                    evaluations = min(longest, LIMITS.get(name, longest))
                    key = f"{table.name} | {objectives} | {name}"
                    runs.setdefault(key, []).append(run(table, name, seed, objectives, evaluations))
        scores = stored.setdefault("scores", {})
        scores.update(summary(runs))
        told.out.write_text(json.dumps(stored))
        print(f"{seed + 1} of {told.seeds} seeds", flush=True)
    if not told.held_out:
        draw(summary(runs), figure)


if __name__ == "__main__":
    main()
