"""How good latencies are: predictions before measuring, and repeated measurements.

    python benchmarks/latency.py predicted --space resnet_like --runtime onnx --networks 200
    python benchmarks/latency.py again --times 20

``predicted``: the profile that `nas latency profile` makes of a space on 3x32x32 images
(``--learn`` random networks and their pieces) predicts others (``--networks``, drawn by another
seed), which are then measured in this process and again in a new one. Prints the share within 10 %,
with its exact binomial interval, of the predictions and of the second measurement, which no
prediction can beat; and Kendall's tau of the measured latency with the prediction, with MACs and
with parameters. ``--seconds`` ends the measuring early; only networks measured twice are counted.

``again``: one network measured in new processes, with the other cores idle and then one busy: the
spread of the values (largest over smallest, less one), and how many lie in the interval of another
process (all pairs). One core, on an otherwise idle machine: 3 to 6 minutes each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from scipy.stats import binomtest

from nas.driver.profiles import profile
from nas.language.architecture import Architecture, parse
from nas.spaces.space import load_space
from nas.store import open_store
from nas.training import latency
from nas.training.network import build

CPU = torch.device("cpu")
INPUT, CLASSES = (3, 32, 32), 10
NETWORK = (
    "INPUT(3, 32, 32) -> CONV(width=16) -> BN -> RELU -> RESIDUAL(width=16)*2 -> "
    "RESIDUAL(width=32, stride=2)*2 -> GAP -> FC(width=10)"
)
ONE = """
import json, sys, torch, nas
from nas.training import latency
a = nas.parse(sys.argv[1])
found = latency.measure(nas.build(a, seed=0), a.input, torch.device("cpu"), runtime=sys.argv[2])
print(json.dumps([found.ms, found.low, found.high, found.busy]))
"""
BUSY = "import numpy as np\na = np.random.rand(700, 700)\nwhile True: a @ a"


def drawn(space: str, count: int, seed: int = 0) -> list[Architecture]:
    told, rng = load_space(space, INPUT, CLASSES), random.Random(seed)
    found: dict[str, Architecture] = {}
    for _ in range(50 * count):
        architecture = told.draw(rng)[1]
        if not told.excess(architecture):
            found[architecture.fingerprint] = architecture
        if len(found) == count:
            break
    return list(found.values())


def measured(patterns: list[str], runtime: str, seconds: float) -> list[tuple[float, float]]:
    """Milliseconds and how busy others were, of as many as the time is enough for."""
    until, found = time.monotonic() + seconds, []
    for pattern in patterns:
        if time.monotonic() > until:
            break
        architecture = parse(pattern)
        module = build(architecture, seed=0)
        one = latency.measure(module, architecture.input, CPU, runtime=runtime)
        found.append((one.ms, one.busy or 0.0))
    return found


def predicted(space: str, runtime: str, networks: int, learn: int, seconds: float) -> None:
    began, loaded = time.monotonic(), load_space(space, INPUT, CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{folder}/nas.db")
        made, predict = profile(
            store, loaded, name="here", runtime=runtime, threads=1, batch=1, networks=learn, seed=0,
            on_progress=lambda *_: None,
        )  # fmt: skip
        store.close()
    learned = {parse(text).fingerprint for text in made.profile["wholes"]}
    others = [a for a in drawn(space, networks + learn, seed=1) if a.fingerprint not in learned]
    others = others[:networks]
    looked = time.perf_counter()
    guesses = np.array([predict(architecture) for architecture in others])
    each = (time.perf_counter() - looked) / len(others)
    first = measured([str(a) for a in others], runtime, seconds / 2)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        asked = [str(a) for a in others[: len(first)]]
        second = process.submit(measured, asked, runtime, seconds / 2).result()
    count = len(second)
    others, guesses = others[:count], guesses[:count]
    ms, again = (np.array([value for value, _ in some[:count]]) for some in (first, second))
    print(
        f"{space}, {runtime}: {len(made.profile['pieces'])} pieces, {len(learned)} networks "
        f"learned from, {count} predicted ({ms.min():.3f} to {ms.max():.3f} ms)\n"
        f"  predicted: {shares(guesses / ms - 1)}\n"
        f"  measured once more: {shares(again / ms - 1)}\n"
        f"  told beforehand: {predict.trust}\n"
        f"  tau: predicted {tau(guesses, ms):.3f}, measured once more {tau(again, ms):.3f}, MACs "
        f"{tau(np.array([float(a.macs) for a in others]), ms):.3f}, params "
        f"{tau(np.array([float(a.params) for a in others]), ms):.3f}\n"
        f"  {1000 * each:.2f} ms a prediction, others used "
        f"{100 * np.mean([busy for _, busy in first + second]):.0f} % of the machine, "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )


def shares(errors: np.ndarray) -> str:
    errors = np.abs(errors)
    within = int((errors <= 0.1).sum())
    interval = binomtest(within, len(errors)).proportion_ci()
    return (
        f"within 10 %: {100 * within / len(errors):.1f} % ({100 * interval.low:.1f} to "
        f"{100 * interval.high:.1f}), median error {100 * np.median(errors):.1f} %, 95 % within "
        f"{100 * np.quantile(errors, 0.95):.1f} %"
    )


def tau(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's tau-a: pairs ordered alike less pairs ordered otherwise, of all pairs."""
    order = np.sign(a[:, None] - a[None]) * np.sign(b[:, None] - b[None])
    return float(order.sum() / (len(a) * (len(a) - 1)))


def again(times: int, runtimes: list[str]) -> None:
    for runtime in runtimes:
        for beside in (False, True):
            other = subprocess.Popen([sys.executable, "-c", BUSY]) if beside else None
            try:
                found = [_once(runtime) for _ in range(times)]
            finally:
                if other:
                    other.kill()
                    other.wait()
            values = [ms for ms, *_ in found]
            middle = statistics.median(values)
            pairs = list(itertools.permutations(found, 2))
            inside = sum(low <= ms <= high for (_, low, high, _), (ms, *_) in pairs)
            near = sum(abs(ms / middle - 1) <= 0.03 for ms in values)
            spread = 100 * (max(values) / min(values) - 1)
            others = 100 * statistics.mean(busy for *_, busy in found)
            print(
                f"{runtime}, {'one process busy beside' if beside else 'idle'}: median "
                f"{middle:.4f} ms, largest over smallest {spread:.1f} %, {near} of {times} within "
                f"3 % of the median, in another's interval {100 * inside / len(pairs):.0f} %, "
                f"others used {others:.0f} % of the machine",
                flush=True,
            )


def _once(runtime: str) -> tuple[float, float, float, float]:
    command = [sys.executable, "-c", ONE, NETWORK, runtime]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ms, low, high, busy = json.loads(done.stdout)
    return ms, low, high, busy or 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["predicted", "again"])
    parser.add_argument("--space", action="append")
    parser.add_argument("--runtime", action="append")
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--learn", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=150.0, help="of measuring others")
    parser.add_argument("--times", type=int, default=20)
    told = parser.parse_args()
    runtimes = told.runtime or ["eager", "onnx"]
    if told.what == "again":
        again(told.times, runtimes)
    else:
        for space in told.space or ["resnet_like", "mobilenet_like", "vgg_like"]:
            for runtime in runtimes:
                predicted(space, runtime, told.networks, told.learn, told.seconds)
