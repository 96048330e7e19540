"""Processes, identified by pid and start time, as pids are reused. Descendants are found only on
Linux."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nas.errors import NasError

BOOT = Path("/proc/sys/kernel/random/boot_id")
UNSEEN = "running"  # for a start time where there is no /proc, or it hides the process


@dataclass(frozen=True, slots=True)
class Process:
    """A process, uniquely identified: its pid, and its start time in the kernel's units."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid, started(pid))

    def send(self, number: signal.Signals) -> bool:
        """Sends a signal to exactly this process; returns whether it was running. None has a pid
        below 1, by which the system means groups of processes.

        A pidfd is opened before the start time is checked, so that the process checked is the one
        that gets the signal.
        """
        if self.pid < 1:
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if not hasattr(os, "pidfd_open"):
                os.kill(self.pid, number)
                return True
            held = os.pidfd_open(self.pid)
            try:
                if self.started and started(self.pid) == self.started:
                    signal.pidfd_send_signal(held, number)
                    return True
            finally:
                os.close(held)
        return False


def started(pid: int) -> str:
    """The process's start time in the kernel's units; empty where it has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return UNSEEN if _answers(pid) else ""
    # proc_pid_stat(5): the second field, the command in parentheses, may itself contain blanks and
    # parentheses; state is the third field, starttime the 22nd.
    fields = status.rsplit(")", 1)[1].split()
    return "" if fields[0] in "ZX" else fields[19]


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def place() -> str:
    """The scope in which a pid is unique: the host, its boot and its pid namespace."""
    # All three are needed: machines, or two containers on one, may share a host name, and the
    # initial pid namespace has the same number on every machine.
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}/{boot()}/{namespace}"


def boot() -> str:
    """An identifier of this boot of the kernel; empty where the system has none."""
    try:
        return BOOT.read_text().strip()
    except OSError:
        return ""


def cores(groups: str = "/sys/fs/cgroup") -> int:
    """The cores that this process may use: a batch system, ``taskset``, or a container's quota of
    processor time may leave it a few."""
    try:
        own = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        own = os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # v2, v1
        with contextlib.suppress(OSError, ValueError):  # absent, or the word "max"
            told = " ".join(Path(groups, name).read_text() for name in names)
            quota, period = map(int, told.split())
            if quota > 0:  # -1: none
                own = min(own, math.ceil(quota / period))
    return own


def children(pid: int) -> Iterator[tuple[int, int]]:
    """The threads of a process and the children of each: (thread, child)."""
    with contextlib.suppress(OSError):  # the process or a thread may end meanwhile
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in (task / "children").read_text().split():
                    yield int(task.name), int(child)


def descendants(pid: int) -> list[int]:
    """The process and all its descendants, breadth first."""
    found = [pid]
    for parent in found:
        found += [child for _, child in children(parent)]
    return found


def end(processes: Iterable[Process]) -> None:
    """Kills these processes and all their descendants. They are stopped first, so that they start
    no new children."""
    todo, stopped = list(processes), set[Process]()
    for process in todo:
        if process not in stopped and process.send(signal.SIGSTOP):
            stopped.add(process)
            todo += [Process.of(child) for _, child in children(process.pid)]
    for process in stopped:
        process.send(signal.SIGKILL)


def own_folder() -> Path:
    """A folder through which this user's processes on this machine exchange information, private to
    the user.

    Other users may own a name in the temporary folder, so theirs are skipped. Raises NasError where
    no name is left.
    """
    user, place = os.getuid(), Path(tempfile.gettempdir())
    for number in range(100):
        path = place / f"nas-of-{user}-{number}"
        with contextlib.suppress(FileExistsError):
            path.mkdir(0o700)
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o077:
            return path
    raise NasError(f"{place}/nas-of-{user}-0 to 99 are not yours alone: remove one, or set TMPDIR")


def importing(module: str, name: str) -> str:
    """Code that imports a name of this package in a Python without the package installed."""
    ours = str(Path(__file__).parents[1])
    return f"import sys; sys.path.insert(0, {ours!r}); from {module} import {name}"
