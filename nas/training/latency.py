"""Measured latency: what a batch costs on this device in a runtime, and how sure that is.

How it is timed is in ``nas.training.timing``. Why by least calls, seen on two cores, 14
measurements each, largest over smallest less one, for a network of 0.2 ms and one of 1.7 ms:

    ===================  ===========  =================  ====================
    estimate             idle         one busy process   three busy threads
    ===================  ===========  =================  ====================
    least call           0.7 %, 2 %   0.9 %, 2 %         1 %, 7 %
    least block median   1.4 %, 3 %   1.2 %, 4 %         2 %, 97 %
    median of all calls  1.1 %, 7 %   4.4 %, 16 %        2 %, 175 %
    ===================  ===========  =================  ====================

The median of a quiet machine lies 2 to 5 % above the least call.

**The state.** Eval mode, inference mode, float32, channels last, by default one CPU thread,
whatever the training uses; one measurement at a time per device and user, and no training of
that user beside it (``nas.training.turns``). Other processes' load is recorded as ``busy``.
"""

from __future__ import annotations

import json
import os

import torch
from torch import nn

from nas.errors import NasError, nearest
from nas.job import Latency
from nas.training import timing
from nas.training.device import with_threads
from nas.training.runtimes import CPU, RUNTIMES, timer
from nas.training.turns import measurement


def measure(
    module: nn.Module,
    input_shape: tuple[int, ...],
    device: torch.device,
    *,
    runtime: str = "eager",
    threads: int = 1,
    batch: int = 1,
    memory: bool = False,
) -> Latency:
    """The latency of ``module`` for a batch of ``input_shape`` (channels, height, width).

    Takes about 0.3 s for a call under 10 ms, up to 2 s on a machine too busy to agree, and some
    twenty calls for a network beyond. The module is moved to ``device`` (a runtime of the CPU alone
    takes it there); its mode is kept. With ``memory`` also the peak bytes, where known.
    Raises NasError for a runtime that does not work here, and for more threads than cores.
    """
    device = device_of(runtime, device, threads)
    training = module.training
    module.to(device).to(memory_format=torch.channels_last)
    module.eval()
    where = fingerprint(device, threads=threads, runtime=runtime)
    try:
        with with_threads(threads), measurement(device) as lock, torch.inference_mode():
            ready = RUNTIMES[runtime].prepare(module, (batch, *input_shape), device, threads)
            peak = ready.peak() if memory else None
            instances = [ready.instance() for _ in range(timing.INSTANCES)]
            reference, shape = reference_network()
            reference.to(device).to(memory_format=torch.channels_last)
            taken = timing.take(
                instances,
                timer(reference, (1, *shape), device),
                lambda seconds: best_reference(lock, where, seconds),
            )
    finally:
        module.train(training)
    return Latency(
        ms=taken.ms,
        low=taken.low,
        high=taken.high,
        device=where,
        runtime=runtime,
        batch=batch,
        busy=taken.busy,
        peak_bytes=peak,
    )


def device_of(runtime: str, device: torch.device, threads: int = 1) -> torch.device:
    """Where a runtime computes, with ``device`` at hand. Raises NasError where it does not work,
    and for more threads than cores."""
    if runtime not in RUNTIMES:
        raise NasError(f"unknown runtime {runtime}; {nearest(runtime, RUNTIMES)}")
    if why := RUNTIMES[runtime].lacks(device):
        raise NasError(f"runtime {runtime} does not work here: {why}")
    if not 1 <= threads <= timing.cores():
        raise NasError(f"{timing.threads_text(threads)}: this machine has {timing.cores()} cores")
    return CPU if runtime == "onnx" else device


def fingerprint(device: torch.device, threads: int | None = None, runtime: str = "eager") -> str:
    """The device, its threads (by default: those of this process) and the versions that compute."""
    version = RUNTIMES[runtime].version()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"{name}, CUDA {torch.version.cuda}, {version}"
    capability = torch.backends.cpu.get_cpu_capability()
    count = timing.threads_text(threads or torch.get_num_threads())
    return f"{timing.cpu_name()} {capability}, {count}, {version}"


def reference_network() -> tuple[nn.Module, tuple[int, int, int]]:
    """Three convolutions, 6 million MACs: about 0.2 ms on a CPU core. Its weights do not matter,
    and torch's generator, which is the caller's, is left as it was."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        for width, following in ((16, 32), (32, 32), (32, 32)):
            layers += [nn.Conv2d(width, following, 3, padding=1), nn.ReLU()]
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.constant_(parameter, 0.01)
    return nn.Sequential(*layers).eval(), (16, 16, 16)


def best_reference(lock: int, device: str, seconds: float) -> float:
    """The reference network's smallest time on the device so far, this one included, which the
    lock's file remembers."""
    try:
        content = json.loads(os.pread(lock, 1 << 16, 0))
        known = float(content.get(device, seconds))
    except (ValueError, AttributeError, TypeError):  # new, or cut short by a full disk
        content, known = {}, seconds
    if seconds <= known:
        text = json.dumps({**content, device: seconds}).encode()
        os.ftruncate(lock, 0)
        os.pwrite(lock, text, 0)
    return min(known, seconds)
