"""Times networks; alone, a script that needs onnxruntime and numpy and nothing else.

    python measure.py --device NAME [--threads 1,4] [--batch 1,64]

times each ONNX file of its folder and writes answers.json beside them, for `nas latency read`
(Python 3.10 or newer).
In nas this file is the module that times every runtime, so that both take time in one way.

**The value.** Other programs only ever add time to a call, so the least call is what a quiet
machine would show. Where a process puts a network in memory moves its time by a percent or two, and
stays for as long as that process: so several instances are made, each in memory of its own, and the
value is the median of their least calls. **The interval** spans the instances, widened by
``BETWEEN``, which is what other processes add, and downwards by how much slower than ever before a
reference was that is timed in between: a machine that was slow all the while shows in it alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], float]  # runs a network once; the seconds until its output is there

INSTANCES = 5
ROUNDS = 2  # at least; more while a round still finds calls that are faster by AGREE
AGREE = 1.005
BLOCK_SECONDS = 0.01
MOST_SECONDS = 2.0
BETWEEN = 1.04  # of 24 processes in turn 98 % of the values lie in another one's; at 1.02 65 %
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # of a device


@dataclass(frozen=True)
class Times:
    """``ms`` is the median over the instances of their least calls; ``low`` and ``high`` its
    interval. ``busy`` is the share of the machine's processors that others used meanwhile, None
    where the kernel does not say. ``reference`` is the reference's least call, in seconds."""

    ms: float
    low: float
    high: float
    busy: float | None
    reference: float


