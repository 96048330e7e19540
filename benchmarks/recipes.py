"""What the shipped recipes give beside the default, at equal epochs.

    python benchmarks/recipes.py small --data CIFAR
    python benchmarks/recipes.py imagenet
    python benchmarks/recipes.py finetune

CIFAR is a folder of CIFAR-10's images as files, train/CLASS/*.jpg. Printed for each recipe, in
percent: the mean validation accuracy over the seeds, its standard deviation, each seed's own; and
the seconds of a training on one thread, as in a worker. ``--recipes`` names others to train, as
``small,lr=0.05``.

small: 10,000 training images and 3,000 others of CIFAR-10, a plain network of 3 stages of 2, 6
epochs.
imagenet: textures that are made here, 96 pixels, 10 classes, each at scales from 1 to 4: 400
training images and 600 others, a residual network, 30 epochs.
finetune: a residual network, trained on 500 of scikit-learn's digits 0 to 4, goes on with 40 images
of 5 to 9 and is scored on 450, 20 epochs; the first line is without its weights.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nas import data
from nas.cli.settings import read_recipe as read
from nas.data import DATASETS, Dataset, Images, Info
from nas.job import DataRef, Failure, Job
from nas.training import candidate, train

SHALLOW = "INPUT -> CONV(16) -> BN -> RELU -> [RESIDUAL(16) -> POOL]*2 -> GAP -> FC"
STAGE = "[[CONV({0}) -> BN -> RELU]*2 -> POOL]"
PLAIN = f"INPUT -> {' -> '.join(STAGE.format(w) for w in (16, 32, 64))} -> GAP -> FC"
RESIDUAL = (
    "INPUT -> CONV(16, 7, stride=4) -> BN -> RELU -> RESIDUAL(16) -> RESIDUAL(32, stride=2) -> "
    "RESIDUAL(64, stride=2) -> GAP -> FC"
)


@dataclass(frozen=True)
class Task:
    """``recipes`` are compared where no others are named; ``begin`` prepares the data set of the
    task's name and answers the weights to start from."""

    pattern: str
    epochs: int
    recipes: Sequence[str]
    begin: Callable[[str], str]


def small(folder: str) -> str:
    parts = subset(cifar(folder), range(10), (10_000, 3_000))
    register("small", parts)
    return ""


def imagenet(_: str) -> str:
    register("imagenet", (textures(400, 96, 0), textures(600, 96, 1)))
    return ""


def finetune(_: str) -> str:
    images = data.load(DataRef(), "train")
    register("other classes", subset(images, range(5), (500, 50)))
    register("finetune", subset(images, range(5, 10), (40, 450)))
    job = Job(pattern=SHALLOW, data=DataRef(name="other classes"), epochs=10)
    device = torch.device("cpu")
    _, module, _ = train.begin(job, device)
    train.fit(module, job, lambda _: None, device=device)
    file = Path(tempfile.mkdtemp(), "weights.pt")
    torch.save(module.state_dict(), file)
    return str(file)


TASKS: Mapping[str, Task] = {
    "small": Task(PLAIN, 6, ("default", "small"), small),
    "imagenet": Task(RESIDUAL, 30, ("default", "default,resized_crop=0.25", "imagenet"), imagenet),
    "finetune": Task(SHALLOW, 20, ("default,init=", "default", "finetune"), finetune),
}


def cifar(folder: str) -> Images:
    return data.load(DataRef(name="imagefolder", dir=folder), "train")


def subset(images: Images, classes: Sequence[int], counts: Sequence[int]) -> list[Images]:
    """Disjoint random parts of the images of some classes, which are numbered anew."""
    chosen = images.rows[np.isin(images.labels[images.rows], classes)]
    order = np.random.RandomState(0).permutation(chosen)
    labels = np.searchsorted(classes, images.labels) % len(classes)  # of the others, any
    ends = np.cumsum(counts)
    return [
        Images(images.pixels, labels, order[end - count : end])
        for count, end in zip(counts, ends, strict=True)
    ]


