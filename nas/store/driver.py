"""Who drives a search: names for drivers, and whether the process of a driver is gone.

With leases alone, a search that is started again right after a kill would wait out the dead
driver's lease; on the same machine the process table answers at once.
"""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

from nas.processes import UNSEEN, started

BOOT = Path("/proc/sys/kernel/random/boot_id")


def name() -> str:
    """A new name, ``host/boot/pid-namespace/pid/start/random``, for a driver in this process.

    Start, because a process number is given out again; random, because a process may open the
    record again and must not take what it left there for its own.
    """
    return f"{_place()}/{os.getpid()}/{started(os.getpid())}/{uuid.uuid4().hex[:8]}"


def gone(driver: str) -> bool:
    """Whether its process surely runs no more; False where it cannot be seen from here."""
    place, pid, start, _ = driver.rsplit("/", 3)
    return bool(_boot()) and place == _place() and started(int(pid)) not in (start, UNSEEN)


def _place() -> str:
    # Machines may share a name, two containers that of one machine; a pid namespace has the same
    # number on every machine. None of the three tells by itself where a process number counts.
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}/{_boot()}/{namespace}"


def _boot() -> str:
    """This start of this machine's kernel; empty where the system does not tell."""
    try:
        return BOOT.read_text().strip()
    except OSError:
        return ""
