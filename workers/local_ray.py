"""A private Ray on this machine, for this process, which leaves nothing behind.

Whoever reaches a port of Ray can run code as its owner. So a local Ray listens on loopback only,
requires a random token passed in the environment (Ray would keep one for all, in a file that others
can read), and keeps its folder, with sockets and logs, inside one that only its owner can enter. By
default Ray listens on all addresses, and everybody can enter its folders.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field

import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from nas.errors import NasError, brief
from nas.interrupts import deferred
from nas.processes import Process, children, descendants, importing
from nas.workers import guard

log = logging.getLogger(__name__)

TRIES = 2  # beside a busy machine Ray is not always up in its time
# Of a folder for Ray's own: a socket's path has up to 107 bytes, and this comes after.
BEHIND = "/nas-abcdefgh/r/session_2026-11-26_19-03-43_357432_4194304/sockets/plasma_store"
ROOM = 107 - len(BEHIND)


@dataclass(slots=True)
class _Shared:
    """The one Ray that a process can have, shared by its pools: its address (empty: started here),
    and what ends it with the last pool."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    pools: int = 0
    address: str = ""
    leave: ExitStack = field(default_factory=ExitStack)


_shared = _Shared()


def shared(address: str, begin: Callable[[], ExitStack]) -> ExitStack | None:
    """Ray for one more pool of this process, shared by searches in several threads; the first
    starts it with ``begin``. Returns what releases it; None where the caller started Ray and also
    ends it. Raises NasError, and what ``begin`` raises."""
    with _shared.turn:
        if not _shared.pools:
            if ray.is_initialized():
                return None
            _shared.leave, _shared.address = begin(), address
        elif _shared.address != address:
            told = [f"the cluster {each}" if each else "this machine" for each in
                    (_shared.address, address)]  # fmt: skip
            raise NasError(
                f"a search of this process runs on {told[0]}, and a process has one Ray: search on "
                f"{told[1]} in another process, or after it"
            )
        _shared.pools += 1
    leave = ExitStack()
    leave.callback(_left)
    return leave


def _left() -> None:
    with _shared.turn:
        _shared.pools -= 1
        if not _shared.pools:
            _shared.leave.close()


def start(slots: int) -> ExitStack:
    """Starts Ray with this many slots; returns what ends it. Raises NasError where it does not
    start, or no folder can be made for it."""
    return _lasting(lambda: _try(slots))


def _lasting(begin: Callable[[], ExitStack]) -> ExitStack:
    """Calls ``begin`` in a thread that lives until the returned stack is closed.

    Ray's processes are killed when their parent ends (PR_SET_PDEATHSIG), and Linux takes the thread
    that started them for the parent: a search's thread may end before another search that uses the
    same Ray. An interrupt during the start waits for it, and ends what has begun; a second one does
    not wait.
    """
    begun, over = Future[ExitStack](), threading.Event()

    def live() -> None:
        try:
            begun.set_result(begin())
        except BaseException as error:
            begun.set_exception(error)
        else:
            over.wait()

    def end() -> None:
        if not begun.exception():
            begun.result().close()
        over.set()

    with ExitStack() as leave:
        with deferred():
            # A daemon, as a pool that nobody closes would keep the interpreter from exiting.
            threading.Thread(target=live, name="nas-ray", daemon=True).start()
            leave.callback(end)
        begun.result()
        return leave.pop_all()


def _try(slots: int) -> ExitStack:
    for tries_left in range(TRIES - 1, -1, -1):
        try:
            return _start(slots, _folder())
        except NasError:
            raise
        except Exception as error:  # Ray raises nearly anything
            reason = brief(str(error) or type(error).__name__, 300)
            if not tries_left:
                raise NasError(
                    f"Ray does not start: {reason} (--workers 0 runs without it)"
                ) from error
            log.warning("Ray did not start (%s); trying again", reason)
    raise AssertionError


def _start(slots: int, folder: str) -> ExitStack:
    mark = f"{guard.MARK}={secrets.token_hex(16)}"
    with ExitStack() as leave:
        watch = _guard(mark, folder)
        leave.callback(shutil.rmtree, folder, ignore_errors=True)  # where the guard was killed
        leave.callback(watch.communicate)  # ends what is left, and removes the folder
        leave.callback(_read_again)
        with _told(watch), _environ(mark):
            leave.callback(ray.shutdown)
            ray.init(
                address="local",  # never one that RAY_ADDRESS or an earlier `ray start` left behind
                num_cpus=slots,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=100 * 2**20,  # a job's messages are a few hundred bytes
                _temp_dir=f"{folder}/r",  # Ray opens this one to all, which counts for nothing
            )
        return leave.pop_all()


def _folder() -> str:
    """A new folder with a short name that only this user can enter."""
    asked = os.environ.get("RAY_TMPDIR")
    places = [asked] if asked else ["/tmp", "/var/tmp", "/dev/shm"]
    if not asked:
        with contextlib.suppress(FileNotFoundError):  # no temporary folder that can be written
            places.insert(0, tempfile.gettempdir())
        places.insert(1, os.environ.get("XDG_RUNTIME_DIR", "/tmp"))
    for place in places:
        with contextlib.suppress(OSError):
            if len(os.fsencode(place)) <= ROOM and os.path.isabs(place):
                return tempfile.mkdtemp(prefix="nas-", dir=place)
    rule = f"a folder that can be written, by a full path of up to {ROOM} bytes"
    if asked:
        raise NasError(f"RAY_TMPDIR is {asked!r}: must be {rule}")
    raise NasError(f"Ray has no room in any of {', '.join(places)}: RAY_TMPDIR must be {rule}")


def _guard(mark: str, folder: str) -> subprocess.Popen[bytes]:
    code = importing("nas.workers.guard", "main")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", f"{code}; main({mark!r}, {folder!r})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,  # out of reach of Ctrl-C
    )


@contextlib.contextmanager
def _told(watch: subprocess.Popen[bytes]) -> Iterator[None]:
    """Tells the guard Ray's processes as they come, and once more when all are there: those that
    this thread starts. What other threads start meanwhile is not ours."""
    here, thread, over = os.getpid(), threading.get_native_id(), threading.Event()
    before = {child for _, child in children(here)}

    def tell() -> None:
        last = False
        while not last:
            last = over.wait(0.1)
            roots = [c for task, c in children(here) if task == thread and c not in before]
            pids = [pid for root in roots for pid in descendants(root)]
            assert watch.stdin
            try:
                watch.stdin.write(guard.line(map(Process.of, pids)))
                watch.stdin.flush()
            except BrokenPipeError:
                log.warning("what ends Ray when this process is killed was killed itself")
                return

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


@contextlib.contextmanager
def _environ(mark: str) -> Iterator[None]:
    """Sets the environment variables that Ray's processes, and Ray in this one, read."""
    name, _, value = mark.partition("=")
    variables = {
        name: value,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Its metrics would be served without a token. Two of its three metrics servers can only be
        # prevented by an invalid port.
        "RAY_enable_metrics_collection": "0",
        "AUTOSCALER_METRIC_PORT": "65536",
        "DASHBOARD_METRIC_PORT": "65536",
        # Without a cluster, Ray uses loopback as its node's address, and listens only there. A
        # given loopback address would be replaced by one of the network's (2.60).
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
    }
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    _read_again()
    try:
        ray_constants.ENABLE_RAY_CLUSTER = False
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = True
        for name in variables:
            del os.environ[name]
        os.environ.update(before)


def _read_again() -> None:
    """Makes Ray read the environment again, as it does by itself for its own token."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
