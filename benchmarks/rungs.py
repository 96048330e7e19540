"""What early stopping saves: searches of real trainings with rungs, without, and at random.

    python benchmarks/rungs.py [--images cifar10_jpeg.tar.gz] [--seeds 0 1] [--trials 48]

On digits, or on an archive of train/CLASS/*.jpg (CIFAR-10's as JPEG files were used), of which
2,000 train and 2,000 validate, at 16x16. Three arms a seed, on one core:

    off     the default sampler, every candidate trained whole under the default recipe
    rungs   the same sampler and recipe with --rungs auto, and more trials for fewer epochs
    random  uniform draws, trained whole, as many as the epochs of the arm with rungs allow

Printed: the hypervolume of each arm, and what the arm with rungs had of it after a third of the
epochs of the arm without. --output is a JSON file that holds, by data set, arm and seed, a pair for
each candidate that was trained to the end: the epochs trained so far by the whole search (what a
rung's tail repeats is counted), and the hypervolume of validation accuracy and log10 of the
parameters, from accuracy 0.1 and the space's largest network. --figure draws all that it holds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna

from nas import pareto, rungs
from nas.data import describe
from nas.finalists import trained_epochs
from nas.job import DataRef, Job, Recipe
from nas.search import Plan, search
from nas.space import Bound, load_space
from nas.store import TrialRow, open_store
from workers.pool import open_pool

PER_CLASS = 200  # of train and of validation each
PARAMS, MACS = 200_000, 3_000_000
DIRECTIONS: tuple[pareto.Direction, ...] = ("max", "min")


def unpack(archive: Path, folder: Path) -> DataRef:
    """The first images of each class: half to train on, half to validate on."""
    counts: dict[str, int] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts[-3:]
            if not member.isfile() or len(parts) < 3 or parts[0] != "train":
                continue
            place = counts[parts[1]] = counts.get(parts[1], 0) + 1
            if place <= 2 * PER_CLASS:
                part = "train" if place <= PER_CLASS else "val"
                member.name = str(Path(part, *parts[1:]))
                tar.extract(member, folder, filter="data")
                if place == 1:  # a test image, which nothing here reads
                    member.name = str(Path("test", *parts[1:]))
                    tar.extract(member, folder, filter="data")
    return DataRef(name="imagefolder", dir=str(folder), size=16)


def volume(rows: Sequence[TrialRow]) -> float:
    points = [(row.accuracy or 0.0, math.log10(row.params)) for row in rows]
    return pareto.hypervolume(points, (0.1, math.log10(PARAMS)), DIRECTIONS)


Line = tuple[int, float]  # epochs, hypervolume
Results = dict[str, dict[str, dict[str, list[Line]]]]  # by data set, arm and seed


def run(plan: Plan, folder: Path, arm: str) -> list[Line]:
    """Runs a search; its line after each candidate that was trained to the end."""
    store = open_store(f"sqlite:///{folder}/{arm}-{plan.job.seed}.db")
    pool = open_pool(0)
    began = time.perf_counter()
    try:
        search(plan, store, pool)
        rows = sorted(store.trials(store.find_study(plan.study).id), key=lambda r: r.finished or 0)
    finally:
        pool.close()
        store.close()
    spent, done = 0, []
    lines: list[Line] = []
    for row in rows:
        spent += trained_epochs(row)
        if row.state == "finished":
            done.append(row)
            lines.append((spent, volume(done)))
    lines.append((spent, lines[-1][1]))
    print(
        f"seed {plan.job.seed}  {arm:7} {len(rows):3} trials, {len(rows) - len(done):3} stopped, "
        f"{spent:4} epochs, {time.perf_counter() - began:5.0f} s, hypervolume {lines[-1][1]:.4f}",
        flush=True,
    )
    return lines


def after(lines: Sequence[Line], epochs: float) -> float:
    """The hypervolume found within so many epochs."""
    return max([volume for spent, volume in lines if spent <= epochs], default=0.0)


def draw(results: Results, file: Path) -> None:
    """Hypervolume against epochs, a panel a data set: means over the seeds, and their ranges."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(results), 3.2), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for panel, (name, arms) in zip(panels, results.items(), strict=True):
        for arm, seeds in arms.items():
            most = min(lines[-1][0] for lines in seeds.values())
            spent = range(20, most + 1, 4)
            found = np.array([[after(lines, e) for e in spent] for lines in seeds.values()])
            panel.plot(spent, found.mean(axis=0), label=arm)
            panel.fill_between(spent, found.min(axis=0), found.max(axis=0), alpha=0.15)
        panel.set(title=name, xlabel="epochs trained", ylabel="hypervolume")
    panels[0].legend()
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path, help="an archive; digits, if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--more", type=float, default=1.5, help="trials with rungs, as a factor")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("rungs.json"))
    parser.add_argument("--figure", type=Path)
    told = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results: Results = json.loads(told.output.read_text()) if told.output.exists() else {}
    name = told.images.name.partition(".")[0] if told.images else "digits"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ref = unpack(told.images, folder / "images") if told.images else DataRef()
        info = describe(ref)
        space = load_space("vgg_like", (info.channels, info.height, info.width), len(info.classes))
        bounds = {"params": Bound(True, PARAMS), "macs": Bound(True, MACS)}
        space = dataclasses.replace(space, constraints=bounds)
        for seed in told.seeds:
            job = Job(pattern="", data=ref, epochs=told.epochs, seed=seed, latency=False)
            off = Plan(study="s", space=space, job=job, trials=told.trials)
            stopping = dataclasses.replace(
                off,
                job=dataclasses.replace(job, recipe=Recipe(schedule="rungs")),
                trials=round(told.trials * told.more),
                rungs=rungs.auto(told.epochs),
                artifacts=str(folder / "artifacts"),
            )
            some = run(stopping, folder, "rungs")
            whole = run(off, folder, "off")
            draws = max(1, round(some[-1][0] / told.epochs))
            drawn = dataclasses.replace(off, sampler="random", trials=draws)
            found = {"off": whole, "rungs": some, "random": run(drawn, folder, "random")}
            epochs, level = whole[-1]
            third = [after(found[arm], epochs / 3) / level for arm in found]
            print(
                f"seed {seed}  with a third of the {epochs} epochs, of what the arm off had in the "
                "end: off {:.3f}, rungs {:.3f}, random {:.3f}".format(*third),
                flush=True,
            )
            for arm, lines in found.items():
                results.setdefault(name, {}).setdefault(arm, {})[str(seed)] = lines
            told.output.write_text(json.dumps(results))
    if told.figure:
        draw(results, told.figure)


if __name__ == "__main__":
    main()
