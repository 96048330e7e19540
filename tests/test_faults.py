"""A search killed at any point loses nothing, repeats nothing and counts nothing twice."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from clusters import started
from faults_checker import faults
from faults_evaluators import FOLDER, FREEZE, PACE, SECONDS
from faults_search import GAVE_UP, plan, run
from postgres import Server
from ray.cluster_utils import Cluster
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool
from typed import ran
from waiting import PATIENCE, counts, eventually, wait

import nas
from nas import artifacts
from nas.errors import StoreError, status
from nas.failpoints import FAILPOINTS
from nas.job import Result
from nas.processes import descendants
from nas.store import Ask, open_store

TRIALS = 12
ASK = Ask(pattern="INPUT(1, 8, 8) -> FLATTEN -> FC(10)", fingerprint="f", params=650, macs=640)
STUDY = "faults"
ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.usefixtures("fork"),
]


@pytest.fixture
def url(either: str) -> str:
    return either


def start(url: str, study: str = STUDY, trials: int = TRIALS, **how: Any) -> Any:
    process = get_context("forkserver").Process(target=run, args=(url, study, trials), kwargs=how)
    process.start()
    return process


def finish(*args: Any, **how: Any) -> int | None:
    """A search to its end; the process's exit status, negative for a signal."""
    process = start(*args, **how)
    process.join(PATIENCE)
    code: int | None = process.exitcode
    process.kill()
    return code


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Ray of two cores for all tests: its start is 7 s of processor time. How long an epoch takes
    on it, the file ``pace`` says in its folder (``set_pace``); none by itself."""
    pace = tmp_path_factory.mktemp("cluster") / "pace"
    set_pace(pace, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PACE, str(pace))
        patch.setenv("PYTHONPATH", str(ROOT))
        running = started(num_cpus=2)
    running.pace = pace
    yield running
    running.shutdown()


# -- every failpoint ------------------------------------------------------------------------------

# Which time that a place is reached, where the first is not the one to be tested.
TURNS = {"asked": 4, "begun": 4, "dispatched": 4, "received": 4, "recorded": 4, "told": 4}
TURNS |= {"reused": 2}
TURNS |= {"checkpoint_half": 3, "checkpoint_whole": 3, "checkpoint_between": 3}
TURNS |= {"job_taken": 3, "job_done": 3, "seat_taken": 3, "seat_done": 3}

# The study is made, the first trial begun, the second finished.
WRITES = ["writing:1", "writing:2", "writing:4", "written:1", "written:4"]

PLACES = [f"{n}:{TURNS.get(n, 1)}" for n in FAILPOINTS if not n.startswith("writ")] + WRITES
# Of two workers, each of which is killed at its third, one at least is.
FEW = 6
IN_WORKERS = [place for place in PLACES if place.startswith(("job", "seat"))]

# On each kind of database: who is killed amid the database's own work (a transaction, the copy), or
# resumes by its leases. Elsewhere a driver dies between two transactions, and no database can tell
# one such place from another: those take turns.
OWN = ("writ", "cop", "recovered", "claimed")
KINDS = cycle(["sqlite", "postgresql"])
KILLED = [
    (place, kind)
    for place in PLACES
    if place not in IN_WORKERS
    for kind in (["sqlite", "postgresql"] if place.startswith(OWN) else [next(KINDS)])
]


def test_every_failpoint_is_somewhere_and_nothing_else_is() -> None:
    root = Path(nas.__file__).parents[1]
    sources = [*root.glob("nas/**/*.py"), *root.glob("workers/*.py")]
    found = [name for s in sources for name in re.findall(r'\breach\("(\w+)"\)', s.read_text())]
    found.remove("told")  # in the docstring of nas.failpoints
    assert set(found) == set(FAILPOINTS)


@pytest.mark.parametrize(("place", "either"), KILLED, indirect=["either"])
def test_a_search_killed_at_any_point_resumes_and_loses_nothing(
    place: str, url: str, tmp_path: Path
) -> None:
    killed = {"NAS_FAILPOINT": place, FOLDER: str(tmp_path)}
    spared = {FOLDER: str(tmp_path)}
    how: dict[str, Any] = {}
    if place.startswith("checkpoint"):
        how["evaluator"] = "keeps"
    if place.startswith("reused"):
        assert finish(url, "before", 4) == 0
    if place.startswith(("recovered", "claimed")):
        assert finish(url, environ={"NAS_FAILPOINT": "dispatched:3"}) == -signal.SIGKILL
    assert finish(url, environ=killed, **how) == -signal.SIGKILL
    assert finish(url, environ=spared, **how) == 0
    assert faults(url, STUDY, TRIALS) == []
    if place.startswith("checkpoint"):
        epochs = Counter((tmp_path / "epochs").read_text().splitlines())
        assert sorted(epochs.values())[-2:] in ([1, 1], [1, 2])  # one epoch at most was repeated


@pytest.mark.parametrize("place", IN_WORKERS)
@pytest.mark.slow
def test_a_search_whose_workers_are_killed_at(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """They are replaced, and the search goes on. They know no record: of one kind is enough. On
    this machine seats are the driver's own threads, so those are killed on a cluster. A job's
    process belongs to a seat in either place, which tells what became of it (``test_workers``)."""
    url = f"sqlite:///{tmp_path}/record.db"
    how: dict[str, Any] = {"workers": 2, "environ": {"NAS_FAILPOINT": place}}
    if place.startswith("seat"):
        how["ray"] = request.getfixturevalue("cluster").address
    assert finish(url, trials=FEW, **how) == 0
    assert faults(url, STUDY, FEW) == []


# -- two drivers ----------------------------------------------------------------------------------


def test_two_drivers_share_the_budget_to_the_trial(url: str) -> None:
    how: dict[str, Any] = {"environ": {SECONDS: "0.02"}}
    drivers = [start(url, **how), start(url, **how)]
    for driver in drivers:
        driver.join(PATIENCE)
    assert [driver.exitcode for driver in drivers] == [0, 0]
    assert faults(url, STUDY, TRIALS) == []


def test_a_driver_that_sleeps_past_its_lease_counts_nothing_twice(url: str, tmp_path: Path) -> None:
    """As a laptop that is closed: its late result is refused, for another has the trial."""
    asleep = tmp_path / "asleep"
    sleeper = start(url, evaluator="freezes", lease=1.0, environ={FREEZE: str(asleep)})
    wait("no first trial", asleep.exists)
    os.kill(sleeper.pid, signal.SIGSTOP)
    while not unlocked(url):  # amid a renewal, or a page of the dashboard's copy
        os.kill(sleeper.pid, signal.SIGCONT)
        time.sleep(0.05)
        os.kill(sleeper.pid, signal.SIGSTOP)
    assert finish(url, evaluator="freezes", lease=1.0) == 0
    assert faults(url, STUDY, TRIALS) == []
    asleep.unlink()
    os.kill(sleeper.pid, signal.SIGCONT)
    sleeper.join(PATIENCE)
    assert sleeper.exitcode == 0
    assert faults(url, STUDY, TRIALS) == []
    with contextlib.closing(open_store(url)) as store:
        first = store.trial(store.find_study(STUDY).id, 0)
        tries = [attempt.state for attempt in store.attempts(first.id)]
    assert tries[0] == "lost"
    assert tries.count("lost") == 1


def test_a_clock_that_jumps_costs_a_driver_nothing_of_its_own(url: str) -> None:
    """Leases compare by the database's clock: after a jump of hours all look expired."""
    with contextlib.closing(open_store(url, lease=-7200.0)) as store:
        study = store.open_study(plan(STUDY, TRIALS).row())
        [claim] = store.begin(study, [ASK])
        assert store.recover(study.id) == []
        assert store.beat() == {claim.token}
        with contextlib.closing(open_store(url)) as other:
            assert other.recover(study.id) == [0]
        assert store.beat() == set()
        assert not store.finish(claim.token, Result(metrics={"accuracy": 0.5}))


def unlocked(url: str) -> bool:
    """Whether nobody is amid a transaction that writes."""
    time.sleep(0.1)  # what was sent to a server arrives
    engine = create_engine(url, poolclass=NullPool)
    if engine.dialect.name == "postgresql":
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        with engine.connect() as connection:
            others = text(f"{query} AND pid <> pg_backend_pid() AND state <> 'idle'")
            return connection.scalar(others) == 0
    file = str(engine.url.database)
    with contextlib.closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as probe:
        try:
            probe.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
    return True


def test_processes_that_end_while_they_are_listed_are_no_error() -> None:
    """The killer found this after 450 kills."""
    churn = subprocess.Popen(["sh", "-c", "while :; do (true & true); done"])
    try:
        for _ in range(5000):
            assert churn.pid in descendants(churn.pid)
    finally:
        churn.kill()
        churn.wait()


FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
needs_faketime = pytest.mark.skipif(
    FAKETIME is None, reason="needs libfaketime (Debian: apt-get install faketime)"
)

# What libfaketime 0.9.10 needs to move the wall clock alone. Without the first setting it moves the
# monotonic clock too, but not the waits by it: each timed wait of Python lasts hours. Without the
# second, a mend for old C libraries, a timed wait on a condition is over at once: Ray's workers die
# at their start, and threads fight for the interpreter. And it moves the times that sleeps are to
# end at, which the kernel refuses: they must not be told as such.
WALL_CLOCK_ONLY = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_FORCE_MONOTONIC_FIX": "0"}
SLEEP = "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds)\n"


def by_clock(clock: Path) -> dict[str, str]:
    """The environment of a process whose wall clock is off by what the file says at any moment."""
    clock.with_name("sitecustomize.py").write_text(SLEEP)
    return {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(clock.parent)]),
        **WALL_CLOCK_ONLY,
    }


def set_pace(file: Path, seconds: float) -> None:
    """How long an epoch takes, as of now."""
    file.with_suffix(".new").write_text(str(seconds))
    file.with_suffix(".new").rename(file)


def command(trials: int, *where: str) -> list[str]:
    """``nas search`` as its user types it, in the directory of the tests."""
    told = f"--space faults_space.yaml --study {STUDY} --trials {trials} --epochs 2"
    told += " --evaluator faults_evaluators:stub --sampler random"
    program = [sys.executable, "-c", "from nas.cli import main; main()"]
    return [*program, "search", *told.split(), *where]


def drive(url: str, trials: int, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    told = {"PYTHONPATH": str(ROOT), **environ, "NAS_STORAGE": url}
    folder = Path(__file__).parent
    return subprocess.Popen(
        command(trials, "--workers", "0"), cwd=folder, env={**os.environ, **told}
    )


@needs_faketime
@pytest.mark.slow
def test_a_clock_that_is_set_forth_and_back_counts_nothing_twice(tmp_path: Path) -> None:
    """SQLite's clock is the machine's: it is set by hours, twice, while two drivers work by it."""
    url, clock = f"sqlite:///{tmp_path}/record.db", tmp_path / "clock"
    clock.write_text("+0")
    environ = {**by_clock(clock), SECONDS: "0.1"}
    trials = 2 * TRIALS
    drivers = [drive(url, trials, environ) for _ in range(2)]
    try:
        for hours in ("+3h", "-3h"):
            before = ended(url)
            more = min(before + 6, trials)
            assert eventually(lambda more=more: ended(url) >= more)
            clock.write_text(hours)
        assert [driver.wait(PATIENCE) for driver in drivers] == [0, 0]
    finally:
        for driver in drivers:
            driver.kill()
    with contextlib.closing(sqlite3.connect(tmp_path / "record.db")) as connection:
        query = "SELECT max(created) - min(created) FROM nas_trials"
        assert connection.execute(query).fetchone()[0] > 3600  # it was indeed set
    by_time = ("an attempt after the trial's end", "two attempts at once")  # as a clock tells it
    found = faults(url, STUDY, trials)
    assert [fault for fault in found if not fault.startswith(by_time)] == []


@needs_faketime
@pytest.mark.slow
def test_drivers_whose_clocks_are_hours_apart_share_a_study(
    postgres: Server,
    tmp_path: Path,
) -> None:
    """PostgreSQL's clock is the server's: to a driver that is ahead no lease looks expired, and
    nobody takes its leases for longer than they are."""
    url, clock, pace = postgres.database(), tmp_path / "clock", tmp_path / "pace"
    clock.write_text("+5h")
    set_pace(pace, 600)
    ahead = {**by_clock(clock), PACE: str(pace)}
    told = [sys.executable, "-c", "import time; print(time.time())"]
    told_by_it = subprocess.check_output(told, env={**os.environ, **ahead})
    assert float(told_by_it) - time.time() == pytest.approx(5 * 3600, abs=60)
    drivers = []
    try:
        for number, environ in enumerate([{PACE: str(pace)}, ahead], start=1):
            drivers.append(drive(url, 2 * TRIALS, environ))
            # Of a driver one trial runs at a time.
            assert eventually(lambda n=number: counts(url, STUDY).get("running", 0) == n)
        set_pace(pace, 0.02)
        assert [driver.wait(PATIENCE) for driver in drivers] == [0, 0]
    finally:
        for driver in drivers:
            driver.kill()
    assert faults(url, STUDY, 2 * TRIALS) == []
    with contextlib.closing(open_store(url)) as store:
        study = store.find_study(STUDY)
        tries = [each for trial in store.trials(study.id) for each in store.attempts(trial.id)]
    assert len({attempt.driver for attempt in tries}) == 2
    assert {attempt.state for attempt in tries} == {"finished", "failed"}  # none was fenced
    assert max(a.lease_until - a.started for a in tries) < 3600


# -- the disk -------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    """Takes all space that is left."""
    filler = place / "filler"
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


@pytest.mark.parametrize("patience", [60.0, 1.0])
def test_a_full_disk_is_waited_for_and_corrupts_nothing(
    small_disk: Path, tmp_path: Path, patience: float
) -> None:
    file, pace = small_disk / "record.db", tmp_path / "pace"
    url = f"sqlite:///{file}"
    set_pace(pace, 600)
    search = start(url, patience=patience, environ={PACE: str(pace)})
    wait("no trial", lambda: counts(url, STUDY).get("running"))
    filler = fill(small_disk)
    set_pace(pace, 0)
    if patience > 4:
        search.join(4)
        assert search.is_alive()
        filler.unlink()
        search.join(PATIENCE)
        assert search.exitcode == 0
    else:
        search.join(PATIENCE)
        assert search.exitcode == GAVE_UP
        filler.unlink()
        assert finish(url) == 0
    assert faults(url, STUDY, TRIALS) == []
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_command_on_a_full_disk_says_which_and_ends_with_1(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = small_disk / "record.db"
    url = f"sqlite:///{file}"
    open_store(url).close()
    fill(small_disk)
    picture = small_disk / "a.svg"
    ended, _, told = ran(capsys, "show", "lenet5", "-o", picture)
    assert (ended, told) == (1, f"nas: {picture} cannot be written: No space left on device\n")

    def until_full() -> None:
        with contextlib.closing(open_store(url, patience=0)) as store:
            for number in range(10_000):
                store.open_study(dataclasses.replace(plan(STUDY, 1).row(), name=f"s{number}"))

    with pytest.raises(StoreError) as refused:
        until_full()
    assert status(refused.value) == 1
    free = rf"\d+(\.\d)? (bytes|kB) are free on the disk of {re.escape(str(file))}"
    assert re.fullmatch(rf"{url}[: ].*: {free}", str(refused.value))


def test_a_full_disk_leaves_the_checkpoint_that_is_there(small_disk: Path) -> None:
    file = small_disk / "checkpoint"
    artifacts.write(file, bytes(2**20))
    filler = fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        artifacts.write(file, bytes(2**21))
    assert artifacts.newest(file, len) == 2**20
    filler.unlink()
    artifacts.write(file, bytes(2**21))
    assert artifacts.newest(file, len) == 2**21
    assert {path.name for path in small_disk.iterdir()} == {"checkpoint", "checkpoint.previous"}


def ended(url: str) -> int:
    """How many trials ended; 0 before there is a study."""
    return counts(url, STUDY).get("finished", 0)


# -- the whole ------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.slow
def test_processes_killed_at_random_leave_a_sound_record(
    database: str, request: pytest.FixtureRequest
) -> None:
    """The short run of the benchmark: drivers, workers, raylets, connections, the server."""
    if database == "postgresql":
        request.getfixturevalue("postgres")  # skips where there is none
    killer = [sys.executable, ROOT / "benchmarks/killer.py", "--database", database]
    killer += ["--seed", "23"]  # by which nine kills are of all kinds that there are
    told = subprocess.run(
        [*killer, "--kills", "9", "--trials", "18", "--nodes", "2", "--seconds", "0.1"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert '"kills": 9' in told.stdout
    kinds = {"sqlite": ["driver", "candidate"]}
    kinds["postgresql"] = [*kinds["sqlite"], "seat", "raylet", "backend", "server"]
    assert {kind for kind in kinds["postgresql"] if f'"{kind}": ' in told.stdout} == {
        *kinds[database]
    }


@pytest.mark.slow
def test_a_password_is_seen_nowhere(postgres: Server, tmp_path: Path, cluster: Cluster) -> None:
    """Not in an argument, a title, a log, the output or a row, while everything runs as it does for
    a user, on a cluster and with a restart of the server under way."""
    url = postgres.database()
    name = url.rsplit("/", 1)[1]
    output = tmp_path / "output"
    set_pace(cluster.pace, 600)
    seen: list[bytes] = []
    with output.open("wb") as file:
        process = subprocess.Popen(
            command(TRIALS, "--address", cluster.address),
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NAS_STORAGE": url},
            stdout=file,
            stderr=file,
        )
    restarted = False
    try:
        while process.poll() is None:
            seen.append(subprocess.run(["ps", "-ewwo", "args"], capture_output=True).stdout)
            if not restarted and counts(url, STUDY).get("running"):
                postgres.stop("immediate")
                set_pace(cluster.pace, 0.1)
                wait("it is not missed", lambda: b"trying again" in output.read_bytes())
                postgres.start()
                restarted = True
            time.sleep(0.1)
    finally:
        process.kill()
        set_pace(cluster.pace, 0)
    logs = Path(cluster.head_node.get_logs_dir_path())
    seen += [log.read_bytes() for log in logs.rglob("*") if log.is_file()]
    assert len(seen) > 5
    assert process.returncode == 0, output.read_text()
    assert restarted
    assert any(b"faults_space.yaml" in line for line in seen)
    dump = [postgres.bin / "pg_dump", "--host=127.0.0.1", f"--port={postgres.port}"]
    seen.append(
        subprocess.run(
            [*dump, f"--username={postgres.user}", name],
            env={**os.environ, "PGPASSWORD": postgres.password},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    )
    assert b"nas_trials" in seen[-1]
    seen.append(output.read_bytes())
    secret = postgres.password[-8:].encode()  # the part that has to be escaped in no place
    assert not any(secret in told for told in seen)
