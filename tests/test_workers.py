"""The pools: of this machine, on a real Ray, and in this process. What a candidate does wrong, it
does here."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ray
from clusters import started
from waiting import eventually

from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.errors import NasError
from nas.job import Failure, Job, Result
from nas.job.pool import Done, Event, Pool, Reported
from nas.processes import cores, descendants
from nas.spaces.space import read_space
from nas.store import open_store
from nas.workers import machine, open_pool
from nas.workers.cluster import RayPool, Share
from nas.workers.in_process import InProcess
from nas.workers.local import shares
from nas.workers.machine import machine_memory
from nas.workers.run import evaluator, run

PATTERN = "INPUT(1, 8, 8) -> FLATTEN -> FC(10)"
PATIENCE = 200.0  # seconds until a test gives up; none of them is about speed
TIME_LIMIT = 2 * PATIENCE
GIB = 2**30

tickets = itertools.count(1)
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def job(name: str, epochs: int = 3, seed: int = 0) -> Job:
    return Job(pattern=PATTERN, evaluator=f"evaluators:{name}", epochs=epochs, seed=seed)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray of this process."""
    running = started(num_cpus=6)
    ray.init(running.address, log_to_driver=False)
    yield "auto"
    ray.shutdown()
    running.shutdown()


def here() -> Pool:
    return open_pool(2, time_limit=TIME_LIMIT, memory_per_trial=1.0)


def there(address: str) -> Pool:
    return open_pool(2, address, time_limit=TIME_LIMIT, memory_per_trial=1.0)


