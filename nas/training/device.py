"""The device of a training: which, in what precision, and its sources of chance."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nas.errors import NasError
from nas.job import GIVEN_GPU
from nas.language.architecture import Architecture
from nas.language.expression import Shape, leaves
from nas.language.layers import Conv
from nas.training.timing import cpu_name

SMALL = 50_000_000  # MACs of an image

_ALONE = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Lets one thread train at a time, as torch's generators and number of threads are global to
    the process (torch 2.14). Reentrant."""
    with _ALONE:
        yield


def available() -> torch.device:
    """A GPU where there is one. Raises NasError where this process was given one (``GIVEN_GPU`` in
    its environment) that CUDA cannot use: on the CPU its slot would be held for hours."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get(GIVEN_GPU):
        raise NasError(
            "this worker was given a GPU, and torch cannot use CUDA here: nas doctor, on this "
            "machine, tells more; nas search --gpus-per-trial 0 trains on the CPU"
        )
    return torch.device("cpu")


def machine() -> str:
    """The GPU's or processor's name: the beginning of this machine's device fingerprints."""
    device = available()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def threads_for(architecture: Architecture) -> int:
    """One for a small network, as in a search, unless OMP_NUM_THREADS is set: threads wait for each
    other in every layer, and with another process on one of two cores an epoch of digits took 22,
    21 and 11 times as long with two as with one (23,000, 2.4 M and 30 M MACs)."""
    set_by_user = "OMP_NUM_THREADS" in os.environ
    return torch.get_num_threads() if set_by_user or architecture.macs > SMALL else 1


@contextmanager
def with_threads(threads: int) -> Iterator[None]:
    with alone():
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def bf16_pays(architecture: Architecture, device: torch.device) -> bool:
    """Whether bf16 autocast pays. A rule of the hardware and the network, not a timing: a timing's
    noise would change the numbers of a repetition.

    benchmarks/training.py --precision on one core of an EPYC 9004, step time of bf16 over float32,
    both in channels last (which itself pays nearly always, 1.0 to 2 times): residual, dense and
    VGG-like networks of 1 to 40 million MACs 0.57 to 0.91, linear 1.0 to 1.2, LeNet 0.86 to 1.2;
    depthwise 3x3 convolutions 0.4 to 0.75, but strided ones 1.4 to 12, and 5x5 1.0 to 2. Not yet
    measured on a GPU.
    """
    if architecture.macs < 1_000_000:
        return False
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can = torch.cpu.get_capabilities()
    if not (can.get("avx512_bf16", False) or can.get("amx_bf16", False)):
        return False
    return not any(
        _slow_in_bf16(layer, x) or _wrong_in_bf16(layer, x)
        for layer, x in leaves(architecture.expression, architecture.input)
        if isinstance(layer, Conv)
    )


def _slow_in_bf16(conv: Conv, x: Shape) -> bool:
    return conv.groups == x[0] > 1 and (conv.stride > 1 or conv.kernel > 3)


def _wrong_in_bf16(conv: Conv, x: Shape) -> bool:
    """oneDNN's weight gradient (torch 2.14) leaves the taps that a strided kernel never lays on the
    map as the memory was, NaN at times: seen for every kernel larger than its map."""
    return conv.stride > 1 and conv.kernel > min(x[1:])


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's own generators (initial weights, dropout) at ``seed``, and afterwards as before."""
    with alone(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield
