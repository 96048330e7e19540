"""A seat without Ray, and this process as one: the side effects of a candidate."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import eventually, wait

from nas.errors import NasError
from nas.job import DataRef, Epoch, Failure, Job, Outcome, Result
from nas.job.pool import Done
from nas.processes import Process, cores, end, started
from nas.workers import keeper, open_pool
from nas.workers import seat as seats
from nas.workers.in_process import InProcess
from nas.workers.seat import Seat

TESTS = Path(__file__).parent
PATTERN = "INPUT(1, 8, 8) -> FLATTEN -> FC(10)"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def job(name: str, seed: int = 0) -> Job:
    return Job(pattern=PATTERN, evaluator=f"evaluators:{name}", epochs=1, seed=seed)


@pytest.fixture(scope="module")
def seat() -> Iterator[Seat]:
    opened = Seat(directory=str(TESTS), path=[str(TESTS)])
    yield opened
    opened.close()


def sat(seat: Seat, told: Job) -> tuple[list[Epoch], Outcome]:
    *curve, last = seat.run(1, told)
    assert isinstance(last, Result | Failure)
    return [point for point in curve if isinstance(point, Epoch)], last


def in_process(told: Job) -> Outcome:
    pool = InProcess()
    pool.submit(1, told)
    last = pool.wait(1)[-1]
    assert isinstance(last, Done)
    return last.outcome


def alive(pid: int) -> bool:
    return started(pid) != ""


OWN_FAULTS = {
    "segfaults": "its process ended: SIGSEGV",
    "dies": "its process ended: exit status 7",
    "quits": "Quit: ",
    "interrupts": "KeyboardInterrupt",
    "writes_into_the_pipe": "it wrote into the pipe to its seat",
    "closes_everything": "it closed the pipe to its seat",
    "closes_its_pipe": "its process ended: exit status 1",
    "empties_the_modules": "its process ended: exit status 1",
}


@pytest.mark.parametrize("name", OWN_FAULTS)
def test_a_candidate_that_surely_failed_by_itself_is_blamed_for_it(
    seat: Seat, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is tried once more, not as often as a worker's death."""
    ended = sat(seat, job(name))[1]
    assert isinstance(ended, Failure)
    assert (ended.kind, ended.ours) == ("error", False)
    assert OWN_FAULTS[name] in ended.reason
    assert "Traceback" not in capfd.readouterr().err
    assert isinstance(sat(seat, job("ok"))[1], Result)


def test_a_directory_that_was_removed_ends_no_training_and_blames_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    seat = Seat(directory=str(gone), path=[str(TESTS)])
    monkeypatch.chdir(gone)
    pools = [InProcess(), open_pool(1)]
    monkeypatch.chdir(tmp_path)
    gone.rmdir()
    with contextlib.closing(seat):
        assert isinstance(sat(seat, job("ok"))[1], Result)
        assert sat(seat, job("where"))[1].metrics == {"slashes": 1.0}  # type: ignore[union-attr]
    for pool in pools:
        with contextlib.closing(pool):
            with pytest.raises(NasError, match=r"gone, in which evaluators:ok ran, was removed"):
                pool.submit(1, job("ok"))
            pool.submit(2, Job(pattern=PATTERN, data=DataRef(name="digits"), epochs=1))
            while not (done := [e for e in pool.wait(1) if isinstance(e, Done)]):
                pass
            assert isinstance(done[0].outcome, Result)


@pytest.mark.parametrize(
    ("program", "told"),
    [("/bin/false", "its keeper was killed"), ("/none", "No such file or directory: '/none'")],
)
def test_a_process_that_cannot_start_is_told_and_leaves_nothing_open(
    program: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with contextlib.closing(open_pool(1)) as pool:

        def reason() -> str:
            pool.submit(1, job("ok"))
            [done] = pool.wait(60)
            assert isinstance(done, Done)
            assert isinstance(done.outcome, Failure)
            assert done.outcome.ours
            return done.outcome.reason

        first = reason()
        assert told in first
        open_before = os.listdir("/proc/self/fd")
        assert reason() == first
        assert os.listdir("/proc/self/fd") == open_before


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "250000 100000\n"}, 3),  # docker run --cpus 2.5
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_a_container_has_the_cores_of_its_quota(
    files: dict[str, str], most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores(str(tmp_path)) == most


def test_no_more_processes_than_cores_are_started_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = cores()
    monkeypatch.setenv("NAS_TEST_MARK", str(tmp_path))

    def serving() -> int:
        mark, found = f"NAS_TEST_MARK={tmp_path}".encode(), 0
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended
                found += mark in (process / "environ").read_bytes()
        return found

    with contextlib.closing(open_pool(4 * most)) as pool:
        wait("as many as cores", lambda: serving() == 2 * most)  # each with a keeper
        for jobs, processes in ((1, 2 * most), (4 * most, 8 * most)):
            for ticket in range(jobs):
                pool.submit(ticket, job("ok"))
            done = 0
            while done < jobs:
                done += sum(isinstance(event, Done) for event in pool.wait(1))
            assert serving() == processes


@pytest.mark.slow
def test_the_time_limit_ends_the_whole_family() -> None:
    limit = 10.0
    with contextlib.closing(
        Seat(directory=str(TESTS), path=[str(TESTS)], time_limit=limit)
    ) as seat:
        began = time.monotonic()
        curve, ended = sat(seat, job("forks_and_hangs"))
        assert time.monotonic() - began >= limit
        assert isinstance(ended, Failure)
        assert ended.kind == "timeout"
        assert "not finished within its time limit of 10 s" in ended.reason
        assert len(curve) == 3
        assert not any(alive(point.epoch) for point in curve)
        assert isinstance(sat(seat, job("ok"))[1], Result)


def test_modules_that_take_long_to_import_are_told_from_a_job_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1000)\n")
    monkeypatch.setattr(seats, "IMPORTS", 1.0)
    told = Job(pattern=PATTERN, evaluator="slow:evaluate")
    with contextlib.closing(Seat(directory=str(tmp_path), path=[str(tmp_path)])) as seat:
        _, ended = sat(seat, told)
    assert isinstance(ended, Failure)
    assert (ended.kind, ended.reason) == ("timeout", "its modules were not imported within 1 s")


