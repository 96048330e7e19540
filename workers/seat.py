"""A seat: runs one job at a time, in a child process that can always be ended.

A job runs in a child process, not in the Ray actor that holds the seat, as a candidate may hang in
C code, fork, allocate without bound or crash:

- The child has a keeper (``nas.workers.keeper``), the ancestor of all that it starts. On the time
  limit, the memory limit, a cancel, a crash, or the end of the seat's process, the keeper ends them
  all, without the candidate's cooperation. A parent-death signal would reach the child only, not
  its forks.
- The child is reused for the next job: starting one costs 0.06 to 0.2 s, importing torch and the
  training 1.8 to 1.9 s of processor time (4 to 6 s with eight others on the same two cores), a job
  in a running one 0.4 ms. A child that a job left dirty (a process still running, GPU memory
  reserved, half of its memory limit in use) is replaced.

Nothing here knows Ray, so a seat can be tested and used without it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from nas.failpoints import reach
from nas.job import Epoch, Failure, FailureKind, Job, Outcome
from nas.processes import Process, descendants, end, importing
from nas.workers import mps
from nas.workers.machine import room
from nas.workers.run import Ended, Imported, Message, Ready, Started

TICK = 0.05  # seconds between two checks of limits and cancels; a check costs 0.06 ms
IMPORTS = 300.0  # seconds for importing a job's modules, before its own time begins
LAST = 5.0  # seconds for a keeper to report the end of a child whose pipe is closed
# Signals from outside: an operator, a batch system, the kernel when memory is short. Any other end
# of a process is blamed on what ran in it.
OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CANCELLED = "stopped by the search"


def over_time(limit: float) -> str:
    return f"not finished within its time limit of {limit:g} s"


class Seat:
    """Runs one job after another. ``time_limit`` in seconds and ``memory_limit`` in bytes, 0: none.

    ``directory`` and ``path`` are the driver's working directory and ``sys.path``, so that a user's
    evaluator is found here as it is there; ``environ`` is added to the child's environment.
    ``shares_gpu``: other seats use its GPU too, so that the child goes through MPS. ``training``:
    its jobs are trainings, so that a child imports what they need before the first one comes.
    """

    def __init__(
        self,
        *,
        time_limit: float = 0.0,
        memory_limit: int = 0,
        directory: str = ".",
        path: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        shares_gpu: bool = False,
        training: bool = False,
    ) -> None:
        self._time_limit = time_limit
        self._memory_limit = memory_limit or room()
        self._directory = directory
        self._path = list(path)
        self._environ = dict(environ or {})
        self._shares_gpu = shares_gpu
        self._training = training
        self._held = ExitStack()  # its place in MPS, once a child was started
        self._child: Child | None = None
        self._cancelled = -1

    def prepare(self) -> Child:
        """Starts the child, if there is none: it is ready sooner for the next job."""
        if not self._child:
            if self._shares_gpu:  # not earlier, as it may take seconds
                self._environ |= self._held.enter_context(mps.shared())
                self._shares_gpu = False
            self._child = Child(self._directory, self._path, self._environ, self._training)
        return self._child

    def run(self, ticket: int, job: Job) -> Iterator[Epoch | Outcome]:
        """The epochs as they are reported, then the outcome."""
        curve: list[Epoch] = []
        begun, limit, ready = time.monotonic(), IMPORTS, False
        over = f"its modules were not imported within {IMPORTS:g} s"
        child = self.prepare()
        child.send(job)
        reach("seat_taken")
        while True:
            late = limit and time.monotonic() - begun > limit
            message, verdict = None, self._verdict(ticket, child, over if late else "")
            if not verdict:
                try:
                    message = child.receive(TICK)
                except ChildProcessError as error:
                    verdict = "error" if ready and child.own_fault() else "worker_died", str(error)
            if verdict:
                self._end()
                kind, reason = verdict
                seconds = time.monotonic() - begun
                yield Failure(kind=kind, reason=reason, seconds=seconds, curve=tuple(curve))
                return
            match message:
                case Ready():
                    ready = True
                case Imported():
                    limit = 0.0
                case Started():
                    begun, limit = time.monotonic(), self._time_limit
                    over = over_time(limit)
                case Epoch():
                    curve.append(message)
                    yield message
                case Ended(outcome, clean):
                    if isinstance(outcome, Failure) and mps.broke(outcome.reason):
                        outcome, clean = replace(outcome, kind="worker_died"), False
                    if not clean or child.memory() > self._memory_limit / 2:
                        self._end()
                    reach("seat_done")
                    yield outcome
                    return

    def cancel(self, ticket: int) -> None:
        """Ends the job of this ticket, be it running or not begun; called from another thread."""
        self._cancelled = ticket

    def close(self) -> None:
        """Ends the child and all that it started, and the seat's place in MPS."""
        self._end()
        self._held.close()

    def _end(self) -> None:
        child, self._child = self._child, None
        if child:
            child.kill()

    def _verdict(self, ticket: int, child: Child, over: str) -> tuple[FailureKind, str] | None:
        """Why the job ends now, if it does; ``over`` is the reason where its time is over."""
        if self._cancelled == ticket:
            return "cancelled", CANCELLED
        if over:
            return "timeout", over
        used = child.memory()
        if used > self._memory_limit:
            used = child.exact_memory()
        if used > self._memory_limit:
            limits = f"limit of {self._memory_limit / 2**20:.0f} MiB"
            return "out_of_memory", f"held {used / 2**20:.0f} MiB of memory, over its {limits}"
        return None


