"""What the training loop costs, beside a plain PyTorch and torchvision loop on the same network.

    python benchmarks/training.py             loops, on digits: about 3 minutes
    python benchmarks/training.py --precision bf16 and channels last, network by network: 3 minutes

One thread, as in a worker. Each figure is the least of several interleaved repetitions.
"""

from __future__ import annotations

import argparse
import gc
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import nas
from nas import data
from nas.data.batches import statistics
from nas.job import DataRef, Epoch, Job, Recipe
from nas.training.checkpoint import Training
from nas.training.graph import step_of
from nas.training.step import optimizer_of
from nas.training.train import fit

CPU = torch.device("cpu")
EPOCHS = 20
RECIPE = Recipe(crop=1)
RESIDUAL = (
    "INPUT -> CONV({w}) -> BN -> RELU -> RESIDUAL({w}) -> RESIDUAL({v}, stride=2) -> GAP -> FC"
)
NETWORKS = {
    "linear": "INPUT -> FLATTEN -> FC",
    "lenet": "INPUT -> [CONV(6, 5) -> RELU -> POOL] -> [CONV(16, 5) -> RELU -> POOL] -> FLATTEN"
    " -> FC(120) -> RELU -> FC(84) -> RELU -> FC",
    "vgg": "INPUT -> [[CONV(32) -> RELU]*2 -> POOL]*2 -> FLATTEN -> FC(128) -> RELU -> FC",
    "residual": RESIDUAL.format(w=16, v=32),
    "residual, twice as wide": RESIDUAL.format(w=32, v=64),
    "dense": "INPUT -> CONV(16) -> DENSE(growth=8)*4 -> POOL -> DENSE(growth=8)*4 -> GAP -> FC",
    "mbconv": "INPUT -> CONV(16) -> BN -> RELU -> MBCONV(16)*2 -> POOL -> MBCONV(32) -> GAP -> FC",
}


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """A data set as tutorials write it: an image at a time, through torchvision's transforms."""

    def __init__(self, images: data.Images, transform: Callable[[torch.Tensor], torch.Tensor]):
        self.pixels = [torch.from_numpy(np.array(images.pixels[row])) for row in images.rows]
        self.labels = [int(images.labels[row]) for row in images.rows]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, n: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pixels[n]), self.labels[n]


def plain(module: nn.Module, workers: int = 0) -> float:
    """Trains as tutorials do, with our recipe; returns the validation accuracy."""
    train, validation = (data.load(DataRef(), part) for part in ("train", "validation"))
    normal = statistics(train)
    common = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(normal.mean, normal.std)]
    crop = v2.RandomCrop((8, 8), padding=RECIPE.crop)
    more: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    pictures = Pictures(train, v2.Compose([crop, *common]))
    loader = DataLoader(pictures, RECIPE.batch, shuffle=True, drop_last=True, **more)
    held = DataLoader(Pictures(validation, v2.Compose(common)), 512, **more)
    optimizer, schedule = usual(module, len(loader), fused=False)
    criterion = nn.CrossEntropyLoss(label_smoothing=RECIPE.label_smoothing)
    accuracy = 0.0
    for _ in range(EPOCHS):
        module.train()
        for x, y in loader:
            loss = criterion(module(x), y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), RECIPE.clip)
            optimizer.step()
            schedule.step()
            loss.item()
        module.eval()
        with torch.no_grad():
            right = sum(int((module(x).argmax(1) == y).sum()) for x, y in held)
        accuracy = right / len(validation)
    return accuracy


def loaders(module: nn.Module) -> float:
    """As ``plain``, its images loaded by two more processes."""
    return plain(module, workers=2)


def best(module: nn.Module) -> float:
    """A well-engineered version of ``plain``: all images as one tensor, normalised once, a whole
    batch cropped at once (all by one shift, as torchvision's transforms do), channels last, the
    fused optimizer, and no value read back within an epoch."""
    parts = [data.load(DataRef(), part) for part in ("train", "validation")]
    normal = statistics(parts[0])
    ready = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(normal.mean, normal.std)]
    )
    x, held = (
        ready(torch.from_numpy(np.array(part.pixels[part.rows]))).to(
            memory_format=torch.channels_last
        )
        for part in parts
    )
    y, wanted = (torch.from_numpy(np.array(part.labels[part.rows])).long() for part in parts)
    module.to(memory_format=torch.channels_last)
    crop = v2.RandomCrop((8, 8), padding=RECIPE.crop)
    steps = len(x) // RECIPE.batch
    optimizer, schedule = usual(module, steps, fused=True)
    criterion = nn.CrossEntropyLoss(label_smoothing=RECIPE.label_smoothing)
    accuracy = 0.0
    for _ in range(EPOCHS):
        module.train()
        for rows in torch.randperm(len(x))[: steps * RECIPE.batch].split(RECIPE.batch):
            loss = criterion(module(crop(x[rows])), y[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), RECIPE.clip)
            optimizer.step()
            schedule.step()
        module.eval()
        with torch.inference_mode():
            accuracy = (module(held).argmax(1) == wanted).float().mean().item()
    return accuracy