@pytest.mark.parametrize("name", ["forks_and_dies", "leaves_a_daemon"])
def test_no_process_outlives_its_candidate(seat: Seat, name: str) -> None:
    curve, ended = sat(seat, job(name))
    left = [point.epoch for point in curve]
    if isinstance(ended, Result):
        left = [int(ended.metrics["left"])]
    assert left
    assert not any(map(alive, left))


def test_in_this_process_too_no_process_outlives_its_candidate() -> None:
    mine = subprocess.Popen(["sleep", "1000"])
    try:
        ended = in_process(job("leaves_a_daemon"))
        assert isinstance(ended, Result)
        assert not alive(int(ended.metrics["left"]))
        assert mine.poll() is None
    finally:
        mine.kill()
        mine.wait()


def test_a_fork_of_the_candidate_answers_for_nobody(seat: Seat) -> None:
    for ended in (sat(seat, job("forks_and_returns"))[1], in_process(job("forks_and_returns"))):
        assert isinstance(ended, Result)
        assert ended.metrics == {"accuracy": 0.5}


def test_a_thread_that_reports_late_reports_to_nobody(seat: Seat) -> None:
    assert sat(seat, job("reports_too_late"))[0] == []
    slow = sat(seat, job("slow_reports"))
    time.sleep(0.3)
    assert [point.epoch for point in slow[0] + sat(seat, job("slow_reports"))[0]] == [0, 0]


@pytest.mark.parametrize("victim", ["seat", "keeper"])
def test_whichever_process_is_killed_its_children_end(victim: str, tmp_path: Path) -> None:
    """The seat's process ended by whatever means, or the keeper by the candidate itself."""
    code = (
        "import os, sys; from nas.job import Job; from nas.workers.seat import Seat\n"
        f"seat = Seat(directory={str(TESTS)!r}, path=[{str(TESTS)!r}])\n"
        f"told = Job(pattern={PATTERN!r}, evaluator='evaluators:forks_and_hangs')\n"
        "for item in seat.run(1, told): print(getattr(item, 'epoch', item), flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    family = [int(process.stdout.readline()) for _ in range(3)]
    if victim == "seat":
        process.kill()
    else:
        parent = Path(f"/proc/{family[0]}/stat").read_text().rpartition(")")[2].split()[1]
        os.kill(int(parent), signal.SIGKILL)
        assert "worker_died" in process.stdout.readline()
    process.wait()
    process.stdout.close()
    lasting = family if victim == "seat" else family[:1]  # a daemon has lost its keeper by then
    assert eventually(lambda: not any(map(alive, lasting)))
    end(map(Process.of, family))


def test_endless_printing_of_a_candidate_is_cut_off(capfd: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(Seat(directory=str(TESTS), path=[str(TESTS)])) as seat:
        assert isinstance(sat(seat, job("prints_without_end"))[1], Result)
    out, err = capfd.readouterr()
    assert out == ""
    assert keeper.PRINTS <= len(err) < keeper.PRINTS + 200
    assert err.endswith(keeper.CUT.decode())


# -- which process ---------------------------------------------------------------------------------

GIVEN_OUT_AGAIN = """
import subprocess, sys, time
from pathlib import Path
from nas.processes import Process, end

ours = subprocess.Popen(["sleep", "1000"])
told = Process.of(ours.pid)
ours.kill(); ours.wait()
time.sleep(0.05)  # the kernel tells a start in hundredths of a second
Path("/proc/sys/kernel/ns_last_pid").write_text(str(told.pid - 1))
theirs = subprocess.Popen(["sleep", "1000"])
assert theirs.pid == told.pid
end([told])
assert theirs.poll() is None
end([Process.of(theirs.pid)])
print(theirs.wait())
"""


def test_a_process_that_was_given_the_number_of_ours_is_not_hurt() -> None:
    within = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*within, "true"], capture_output=True).returncode:
        pytest.skip("needs a pid namespace")
    told = subprocess.run(
        [*within, sys.executable, "-c", GIVEN_OUT_AGAIN], capture_output=True, text=True
    )
    assert told.stdout == f"{-signal.SIGKILL}\n", told.stderr
