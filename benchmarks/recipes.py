"""What the shipped recipes give beside today's default, at equal epochs.

    python benchmarks/recipes.py small --data CIFAR       30 s a training
    python benchmarks/recipes.py imagenet                 40 s a training
    python benchmarks/recipes.py finetune --data CIFAR    10 s a training

CIFAR is a folder of CIFAR-10's images as files, train/CLASS/*.jpg. One thread, as in a worker;
validation accuracy in percent, for each recipe the mean over the seeds, each seed's own, and the
seconds of a training. ``--also small,lr=0.05`` adds a recipe, ``--only`` names those to train.

small: 10,000 training images and 3,000 others, plain network, 3 stages of 2, widths 16-32-64, 6
epochs.
imagenet: textures made here, 96 pixels, in 10 classes at scales from 1 to 4: 1,000 training images
and 1,000 others, residual network, 15 epochs.
finetune: the network of ``small``, trained on 10,000 images of five classes, goes on with 250
images of the other five, 10 epochs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from nas import data
from nas.cli.options import _recipe as read
from nas.data import DATASETS, Dataset, Images, Info
from nas.job import DataRef, Failure, Job, Recipe
from nas.training import train

PLAIN = "INPUT -> [[CONV({0}) -> BN -> RELU]*2 -> POOL] -> [[CONV({1}) -> BN -> RELU]*2 -> POOL] -> [[CONV({2}) -> BN -> RELU]*2 -> POOL] -> GAP -> FC".format(16, 32, 64)
RESIDUAL = "INPUT -> CONV(16, 7, stride=2) -> BN -> RELU -> POOL -> RESIDUAL(16) -> RESIDUAL(32, stride=2) -> RESIDUAL(64, stride=2) -> GAP -> FC"


def subset(images: Images, classes: Sequence[int], counts: Sequence[int]) -> list[Images]:
    """Disjoint random parts of the images of some classes, which are numbered anew."""
    order = np.random.RandomState(0).permutation(images.rows[np.isin(images.labels[images.rows], classes)])
    labels = np.searchsorted(classes, images.labels)
    ends = np.cumsum(counts)
    return [Images(images.pixels, labels, order[e - n : e]) for n, e in zip(counts, ends, strict=True)]


def dataset(name: str, parts: Sequence[Images], classes: int) -> None:
    """Registers two parts as a data set's training and validation images."""
    channels, height, width = parts[0].pixels.shape[1:]
    told = Info(channels=channels, height=height, width=width, classes=tuple(map(str, range(classes))), parts=("train", "validation"))
    DATASETS[name] = Dataset(about=name, describe=lambda _: told, read=lambda _, part: parts[part != "train"])


def textures(count: int, side: int, seed: int) -> Images:
    raise NotImplementedError


def trained(job: Job) -> tuple[float, float]:
    outcome = train.evaluate(job, lambda _: None)
    if isinstance(outcome, Failure):
        print(outcome.reason)
        return float("nan"), outcome.seconds
    return 100 * outcome.metrics["accuracy"], outcome.seconds


def compare(recipes, job: Callable[[Recipe, int], Job], seeds) -> None:
    for name in recipes:
        recipe = read([] if name == "default" else name.split(","))
        scores, seconds = zip(*(trained(job(recipe, seed)) for seed in seeds), strict=True)
        print(f"{name:60} {statistics.mean(scores):5.1f}  {' '.join(f'{s:.1f}' for s in scores)}  {min(seconds):.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what"); parser.add_argument("--data"); parser.add_argument("--seeds", type=int, default=3); parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("recipes", nargs="*")
    told = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    if told.what == "small":
        images = data.load(DataRef(name="imagefolder", dir=told.data), "train")
        dataset("cifar", subset(images, range(10), (10_000, 3_000)), 10)
        compare(told.recipes, lambda recipe, seed: Job(pattern=PLAIN, recipe=recipe, data=DataRef(name="cifar"), epochs=told.epochs, seed=seed, latency=False), range(told.seeds))


if __name__ == "__main__":
    main()
