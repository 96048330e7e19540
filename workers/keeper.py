"""The keeper of a seat's child: all processes that the child starts end with it.

    python -c "from nas.workers.keeper import main; main(STATUS, PASSED)" COMMAND...

It starts the command as the leader of a process group, and is the subreaper of all descendants: a
process that left the group (a daemon) becomes its child when its parent ends, so none is lost when
a candidate crashes. It ends them all when the command ends, or when its standard input closes,
which only the seat's process holds open: however the seat ended. To the descriptor STATUS it writes
the command's process number on one line, and its exit status on another; the command inherits the
descriptor PASSED.

It copies the command's output to standard error, up to a bound: a candidate could fill the disk.

It imports the standard library only, and starts in 0.03 s.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys

from nas.processes import Process, children, descendants, end

PRINTS = 1 << 20  # bytes of a child's output that are copied, in total
CUT = b"\nnas: no more of what this process prints is kept\n"


def main(status: int, passed: int) -> None:
    # Detached: Ray kills the children of a worker that ends, and then nothing could be cleaned up.
    if os.fork():
        os._exit(0)
    adopt_orphans(True)
    ended, alarm = os.pipe()
    os.set_blocking(alarm, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to answer
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(alarm)
    prints, theirs = os.pipe()
    command = subprocess.Popen(
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        stdout=theirs,  # a candidate's prints go where its errors go: stdout is for data
        stderr=theirs,
        pass_fds=[passed],
        process_group=0,
    )
    os.close(theirs)
    os.close(passed)
    tell(status, command.pid)
    left = PRINTS
    polled = select.poll()
    for stream in (0, prints, ended):
        polled.register(stream, select.POLLIN)
    while command.poll() is None:
        ready = {stream for stream, _ in polled.poll()}
        if 0 in ready:
            break
        if ended in ready:
            os.read(ended, 1 << 10)
            reap(command)
        if prints in ready and (text := os.read(prints, 1 << 16)):
            left = pass_on(text, left)
        elif prints in ready:
            polled.unregister(prints)
    while rest := descendants(os.getpid())[1:]:
        end(map(Process.of, rest))
        reap(command)
        command.poll()
    os.set_blocking(prints, False)
    with contextlib.suppress(BlockingIOError):
        while text := os.read(prints, 1 << 16):
            left = pass_on(text, left)
    tell(status, command.wait())


def pass_on(text: bytes, left: int) -> int:
    """Copies output of a child, up to ``left`` bytes; returns how many remain."""
    if left > 0:
        with contextlib.suppress(OSError):  # no reader or no space: cannot be helped
            os.write(2, text[:left] + CUT * (len(text) >= left))
    return left - len(text)


def reap(command: subprocess.Popen[bytes]) -> None:
    """Reaps the adopted orphans; the command is left to its own ``wait``."""
    for _, child in [*children(os.getpid())]:
        if child != command.pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def tell(status: int, number: int) -> None:
    with contextlib.suppress(OSError):  # the seat's process is gone
        os.write(status, f"{number}\n".encode())


def adopt_orphans(adopt: bool) -> bool:
    """Sets whether grandchildren become this process's children when their parent ends, so that
    they can be found; returns whether they did before."""
    if sys.platform != "linux":
        return False
    PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
    before, prctl = ctypes.c_int(0), ctypes.CDLL(None).prctl
    prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    prctl(PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)
    return bool(before.value)
