"""What a GPU makes of our training: images a second, and what of it is lost between jobs.

    python benchmarks/gpu.py --data DIR             the whole, about 5 minutes on an H100
    python benchmarks/gpu.py --data DIR --seeds 5   beside it, accuracies captured and eager

DIR: a folder of images with a folder for each class, such as CIFAR-10's. In one run, side by side:
``fit`` as it is, ``fit`` with the eager step, and the bare step on one batch that stands ready,
eager and as a graph. The bare graph is the floor: nothing but the kernels.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from nas import data
from nas.job import DataRef, Epoch, Job, Recipe
from nas.training import train
from nas.training.checkpoint import Training
from nas.training.graph import Captured, eager
from nas.training.step import optimizer_of

DEVICE = torch.device("cuda")
STEPS = 100
EPOCHS = 4
NETWORKS = {
    "small residual": "INPUT -> CONV(16) -> BN -> RELU -> RESIDUAL(16)*2 -> POOL -> RESIDUAL(32)*2"
    " -> POOL -> RESIDUAL(64)*2 -> GAP -> FC",
    "ResNet-18": "INPUT -> CONV(64) -> BN -> RELU -> RESIDUAL(64)*2 -> RESIDUAL(128, stride=2)"
    " -> RESIDUAL(128) -> RESIDUAL(256, stride=2) -> RESIDUAL(256) -> RESIDUAL(512, stride=2)"
    " -> RESIDUAL(512) -> GAP -> FC",
    "dense": "INPUT -> CONV(32) -> DENSE(growth=16)*8 -> POOL -> DENSE(growth=16)*8 -> GAP -> FC",
    "MBConv": "INPUT -> CONV(32) -> BN -> RELU -> MBCONV(32)*2 -> POOL -> MBCONV(64)*2 -> POOL"
    " -> MBCONV(128)*2 -> GAP -> FC",
}


def silent(epoch: Epoch) -> None:
    pass


def fitted(job: Job, captured: bool) -> tuple[float, float, float]:
    """Seconds of the first epoch, of a later one in the median, and the accuracy in the end."""
    kept = train.step_of
    train.step_of = kept if captured else eager
    try:
        _, module, _ = train.begin(job, DEVICE)
        curve = train.fit(module, job, silent, device=DEVICE, bf16=True)
    finally:
        train.step_of = kept
    later = [b.seconds - a.seconds for a, b in itertools.pairwise(curve)]
    return curve[0].seconds, statistics.median(later), curve[-1].accuracy


def bare(job: Job, classes: int, shape: tuple[int, int, int], captured: bool) -> float:
    """Images a second of the step alone, on a batch that stands ready."""
    _, module, _ = train.begin(job, DEVICE)
    module.to(DEVICE).to(memory_format=torch.channels_last).train()
    optimizer = optimizer_of(module, job.recipe)
    training = Training(job, module, optimizer, torch.Generator(), DEVICE, [])
    plain = eager(training, list(module.parameters()), True, None)
    step: Callable[[Tensor, Tensor, float], Tensor] = plain
    if captured:
        step = Captured(plain, DEVICE, optimizer)
    batch = job.recipe.batch
    x = torch.randn(batch, *shape, device=DEVICE).to(memory_format=torch.channels_last)
    y = torch.arange(batch, device=DEVICE) % classes
    rates = []
    for _ in range(3):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(STEPS):
            step(x, y, 0.01)
        torch.cuda.synchronize()
        rates.append(STEPS * batch / (time.perf_counter() - began))
    return max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=0)
    told = parser.parse_args()
    ref = DataRef(name="imagefolder", dir=told.data)
    info, images = data.describe(ref), len(data.load(ref, "train"))
    print(torch.__version__, torch.cuda.get_device_name(), f"{images:,} images {info.shape}")
    print(
        "network         batch    fit (img/s)  eager fit   bare eager   bare graph   first epoch s"
    )
    for name, pattern in NETWORKS.items():
        for batch in (64, 512):
            recipe = Recipe(batch=batch, crop=4, flip=True)
            job = Job(pattern=pattern, data=ref, epochs=EPOCHS, recipe=recipe)
            first, ours, _ = fitted(job, captured=True)
            _, plain, _ = fitted(replace(job, epochs=2), captured=False)
            alone = [bare(job, len(info.classes), info.shape, held) for held in (False, True)]
            row = [images / ours, images / plain, *alone]
            told_row = " ".join(f"{r:12,.0f}" for r in row)
            print(f"{name:15} {batch:5} {told_row} {first:8.2f}", flush=True)
    for seed in range(told.seeds):
        job = Job(pattern=NETWORKS["small residual"], data=ref, epochs=5, seed=seed,
                  recipe=Recipe(crop=4, flip=True))  # fmt: skip
        pair = {held: fitted(job, captured=held)[2] for held in (True, False)}
        print(json.dumps({"seed": seed, "captured": pair[True], "eager": pair[False]}))


if __name__ == "__main__":
    main()