def register(name: str, parts: Sequence[Images]) -> None:
    """Two parts as the training and the validation images of a data set."""
    channels, height, width = parts[0].pixels.shape[1:]
    labels = parts[0].labels[parts[0].rows]
    info = Info(
        channels=channels,
        height=height,
        width=width,
        classes=tuple(map(str, range(labels.max() + 1))),
        parts=("train", "validation"),
    )
    DATASETS[name] = Dataset(
        about=name, describe=lambda _: info, read=lambda _, part: parts[part != "train"]
    )


# --- textures ------------------------------------------------------------------------------------

TEXTURES: Sequence[Callable[[np.ndarray, np.ndarray], np.ndarray]] = (
    lambda x, y: np.sin(x),
    lambda x, y: np.sign(np.sin(x)),
    lambda x, y: np.sign(np.sin(x) * np.sin(y)),
    lambda x, y: np.sin(x) * np.sin(y),
    lambda x, y: np.maximum(np.sin(x), np.sin(y)),
    lambda x, y: np.sin(x + 1.5 * np.sin(y)),
    lambda x, y: (
        np.sin(x) + np.sin(x / 2 + y * np.sqrt(3) / 2) + np.sin(x / 2 - y * np.sqrt(3) / 2)
    ),
    lambda x, y: np.sin(x) + np.sin(2.7 * x),
    lambda x, y: np.sin(x) * np.sign(np.sin(y / 2)),
    lambda x, y: np.sin(np.abs(np.remainder(y, 4 * np.pi) - 2 * np.pi) + x),
)


def textures(count: int, side: int, seed: int) -> Images:
    """Pictures of ``TEXTURES`` turned, shifted and scaled at random, a wave from 6 to 24 pixels
    long, between two random colours, in noise."""
    rng = np.random.RandomState(seed)
    labels = np.arange(count) % len(TEXTURES)
    rows, columns = np.mgrid[:side, :side]
    pixels = np.empty((count, 3, side, side), np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        wave, turn = 6 * 4 ** rng.uniform(), rng.uniform(0, 2 * np.pi)
        x = np.cos(turn) * columns - np.sin(turn) * rows
        y = np.sin(turn) * columns + np.cos(turn) * rows
        shift = rng.uniform(0, 100, 2)
        made = TEXTURES[label](2 * np.pi * x / wave + shift[0], 2 * np.pi * y / wave + shift[1])
        made = (made - made.min()) / (made.max() - made.min())
        first, second = rng.uniform(0, 255, (2, 3, 1, 1))
        second = np.where(np.abs(second - first) < 80, (first + 128) % 256, second)
        image[:] = np.clip(first + (second - first) * made + rng.normal(0, 10, image.shape), 0, 255)
    return Images.of(pixels, labels)


# --- trainings -----------------------------------------------------------------------------------


def trained(job: Job) -> tuple[float, float]:
    """Validation accuracy in percent, and seconds."""
    outcome = candidate.evaluate(job, lambda _: None)
    if isinstance(outcome, Failure):
        raise SystemExit(outcome.reason)
    return 100 * outcome.metrics["accuracy"], outcome.seconds


def compare(name: str, recipes: Iterable[str], seeds: int, epochs: int, folder: str) -> None:
    task = TASKS[name]
    init = task.begin(folder)
    for text in recipes or task.recipes:
        settings = text.split(",")
        recipe = read([s for s in settings if s != "default"])
        if init and "init=" not in settings:
            recipe = recipe.but({"init": init})
        jobs = [
            Job(
                pattern=task.pattern,
                recipe=recipe,
                data=DataRef(name=name),
                epochs=epochs or task.epochs,
                seed=seed,
                latency=False,
            )
            for seed in range(seeds)
        ]
        scores, seconds = zip(*map(trained, jobs), strict=True)
        spread = statistics.stdev(scores) if seeds > 1 else 0.0
        each = " ".join(f"{score:.1f}" for score in scores)
        told = f"{statistics.mean(scores):5.1f} ± {spread:.1f}  ({each})  {min(seconds):3.0f} s"
        print(f"{text:50} {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", default="", help="the folder of CIFAR-10's images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="other than the task's")
    parser.add_argument("--recipes", nargs="+", default=[])
    told = parser.parse_args()
    torch.set_num_threads(1)
    compare(told.task, told.recipes, told.seeds, told.epochs, told.data)


if __name__ == "__main__":
    main()
