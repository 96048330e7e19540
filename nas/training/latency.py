"""Measured latency at batch 1: what one image costs on this device, and how sure that is.

**The value is the smallest time of a call.** Other programs only ever add time to a call, so the
smallest is what a quiet machine would show. Seen on two cores, 14 measurements each, largest over
smallest less one, for a network of 0.2 ms and one of 1.7 ms:

    ===================  ===========  =================  ====================
    estimate             idle         one busy process   three busy threads
    ===================  ===========  =================  ====================
    smallest call        0.7 %, 2 %   0.9 %, 2 %         1 %, 7 %
    least block median   1.4 %, 3 %   1.2 %, 4 %         2 %, 97 %
    median of all calls  1.1 %, 7 %   4.4 %, 16 %        2 %, 175 %
    ===================  ===========  =================  ====================

The median of a quiet machine lies 2 to 5 % above the smallest call.

**The interval.** Blocks of calls alternate with blocks of a fixed reference network. ``high`` is
the third smallest of the blocks' smallest calls: a lucky one has no two others near it. ``low`` is
the value divided by how much slower the reference was than it has ever been here: a machine that
was slow for the whole measurement shows in the reference, and in nothing else.

**The state.** Eval mode, inference mode, float32, channels last, BN not folded, one thread on the
CPU whatever the process trains with; one measurement at a time per device and user, by a lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from nas import artifacts
from nas.job import Latency

BLOCKS = 10  # at least; more while the smallest calls of no three blocks agree to AGREE
AGREE = 1.01
BLOCK_SECONDS = 0.01
MOST_SECONDS = 2.0


def measure(module: nn.Module, input_shape: tuple[int, ...], device: torch.device) -> Latency:
    """The latency of ``module`` for one image of ``input_shape`` (channels, height, width).

    Takes about 0.3 s for a network under 10 ms, up to 2 s on a machine too busy to agree, and
    three calls a block for a network beyond. The module is moved to ``device``; its mode is kept.
    """
    module.to(device).to(memory_format=torch.channels_last)
    call = timer(module, input_shape, device)
    where = fingerprint(device, threads=1)
    training = module.training
    module.eval()
    try:
        with one_at_a_time(device) as lock, one_thread(), torch.inference_mode():
            reference, shape = reference_network()
            reference.to(device).to(memory_format=torch.channels_last)
            compare = timer(reference, shape, device)
            seconds, compared = interleave(call, compare)
            slowdown = min(compared) / best_reference(lock, where, min(compared))
    finally:
        module.train(training)
    smallest = sorted(seconds)
    ms = 1000 * smallest[0]
    return Latency(ms=ms, low=ms / slowdown, high=1000 * smallest[2], device=where)


def fingerprint(device: torch.device, threads: int | None = None) -> str:
    """The device, its threads (by default: those of this process) and the versions that compute."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"{name}, CUDA {torch.version.cuda}, torch {torch.__version__}"
    threads = threads or torch.get_num_threads()
    capability = torch.backends.cpu.get_cpu_capability()
    count = "1 thread" if threads == 1 else f"{threads} threads"
    return f"{cpu_name()} {capability}, {count}, torch {torch.__version__}"


def cpu_name() -> str:
    """As /proc/cpuinfo tells it; "CPU" where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((s.partition(":")[2].strip() for s in lines if s.startswith("model name")), "CPU")


def interleave(
    call: Callable[[], float], compare: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """The smallest call of each block, in seconds: of ``call``, and of ``compare`` in between."""
    counts = []
    for each in (call, compare):
        until = time.perf_counter() + BLOCK_SECONDS
        warm = [each() for _ in range(3)]
        while time.perf_counter() < until:
            warm.append(each())
        counts.append(max(3, int(BLOCK_SECONDS / min(warm))))
    blocks: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    while len(blocks[0]) < BLOCKS or (
        sorted(blocks[0])[2] > AGREE * min(blocks[0]) and time.perf_counter() - began < MOST_SECONDS
    ):
        for each, count, block in zip((call, compare), counts, blocks, strict=True):
            block.append(min(each() for _ in range(count)))
    return blocks


def timer(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> Callable[[], float]:
    """A function that runs the module once and returns the seconds until its output is there."""
    x = torch.zeros(1, *shape, device=device).to(memory_format=torch.channels_last)

    def on_cpu() -> float:
        began = time.perf_counter()
        module(x)
        return time.perf_counter() - began

    def on_cuda() -> float:
        # The stream is idle at the start, so launching counts: at batch 1 it is most of the time.
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        module(x)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000

    return on_cuda if device.type == "cuda" else on_cpu


def reference_network() -> tuple[nn.Module, tuple[int, int, int]]:
    """Three convolutions, 6 million MACs: about 0.2 ms on a CPU core. Its weights do not matter."""
    layers: list[nn.Module] = []
    for width, following in ((16, 32), (32, 32), (32, 32)):
        layers += [nn.Conv2d(width, following, 3, padding=1), nn.ReLU()]
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.constant_(parameter, 0.01)
    return nn.Sequential(*layers).eval(), (16, 16, 16)


@contextmanager
def one_at_a_time(device: torch.device) -> Iterator[int]:
    """Waits for this user's other measurements on the device; gives the lock's file descriptor."""
    name = str(device)
    if device.type == "cuda":
        name = str(torch.cuda.get_device_properties(device).uuid)
    path = artifacts.own_folder() / f"latency-{name}"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def best_reference(lock: int, device: str, seconds: float) -> float:
    """The reference network's smallest time on the device so far, this one included, which the
    lock's file remembers."""
    try:
        told = json.loads(os.pread(lock, 1 << 16, 0))
        known = float(told.get(device, seconds))
    except (ValueError, AttributeError, TypeError):  # new, or cut short by a full disk
        told, known = {}, seconds
    if seconds <= known:
        text = json.dumps({**told, device: seconds}).encode()
        os.ftruncate(lock, 0)
        os.pwrite(lock, text, 0)
    return min(known, seconds)


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
