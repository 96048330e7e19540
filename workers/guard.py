"""The guard of a local Ray: ends it when the driver ends, by whatever means that does.

    python -c "from nas.workers.guard import main; main(MARK, FOLDER)"

Ray's agents outlive a driver that is killed, by 60 s in 2 of 3 tries: they first tell a server that
is dead already. So this process is there before Ray is, and knows it in two ways, of which neither
would do: the processes told on standard input, a line each time, of which the last counts; and
those that have the mark in their environment. A worker that was just starting is in no line, and
Ray's agents write their title over the mark. The end of its input is the driver's; then all of them
end, and the folder goes.

The standard library alone is loaded.
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

MARK = "NAS_DRIVER"  # in the environment of all that a search starts here, beside its own value
PATIENCE = 30.0  # seconds that killed processes may take to be gone


def main(mark: str, folder: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the driver has
    group: list[Process] = []
    for line in sys.stdin:
        if line.endswith("\n"):  # else the driver ended in the middle of it
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
