"""The guard of a local Ray: ends Ray's processes when the driver ends, however it ends.

    python -c "from nas.workers.guard import main; main(MARK, FOLDER)"

Ray's agents outlive a killed driver, by 60 s in 2 of 3 tries: they first report to a server that is
dead already. So this process starts before Ray, and finds Ray's processes in two ways, neither of
which suffices: by the last line on standard input, which lists them (a worker that was just
starting is missing), and by MARK in their environment (Ray's agents overwrite it with their title).
When its input closes, the driver has ended: it ends them all and removes FOLDER.

It imports the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from nas.processes import Process, end

MARK = "NAS_DRIVER"  # an environment variable of all that a search starts here, with its own value
PATIENCE = 30.0  # seconds for killed processes to disappear


def main(mark: str, folder: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends only after the driver
    group: list[Process] = []
    for line in sys.stdin:
        if line.endswith("\n"):  # otherwise the driver ended while writing it
            group = [
                Process(int(pid), start) for pid, start in map(str.split, line.split(",")[:-1])
            ]
    end(group)
    deadline = time.monotonic() + PATIENCE
    while (left := marked(mark)) and time.monotonic() < deadline:
        end(left)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def marked(mark: str) -> list[Process]:
    """The living processes whose environment has the mark."""
    found = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        with contextlib.suppress(OSError):  # another user's, or gone
            if entry.isdecimal() and mark.encode() in Path(f"/proc/{entry}/environ").read_bytes():
                found.append(Process.of(int(entry)))
    return [process for process in found if process.started]


def line(processes: Iterable[Process]) -> bytes:
    """Processes as ``main`` reads them."""
    return "".join(f"{p.pid} {p.started}," for p in processes).encode() + b"\n"
