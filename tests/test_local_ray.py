"""A local Ray: its access control, its cleanup, and its errors where it cannot start."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import pytest
from waiting import eventually, wait

from nas.errors import NasError
from nas.processes import started
from nas.workers import local_ray

TESTS = Path(__file__).parent
NOBODY = 65534
root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")

# A pool of two, one candidate of which daemonises, and both wait.
DRIVER = """
import sys
from nas.job import Job
from nas.job.pool import Done, Reported
from nas.workers import open_pool

pool = open_pool(2)
for ticket, name in enumerate(["leaves_a_daemon", "waits", "forks_and_waits"]):
    pool.submit(ticket, Job(pattern="INPUT(1, 8, 8) -> FC(10)", evaluator=f"evaluators:{name}"))
ended = reported = 0
while ended < 1 or reported < 2:
    for event in pool.wait(60):
        ended += isinstance(event, Done)
        reported += isinstance(event, Reported)
print("up", flush=True)
sys.stdin.read()
pool.close()
print("closed", flush=True)
"""


def environ(folder: Path, **told: str) -> dict[str, str]:
    """Of a person whose files are all in ``folder``."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "XDG_"))}
    return kept | {"PYTHONPATH": path, "HOME": str(folder), "TMPDIR": str(folder)} | told


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, as Ray's sockets need it."""
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as made:
        yield Path(made)