def take(instances: Sequence[Call], compare: Call, best: Callable[[float], float]) -> Times:
    """Times the instances of one network in turns with the reference ``compare``. ``best`` gives
    the reference's least call ever on this device, for that of now."""
    calls = [compare, *instances]
    counts = [_count(call) for call in calls]
    least = [float("inf")] * len(calls)
    used = Usage()
    began, rounds = time.perf_counter(), 0
    while True:
        before = list(least)
        for k, (call, count) in enumerate(zip(calls, counts, strict=True)):
            least[k] = min(least[k], *(call() for _ in range(count)))
        rounds += 1
        settled = all(b <= AGREE * now for b, now in zip(before, least, strict=True))
        if rounds >= ROUNDS and (settled or time.perf_counter() - began > MOST_SECONDS):
            break
    reference, *found = least
    found.sort()
    slower = reference / best(reference)
    return Times(
        ms=1000 * found[len(found) // 2],
        low=1000 * found[0] / BETWEEN / slower,
        high=1000 * found[-1] * BETWEEN,
        busy=used.by_others(),
        reference=reference,
    )


def least(call: Call, seconds: float) -> float:
    """The least call of some time, after as long to warm up."""
    for _ in range(2):
        until, found = time.perf_counter() + seconds, [call(), call(), call()]
        while time.perf_counter() < until:
            found.append(call())
    return min(found)


def _count(call: Call) -> int:
    """How often to call in a block, after as long a time to warm up."""
    warm = [call() for _ in range(3)]
    until = time.perf_counter() + BLOCK_SECONDS
    while time.perf_counter() < until:
        warm.append(call())
    return max(3, int(BLOCK_SECONDS / min(warm)))


class Usage:
    """What the machine's processors do from now on."""

    def __init__(self) -> None:
        self._began = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        try:
            with open("/proc/stat") as file:
                ticks = [int(part) for part in file.readline().split()[1:]]
        except (OSError, ValueError):
            return 0.0, 0.0, 0.0
        hertz = os.sysconf("SC_CLK_TCK")
        whole = sum(ticks[:8]) / hertz  # guests' time is part of the users'
        return whole, whole - (ticks[3] + ticks[4]) / hertz, sum(os.times()[:4])

    def by_others(self) -> float | None:
        whole, used, own = (b - a for a, b in zip(self._began, self._now(), strict=True))
        return round(min(1.0, max(0.0, (used - own) / whole)), 3) if whole > 0 else None


# --- what the machine is -------------------------------------------------------------------------


def cpu_name() -> str:
    """The processor's name from the kernel, a board's model, or the architecture."""
    for path, key in (("/proc/cpuinfo", "model name"), ("/proc/device-tree/model", "")):
        try:
            text = Path(path).read_text().replace("\0", "")
        except OSError:
            continue
        found = re.search(rf"^{key}\s*:(.*)$", text, re.MULTILINE) if key else re.match(".+", text)
        if found:
            return (found[1] if key else found[0]).strip()
    return platform.processor() or platform.machine() or "CPU"


def governor() -> str:
    """The CPU's frequency governor and maximum MHz; "clock not told" elsewhere."""
    folder = Path("/sys/devices/system/cpu/cpu0/cpufreq")
    try:
        most = int((folder / "scaling_max_freq").read_text()) // 1000
        return f"{(folder / 'scaling_governor').read_text().strip()}, {most} MHz"
    except (OSError, ValueError):
        return "clock not told"


def cores() -> int:
    """Those that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def threads_text(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


# --- ONNX Runtime --------------------------------------------------------------------------------


def session(graph: bytes, threads: int) -> Any:
    """A session on the CPU with ``threads`` threads for the operators."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # The threads of one instance are not to spin beside the next one's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def onnx_call(graph: bytes, threads: int, batch: int) -> Call:
    """A new session of the graph, with a batch of noise to run it on."""
    made = session(graph, threads)
    given = made.get_inputs()[0]
    shape = (batch, *given.shape[1:])
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    feed, outputs = {given.name: x}, [made.get_outputs()[0].name]

    def call() -> float:
        began = time.perf_counter()
        made.run(outputs, feed)
        return time.perf_counter() - began

    return call


def onnx_peak(graph: bytes, threads: int, batch: int) -> int | None:
    """The bytes by which the peak memory of a process with onnxruntime loaded grows to hold the
    graph and run it once; in a process of its own, as this one could reuse memory freed before.
    None where the kernel does not say."""
    command = [sys.executable, __file__, "--peak", str(threads), str(batch)]
    done = subprocess.run(command, input=graph, capture_output=True)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip() else None


def _tell_peak(threads: int, batch: int) -> None:
    import onnxruntime  # noqa: F401

    graph = sys.stdin.buffer.read()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = _memory("VmRSS")
    except (OSError, ValueError):
        return
    onnx_call(graph, threads, batch)()
    print(_memory("VmHWM") - before)


def _memory(key: str) -> int:
    found = re.search(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if not found:
        raise ValueError(key)
    return 1024 * int(found[1])


def plain_reference() -> Call:
    """A product of whole numbers, which numpy does in one thread and without BLAS: 0.1 ms."""
    a = np.arange(48 * 48, dtype=np.int64).reshape(48, 48) % 7

    def call() -> float:
        began = time.perf_counter()
        a @ a
        return time.perf_counter() - began

    return call


# --- a pack --------------------------------------------------------------------------------------


class Changed(Exception):
    """A file of the pack is not as it was made."""


def measured(folder: Path, device: str, threads: Sequence[int], batches: Sequence[int]) -> Any:
    """What answers.json says. Raises Changed where a file of the pack is not as it was made."""
    import onnxruntime

    graphs = {}
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        for network in manifest["networks"]:
            data = (folder / network["file"]).read_bytes()
            if hashlib.sha256(data).hexdigest() != network["sha256"]:
                raise Changed(f"{network['file']} is not as it was packed")
            graphs[network["fingerprint"]] = data
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Changed("manifest.json is not as it was packed") from None
    reference, best = plain_reference(), [float("inf")]

    def least(seconds: float) -> float:
        best[0] = min(best[0], seconds)
        return best[0]

    answers = []
    for network in manifest["networks"]:
        graph = graphs[network["fingerprint"]]
        for count in threads:
            for batch in batches:
                instances = [onnx_call(graph, count, batch) for _ in range(INSTANCES)]
                times = take(instances, reference, least)
                answer = {
                    "fingerprint": network["fingerprint"],
                    "sha256": network["sha256"],
                    "threads": count,
                    "batch": batch,
                    "peak_bytes": onnx_peak(graph, count, batch),
                    **asdict(times),
                }
                answers.append(answer)
                told = f"{network['file']}: {times.ms:.3f} ms ({times.low:.3f} to {times.high:.3f})"
                print(f"{told}, {threads_text(count)}, batch {batch}", file=sys.stderr)
    for answer in answers:  # by what the reference has come to at last
        slower = answer["reference"] / best[0]
        answer["low"] = min(answer["low"], answer["ms"] / slower)
    return {
        "pack": manifest["pack"],
        "device": device,
        "cpu": cpu_name(),
        "clock": governor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "runtime": "onnx",
        "versions": {"onnxruntime": onnxruntime.__version__, "python": platform.python_version()},
        "answers": answers,
    }


def numbers(text: str) -> list[int]:
    found = [int(part) for part in text.split(",")]
    if min(found) < 1:
        raise ValueError(text)
    return found


def main() -> None:
    if sys.argv[1:2] == ["--peak"]:
        _tell_peak(*map(int, sys.argv[2:]))
        return
    parser = argparse.ArgumentParser(description="Times the networks of this folder.")
    parser.add_argument("--device", required=True, help="how this machine is to be called")
    parser.add_argument("--threads", type=numbers, default=[1], metavar="1,4")
    parser.add_argument("--batch", type=numbers, default=[1], metavar="1,64")
    told = parser.parse_args()
    if not re.fullmatch(NAME, told.device) or told.device == "here":
        parser.error(f"--device {told.device!r}: letters, digits and . _ -, and not here")
    if max(told.threads) > cores():
        fit = ",".join(str(n) for n in told.threads if n <= cores()) or "1"
        parser.error(
            f"--threads {max(told.threads)}: this machine has {cores()} cores; nothing was "
            f"measured: --threads {fit}"
        )
    folder = Path(__file__).resolve().parent
    try:
        answers = measured(folder, told.device, told.threads, told.batch)
    except OSError as error:
        sys.exit(f"the pack cannot be used: {error.filename}: {error.strerror}")
    except Changed as error:
        sys.exit(f"the pack cannot be used: {error}")
    (folder / "answers.json").write_text(json.dumps(answers, indent=1))
    print(f"written to {folder / 'answers.json'}", file=sys.stderr)


if __name__ == "__main__":
    main()
