"""What one machine can train at once: its cores, its memory and its GPUs."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
from pathlib import Path

from nas import processes
from nas.job import GIVEN_GPU

log = logging.getLogger(__name__)

ANSWER = 10.0  # seconds that nvidia-smi may take to answer
A_CARD = 8  # trainings at once on a GPU: more gain nothing (benchmarks/card.py)
CONTEXT = 1 << 30  # bytes of a GPU that CUDA and its libraries take for a process


def machine_memory() -> int:
    """Bytes of memory available to this process: the machine's, or its container's if less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # absent, or the word "max"
            sizes.append(int(Path(limit).read_text()))
    return min(sizes)


def room() -> int:
    """Bytes of memory that trainings may use."""
    return int(0.9 * machine_memory())


def at_once(workers: int | None, need: int, jobs: int | None = None) -> tuple[int, int]:
    """How many of ``jobs`` (None: unknown) this machine runs in parallel, and the threads of each.
    By default one per core, as far as memory allows (``need`` bytes each; 0: unknown), and no more
    than its GPUs take. With 0 ``workers``: in this process, with all threads."""
    cores, memory = processes.cores(), room()
    if workers is None:
        most = _fitting_here(cores, memory, need)
    else:
        most = max(1, workers)
        if most > 1 and need * most > memory:
            log.warning("%d at once may run out of memory: %s", most, _held(need, memory))
    most = min(most, max(1, jobs or most))
    return most, max(1, cores // most)


def _held(need: int, memory: int) -> str:
    return f"a trial may need {need / 2**30:.1f} GiB, and {memory / 2**30:.1f} are available"


def _fitting_here(cores: int, memory: int, need: int) -> int:
    """How many jobs of ``need`` bytes (0: unknown) fit on this machine."""
    most = max(1, min(cores, memory // need)) if need else cores
    if cards := visible_cards():
        most = min(most, sum(fitting(memory, need) for memory in cards.values()))
    elif most < cores:
        held = _held(need, memory)
        least = "most is for the images of a batch: a smaller --recipe batch=N or --size needs less"
        log.warning("%d at once on %d cores: %s; %s (--workers N runs N)", most, cores, held, least)
    return most


def fitting(memory: int, need: int) -> int:
    """How many trainings of ``need`` bytes should share a GPU with ``memory`` bytes."""
    return max(1, min(A_CARD, memory // (need + CONTEXT)))


def visible_cards() -> dict[str, int]:
    """The bytes of memory of each GPU that this process may use, by its name for CUDA. As CUDA
    does, what follows an invalid number in CUDA_VISIBLE_DEVICES is left out."""
    memories = cards()
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(len(memories)))))
    found = {}
    for name in filter(None, map(str.strip, seen.split(","))):
        number = int(name) if name.lstrip("-").isdecimal() else None  # None: a UUID
        if not memories or (number is not None and not 0 <= number < len(memories)):
            break
        found[name] = min(memories) if number is None else memories[number]
    return found


def cards() -> list[int]:
    """Bytes of memory of each GPU of this machine."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    lines = []
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # no such program, or no card
        lines = subprocess.run(
            query, capture_output=True, timeout=ANSWER, check=True
        ).stdout.splitlines()
    return [int(line) << 20 for line in lines if line.strip().isdigit()]


def environ(threads: int, gpus: float, visible: str = "") -> dict[str, str]:
    """The environment variables that limit a training to its share of the machine: its threads, and
    its share of a GPU (1 or more: whole ones), or of those that are ``visible`` to it."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    limits = dict.fromkeys(names, str(threads))
    if visible or not gpus:
        limits["CUDA_VISIBLE_DEVICES"] = visible
    if gpus:
        limits[GIVEN_GPU] = "1"
    if 0 < gpus < 1:
        # a candidate too big for its share fails by itself, not its neighbours on the GPU
        limits["PYTORCH_ALLOC_CONF"] = f"per_process_memory_fraction:{gpus:g}"
    return limits
