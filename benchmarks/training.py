"""What the training loop costs, beside a plain PyTorch and torchvision loop on the same network.

    python benchmarks/training.py             loops, on digits: about 1 minute
    python benchmarks/training.py --precision bf16 and channels last, network by network: 3 minutes

One thread, as in a worker. Each figure is the least of several interleaved repetitions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

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


def plain(module: nn.Module) -> float:
    """Trains as tutorials do, with our recipe; returns the validation accuracy."""
    train, validation = (data.load(DataRef(), part) for part in ("train", "validation"))
    normal = statistics(train)
    common = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(normal.mean, normal.std)]
    crop = v2.RandomCrop((8, 8), padding=RECIPE.crop)
    loader = DataLoader(
        Pictures(train, v2.Compose([crop, *common])), RECIPE.batch, shuffle=True, drop_last=True
    )
    held = DataLoader(Pictures(validation, v2.Compose(common)), 512)
    optimizer = torch.optim.SGD(
        module.parameters(),
        RECIPE.lr,
        RECIPE.momentum,
        weight_decay=RECIPE.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        RECIPE.lr,
        total_steps=EPOCHS * len(loader),
        pct_start=RECIPE.warmup,
        cycle_momentum=False,
    )
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
    print(f"digits, {EPOCHS} epochs, seconds (accuracy)        ours      plain       bare step")
    for width in (8, 16, 32):
        architecture = nas.parse(RESIDUAL.format(w=width, v=2 * width))
        ways = (ours, plain, bare)
        best = {way: (float("inf"), 0.0) for way in ways}
        for seed in range(3):
            for way in ways:
                module = nas.build(architecture, seed=seed)
                torch.manual_seed(seed)
                began = time.perf_counter()
                accuracy = way(module)
                best[way] = min(best[way], (time.perf_counter() - began, accuracy))
        told = "   ".join(f"{best[way][0]:5.2f} ({best[way][1]:.3f})" for way in ways)
        print(f"residual, {architecture.params:6,} parameters   {told}", flush=True)


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
