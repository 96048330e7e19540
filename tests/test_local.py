"""The pool of this machine: nothing of it listens, and nothing of it stays."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually, wait

import nas
from nas.processes import started
from nas.workers.seat import Child, Seat

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
    """Its name is in the environment of each process that a test starts."""
    with tempfile.TemporaryDirectory() as made:
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
    """All of a driver's session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(entry.name)) == process.pid and started(int(entry.name)):
                found.append(int(entry.name))
        except ProcessLookupError:
            pass
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_search_on_this_machine_opens_no_port(folder: Path) -> None:
    process = driver(folder)
    try:
        assert not listening(children(process))
    finally:
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("how", ["closed", "killed"])
def test_a_search_that_ends_or_is_killed_leaves_no_file_and_no_process(
    folder: Path, how: str
) -> None:
    """Neither a file nor a process; not even what a candidate has made nobody's child."""
    process = driver(folder)
    family = {*children(process), *within(folder)}
    assert len(family) >= 5  # the driver, and of each slot a keeper and a child
    if how == "killed":
        process.kill()
    assert process.communicate()[0] == ("closed\n" if how == "closed" else "")
    wait("a process is left", lambda: not any(map(started, family)))
    assert eventually(lambda: not list(folder.iterdir())), list(folder.rglob("*"))
    assert not within(folder)


# Two searches in threads, of which the first ends first; a third has new seats then.
SEARCHES = """
import sys, threading, time
from pathlib import Path
import nas

def until(file):
    while not Path(file).exists():
        time.sleep(0.05)
    return {"accuracy": 0.5}

def first(architecture, **_):
    Path("first has begun").touch()
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
    until("first has begun")
    b.start()
    a.join()
    search("third", 1)
    sys.stdin.read()
    Path("others have ended").touch()
    b.join()
    print("ray" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.slow
def test_a_search_whose_study_is_done_starts_no_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would import torch: 2 s of processor time."""
    begun: list[Seat] = []
    prepare = Seat.prepare

    def seen(seat: Seat) -> Child:
        begun.append(seat)
        return prepare(seat)

    monkeypatch.setattr(Seat, "prepare", seen)
    told: dict[str, Any] = {
        "evaluator": "evaluators:ok",
        "epochs": 1,
        "workers": 2,
        "progress": False,
    }
    told["storage"] = f"sqlite:///{folder}/nas.db"
    assert len(nas.search("lenet_like", trials=2, **told).trials) == 2
    assert begun
    begun.clear()
    assert len(nas.search("lenet_like", trials=2, **told).trials) == 2
    assert not begun
    assert len(nas.search("lenet_like", trials=3, **told).trials) == 3
    assert begun


def test_searches_in_threads_need_neither_each_other_nor_ray(folder: Path) -> None:
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
    assert len(family) >= 3
    out, err = process.communicate()
    assert (process.returncode, out) == (0, "second 3\nFalse\n"), err
    wait("a process is left", lambda: not any(map(started, family)))
    assert not within(folder)
    assert [path.name for path in folder.iterdir()] == ["work"]
