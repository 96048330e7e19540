"""A seat: room for one job at a time, in a process of its own that can always be ended.

A job runs in a child process, not in the Ray actor that holds the seat, because a candidate may
hang in C code, fork, allocate without end or crash, and none of that may reach the machinery:

- The child and whatever it starts form one process group. On the time limit, the memory limit or a
  cancel the group is killed; no cooperation of the candidate is needed.
- A shell in the same group reads a pipe that only the seat holds open, its lifeline. When the
  seat's process ends, by whatever means, the read ends and the shell kills the group. A
  parent-death signal would reach the child alone, not what it forked; so does Ray, which kills
  the children of a worker that ends, and therefore the shell must not be one.
- A process that left the group (a daemon) is found through its ancestors while the child lives;
  it is ended on a limit, a cancel or a close, but outlives a child that crashed.
- The child is kept for the next job: starting one costs 0.06 to 0.2 s, its first import of torch
  2 to 6 s (two cores, idle and busy), a job that finds it running 0.4 ms. One that is not as it
  was before the job (a process left over, GPU memory still reserved, half of its memory limit in
  use) is ended and replaced, which gives all of it back.

Nothing here knows Ray, so the same seat can be tested, and used, without it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pipe
from pathlib import Path

from nas.failpoints import reach
from nas.job import Epoch, Failure, FailureKind, Job, Outcome
from nas.workers.run import Ended, Message, Started

TICK = 0.05  # seconds between two looks at limits and cancels; a look costs 0.06 ms
IMPORTS = 300.0  # seconds that importing a job's modules may take before its own time begins
# Forks a reader twice, so that it is nobody's child, then becomes the command of its arguments. Its
# input is given as 3: a shell's background jobs have none. Group 0 is the one of whoever asks.
LIFELINE = 'exec 3<&0; ( (read _; kill -9 0) <&3 & ); exec "$0" "$@" 3<&- </dev/null'
CANCELLED = "stopped by the search"


def over_time(limit: float) -> str:
    return f"not finished within its time limit of {limit:g} s"


class Seat:
    """Runs one job after another. ``time_limit`` in seconds and ``memory_limit`` in bytes, 0: none.

    ``directory`` and ``path`` are the driver's working directory and ``sys.path``, so that a user's
    evaluator is found here as it is there; ``environ`` is added to the child's environment.
    """

    def __init__(
        self,
        *,
        time_limit: float = 0.0,
        memory_limit: int = 0,
        directory: str = ".",
        path: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._time_limit = time_limit
        self._memory_limit = memory_limit or int(0.9 * machine_memory())
        self._directory = directory
        self._path = list(path)
        self._environ = dict(environ or {})
        self._child: Child | None = None
        self._cancelled = -1

    def run(self, ticket: int, job: Job) -> Iterator[Epoch | Outcome]:
        """The epochs as they are reported, then the outcome."""
        curve: list[Epoch] = []
        begun, limit = time.monotonic(), IMPORTS
        child = self._child = self._child or Child(self._directory, self._path, self._environ)
        child.send(job)
        reach("seat_taken")
        while True:
            message, verdict = None, self._verdict(ticket, child, begun, limit)
            if not verdict:
                try:
                    message = child.receive(TICK)
                except ChildProcessError as error:
                    verdict = "worker_died", str(error)
            if verdict:
                self.close()
                kind, reason = verdict
                seconds = time.monotonic() - begun
                yield Failure(kind=kind, reason=reason, seconds=seconds, curve=tuple(curve))
                return
            match message:
                case Started():
                    begun, limit = time.monotonic(), self._time_limit
                case Epoch():
                    curve.append(message)
                    yield message
                case Ended(outcome, clean):
                    if not clean or child.memory() > self._memory_limit / 2:
                        self.close()
                    reach("seat_done")
                    yield outcome
                    return

    def cancel(self, ticket: int) -> None:
        """Ends the job of this ticket, be it running or not begun; called from another thread."""
        self._cancelled = ticket

    def close(self) -> None:
        """Ends the child and all that it started."""
        child, self._child = self._child, None
        if child:
            child.kill()

    def _verdict(
        self, ticket: int, child: Child, begun: float, limit: float
    ) -> tuple[FailureKind, str] | None:
        """Why the job ends now, if it does."""
        if self._cancelled == ticket:
            return "cancelled", CANCELLED
        if limit and time.monotonic() - begun > limit:
            return "timeout", over_time(limit)
        used = child.memory()
        if used > self._memory_limit:
            used = child.exact_memory()
        if used > self._memory_limit:
            limits = f"limit of {self._memory_limit / 2**20:.0f} MiB"
            return "out_of_memory", f"held {used / 2**20:.0f} MiB of memory, over its {limits}"
        return None


class Child:
    """A process that serves jobs (``nas.workers.run.serve``), the leader of all that it starts."""

    def __init__(self, directory: str, path: Sequence[str], environ: Mapping[str, str]) -> None:
        self._pipe, theirs = Pipe()
        modules = [entry or os.getcwd() for entry in sys.path]
        modules += [entry for entry in path if entry and entry not in modules]
        code = f"import sys; sys.path[:] = {modules!r}; from nas.workers.run import serve; serve"
        with theirs:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", LIFELINE, sys.executable, "-c", f"{code}({theirs.fileno()})"],
                stdin=subprocess.PIPE,  # never written to: the lifeline
                stdout=2,  # a candidate's prints go where its errors go: stdout is for data
                pass_fds=[theirs.fileno()],
                process_group=0,
                cwd=directory if os.path.isdir(directory) else None,
                env={**os.environ, **environ},
            )

    def send(self, job: Job) -> None:
        """Hands the job over. That the child has died is told by the next ``receive``."""
        with contextlib.suppress(OSError):
            self._pipe.send(job)

    def receive(self, timeout: float) -> Message | None:
        """The next message, or None after ``timeout`` seconds without one.

        Raises ChildProcessError when the child has ended and all that it sent has been read.
        """
        ended = self._process.poll() is not None  # asked first, for what it sent is read below
        try:
            if self._pipe.poll(0 if ended else timeout):
                message: Message = self._pipe.recv()
                return message
            if not ended:
                return None
        except (EOFError, OSError, pickle.UnpicklingError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        raise ChildProcessError(f"its process ended: {self._exit()}")

    def _exit(self) -> str:
        status = self._process.returncode
        if status is None:
            return "it closed the pipe to its seat"
        return f"exit status {status}" if status >= 0 else signal.Signals(-status).name

    def memory(self) -> int:
        """Bytes that the child and its descendants hold for themselves; 0 where unknown.

        Mapped files are left out: torch's libraries alone would be some 500 MiB a child, which all
        children share. A page that forked processes share counts once for each of them.
        """
        return sum(map(private_memory, descendants(self._process.pid)))

    def exact_memory(self) -> int:
        """As ``memory``, each shared page counted once; dearer: 30 ms a process with torch."""
        kibibytes = 0
        for pid in descendants(self._process.pid):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss_Anon:"):
                        kibibytes += int(line.split()[1])
        return kibibytes * 1024

    def kill(self) -> None:
        """Kills the group, and what left it for a group of its own; returns when all is over."""
        escaped = descendants(self._process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pid in escaped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        self._process.communicate()
        self._pipe.close()


def private_memory(pid: int) -> int:
    """Bytes that a process holds without its mapped files; 0 where unknown (or over)."""
    with contextlib.suppress(OSError, ValueError):
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    return 0


def descendants(pid: int) -> list[int]:
    """The process, its children, their children and so on, as the kernel lists them (Linux)."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):  # it may end while it is looked at, so may its threads
            for task in Path(f"/proc/{parent}/task").iterdir():
                with contextlib.suppress(OSError):
                    found += map(int, (task / "children").read_text().split())
    return found


def machine_memory() -> int:
    """Bytes of memory this process may hope for: the machine's, or its container's if less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # absent, or the word "max"
            sizes.append(int(Path(limit).read_text()))
    return min(sizes)
