"""Shares a GPU among the trainings of several processes: CUDA's Multi-Process Service (MPS).

Without it a GPU switches between processes: on an H200 four trainings of a small network, each a
CUDA graph, reach together the 52,000 images/s of one alone; through MPS 108,000, and eight 128,000,
where eight streams of one process reach 142,000. A client that is killed, or whose kernel fails,
does not affect the others (driver 580).

There is one daemon per user and machine. The first seat that shares a GPU starts it, and it ends
when the last such seat has ended, however that ends: each seat holds a file lock, which the kernel
releases with its process.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas import processes

log = logging.getLogger(__name__)

CONTROL = "nvidia-cuda-mps-control"
ANSWER = 10.0  # seconds for the daemon to start, and for a process to see a GPU through it
AGAIN = 600.0  # seconds before a failed start is tried again
LOOK = 0.2  # seconds between two checks for remaining seats
# Creates a context on the first GPU with the driver's library, as a candidate does first.
PROBE = """
import ctypes
cuda, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
raise SystemExit(cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
"""


@contextmanager
def shared() -> Iterator[dict[str, str]]:
    """Yields the environment variables for a process that shares a GPU, while held; none where MPS
    does not work here."""
    if not shutil.which(CONTROL) or "CUDA_MPS_PIPE_DIRECTORY" in os.environ:
        yield {}  # not installed; or the machine's own MPS, whose variables are inherited
        return
    folder = processes.own_folder() / "mps"
    folder.mkdir(mode=0o700, exist_ok=True)
    with _locked(folder / "seats", fcntl.LOCK_SH):
        with _locked(folder / "start", fcntl.LOCK_EX):
            works = not _failed(folder) and (_answers(folder) or _start(folder))
            if not works:
                (folder / "failed").touch()
        if not works:
            log.warning("candidates take turns on the GPU: CUDA MPS does not start here")
        yield _environ(folder) if works else {}


def broke(reason: str) -> bool:
    """Whether a failure was caused by MPS, not the candidate, going by CUDA's messages."""
    return "CUDA error" in reason and "MPS" in reason


def watch(folder: str) -> None:
    """Runs the daemon while a seat holds the lock; the process that ``_start`` leaves behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(Path(folder, "seats"), "w") as seats:
        daemon = subprocess.Popen(
            [CONTROL, "-f"], env=_told(Path(folder)), stdin=subprocess.DEVNULL
        )
        taken = False
        while not taken and daemon.poll() is None:
            time.sleep(LOOK)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(seats, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken = True
        if not taken:
            return  # another's daemon was there already, or this one ended by itself
        with contextlib.suppress(subprocess.TimeoutExpired):
            _tell(Path(folder), "quit -t 1")
            daemon.wait(ANSWER)
        daemon.kill()


def _start(folder: Path) -> bool:
    code = processes.importing("nas.workers.mps", "watch")
    environ = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    # Not "log": MPS makes a pipe of that name there, which to open would wait for a reader.
    with open(folder / "watch.log", "w") as log:
        subprocess.run(
            [
                sys.executable,
                "-c",
                f"import os; os.fork() and os._exit(0); {code}; watch({str(folder)!r})",
            ],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # other searches share it
            check=False,
        )
    until = time.monotonic() + ANSWER
    while not _answers(folder):
        if time.monotonic() > until:
            return False
        time.sleep(LOOK)
    return _sees_a_card(folder)


def _failed(folder: Path) -> bool:
    """Whether a start failed recently: a search's seats come one after another."""
    with contextlib.suppress(FileNotFoundError):
        return time.time() - (folder / "failed").stat().st_mtime < AGAIN
    return False


def _told(folder: Path) -> dict[str, str]:
    """The environment of processes that talk to the daemon."""
    return {**os.environ, **_environ(folder)}


def _environ(folder: Path) -> dict[str, str]:
    return {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}


def _answers(folder: Path) -> bool:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return _tell(folder, "get_server_list") == 0
    return False


def _tell(folder: Path, command: str) -> int:
    return subprocess.run(
        [CONTROL],
        input=f"{command}\n".encode(),
        env=_told(folder),
        capture_output=True,
        timeout=ANSWER,
        check=False,
    ).returncode


def _sees_a_card(folder: Path) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        command = [sys.executable, "-I", "-S", "-c", PROBE]
        return (
            subprocess.run(command, env=_told(folder), timeout=ANSWER, check=False).returncode == 0
        )
    return False


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    with open(path, "a") as lock:
        fcntl.flock(lock, kind)
        yield