def usual(module: nn.Module, steps: int, fused: bool) -> tuple[Any, Any]:
    """The recipe's optimizer and schedule, as one asks torch for them."""
    optimizer = torch.optim.SGD(
        module.parameters(),
        RECIPE.lr,
        RECIPE.momentum,
        weight_decay=RECIPE.weight_decay,
        nesterov=True,
        fused=fused,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        RECIPE.lr,
        total_steps=EPOCHS * steps,
        pct_start=RECIPE.warmup,
        cycle_momentum=False,
    )
    return optimizer, schedule


def ours(module: nn.Module) -> float:
    job = Job(pattern="", recipe=RECIPE, epochs=EPOCHS, data=DataRef())
    return fit(module, job, ignore, device=CPU)[-1].accuracy


def bare(module: nn.Module) -> float:
    """Forward, backward and update on one batch that stands ready, and the validation's forward:
    what no loop in PyTorch can do without."""
    train, validation = (data.load(DataRef(), part) for part in ("train", "validation"))
    module.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(module, RECIPE)
    x = torch.randn(RECIPE.batch, 1, 8, 8).to(memory_format=torch.channels_last)
    y = torch.arange(RECIPE.batch) % 10
    held = torch.randn(len(validation), 1, 8, 8).to(memory_format=torch.channels_last)
    criterion = nn.CrossEntropyLoss(label_smoothing=RECIPE.label_smoothing)
    for _ in range(EPOCHS):
        module.train()
        for _ in range(len(train) // RECIPE.batch):
            loss = criterion(module(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        module.eval()
        with torch.inference_mode():
            module(held)
    return float("nan")


def ignore(epoch: Epoch) -> None:
    pass


def loops() -> None:
    ways = {"ours": ours, "tutorial's": plain, "2 loaders": loaders, "its best": best, "bare": bare}
    print(f"digits, {EPOCHS} epochs, seconds of the processor, its loaders' too (accuracy)")
    print("".join(f"{name:>16}" for name in ways))
    for width in (8, 16, 32):
        architecture = nas.parse(RESIDUAL.format(w=width, v=2 * width))
        least = dict.fromkeys(ways, (float("inf"), 0.0))
        for seed in range(3):
            for name, way in ways.items():
                module = nas.build(architecture, seed=seed)
                torch.manual_seed(seed)
                began = processor()
                accuracy = way(module)
                gc.collect()  # the loaders' processes end with their iterators
                least[name] = min(least[name], (processor() - began, accuracy))
        told = "".join(f"{took:8.2f} ({accuracy:.3f})" for took, accuracy in least.values())
        print(f"{told}   residual, {architecture.params:,} parameters", flush=True)


def processor() -> float:
    """Seconds that this process and those it waited for took; others do not blur them."""
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def precision() -> None:
    print("milliseconds a step of 64      float32  channels last      bf16   both    MACs")
    for size in (8, 32):
        for name, pattern in NETWORKS.items():
            channels = 1 if size == 8 else 3
            architecture = nas.parse(pattern, (channels, size, size), 10)
            least = dict.fromkeys(((b, c) for b in (False, True) for c in (False, True)), 1e9)
            for _ in range(3):
                for bf16, last in least:
                    least[bf16, last] = min(least[bf16, last], seconds(architecture, bf16, last))
            told = " ".join(f"{1000 * took:9.2f}" for took in least.values())
            print(f"{size:2} {name:24} {told} {architecture.macs:12,}", flush=True)


def seconds(architecture: nas.Architecture, bf16: bool, last: bool) -> float:
    """Seconds that a step takes, the least of ten."""
    layout = torch.channels_last if last else torch.contiguous_format
    module = nas.build(architecture, seed=0).to(memory_format=layout)
    x = torch.randn(64, *architecture.input).to(memory_format=layout)
    y = torch.arange(64) % 10
    training = Training(
        Job(pattern=""), module, optimizer_of(module, Recipe()), torch.Generator(), CPU, []
    )
    step = step_of(training, list(module.parameters()), bf16)
    times = []
    for _ in range(12):
        began = time.perf_counter()
        step(x, y, 0.01)
        times.append(time.perf_counter() - began)
    return min(times[2:])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--precision", action="store_true")
    torch.set_num_threads(1)
    precision() if parser.parse_args().precision else loops()
