"""What samplers find per evaluation: on tables of really trained networks, and on a made-up space.

    python benchmarks/search_efficiency.py --data ../shared/benchmarks --seeds 20
    python benchmarks/search_efficiency.py --csv FILE --choices a,b,c --metric accuracy --cost flops
    python benchmarks/search_efficiency.py --samplers "smac;neps" --seeds 5 --evaluations 100
    python benchmarks/search_efficiency.py --speed
    python benchmarks/search_efficiency.py --figure-only

The tables are NAS-Bench-Macro (8 layers of 3 kinds, three trainings each: an observation is one of
them, drawn; the truth is their mean) and TransNAS-Bench-101 macro (4 to 6 modules of 4 kinds; codes
that are no network count as failed trials, not as evaluations). The third problem is the shipped
space ``mixed``, conditional, 36 parameters, with an accuracy made up in ``made_up_accuracy``.

With two objectives the score is the hypervolume of what was evaluated ("found"), and of the front
of what one would pick by the observations, or by the model where there is one ("picked"), over that
of the whole table; the reference is the greatest cost and the lower quartile of the metric ("whole
range": of what was evaluated, with the worst of the table in both). With one it is the regret of
the pick. Means and standard errors go to ``docs/search_efficiency.json`` after every seed (a run
adds to what stands there and replaces what it measured anew), and the figure beside it.

``ehvi, told`` is the sampler as ``nas search`` uses it, but for the logarithm of costs: it knows
the cost and which codes are networks. Every other sampler is asked on the same study without that.
Samplers of other libraries are in ``other_libraries.py`` and run where those are installed.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState, create_trial
from other_libraries import OTHERS, BoTorch, Searcher
from search_tasks import DIRECTIONS, Params, Task, flat, macro, mixed, steps, table, transnas

from nas import pareto
from nas.samplers import SAMPLERS
from nas.samplers.ehvi import EHVISampler

COUNTS = (10, 25, 50, 75, 100, 150, 200, 300, 400, 500)
# Where asks are slow, or nothing is left to find, a sampler is given fewer evaluations.
LIMITS = {"ehvi, told": 200, "ehvi": 100, "optuna tpe": 200, "optuna tpe, multivariate": 200}
LIMITS |= {"optuna gp": 200, "smac": 100, "neps": 100, "syne tune": 50, "botorch": 100}


class Study:
    """An Optuna sampler, asked and told as every other searcher is."""

    def __init__(self, task: Task, sampler: BaseSampler, objectives: int) -> None:
        self._task = task
        directions = ["maximize", "minimize"][:objectives]
        self._study = optuna.create_study(directions=directions, sampler=sampler)

    def ask(self) -> Params:
        self._trial = self._study.ask()
        return self._task.suggest(self._trial)

    def tell(self, values: list[float] | None) -> None:
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        self._study.tell(self._trial, values, state=state)

    def believed(self) -> NDArray[np.float64]:
        """What one would pick by, of shape (evaluations, objectives)."""
        done = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if isinstance(self._study.sampler, EHVISampler):
            return self._study.sampler.posterior(self._study, done)[0]
        return np.array([t.values for t in done])


def searcher(name: str, seed: int, task: Task, objectives: int) -> Searcher:
    if name == "botorch":

        def cost(params: Params) -> float | None:
            whole = task.complete(params, random.Random(seed)) if task.complete else params
            network = task.look(whole)
            return None if network is None else network.cost if objectives == 2 else 0.0

        return BoTorch((task.distributions, task.needs), objectives, seed, cost)
    if name in OTHERS:
        return OTHERS[name]((task.distributions, task.needs), objectives, seed)
    if name == "ehvi, told":
        return Study(task, EHVISampler(seed, task.problem(objectives)), objectives)
    if name == "optuna tpe":
        return Study(task, TPESampler(seed=seed), objectives)
    short = name.removeprefix("optuna ").removesuffix(", multivariate")
    return Study(task, SAMPLERS[short](seed), objectives)


def run(
    task: Task, name: str, seed: int, objectives: int, evaluations: int, noise: float = 0.0
) -> dict[str, Any]:
    """One search: the scores at ``COUNTS``, the trials that failed, and the seconds it took.

    ``noise`` is added to each observation: normal, in standard deviations of the metric.
    """
    rng = np.random.default_rng([seed, 7])
    whole = pareto.hypervolume(task.everything, task.worst, DIRECTIONS)
    metrics = task.everything[:, 0]
    best, luck = metrics.max(), noise * metrics.std()
    asked = searcher(name, seed, task, objectives)
    observed: list[list[float]] = []
    truths: list[tuple[float, float]] = []
    scores: dict[str, dict[int, float]] = {"found": {}, "picked": {}, "whole range": {}}
    failed, start, asks = 0, time.perf_counter(), 0.0
    while len(truths) < evaluations:
        began = time.perf_counter()
        params = asked.ask()
        asks += time.perf_counter() - began
        if task.complete and name in OTHERS:  # those that know no conditions tell all parameters
            params = task.complete(params, random.Random(seed))
        network = task.look(params)
        if network is None:
            asked.tell(None)
            failed += 1
            continue
        measured = float(rng.choice(network.trainings))
        measured += luck * rng.standard_normal() if luck else 0.0
        observed.append([measured, network.cost][:objectives])
        asked.tell(observed[-1])
        truths.append(network.truth)
        if (n := len(truths)) in COUNTS:
            believed = asked.believed() if isinstance(asked, Study) else np.array(observed)
            if objectives == 2:
                picked = [truths[k] for k in pareto.front(believed, DIRECTIONS)]
                scores["found"][n] = task.share(truths)
                scores["picked"][n] = task.share(picked)
                everywhere = pareto.hypervolume(truths, task.worst, DIRECTIONS)
                scores["whole range"][n] = everywhere / whole
            else:
                scores["found"][n] = best - max(metric for metric, _ in truths)
                scores["picked"][n] = best - truths[int(believed[:, 0].argmax())][0]
    seconds = time.perf_counter() - start
    return {**scores, "failed": failed, "seconds": seconds, "ask": asks / (failed + evaluations)}


def speed() -> dict[str, float]:
    """CPU seconds of an ask by finished trials: the first on a stored study, the median after it.

    On 25 unconditional choices of three, and on ``mixed`` with its costs known.
    """
    choices = {f"x{k}": CategoricalDistribution([16, 32, 64]) for k in range(25)}
    plain = table(
        "25 choices",
        {},
        lambda t: {n: t.suggest_categorical(n, d.choices) for n, d in choices.items()},
        choices,
    )
    conditional = mixed()

    def values(task: Task, params: Params) -> list[float]:
        if task is conditional:
            network = task.look(params)
            assert network is not None
            return [network.trainings[0], network.cost]
        widths = np.array(list(params.values()))
        return [float(np.sqrt(widths).sum() + rng.normal()), float(widths.sum())]

    measured = {}
    for task, sampler in [
        (plain, EHVISampler(0)),
        (conditional, EHVISampler(0, conditional.problem(2))),
    ]:
        for n in (100, 1000, 5000):
            rng = np.random.default_rng(0)
            source = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
            study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
            while len(study.get_trials(deepcopy=False)) < n:
                params = task.suggest(drawn := source.ask())
                if task is conditional and task.look(params) is None:
                    continue
                told = {"values": values(task, params), "distributions": drawn.distributions}
                study.add_trial(create_trial(params=params, **told))
            took = []
            for _ in range(11):
                began = time.process_time()
                params = task.suggest(trial := study.ask())
                took.append(time.process_time() - began)
                study.tell(trial, values(task, params))
            measured[f"{task.name}, {n}, first"] = round(took[0], 4)
            measured[f"{task.name}, {n}, median"] = round(float(np.median(took[1:])), 4)
    return measured


def summary(runs: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Mean and standard error of every score, by problem and sampler."""
    result: dict[str, Any] = {}
    for key, several in runs.items():
        entry: dict[str, Any] = {"seeds": len(several)}
        for score in ("found", "picked", "whole range"):
            for n in several[0][score]:
                values = np.array([r[score][n] for r in several])
                error = values.std(ddof=min(1, len(values) - 1)) / np.sqrt(len(values))
                entry.setdefault(score, {})[str(n)] = [round(values.mean(), 4), round(error, 4)]
        for name in ("failed", "seconds", "ask"):
            entry[name] = round(float(np.mean([r[name] for r in several])), 4)
        result[key] = entry
    return result