def driver(folder: Path, **told: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        cwd=TESTS,
        env=environ(folder, **told),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    return process


def within(folder: Path) -> list[int]:
    """The processes that have this folder for their temporary one: the driver and all below."""
    mark, found = f"TMPDIR={folder}\0".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes() and started(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            pass
    return found


def listening(pids: list[int]) -> dict[int, str]:
    """The ports on which these processes listen, and the addresses."""
    told = subprocess.run(
        ["ss", "--listening", "--tcp", "--numeric", "--processes", "--no-header"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {}
    for line in told.stdout.splitlines():
        if set(map(int, re.findall(r"pid=(\d+)", line))) & set(pids):
            address, _, port = line.split()[3].rpartition(":")
            found[int(port)] = address
    return found


def children(process: subprocess.Popen[str]) -> list[int]:
    """All of a driver's session: Ray's agents write over their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(entry.name)) == process.pid and started(int(entry.name)):
                found.append(int(entry.name))
        except ProcessLookupError:
            pass
    return found


KNOCK = f"""
import os, sys, faults_knock
faults_knock.knock("127.0.0.1", 1)  # what it imports late is out of the other user's reach
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
for port in map(int, sys.argv[2:]):
    print(*faults_knock.knock("127.0.0.1", port), sep="\\n", end="")
for name, _, files in os.walk(sys.argv[1]):
    print(name, files)
"""


@root
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_another_user_of_the_machine_gets_nowhere(folder: Path) -> None:
    pytest.importorskip("grpc")
    process = driver(folder)
    try:
        ports = listening(children(process))
        assert len(ports) > 3
        assert {address.strip("[]").rpartition(":")[2] for address in ports.values()} == {
            "127.0.0.1"
        }
        [made] = folder.glob("nas-*")
        assert any(path.is_socket() for path in made.rglob("*"))
        folder.chmod(0o755)  # as /tmp is
        told = subprocess.run(
            [sys.executable, "-c", KNOCK, str(made), *map(str, ports)],
            env=environ(folder),
            capture_output=True,
            text=True,
        )
        assert (told.returncode, told.stdout) == (0, ""), told.stderr
    finally:
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("how", ["closed", "killed"])
def test_nothing_of_it_stays(folder: Path, how: str) -> None:
    """Neither a file nor a process; not even what a candidate has made nobody's child."""
    process = driver(folder)
    family = {*children(process), *within(folder)}
    assert len(family) > 8
    if how == "killed":
        process.kill()
    assert process.communicate()[0] == ("closed\n" if how == "closed" else "")
    wait("a process is left", lambda: not any(map(started, family)))
    assert eventually(lambda: not list(folder.iterdir())), list(folder.rglob("*"))
    assert not within(folder)


# Two searches in threads, of which the one that starts Ray ends first; a third has new seats then.
SEARCHES = """
import sys, threading, time
from pathlib import Path
import nas, ray

def until(file):
    while not Path(file).exists():
        time.sleep(0.05)
    return {"accuracy": 0.5}

def first(architecture, **_):
    return until("second has begun")

def second(architecture, **_):
    Path("second has begun").touch()
    return until("others have ended")

def third(architecture, **_):
    return {"accuracy": 0.5}

def search(name, trials):
    study = nas.search("lenet_like", evaluator=f"searches:{name}", study=name, trials=trials,
                       storage=f"sqlite:///{name}.db", workers=1, keep="none", progress=False)
    print(name, len(study.trials), flush=True)

if __name__ == "__main__":
    a, b = (threading.Thread(target=search, args=of) for of in (("first", 1), ("second", 3)))
    a.start()
    while not ray.is_initialized():
        time.sleep(0.05)
    b.start()
    a.join()
    search("third", 1)
    sys.stdin.read()
    Path("others have ended").touch()
    b.join()
    print("initialized" if ray.is_initialized() else "over")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.slow
def test_a_search_goes_on_when_the_thread_that_started_ray_has_ended(folder: Path) -> None:
    work = folder / "work"
    work.mkdir()
    (work / "searches.py").write_text(SEARCHES)
    process = subprocess.Popen(
        [sys.executable, "searches.py"],
        cwd=work,
        env=environ(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "first 1\n"
    assert process.stdout.readline() == "third 1\n"
    family = {*children(process), *within(folder)}
    assert len(family) > 5
    out, err = process.communicate()
    assert (process.returncode, out) == (0, "second 3\nover\n"), err
    wait("a process is left", lambda: not any(map(started, family)))
    assert not within(folder)
    assert not list(folder.glob("nas-*"))


def test_what_interrupts_the_start_is_heard_when_that_has_ended() -> None:
    """And an error of the start is the caller's."""
    seen, heard, others = list[str](), threading.Event(), {*threading.enumerate()}

    def interrupt(number: int, frame: FrameType | None) -> None:
        heard.set()
        raise KeyboardInterrupt

    def begin() -> ExitStack:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert heard.wait(60)
        begun = ExitStack()
        begun.callback(seen.append, "ended")
        return begun

    def fail() -> ExitStack:
        raise NasError("no room")

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            local_ray._lasting(begin)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["ended"]
    with pytest.raises(NasError, match="no room"):
        local_ray._lasting(fail)
    wait("a thread is left", lambda: {*threading.enumerate()} <= others)


def start(folder: Path, **told: str) -> subprocess.CompletedProcess[str]:
    """A pool that is opened and closed; its error in the last line."""
    code = "from nas.workers import open_pool; open_pool(1).close()"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environ(folder, **told),
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.parametrize("place", ["TMPDIR", "HOME"])
def test_it_starts_wherever_it_may(folder: Path, place: str) -> None:
    """A temporary folder too long for a socket's name, a home that cannot be written; and the
    token of a person's cluster is not the one of this Ray, nor lost to it."""
    long = folder / ("x" * 200)
    long.mkdir()
    where = {"TMPDIR": str(long), "HOME": "/proc"}[place]
    told = start(folder, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="of-a-cluster", **{place: where})
    assert told.returncode == 0, told.stderr
    assert not list(long.iterdir())
    assert not (folder / ".ray").exists()


@pytest.mark.parametrize(
    ("told", "rule"),
    [
        ({"RAY_TMPDIR": "/proc"}, "RAY_TMPDIR is '/proc': must be a folder that can be written"),
        ({"RAY_TMPDIR": "/tmp/" + "x" * 200}, "by a full path of up to"),
        ({"RAY_TMPDIR": "here"}, "by a full path of up to"),
        (
            # Its server ends at once: one that is only not waited for may be there before.
            {"RAY_gcs_storage": "nonesuch", "RAY_gcs_server_port_wait_time_s": "1"},
            "Ray does not start: ",
        ),
    ],
)
def test_where_it_cannot_start_a_sentence_tells(
    folder: Path, told: dict[str, str], rule: str
) -> None:
    ended = start(folder, **told)
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("nas.errors.NasError: ")
    assert rule in last
    assert eventually(lambda: not list(folder.iterdir()))


def test_a_guard_that_is_killed_is_told_and_shows_no_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raised: list[object] = []
    monkeypatch.setattr("threading.excepthook", raised.append)
    watch = local_ray._guard("NAS_DRIVER=none", str(folder))
    watch.kill()
    watch.wait()
    with local_ray._told(watch):
        pass
    watch.communicate()
    assert raised == []
    assert caplog.messages == ["what ends Ray when this process is killed was killed itself"]