@pytest.fixture(scope="module", params=["here", "there"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    opened = here() if request.param == "here" else there(request.getfixturevalue("cluster"))
    yield opened
    opened.close()


def submit(pool: Pool, *jobs: Job) -> list[int]:
    numbers = [next(tickets) for _ in jobs]
    for ticket, told in zip(numbers, jobs, strict=True):
        pool.submit(ticket, told)
    return numbers


def collect(
    pool: Pool, until: Callable[[list[Event]], bool], seconds: float = PATIENCE
) -> list[Event]:
    events: list[Event] = []
    deadline = time.monotonic() + seconds
    while not until(events):
        assert time.monotonic() < deadline, f"only {events} in {seconds} s"
        events += pool.wait(0.5)
    return events


def finish(pool: Pool, *jobs: Job) -> list[Event]:
    """All events of the jobs, in the order in which they came."""
    submit(pool, *jobs)
    return collect(pool, lambda events: sum(isinstance(e, Done) for e in events) == len(jobs))


def outcome(pool: Pool, told: Job) -> Result | Failure:
    last = finish(pool, told)[-1]
    assert isinstance(last, Done)
    return last.outcome


def failure(pool: Pool, told: Job) -> Failure:
    ended = outcome(pool, told)
    assert isinstance(ended, Failure)
    return ended


def metrics(pool: Pool, told: Job) -> dict[str, float]:
    ended = outcome(pool, told)
    assert isinstance(ended, Result), ended
    return dict(ended.metrics)


def timeless(events: list[Event]) -> list[object]:
    """The events without what differs from run to run: tickets and seconds."""
    return [
        e.epoch if isinstance(e, Reported) else dataclasses.replace(e.outcome, seconds=0.0)
        for e in events
    ]


def gone(pids: list[int], seconds: float = PATIENCE) -> bool:
    return eventually(lambda: not any(alive(pid) for pid in pids), seconds)


def session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- what a job answers ---------------------------------------------------------------------------


def test_epochs_arrive_in_order_before_the_result(pool: Pool) -> None:
    events = finish(pool, job("ok", epochs=5, seed=11))
    assert [e.epoch.epoch for e in events if isinstance(e, Reported)] == [1, 2, 3, 4, 5]
    last = events[-1]
    assert isinstance(last, Done)
    assert isinstance(last.outcome, Result)
    # FC by hand: 64 inputs x 10 classes and 10 biases
    assert last.outcome.metrics == {"accuracy": 0.5, "params": 650.0, "seed": 11.0}
    assert [e.epoch for e in last.outcome.curve] == [1, 2, 3, 4, 5]


def test_jobs_beyond_the_slots_are_run_too(pool: Pool) -> None:
    events = finish(pool, *(job("ok", epochs=1, seed=seed) for seed in range(7)))
    results = [e.outcome for e in events if isinstance(e, Done)]
    seeds = {r.metrics["seed"] for r in results if isinstance(r, Result)}
    assert seeds == set(range(7))


def test_slots_work_side_by_side(pool: Pool) -> None:
    assert pool.slots == 2
    events = finish(pool, job("slow_reports", epochs=10), job("slow_reports", epochs=10))
    first = next(i for i, e in enumerate(events) if isinstance(e, Done))
    assert len({e.ticket for e in events[:first] if isinstance(e, Reported)}) == 2


def test_training_runs_in_a_worker(pool: Pool) -> None:
    events = finish(pool, Job(pattern=PATTERN, epochs=2, latency=False))
    assert [e.epoch.epoch for e in events if isinstance(e, Reported)] == [1, 2]
    assert isinstance(events[-1], Done)
    assert isinstance(events[-1].outcome, Result), events[-1]
    assert events[-1].outcome.metrics["accuracy"] > 0.3


GENTLE = {
    "ok": "",
    "raises": "ValueError: no luck (",
    "exits": "SystemExit: enough (",
    "not_finite": "metric accuracy is nan: must be finite",
    "not_a_number": "metric accuracy is 'high': must be a number",
    "not_a_dict": "returned float, not a dict",
    "reports_a_number": "takes a nas.job.Epoch, not float",
    "reports_two_things": "takes one nas.job.Epoch (docs/evaluators.md), not int, float",
    "reports_names": "takes one nas.job.Epoch (docs/evaluators.md), not epoch=, accuracy=",
    "reports_nothing": "takes one nas.job.Epoch (docs/evaluators.md), not nothing",
    "missing": "has no function 'missing'",
}


@pytest.mark.parametrize("name", GENTLE)
def test_the_pool_in_this_process_gives_the_events_of_the_one_of_workers(
    pool: Pool, name: str
) -> None:
    twin, there = finish(InProcess(), job(name)), finish(pool, job(name))
    assert timeless(twin) == timeless(there)
    last = twin[-1]
    assert isinstance(last, Done)
    if GENTLE[name]:
        assert isinstance(last.outcome, Failure)
        assert last.outcome.kind == "error"
        assert GENTLE[name] in last.outcome.reason
        assert "\n" not in last.outcome.reason


def test_an_evaluator_that_cannot_be_read_is_told_by_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unreadable.py").write_text("x = 1\ndef f(architecture, **_)\n    return {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NasError, match=r"'unreadable:f': .*unreadable\.py, line 2: expected ':'"):
        evaluator("unreadable:f")


def test_an_exception_names_the_line_that_raised_it() -> None:
    ended = run(job("raises"), lambda epoch: None)
    assert isinstance(ended, Failure)
    source = Path(__file__).with_name("evaluators.py")
    lines = source.read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if "raise ValueError" in line)
    assert ended.reason == f"ValueError: no luck ({source}:{number})"
    assert [e.epoch for e in ended.curve] == [1]


@pytest.mark.parametrize(
    ("function", "fits"),
    [
        (lambda architecture: {}, False),
        (lambda architecture, *, fidelity, seed, report, more: {}, False),
        (lambda architecture, **_: {}, True),
        (lambda architecture, fidelity, seed, report, more=1: {}, True),
    ],
)
def test_an_evaluator_of_other_arguments_is_refused_before_the_first_trial(
    function: Any, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("mine")
    module.call = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine", module)
    if fits:
        assert evaluator("mine:call") is function
        return
    rule = r"evaluator 'mine:call': .*f\(architecture, \*, fidelity, seed, report\)"
    with pytest.raises(NasError, match=rule):
        evaluator("mine:call")


def test_a_pattern_that_is_none_is_a_failure(pool: Pool) -> None:
    ended = failure(pool, dataclasses.replace(job("ok"), pattern="INPUT -> -> FC"))
    assert ended.kind == "error"
    assert "PatternError" in ended.reason


def test_no_memory_left_is_told_apart() -> None:
    assert failure(InProcess(), job("out_of_memory")).kind == "out_of_memory"


@pytest.mark.parametrize(
    ("name", "word"),
    [("nowhere:f", "nowhere"), ("evaluators", "MODULE:FUNCTION"), ("evaluators:f", "'f'")],
)
def test_an_evaluator_that_is_not_there_is_named(name: str, word: str) -> None:
    with pytest.raises(NasError, match=word):
        evaluator(name)


# -- what a job must not break --------------------------------------------------------------------


def test_the_process_is_kept_between_jobs_and_has_its_share_of_threads(pool: Pool) -> None:
    first, second = (metrics(pool, job("whoami")) for _ in range(2))
    assert first == second
    threads = 1 if isinstance(pool, RayPool) else max(1, cores() // 2)
    assert first["threads"] == threads


@pytest.mark.parametrize(
    ("name", "word", "ours"),
    [
        ("dies", "exit status 7", False),
        ("segfaults", "SIGSEGV", False),
        ("is_killed", "SIGKILL", True),  # it may have been the kernel, or an operator
    ],
)
def test_a_crash_is_told_and_the_slot_works_again(
    pool: Pool, name: str, word: str, ours: bool
) -> None:
    ended = failure(pool, job(name))
    assert ended.kind == ("worker_died" if ours else "error")
    assert word in ended.reason
    assert ended.ours == ours
    assert "accuracy" in metrics(pool, job("ok"))


@linux
def test_a_crash_takes_the_grandchildren_along(pool: Pool) -> None:
    ended = failure(pool, job("forks_and_dies"))
    assert ended.kind == "error"
    assert gone([e.epoch for e in ended.curve])


@linux
def test_what_a_good_job_leaves_running_is_ended(pool: Pool) -> None:
    told = metrics(pool, job("leaves_a_process"))
    assert gone([int(told["left"])])
    assert metrics(pool, job("whoami"))["pid"] != told["pid"]


@linux
def test_a_job_that_allocates_without_end_is_out_of_memory(pool: Pool) -> None:
    ended = failure(pool, job("allocates_without_end"))
    assert ended.kind == "out_of_memory"
    assert "limit of 1024 MiB" in ended.reason


@linux
def test_a_candidate_out_of_memory_is_a_failed_trial_that_is_not_tried_again(
    pool: Pool, tmp_path: Path
) -> None:
    space = {
        "name": "widths",
        "pattern": "INPUT -> FC(w) -> RELU -> FC",
        "where": {"w": {"choice": [4, 64]}},  # 310 and 4,810 parameters
    }
    plan = Plan(
        study="widths",
        space=read_space(space, "widths", (1, 8, 8), 10),
        job=Job(pattern="", evaluator="evaluators:allocates_if_wide"),
        trials=4,
        sampler="random",
    )
    with contextlib.closing(open_store(f"sqlite:///{tmp_path}/nas.db")) as store:
        for began in (True, False):  # the second time it is resumed
            status = search(plan, store, pool)
            assert (status.finished, status.failed, status.exhausted) == (1, 1, True)
            assert status.ended == (2 if began else 0)
            study = store.find_study("widths").id
            (failed,) = store.trials(study, states=["failed"])
            assert (failed.params, failed.failure) == (4810, "out_of_memory")
            (attempt,) = store.attempts(failed.id)
            assert attempt.failure == "out_of_memory"
            assert "limit of 1024 MiB" in (attempt.reason or "")


@linux
def test_cancel_ends_a_running_job(pool: Pool) -> None:
    (ticket,) = submit(pool, job("waits"))
    events = collect(pool, lambda events: len(events) == 1)
    pool.cancel(ticket)
    pool.cancel(next(tickets))  # no such job: ignored
    last = collect(pool, lambda events: len(events) == 1)[0]
    assert isinstance(last, Done)
    assert isinstance(last.outcome, Failure)
    assert (last.ticket, last.outcome.kind) == (ticket, "cancelled")
    assert isinstance(events[0], Reported)
    assert gone([events[0].epoch.epoch])


@pytest.mark.parametrize("twin", [True, False])
def test_cancel_ends_a_waiting_job(pool: Pool, twin: bool) -> None:
    runs = InProcess() if twin else pool
    numbers = submit(runs, *(job("slow_reports", epochs=4) for _ in range(3)))
    runs.cancel(numbers[-1])
    ended: dict[int, Result | Failure] = {}
    while len(ended) < 3:
        ended |= {e.ticket: e.outcome for e in runs.wait(5) if isinstance(e, Done)}
    assert [isinstance(ended[number], Result) for number in numbers] == [True, True, False]


def test_the_twin_looks_at_the_time_limit_when_a_job_reports() -> None:
    ended = failure(InProcess(time_limit=0.12), job("slow_reports", epochs=1000))
    assert ended.kind == "timeout"
    assert 1 <= len(ended.curve) <= 3  # one each 0.05 s, or more


def test_an_idle_pool_answers_at_once(pool: Pool) -> None:
    began = time.monotonic()
    assert pool.wait(1000) == []
    assert InProcess().wait(1000) == []
    assert time.monotonic() - began < 1000


# -- the driver's end -----------------------------------------------------------------------------

DRIVER = f"""
import sys
from nas.job import Job
from nas.workers import open_pool

job = Job(pattern={PATTERN!r}, evaluator="evaluators:" + sys.argv[1])
pool = open_pool(2)
try:
    pool.submit(1, job)
    pool.submit(2, job)
    while events := pool.wait(200):
        print(*events, sep="\\n", file=sys.stderr, flush=True)
finally:
    pool.close()
if sys.argv[1] == "prints":
    pool = open_pool(1)
    pool.submit(3, job)
    while events := pool.wait(200):
        print(*events, sep="\\n", file=sys.stderr, flush=True)
    pool.close()
"""


class Driver:
    """A program with a pool, in a session of its own, by which all its processes are known."""

    def __init__(self, evaluator: str) -> None:
        here = Path(__file__).parent
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, evaluator],
            cwd=here,
            env={**os.environ, "PYTHONPATH": str(here.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A test run in the background may have it ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def family(self) -> list[int]:
        pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if session(pid) == self.process.pid and alive(pid)]

    def reports(self, count: int) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            count -= line.startswith("Reported")
            if not count:
                return


@linux
@pytest.mark.slow
def test_a_driver_that_is_interrupted_leaves_no_process() -> None:
    """One that is killed: ``test_local``."""
    driver = Driver("forks_and_waits")
    try:
        driver.reports(2)  # one from each slot
        assert len(driver.family()) >= 7  # the driver; of each slot a keeper, a child and its fork
        os.killpg(driver.process.pid, signal.SIGINT)  # as a terminal does
        driver.process.wait(PATIENCE)
        assert eventually(lambda: not driver.family(), PATIENCE), driver.family()
    finally:
        for pid in driver.family():
            os.kill(pid, signal.SIGKILL)


@linux
@pytest.mark.slow
def test_two_pools_one_after_another_and_nothing_on_stdout() -> None:
    driver = Driver("prints")
    stdout, stderr = driver.process.communicate(timeout=PATIENCE)
    assert driver.process.returncode == 0, stderr
    assert stderr.count("Done") == 3
    assert stdout == ""
    assert eventually(lambda: not driver.family(), PATIENCE), driver.family()


def alone(code: str, *programs: Path) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, for this one has a Ray already; with programs of which
    those in the folders ``programs`` come first."""
    path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


# On a Ray of four cores. Two drivers on a cluster with room for one seat: the killer found the same
# between seats of one. Then what a seat requests of the node.
DEMANDING = f"""
import time
from clusters import started
import ray
from nas.job import Job
from nas.job.pool import Done
from nas.workers import cluster, open_pool
from waiting import wait

GIB = 2**30
job = Job(pattern={PATTERN!r}, evaluator="evaluators:ok")
running = started(num_cpus=4, num_gpus=1, memory=3 * GIB)
ray.init(running.address, log_to_driver=False)

kept, cluster.IDLE = cluster.IDLE, 1.0
first, second = (open_pool(None, "auto", 0, cpus_per_trial=4) for _ in range(2))
for ticket, pool in enumerate((first, second, first)):
    pool.submit(ticket, job)
    deadline = time.monotonic() + 120
    while not any(isinstance(event, Done) for event in pool.wait(0.2)):
        assert time.monotonic() < deadline, f"job {{ticket}} finds no room"
        (second if pool is first else first).wait(0)
first.close()
second.close()
cluster.IDLE = kept
print("shared", flush=True)

def held():
    return ray.cluster_resources()["memory"] - ray.available_resources().get("memory", 0)

for need, limit, gpus, slots, holds in (
    (0, 0, 0, 4, 0),
    (GIB, 0, 0, 3, GIB),
    (2 * GIB, 0, 0, 1, 2 * GIB),
    (2 * GIB, GIB, 0, 3, GIB),  # what is told comes before what is predicted
    (99 * GIB, 0, 0, 1, 3 * GIB),  # more than any node has: all of one
    (99 * GIB, 0, 0.25, 4, 350 * 2**20),  # on a GPU the process alone is in the node's memory
):
    pool = open_pool(None, "auto", gpus, memory_per_trial=limit / GIB, memory_need=need)
    assert pool.slots == slots, pool.slots
    pool.submit(1, job)
    while not any(isinstance(event, Done) for event in pool.wait(30)):
        pass
    wait(f"the seat holds {{holds}}", lambda: held() == holds)
    pool.close()
print("fits")

print("cards", [open_pool(None, "auto", memory_need=n << 30).slots for n in (0, 1, 25)])
ray.shutdown()
running.shutdown()
"""


@pytest.fixture(scope="module")
def demanding(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """Ray is told of a GPU; what the card has, a stand-in for nvidia-smi says."""
    program = tmp_path_factory.mktemp("programs") / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 81920\n")
    program.chmod(0o755)
    return alone(DEMANDING, program.parent)


@linux
@pytest.mark.slow
def test_an_idle_seat_makes_room_for_who_waits(
    demanding: subprocess.CompletedProcess[str],
) -> None:
    assert demanding.stdout.startswith("shared\n"), demanding.stderr


@linux
@pytest.mark.slow
def test_a_slot_on_a_cluster_asks_for_the_memory_that_is_predicted(
    demanding: subprocess.CompletedProcess[str],
) -> None:
    assert "\nfits\n" in demanding.stdout, demanding.stderr


@linux
@pytest.mark.slow
def test_a_clusters_trials_share_its_cards_by_what_they_need(
    demanding: subprocess.CompletedProcess[str],
) -> None:
    """An unknown need shares no card; of 1 GiB as many fit as there are cores, of 25 three."""
    assert demanding.stdout.endswith("cards [1, 4, 3]\n"), demanding.stderr


def test_a_machine_runs_as_many_as_its_memory_holds() -> None:
    room = int(0.9 * machine_memory())

    def unasked() -> int:
        raise AssertionError("the prediction takes a second")

    def slots(workers: int | None, **limits: Any) -> int:
        with contextlib.closing(open_pool(workers, **limits)) as opened:
            return opened.slots

    assert slots(None) == cores()
    assert slots(None, memory_need=room // cores()) == cores()
    assert slots(None, memory_need=room // 2 + 1) == 1
    assert slots(None, memory_need=lambda: 2 * room) == 1
    assert slots(0, memory_need=unasked) == 1
    assert slots(1, memory_per_trial=1.0, memory_need=unasked) == 1
    assert slots(None, memory_per_trial=room / GIB) == 1
    assert slots(2, memory_need=2 * room) == 2
    assert slots(None, jobs=1) == slots(50, jobs=1) == 1
    assert slots(3, jobs=2) == 2
    with pytest.raises(NasError, match=r"memory per trial is .* GiB: this machine has"):
        slots(1, memory_per_trial=2 * room / GIB)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux has affinities")
def test_only_the_cores_that_a_batch_system_leaves_are_used() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert machine.at_once(None, 0) == (1, 1)
        assert machine.at_once(2, 0) == (2, 1)
    finally:
        os.sched_setaffinity(0, allowed)


# -- arithmetic and arguments ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "node", "slots"),
    [
        (Share(cpus=1, gpus=0), {"CPU": 16.0}, 16),
        (Share(cpus=4, gpus=0), {"CPU": 18.0}, 4),
        (Share(cpus=1, gpus=0.25), {"CPU": 16.0, "GPU": 2.0}, 8),
        (Share(cpus=1, gpus=0.4), {"CPU": 16.0, "GPU": 2.0}, 4),  # two on each, not five on both
        (Share(cpus=1, gpus=0.3333), {"CPU": 16.0, "GPU": 1.0}, 3),
        (Share(cpus=1, gpus=2), {"CPU": 16.0, "GPU": 5.0}, 2),
        (Share(cpus=1, gpus=1), {"CPU": 16.0}, 0),
        (Share(cpus=1, gpus=0, memory=3), {"CPU": 16.0, "memory": 10.0}, 3),
    ],
)
def test_a_node_has_as_many_slots_as_its_resources_allow(
    share: Share, node: dict[str, float], slots: int
) -> None:
    assert share.slots(node) == slots


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"workers": -1}, "workers is -1"),
        ({"workers": 1, "gpus_per_trial": 1.5}, "gpus per trial is 1.5"),
        ({"workers": 1, "gpus_per_trial": float("nan")}, "gpus per trial is nan"),
        ({"workers": 1, "time_limit": -3}, "time limit is -3"),
        ({"workers": 1, "memory_per_trial": -3}, "memory per trial is -3: must be GiB"),
        ({"workers": 1, "memory_per_trial": float("nan")}, "memory per trial is nan"),
        ({"workers": 1, "cpus_per_trial": 0}, "cpus per trial is 0"),
    ],
)
def test_numbers_outside_their_domain_are_named(arguments: dict[str, float], word: str) -> None:
    with pytest.raises(NasError, match=word):
        open_pool(**arguments)  # type: ignore[arg-type]


ABSENT = """
from nas.errors import NasError
from nas.workers import open_pool

for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"):
    try:
        open_pool(1, address=address)
    except NasError as error:
        assert f"Ray cluster {address!r} cannot be joined" in str(error), error
        print(address)
"""


def test_a_cluster_that_does_not_answer_is_named_at_once() -> None:
    told = alone(ABSENT)
    assert told.stdout == "127.0.0.1:1\nray://127.0.0.1:1\nnonsense\n", told.stderr


def test_the_seat_finds_children_of_children() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 1000 & wait"]) as shell:
        assert eventually(lambda: len(descendants(shell.pid)) == 2)
        for pid in reversed(descendants(shell.pid)):
            os.kill(pid, signal.SIGKILL)


def test_pools_in_threads_share_the_ray_of_their_process(cluster: str) -> None:
    """As two searches of one Python process do: each has its own slots, and who ends first ends
    neither the other's seats nor Ray."""

    def used(seed: int) -> Pool:
        opened = there(cluster)
        ended = [e.outcome for e in finish(opened, *3 * [job("ok", seed=seed)]) if type(e) is Done]
        assert [type(outcome) for outcome in ended] == 3 * [Result]
        return opened

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(used, (1, 2))
    first.close()
    assert isinstance(outcome(second, job("ok")), Result)
    with pytest.raises(
        NasError, match="runs on the cluster auto, and a process has one Ray: search"
    ):
        open_pool(2, address="127.0.0.1:6379")
    second.close()
    assert ray.is_initialized()  # as it was not joined here


GIB = 1 << 30


@pytest.mark.parametrize(
    ("most", "gpus", "cards", "need", "taken"),
    [
        (2, None, {}, 0, [("", 0), ("", 0)]),
        (2, 0, {"0": 80}, 0, [("", 0), ("", 0)]),
        (1, None, {"0": 80}, 0, [("0", 1)]),
        (2, None, {"2": 80, "3": 80}, 0, [("2", 1), ("3", 1)]),
        (3, None, {"0": 80, "1": 80}, 0, [("0", 1 / 2), ("1", 1), ("0", 1 / 2)]),
        # 6 GiB hold five of 1 GiB and what CUDA takes, 3 GiB only one
        (4, None, {"0": 6, "1": 3}, 1, [("0", 1 / 3), ("1", 1), ("0", 1 / 3), ("0", 1 / 3)]),
        (3, 0.5, {"0": 80, "1": 80}, 0, [("0", 0.5), ("1", 0.5), ("0", 0.5)]),
        (2, 2, {"0": 80, "1": 80, "2": 80, "3": 80, "4": 80}, 0, [("0,1", 2), ("2,3", 2)]),
        (9, None, {"0": 3}, 1, [("0", 1 / 9)] * 9),  # so many were asked for
    ],
)
def test_the_slots_of_a_machine_share_its_cards(
    most: int, gpus: float | None, cards: dict[str, int], need: int, taken: list[tuple[str, float]]
) -> None:
    memories = {name: gib * GIB for name, gib in cards.items()}
    assert shares(most, gpus, memories, need * GIB) == taken


@pytest.mark.parametrize(("most", "gpus"), [(3, 1), (5, 0.5), (2, 2), (5, 0.4)])
def test_more_than_a_machines_cards_take_are_refused(most: int, gpus: float) -> None:
    with pytest.raises(
        NasError, match=f"{most} at once do not fit with {gpus:g} GPUs each: there are 2"
    ):
        shares(most, gpus, {"0": GIB, "1": GIB}, 0)