def draw(scores: Mapping[str, Any], to: Path) -> None:
    """Hypervolume found against evaluations, the mean with a band of one standard error."""
    import matplotlib.pyplot as plt

    shown = {tuple(k.split(" | ")): v for k, v in scores.items() if k.split(" | ")[1] == "2"}
    problems = [p for p in ("macro", "class_scene", "mixed") if any(p == k[0] for k in shown)]
    if not problems:
        return
    names = sorted({k[2] for k in shown if k[0] in problems}, key=lambda n: (n[:4] != "ehvi", n))
    colours = dict(zip(names, plt.get_cmap("tab20").colors[::2] * 2, strict=False))
    figure, axes = plt.subplots(1, len(problems), figsize=(4.6 * len(problems), 4.4), squeeze=False)
    for axis, problem in zip(axes[0], problems, strict=True):
        for order, name in enumerate(names):
            entry = shown.get((problem, "2", name))
            if entry is None:
                continue
            counts = [int(n) for n in entry["found"]]
            mean, error = np.array(list(entry["found"].values()), dtype=float).T
            ours = name.startswith("ehvi")
            look: dict[str, Any] = {"color": colours[name], "zorder": 30 - order}
            axis.plot(counts, mean, label=name, linewidth=2.6 if ours else 1.1, **look)
            axis.fill_between(counts, mean - error, mean + error, alpha=0.18, linewidth=0, **look)
        axis.set(title=problem, xlabel="evaluations", xscale="log", ylim=(0.6, 1.005))
        axis.set_xticks([10, 25, 50, 100, 200, 500], ["10", "25", "50", "100", "200", "500"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("hypervolume found / all there is")
    lines = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.legend([lines[n] for n in names], names, loc="lower center", ncol=len(names))
    figure.savefig(to, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="What samplers find per evaluation.")
    parser.add_argument("--data", type=Path, default=Path("../shared/benchmarks"))
    parser.add_argument("--csv", type=Path, help="a table of your own, one network a row")
    parser.add_argument("--choices", default="", help="its columns that are choices: a,b,c")
    parser.add_argument("--metric", default="accuracy", help="its trainings, maximised: acc0,acc1")
    parser.add_argument("--cost", default="flops", help="its cost, minimised")
    parser.add_argument("--problems", default="macro;class_scene;mixed")
    parser.add_argument("--objectives", default="2,1")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--noise", type=float, default=0.0, help="in the metric's deviations")
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
        told.out.write_text(json.dumps(stored, indent=1))
        print(json.dumps(stored["speed"], indent=1))
        return
    figure = told.out.with_suffix(".png")
    if told.figure_only:
        draw(stored["scores"], figure)
        return
    if told.csv:
        choices, metrics = told.choices.split(","), told.metric.split(",")
        tasks = [flat(told.csv.stem, told.csv, choices, metrics, told.cost)]
    elif told.held_out:
        params = "params_class_scene"
        tasks = [macro(told.data, "params"), transnas(told.data, "class_object")]
        tasks += [transnas(told.data, "jigsaw"), transnas(told.data, "autoencoder", params)]
    else:
        made = {"macro": lambda: macro(told.data), "mixed": mixed, "steps": steps}
        made["class_scene"] = lambda: transnas(told.data, "class_scene")
        tasks = [made[name]() for name in told.problems.split(";")]
    names = told.samplers.split(";") if told.samplers else [
        "ehvi, told", "ehvi", "random", "evolution", "optuna nsga2",
        "optuna tpe, multivariate", "optuna tpe", "optuna gp",
    ]  # fmt: skip
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in range(told.seeds):  # seeds outermost: an interrupted run has fewer of all
        for name in names:
            for task in tasks:
                for objectives in map(int, told.objectives.split(",")):
                    longest = 100 if objectives == 1 or task.name in ("mixed", "steps") else 500
                    evaluations = min(told.evaluations, longest, LIMITS.get(name, longest))
                    noisy = f", noise {told.noise:g}" if told.noise else ""
                    key = f"{task.name}{noisy} | {objectives} | {name}"
                    done = run(task, name, seed, objectives, evaluations, told.noise)
                    runs.setdefault(key, []).append(done)
        stored.setdefault("scores", {}).update(summary(runs))
        told.out.write_text(json.dumps(stored, indent=1))
        print(f"{seed + 1} of {told.seeds} seeds", flush=True)
    if not told.held_out and not told.csv:
        draw(stored["scores"], figure)


if __name__ == "__main__":
    main()
