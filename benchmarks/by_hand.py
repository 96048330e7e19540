"""README's first search beside the same written by hand, with Optuna and a plain PyTorch loop.

    python benchmarks/by_hand.py [--trials 24] [--ways "nas;tpe;nas random;random"] [--rounds 1]

By hand is what a good engineer writes in an afternoon, below in ``objective``: the choices of
``resnet_like``, the images as tensors in memory, the same recipe and epochs, one thread a process,
two processes on one SQLite study. It keeps no weights, measures no latency, and resumes nothing.
Searches propose networks of different sizes, so beside trials a minute stand images trained a
second of processor time, and multiply-adds of forward passes. Processor time is that of all
processes of a search, their start and end among it. Digits; two cores; 5 minutes.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from nas.store import ENDED, open_store

EPOCHS, BATCH, PROCESSES = 20, 64, 2


# -- by hand --------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, into: int, width: int, kernel: int, bottleneck: int, se: int) -> None:
        super().__init__()
        sizes = [kernel, kernel] if not bottleneck else [1, kernel, 1]
        inner = width // bottleneck if bottleneck else width
        widths = [into] + [inner] * (len(sizes) - 1) + [width]
        layers: list[nn.Module] = []
        for (a, b), k in zip(itertools.pairwise(widths), sizes, strict=True):
            layers += [nn.Conv2d(a, b, k, padding=k // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])
        self.se = None
        if se:
            self.se = nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                *(nn.Conv2d(width, width // se, 1), nn.ReLU()),
                *(nn.Conv2d(width // se, width, 1), nn.Sigmoid()),
            )
        self.shortcut: nn.Module = nn.Identity()
        if into != width:
            conv = nn.Conv2d(into, width, 1, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        if self.se is not None:
            y = y * self.se(y)
        return torch.relu(y + self.shortcut(x))


def network(trial: optuna.Trial) -> nn.Module:
    """One of ``resnet_like``; pools that would leave nothing to pool are left out."""
    width = trial.suggest_categorical("w0", [16, 32])
    stages = trial.suggest_int("M", 2, 4)
    bottleneck = trial.suggest_categorical("bottleneck", [0, 4])
    se = trial.suggest_categorical("se", [0, 4])
    layers = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    size, stage = 8, 0
    for k in range(stages):
        if k == 0:
            stage = trial.suggest_categorical("width", [16, 32])
        else:
            stage = min(256, int(stage * trial.suggest_categorical(f"times{k}", [1.0, 1.5, 2.0])))
        kernel = trial.suggest_categorical(f"kernel{k}", [3, 5])
        for _ in range(trial.suggest_int(f"N{k}", 1, 3)):
            layers.append(Residual(width, stage, kernel, bottleneck, se))
            width = stage
        if trial.suggest_categorical(f"pool{k}", [True, False]) and size >= 2:
            layers.append(nn.MaxPool2d(2))
            size //= 2
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if trial.suggest_int("K", 0, 1):
        hidden = trial.suggest_categorical("fc", [64, 128])
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, 10))


def macs(module: nn.Module, x: torch.Tensor) -> int:
    """Multiply-adds of one image, for the table: no part of the search."""
    total = 0

    def count(layer: nn.Module, _: Any, out: torch.Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * out[0].numel()  # type: ignore[index]

    hooks = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        module.eval()(x[:1])
    for hook in hooks:
        hook.remove()
    return total


def objective(trial: optuna.Trial, images: list[torch.Tensor]) -> tuple[float, int]:
    """Trains one network; its accuracy and parameters."""
    x, held, y, held_y = images
    module = network(trial).to(memory_format=torch.channels_last)
    params = sum(p.numel() for p in module.parameters())
    trial.set_user_attr("macs", macs(module, x))
    if params > 1_000_000 or trial.user_attrs["macs"] > 50_000_000:
        raise optuna.TrialPruned
    steps = len(x) // BATCH
    optimizer = torch.optim.SGD(
        *(module.parameters(), 0.1, 0.9), weight_decay=5e-4, nesterov=True, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        *(optimizer, 0.1), total_steps=EPOCHS * steps, pct_start=0.2, cycle_momentum=False
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    accuracy = 0.0
    for _ in range(EPOCHS):
        module.train()
        for rows in torch.randperm(len(x))[: steps * BATCH].split(BATCH):
            loss = criterion(module(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        module.eval()
        with torch.inference_mode():
            accuracy = (module(held).argmax(1) == held_y).float().mean().item()
    return accuracy, params


def work(url: str, sampler: str, trials: int, seed: int) -> None:
    """One of the processes of a search by hand."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    # As many for each part as `nas` takes: 1,079, 359 and (for the test) 359.
    x, rest, y, rest_y = train_test_split(pixels, labels, train_size=1079, stratify=labels)
    held, held_y = rest[:359], rest_y[:359]
    x, held = (x - x.mean()) / x.std(), (held - x.mean()) / x.std()
    images = [torch.from_numpy(a) for a in (x, held)]
    images = [a.to(memory_format=torch.channels_last) for a in images]
    images += [torch.from_numpy(a.astype(np.int64)) for a in (y, held_y)]
    made = {"tpe": optuna.samplers.TPESampler, "nsga2": optuna.samplers.NSGAIISampler}
    made["random"] = optuna.samplers.RandomSampler
    study = optuna.create_study(
        storage=url,
        sampler=made[sampler](seed=seed),
        study_name="by hand",
        directions=["maximize", "minimize"],
        load_if_exists=True,
    )
    until = optuna.study.MaxTrialsCallback(trials, states=(optuna.trial.TrialState.COMPLETE,))
    study.optimize(lambda trial: objective(trial, images), callbacks=[until])


