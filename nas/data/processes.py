"""Applies a function to many pieces of work, in as many processes as there are cores.

Subprocesses, not forks: a fork inherits locks that other threads hold, and multiprocessing's other
start methods run the user's script again. They use no shared memory, end when their parent does
(their stdin closes), and a crash is attributed to its piece of work.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from nas.processes import cores

W = TypeVar("W")
R = TypeVar("R")


def spread(function: Callable[[W], R], work: Sequence[W]) -> Iterator[tuple[W, R | None]]:
    """Yields (piece, result) in order of completion; the result is None for a piece that crashed
    its process, as a decoder may. ``function`` must be importable from a module."""
    todo: queue.SimpleQueue[W] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[W, R | None] | BaseException] = queue.SimpleQueue()
    for piece in work:
        todo.put(piece)
    running: dict[int, subprocess.Popen[bytes]] = {}
    stopped = threading.Event()

    def feed(number: int) -> None:
        try:
            while not stopped.is_set():
                try:
                    piece = todo.get_nowait()
                except queue.Empty:
                    return
                done.put((piece, ask(number, piece)))
        except BaseException as error:
            done.put(error)

    def ask(number: int, piece: W) -> R | None:
        process = running.get(number)
        if process is None:
            process = running[number] = start()
        assert process.stdin
        assert process.stdout
        try:
            pickle.dump((function, piece), process.stdin)
            process.stdin.flush()
            result: R | BaseException = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            close(running.pop(number))
            return None
        if isinstance(result, BaseException):
            raise result
        return result

    threads = [
        threading.Thread(target=feed, args=(number,), daemon=True)
        for number in range(min(cores(), len(work)))
    ]
    try:
        for thread in threads:
            thread.start()
        for _ in work:
            answer = done.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer
    finally:
        stopped.set()
        for process in list(running.values()):
            close(process)


def start() -> subprocess.Popen[bytes]:
    code = "from nas.data.processes import serve; serve()"
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libtiff warns of every unusual tag
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,  # Ctrl-C reaches only the parent, which ends them
    )


def close(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):  # unread data
                pipe.close()


def serve() -> None:
    """A process's loop: reads a function and its piece from stdin, writes the result to stdout."""
    inlet, outlet = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keeps what a decoder prints out of the results
    while True:
        try:
            function, piece = pickle.load(inlet)
        except EOFError:
            return
        try:
            result: Any = function(piece)
        except Exception as error:
            result = error
        pickle.dump(result, outlet)
        outlet.flush()
