"""How trainings share a GPU: as graphs of one step on streams of one process, in processes that
take turns, and in processes that go through CUDA's MPS; and what the others lose when one of four
crashes.

    python benchmarks/gpu_together.py        three minutes, most of them imports of torch

Each trains on one resident batch of 64 images: nothing but kernels. Prints total images per second.
``card.py`` measures whole trainings, in seats.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from gpu import DEVICE, NETWORKS
from torch import nn

import nas
from nas.job import Recipe
from nas.training.step import loss_of, optimizer_of
from nas.workers import mps

BATCH, SECONDS = 64, 1.5
ENDS = {
    "a kernel that fails": "torch.zeros(4, device=DEVICE)[torch.tensor([9], device=DEVICE)].item()",
    "SIGKILL": "os.kill(os.getpid(), 9)",
    "SIGSEGV": "os.kill(os.getpid(), 11)",
}


class Bare:
    """One training step of a network on a batch of its own, as a graph."""

    def __init__(self, name: str) -> None:
        architecture = nas.parse(NETWORKS[name], (3, 32, 32), 10)
        recipe = Recipe(batch=BATCH)
        self.module = nas.build(architecture, seed=0).to(DEVICE).train()
        self.module.to(memory_format=torch.channels_last)
        self.optimizer = optimizer_of(self.module, recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = torch.tensor(0.01, device=DEVICE)
        self.x = torch.randn(BATCH, 3, 32, 32, device=DEVICE)
        self.x = self.x.to(memory_format=torch.channels_last)
        self.y = torch.randint(10, (BATCH,), device=DEVICE)
        self.recipe, self.graph = recipe, torch.cuda.CUDAGraph()
        self.stream = torch.cuda.Stream()
        with torch.cuda.stream(self.stream):
            for _ in range(3):
                self.step()
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.step()
        torch.cuda.synchronize()

    def step(self) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(self.module(self.x), self.y, self.recipe)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0, foreach=True)
        self.optimizer.step()

    def replay(self) -> None:
        with torch.cuda.stream(self.stream):
            self.graph.replay()


def rate(trainings: list[Bare]) -> float:
    """Images a second of all together."""
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        for _ in range(20):
            for training in trainings:
                training.replay()
        torch.cuda.synchronize()
        steps += 20 * len(trainings)
    return steps * BATCH / (time.perf_counter() - began)


def alone(name: str, end: str) -> None:
    """One process of several: it waits for the start signal, then trains, or crashes meanwhile."""
    training = Bare(name)
    print("ready", flush=True)
    sys.stdin.readline()
    if end:
        for _ in range(300):
            training.replay()
        exec(ENDS[end])
    print(rate([training]), flush=True)


def together(names: list[str], environ: dict[str, str], end: str = "") -> list[float]:
    """Images a second of each process; NaN of one that did not come to its end. The last one ends
    as ``end`` says."""
    ends = ["" for _ in names[:-1]] + [end]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, name, how],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, **environ},
        )
        for name, how in zip(names, ends, strict=True)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    for process in processes:
        assert process.stdin
        with contextlib.suppress(BrokenPipeError):  # ended before the word: NaN
            process.stdin.write("go\n")
            process.stdin.flush()
    return [float(process.communicate()[0] or "nan") for process in processes]


def main() -> None:
    print(torch.__version__, torch.cuda.get_device_name())
    for name in ("small residual", "MBConv"):
        held = [Bare(name) for _ in range(8)]
        for count in (1, 4, 8):
            print(f"{name}, {count} streams of one process: {rate(held[:count]):,.0f}", flush=True)
        del held
    with mps.shared() as through:
        ways = [("by turns", {}), ("through MPS", through)] if through else [("by turns", {})]
        for name in ("small residual", "MBConv"):
            for count in (1, 4, 8):
                for how, environ in ways:
                    found = sum(together([name] * count, environ))
                    print(f"{name}, {count} processes {how}: {found:,.0f}", flush=True)
        for end in ENDS:
            *others, _ = together(["small residual"] * 4, through, end)
            print(f"beside one that ends by {end}:", *(f"{each:,.0f}" for each in others))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    alone(*sys.argv[1:]) if len(sys.argv) > 1 else main()
