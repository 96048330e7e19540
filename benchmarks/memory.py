"""What a trial is predicted to hold in memory, beside what its process held at its peak.

    python benchmarks/memory.py [--spaces vgg_like resnet18 ...] [--size 32] [--batch 64]
                                [--images held|streamed|cropped]

Each network is trained for two epochs on random images, in a process of its own on one thread in
float32, while another thread looks at the process's private memory every 3 ms. The images are a
mapped file, as those in the cache are: read from the map, by the threads that stream it, or, of
8/7 of the side, cropped at random by the recipe ``imagenet``.
Printed: both in MiB, and the prediction (``nas.training.footprint.trial``) over the peak.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import multiprocessing
import os
import statistics
import tempfile
import threading
from pathlib import Path

import numpy as np

from nas.data import DATASETS, Dataset, Images, Info
from nas.data.footprint import PIXELS, ROOM, SCORED
from nas.driver.audit import drawn
from nas.job import DataRef, Failure, Job, Recipe
from nas.job.recipe import RECIPES
from nas.language.architecture import Architecture
from nas.spaces.space import load_space
from nas.training.footprint import trial
from nas.workers.seat import private_memory

PARTS = ("train", "validation")


def peak(architecture: Architecture, recipe: Recipe, streamed: bool, place: str) -> int:
    """What this process, which trains nothing else, holds at most."""
    import torch

    from nas.training import candidate

    torch.set_num_threads(1)
    candidate.bf16_pays = lambda *_: False  # float32, as is predicted where the node is unknown
    if streamed:
        candidate.fit = functools.partial(candidate.fit, budget=0)
    channels, height, width = architecture.input
    names = tuple(map(str, range(architecture.classes)))
    info = Info(channels=channels, height=height, width=width, classes=names, parts=PARTS)

    def images(ref: DataRef, part: str) -> Images:
        n = 2 * recipe.batch if part == "train" else min(SCORED, 2 * PIXELS // (height * width))
        shape = (n, channels, ref.size or height, ref.size or width)
        file = Path(place, f"{part}-{ref.size}.npy")
        if not file.exists():
            array = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
            for image in array:
                image[:] = np.random.default_rng(0).integers(0, 255, shape[1:], np.uint8)
            array.flush()
            del array
        return Images.of(np.load(file, mmap_mode="c"), np.arange(n) % architecture.classes)

    larger = math.ceil(ROOM * height)
    DATASETS["random"] = Dataset(
        about="random",
        describe=lambda ref: dataclasses.replace(
            info, height=ref.size or height, width=ref.size or width
        ),
        read=images,
        roomy=lambda ref: dataclasses.replace(ref, size=larger),
    )
    most, over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.003):
            most = max(most, private_memory(os.getpid()))

    watching = threading.Thread(target=watch)
    watching.start()
    job = Job(
        pattern=str(architecture),
        recipe=recipe,
        data=DataRef(name="random"),
        epochs=2,
        latency=False,
    )
    outcome = candidate.evaluate(job, lambda _: None)
    over.set()
    watching.join()
    if isinstance(outcome, Failure) and outcome.kind != "diverged":
        raise SystemExit(outcome.reason)
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--spaces", nargs="+", default=["vgg_like", "mixed", "resnet18"])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--draws", type=int, default=2, help="feasible ones of each open space")
    parser.add_argument("--images", choices=["held", "streamed", "cropped"], default="held")
    told = parser.parse_args()
    recipe, ratios = Recipe(batch=told.batch), []
    if told.images == "cropped":
        recipe = dataclasses.replace(RECIPES["imagenet"], batch=told.batch)
    streamed = told.images == "streamed"
    for name in told.spaces:
        space = load_space(name, (3, told.size, told.size), 10)
        for architecture in drawn(space, 1 if space.closed else told.draws, seed=0):
            with (
                tempfile.TemporaryDirectory() as place,
                multiprocessing.get_context("spawn").Pool(1) as pool,
            ):
                held = pool.apply(peak, (architecture, recipe, streamed, place))
            predicted = trial(architecture, recipe, streamed)
            ratios.append(predicted / held)
            print(
                f"{name:16} {architecture.params:11,} params  predicted {predicted >> 20:6,} MiB, "
                f"held {held >> 20:6,} MiB, {ratios[-1]:.2f}",
                flush=True,
            )
    ends = f"{min(ratios):.2f} to {max(ratios):.2f}, median {statistics.median(ratios):.2f}"
    print(f"predicted / held of {len(ratios)} networks: {ends}")


if __name__ == "__main__":
    main()
