"""What older studies are worth to a new one: ``nas search --from``.

    python benchmarks/related.py --data ../shared/benchmarks --seeds 4

A study of 100 evaluations of one task of TransNAS-Bench-101 macro (accuracy and FLOPs, or accuracy
alone), then a new study of another task: without it, with it, and with those of all other tasks.
For the unrelated: the old study's values shuffled over its networks, those of NAS-Bench-Macro, of
which no parameter is in common, shuffled and not, and the truth upside down. Told are means and
standard errors over tasks and seeds: hypervolume of what was evaluated over all there is, and
regret in deviations of the task's metric.
"""

from __future__ import annotations

import argparse
import json
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from search_efficiency import Study
from search_tasks import Network, Params, Task, macro, transnas

from nas.samplers.ehvi import EHVISampler
from nas.samplers.encoding import Encoding
from nas.samplers.related import Older

TASKS = ("class_scene", "class_object", "jigsaw", "segmentsemantic", "normal", "autoencoder",
         "room_layout")  # fmt: skip
COUNTS = (5, 10, 15, 25, 50)
KNOWN = 100  # evaluations of an old study

Evaluated = Sequence[tuple[Params, Network]]


def search(
    task: Task, seed: int, objectives: int, evaluations: int, older: tuple[Older, ...] = ()
) -> Evaluated:
    problem = replace(task.problem(objectives), older=older)
    study = Study(task, EHVISampler(seed, problem), objectives)
    done: list[tuple[Params, Network]] = []
    while len(done) < evaluations:
        params = study.ask()
        network = task.look(params)
        if network is None:
            study.tell(None)
            continue
        done.append((params, network))
        study.tell([network.truth[0], network.cost][:objectives])
    return done


def scores(task: Task, done: Evaluated, objectives: int) -> dict[int, float]:
    truths = np.array([network.truth for _, network in done])
    if objectives == 1:
        metrics = task.everything[:, 0]
        best, spread = metrics.max(), metrics.std()
        return {n: (best - truths[:n, 0].max()) / spread for n in COUNTS if n <= len(done)}
    return {n: task.share(truths[:n]) for n in COUNTS if n <= len(done)}


def older(
    task: Task,
    done: Evaluated,
    new: Task,
    change: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda values: values,
) -> Older:
    """An old study as the new one sees it: by parameters and cost, or where the spaces have no
    parameter in common, by the cost alone."""
    same = task.distributions.keys() == new.distributions.keys()
    encoding = Encoding.of(new.distributions)
    costs = np.log([network.cost for _, network in done])

    def columns(params: Params, cost: float, of: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = encoding.row(params)[None]
        parts = [encoding.embed(rows)[0][0]] if same else []
        return np.concatenate([*parts, [0.5 * (np.log(cost) - of.mean()) / of.std()]])

    def place(params: Mapping[str, Any]) -> NDArray[np.float64]:
        network = new.look(dict(params))
        return columns(dict(params), network.cost if network else 1.0, there)

    # FLOPs of other images are others: each by those of its own space.
    there = costs if same else np.log([n.cost for n in new.networks])
    _, scales = encoding.embed(encoding.draw(np.random.default_rng(0), 2))
    shared = int(scales[-1]) + 1 if same else 0
    return Older(
        name=task.name,
        place=place,
        x=np.array([columns(params, network.cost, costs) for params, network in done]),
        scales=np.append(scales, shared) if same else np.zeros(1, dtype=np.intp),
        values={0: change(np.array([network.truth[0] for _, network in done]))},
        shared=shared,
    )


@dataclass(frozen=True)
class Case:
    name: str
    known: Callable[[int, int], tuple[Older, ...]]  # of a task and a seed


def main() -> None:
    parser = argparse.ArgumentParser(description="What older studies are worth to a new one.")
    parser.add_argument("--data", type=Path, default=Path("../shared/benchmarks"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--objectives", type=int, choices=(1, 2), default=2)
    parser.add_argument("--out", type=Path, help="a file of all runs, to which these are added")
    parser.add_argument("--cases", default="", help="those whose name has this in it")
    told = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    objectives = told.objectives
    tasks = [transnas(told.data, name) for name in TASKS]
    other = macro(told.data)
    seeds = range(told.first, told.first + told.seeds)
    old = {(t, s): search(tasks[t], s, objectives, KNOWN) for t in range(7) for s in seeds}
    mixed = random.Random(0)

    def shuffled(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array(mixed.sample(values.tolist(), len(values)))

    def elsewhere(seed: int) -> Evaluated:
        return search(other, seed, objectives, KNOWN)

    macros = {s: elsewhere(s) for s in seeds} if "macro" in (told.cases or "macro") else {}
    cases = [
        *(
            Case(f"one other task ({step})", lambda t, s, d=step: (
                older(tasks[(t + d) % 7], old[(t + d) % 7, s], tasks[t]),))
            for step in (1, 3, 5)
        ),
        Case("all other tasks", lambda t, s: tuple(
            older(tasks[k], old[k, s], tasks[t]) for k in range(7) if k != t)),
        Case("values shuffled", lambda t, s: (
            older(tasks[(t + 1) % 7], old[(t + 1) % 7, s], tasks[t], shuffled),)),
        Case("upside down", lambda t, s: (
            older(tasks[t], old[t, s], tasks[t], lambda values: -values),)),
        Case("macro", lambda t, s: (older(other, macros[s], tasks[t]),)),
        Case("macro, shuffled", lambda t, s: (older(other, macros[s], tasks[t], shuffled),)),
    ]  # fmt: skip
    stored = json.loads(told.out.read_text()) if told.out and told.out.exists() else {}
    for case in [Case("none", lambda t, s: ()), *cases]:
        if told.cases not in case.name and case.name != "none":
            continue
        runs = stored.setdefault(f"{objectives} | {case.name}", {})
        for t, s in old:
            length = 50 if case.name == "none" else 25
            done = search(tasks[t], s + 1000, objectives, length, case.known(t, s))
            found = scores(tasks[t], done, objectives)
            runs[f"{TASKS[t]} {s}"] = {str(n): round(score, 5) for n, score in found.items()}
        show(case.name, [*runs.values()])
        if told.out:
            told.out.write_text(json.dumps(stored))


def show(name: str, runs: Sequence[Mapping[str, float]]) -> None:
    cells = []
    for n in runs[0]:
        values = np.array([run[n] for run in runs])
        error = values.std(ddof=1) / np.sqrt(len(values))
        cells.append(f"{n}: {values.mean():.3f} ± {error:.3f}")
    print(f"{name:22}", "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
