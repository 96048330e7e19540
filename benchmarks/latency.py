"""What a latency is worth: predicted before it is measured, and measured again and again.

    python benchmarks/latency.py predicted --space resnet_like --runtime onnx --networks 200
    python benchmarks/latency.py again --times 20

``predicted``: random networks of a space on 3x32x32 images; from the first of them (``--learn``)
pieces and wholes are learned, and the others are predicted, then measured. Kendall's tau of
measured latency with the prediction, with MACs and with parameters. ``--seconds`` ends the
measuring early; as many as were measured are told.

``again``: one network measured in new processes, the other cores idle and then one busy: how far
the values lie apart (largest over smallest less one), and how many lie in the interval of another
process (all pairs). One core, on a machine with nothing else to do: 3 to 6 minutes each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import time

import numpy as np
import torch

from nas.language.architecture import Architecture
from nas.spaces.space import load_space
from nas.training import latency
from nas.training.network import build
from nas.training.pieces import distinct, time_piece
from nas.training.predicted import Predictor
from nas.training.turns import measurement

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


def drawn(space: str, count: int) -> list[Architecture]:
    told, rng = load_space(space, INPUT, CLASSES), random.Random(0)
    found: dict[str, Architecture] = {}
    for _ in range(50 * count):
        architecture = told.draw(rng)[1]
        if not told.excess(architecture):
            found[architecture.fingerprint] = architecture
        if len(found) == count:
            break
    return list(found.values())


def predicted(space: str, runtime: str, networks: int, learn: int, seconds: float) -> None:
    began, everything = time.monotonic(), drawn(space, networks)
    some = everything[:learn]
    pieces = []
    for piece in distinct(some):
        if time.monotonic() - began > 0.3 * seconds:
            break
        with measurement(CPU), latency.with_threads(1), torch.inference_mode():
            pieces.append((piece, time_piece(piece, runtime, CPU, threads=1, batch=1)))
    wholes, busy, widths = [], [], []
    for architecture in everything:
        module = build(architecture, seed=0)
        found = latency.measure(module, architecture.input, CPU, runtime=runtime)
        wholes.append((architecture, found.ms))
        busy.append(found.busy or 0.0)
        widths.append(found.high / found.ms - 1)
        if time.monotonic() - began > seconds:
            break
    others = wholes[learn:]
    predict = Predictor.fit(pieces, wholes[:learn])
    looked = time.perf_counter()
    guesses = np.array([predict(architecture) for architecture, _ in others])
    each = (time.perf_counter() - looked) / len(others)
    ms = np.array([value for _, value in others])
    errors = np.abs(guesses / ms - 1)
    print(
        f"{space}, {runtime}: {len(pieces)} pieces, {learn} networks learned from, {len(others)} "
        f"predicted ({ms.min():.3f} to {ms.max():.3f} ms): within 10 %: "
        f"{100 * np.mean(errors <= 0.1):.1f} %, median error {100 * np.median(errors):.1f} %, "
        f"95 % within {100 * np.quantile(errors, 0.95):.1f} %\n"
        f"  told beforehand: {predict.trust}\n"
        f"  tau: predicted {tau(guesses, ms):.3f}, MACs "
        f"{tau(np.array([float(a.macs) for a, _ in others]), ms):.3f}, params "
        f"{tau(np.array([float(a.params) for a, _ in others]), ms):.3f}\n"
        f"  {1000 * each:.2f} ms a prediction, others used {100 * np.mean(busy):.0f} % of the "
        f"machine, {time.monotonic() - began:.0f} s",
        flush=True,
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
    parser.add_argument("--seconds", type=float, default=150.0, help="of a space in a runtime")
    parser.add_argument("--times", type=int, default=20)
    told = parser.parse_args()
    runtimes = told.runtime or ["eager", "onnx"]
    if told.what == "again":
        again(told.times, runtimes)
    else:
        for space in told.space or ["resnet_like", "mobilenet_like", "vgg_like"]:
            for runtime in runtimes:
                predicted(space, runtime, told.networks, told.learn, told.seconds)
