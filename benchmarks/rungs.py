"""What early stopping saves: searches of real trainings with rungs, without, and at random.

    python benchmarks/rungs.py [--images cifar10_jpeg.tar.gz] [--seeds 0 1] [--trials 48]

The images are an archive of train/CLASS/*.jpg (CIFAR-10's as JPEG files were used), of which 2,000
train and 2,000 validate, at 16x16; without it, digits. Three arms a seed, on one core:

    off     the default sampler, every candidate trained whole under the default recipe
    rungs   the same sampler and recipe with --rungs auto, the same number of trials or more
    random  uniform draws, trained whole, as many as the epochs of the arm with rungs allow

Each candidate that is trained to the end adds a line to --output: arm, seed, epochs trained so far
by the whole search (what a rung's tail repeats is counted), seconds, and the hypervolume of
validation accuracy and log10 of the parameters, from accuracy 0.1 and the space's largest network.
At the end: the hypervolume of each arm, and the epochs with which the arm with rungs came to what
the arm without had in the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import optuna

from nas import pareto, rungs
from nas.data import describe
from nas.finalists import trained_epochs
from nas.job import DataRef, Job, Recipe
from nas.search import Plan, search
from nas.space import Bound, load_space
from nas.store import TrialRow, open_store
from workers.pool import open_pool

IMAGES = Path(__file__).parents[2] / "shared/datasets/cifar10_jpeg.tar.gz"
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


def run(plan: Plan, folder: Path, log: Path, arm: str) -> list[dict[str, float]]:
    """Runs a search; its line after each candidate that was trained to the end."""
    store = open_store(f"sqlite:///{folder}/{arm}-{plan.job.seed}.db")
    pool = open_pool(0)
    began = time.perf_counter()
    lines: list[dict[str, float]] = []
    try:
        search(plan, store, pool)
        rows = sorted(store.trials(store.find_study(plan.study).id), key=lambda r: r.finished or 0)
    finally:
        pool.close()
        store.close()
    spent, done = 0, []
    for row in rows:
        spent += trained_epochs(row)
        if row.state == "finished":
            done.append(row)
            lines.append({"epochs": spent, "whole": len(done), "volume": volume(done)})
    seconds = time.perf_counter() - began
    with log.open("a") as file:
        for line in lines:
            print(json.dumps({"arm": arm, "seed": plan.job.seed, **line}), file=file)
    stopped = sum(row.state == "stopped" for row in rows)
    last = lines[-1] | {"epochs": spent}
    print(
        f"seed {plan.job.seed}  {arm:7} {len(rows):3} trials, {stopped:3} stopped, "
        f"{spent:4} epochs, {seconds:5.0f} s, hypervolume {last['volume']:.4f}",
        flush=True,
    )
    return [*lines, last]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path, default=IMAGES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--more", type=float, default=1.0, help="trials with rungs, as a factor")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("rungs.jsonl"))
    told = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ref = unpack(told.images, folder / "images") if told.images.exists() else DataRef()
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
            some = run(stopping, folder, told.output, "rungs")
            whole = run(off, folder, told.output, "off")
            draws = max(1, round(some[-1]["epochs"] / told.epochs))
            drawn = dataclasses.replace(off, sampler="random", trials=draws)
            run(drawn, folder, told.output, "random")
            level = whole[-1]["volume"]
            came = [line["epochs"] for line in some if line["volume"] >= level]
            third = [line["volume"] for line in some if line["epochs"] <= whole[-1]["epochs"] / 3]
            best = max(itertools.chain([0.0], third))
            share = f"{came[0] / whole[-1]['epochs']:.2f} of its epochs" if came else "not reached"
            print(
                f"seed {seed}  what the arm without rungs had in the end: {share}; "
                f"with a third of them {best / level:.3f} of it",
                flush=True,
            )


if __name__ == "__main__":
    main()