# -- the comparison -------------------------------------------------------------------------------


class Meter(threading.Thread):
    """Processor seconds of all processes with a mark in their environment, sampled as they run:
    some of a search's are waited for by no one, and not all are its descendants."""

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self.mark, self.over = mark, threading.Event()
        self.used: dict[tuple[str, str], int] = {}
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.25):
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    if self.mark.encode() not in (entry / "environ").read_bytes():
                        continue
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except OSError:  # another user's, or gone
                    continue
                self.used[entry.name, fields[19]] = int(fields[11]) + int(fields[12])

    def seconds(self) -> float:
        self.over.set()
        self.join()
        return sum(self.used.values()) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Told:
    """Of one search: seconds on the wall and of the processor, and each trained network's MACs."""

    wall: float
    processor: float
    macs: list[int]
    best: float

    def row(self) -> str:
        images = len(self.macs) * EPOCHS * (1079 // BATCH) * BATCH
        trained = sum(self.macs) / len(self.macs) * images
        return (
            f"{self.wall:.0f} s | {60 * len(self.macs) / self.wall:.1f} | "
            f"{sum(self.macs) / len(self.macs) / 1e6:.2f} M | {images / self.processor:,.0f} | "
            f"{trained / self.processor / 1e9:.2f} G | {self.best:.2%}"
        )


def run(way: str, trials: int, seed: int, folder: str) -> Told:
    url = f"sqlite:///{folder}/record.db"
    command = [sys.executable, __file__, "--trials", str(trials), "--url", url, "--ways", way]
    commands = [[*command, "--seed", str(100 * seed + k)] for k in range(PROCESSES)]
    ours, _, sampler = way.partition(" ")
    if ours == "nas":
        command = [sys.executable, "-m", "nas.cli", "search", "--space", "resnet_like"]
        command += ["--trials", str(trials), "--storage", url, "--workers", str(PROCESSES)]
        command += ["--epochs", str(EPOCHS), "--seed", str(seed)]
        commands = [command + (["--sampler", sampler] if sampler else [])]
    else:  # the study's tables are made once
        optuna.storages.RDBStorage(url)
    mark = f"by hand or not {secrets.token_hex(8)}"
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "SEARCHED": mark}
    begun = time.perf_counter()
    with open(Path(folder, "log"), "w") as log:
        running = [
            subprocess.Popen(c, cwd=folder, env=environ, stdout=log, stderr=log) for c in commands
        ]
        meter = Meter(mark)
        failed = bool(sum(process.wait() != 0 for process in running))
    wall, processor = time.perf_counter() - begun, meter.seconds()
    if failed:
        raise SystemExit(Path(folder, "log").read_text()[-2000:])
    if ours == "nas":
        store = open_store(url, create=False, write=False)
        rows = list(store.trials(store.find_study("resnet_like-digits").id, states=ENDED))
        store.close()
        finished = [row for row in rows if row.state == "finished"]
        best = max(row.value("accuracy") for row in finished)
        return Told(wall, processor, [row.macs for row in finished], best)
    done = optuna.load_study(study_name="by hand", storage=url).get_trials(
        states=(optuna.trial.TrialState.COMPLETE,)
    )
    best = max((trial.values[0] for trial in done), default=math.nan)
    return Told(wall, processor, [trial.user_attrs["macs"] for trial in done], best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--ways", default="nas;tpe;nas random;random")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--url", help="of a study to work on, as one of its processes")
    told = parser.parse_args()
    if told.url:
        work(told.url, told.ways, told.trials, told.seed)
        return
    print(
        "| search | took | trials a minute | MACs, mean | images trained a processor second "
        "| multiply-adds | best |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    for k in range(told.rounds):
        for way in told.ways.split(";"):
            with tempfile.TemporaryDirectory() as folder:
                print(
                    f"| {way} | {run(way, told.trials, told.seed + k, folder).row()} |", flush=True
                )


if __name__ == "__main__":
    main()