class Child:
    """A process that serves jobs (``nas.workers.run.serve``), and the keeper of all it starts."""

    def __init__(
        self,
        directory: str,
        path: Sequence[str],
        environ: Mapping[str, str],
        training: bool = False,
    ) -> None:
        self._pipe, theirs = Pipe()
        reading, writing = os.pipe()
        self._status = open(reading)  # noqa: SIM115 - closed by kill
        modules = [*dict.fromkeys(entry or directory for entry in [*sys.path, *path])]
        code = f"import sys; sys.path[:] = {modules!r}; from nas.workers.run import serve; serve"
        keeper = importing("nas.workers.keeper", "main")
        python, passed = [sys.executable], theirs.fileno()
        try:
            with theirs, open(writing, "wb"):
                self._launcher = subprocess.Popen(
                    [
                        *python,
                        "-I",
                        "-S",
                        "-c",
                        f"{keeper}; main({writing}, {passed})",
                        *python,
                        "-c",
                        f"{code}({passed}, {training}, {directory!r})",
                    ],
                    stdin=subprocess.PIPE,  # never written to: the lifeline
                    stdout=2,
                    pass_fds=[passed, writing],
                    process_group=0,
                    cwd="/",  # see ``serve``
                    env={**os.environ, **environ},
                )
        except OSError:  # no room for another process: there may be, later
            self._status.close()
            self._pipe.close()
            raise
        self._launcher.wait()
        # Without a line there is no keeper: it could not start the child.
        self._process = Process.of(int(self._status.readline() or -1))
        self._end = "?"  # its exit status once reported; empty where the keeper is gone

    def send(self, job: Job) -> None:
        """Sends the job. If the child has died, the next ``receive`` raises."""
        with contextlib.suppress(OSError):
            self._pipe.send(job)

    def receive(self, timeout: float) -> Message | None:
        """The next message, or None after ``timeout`` seconds without one.

        Raises ChildProcessError when the child has ended and all that it sent has been read, or
        when it sent what is no message.
        """
        ended = self._over(0)  # checked first, as what it sent is read below
        message: Any = None
        try:
            message = self._pipe.recv() if self._pipe.poll(0 if ended else timeout) else None
        except (EOFError, OSError):
            self._over(LAST)
            ended = True
        except Exception:  # reading an invalid pickle may raise anything
            message = "no pickle"
        else:
            if isinstance(message, Message):
                return message
        if message is not None:
            raise ChildProcessError("it wrote into the pipe to its seat")
        if ended:
            raise ChildProcessError(f"its process ended: {self._exit()}")
        return None

    def _over(self, timeout: float) -> bool:
        """Whether the keeper has reported the child's end, or has ended itself."""
        poller = select.poll()
        poller.register(self._status, select.POLLIN)
        if not poller.poll(1000 * timeout):
            return False
        self._end = self._status.readline().strip() or self._end.strip("?")
        return True

    def own_fault(self) -> bool:
        """Whether the child ended, or closed its pipe, because of what ran in it."""
        return self._end == "?" or bool(self._end and -int(self._end) not in OUTSIDE)

    def _exit(self) -> str:
        if self._end in ("?", ""):
            return "it closed the pipe to its seat" if self._end else "its keeper was killed"
        status = int(self._end)
        return f"exit status {status}" if status >= 0 else signal.Signals(-status).name

    def memory(self) -> int:
        """Bytes that the child and its descendants hold for themselves; 0 where unknown.

        Mapped files are left out: torch's libraries alone would be some 500 MiB a child, which all
        children share. A page that forked processes share counts once for each of them.
        """
        return sum(map(private_memory, descendants(self._process.pid)))

    def exact_memory(self) -> int:
        """As ``memory``, with each shared page counted once; slower: 30 ms a process with torch."""
        kibibytes = 0
        for pid in descendants(self._process.pid):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss_Anon:"):
                        kibibytes += int(line.split()[1])
        return kibibytes * 1024

    def kill(self) -> None:
        """Ends the child and all that it started; returns when all is over."""
        assert self._launcher.stdin
        self._launcher.stdin.close()
        self._over(LAST)
        end([self._process])  # in case the keeper was killed
        self._status.close()
        self._pipe.close()


def private_memory(pid: int) -> int:
    """Bytes that a process holds without its mapped files; 0 where unknown (or over)."""
    with contextlib.suppress(OSError, ValueError):
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    return 0
