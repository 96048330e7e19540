"""Who drives a search: names for drivers, and whether the process of a driver is gone.

With leases alone, a search that is started again right after a kill would wait out the dead
driver's lease; on the same machine the process table answers at once.
"""

from __future__ import annotations

import os
import uuid

from nas.processes import UNSEEN, boot, place, started


def name() -> str:
    """A new name, ``host/boot/pid-namespace/pid/start/random``, for a driver in this process.

    Start, because a process number is given out again; random, because a process may open the
    record again and must not take what it left there for its own.
    """
    return f"{place()}/{os.getpid()}/{started(os.getpid())}/{uuid.uuid4().hex[:8]}"


def gone(driver: str) -> bool:
    """Whether its process surely runs no more; False where it cannot be seen from here."""
    where, *process = driver.rsplit("/", 3)
    if not boot() or where != place() or len(process) < 3 or not process[0].isdecimal():
        return False
    pid, start, _ = process
    return started(int(pid)) not in (start, UNSEEN)
