"""A search with a time budget, on a simulated cluster and clock: no test waits."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from spies import stack

from nas import durations
from nas.driver import leases, loop, time_budget
from nas.driver.baselines import enter
from nas.driver.plan import Plan
from nas.driver.tally import Status
from nas.driver.time_budget import TimeBudget
from nas.errors import NasError, StudyError
from nas.job import Failure, Job, Result
from nas.job.pool import Done, Event
from nas.language.architecture import parse
from nas.spaces.space import read_space
from nas.store import Store, TrialRow, open_store


class Clock:
    """Stands still but for ``sleep``."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += max(0.0, seconds)


class Simulated:
    """A pool whose trainings take as many seconds as ``length`` says, on a clock that leaps."""

    def __init__(self, clock: Clock, length: Callable[[Job], float], slots: int = 1) -> None:
        self.clock, self.length, self.slots = clock, length, slots
        self.ends: list[tuple[float, int, Job, float]] = []
        self.begun: list[tuple[float, float]] = []  # of every training: from when to when
        self.outcome: Callable[[Job, float], Result | Failure] = lambda job, seconds: Result(
            metrics={"accuracy": accuracy(job)}, seconds=seconds, device="simulated"
        )

    def submit(self, ticket: int, job: Job) -> None:
        length = self.length(job)
        self.begun.append((self.clock.time, self.clock.time + length))
        heapq.heappush(self.ends, (self.clock.time + length, ticket, job, length))

    def wait(self, timeout: float) -> list[Event]:
        if self.ends:
            self.clock.sleep(min(self.ends[0][0] - self.clock.time, timeout))
        events: list[Event] = []
        while self.ends and self.ends[0][0] <= self.clock.time:
            _, ticket, job, length = heapq.heappop(self.ends)
            events.append(Done(ticket, self.outcome(job, length)))
        return events

    def cancel(self, ticket: int) -> None:
        self.ends = [end for end in self.ends if end[1] != ticket]

    def close(self) -> None:
        self.ends.clear()


def accuracy(job: Job) -> float:
    """Grows with the size, and with the epochs."""
    return (1 - 10 / (20 + parse(job.pattern).params)) * (1 - 0.5 / job.epochs)


def ten_each(job: Job) -> float:
    return 10.0 * job.epochs


def by_size(job: Job) -> float:
    """2 to 30 seconds, of the networks of ``stack``."""
    return 2.0 + parse(job.pattern).macs / 1e5


def plan(seconds: float | None = 100.0, epochs: int = 1, **changes: Any) -> Plan:
    job = Job(pattern="", evaluator="test_time_budget:none", epochs=epochs)
    settings = {"study": "s", "trials": None, "sampler": "random", **changes}
    return Plan(space=stack(), job=job, seconds=seconds, **settings)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    told = SimpleNamespace(monotonic=made.now, sleep=made.sleep)
    for module in (loop, leases):
        monkeypatch.setattr(module, "time", told)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return made


def rows(store: Store) -> list[TrialRow]:
    return list(store.trials(store.find_study("s").id))


# --- how long ------------------------------------------------------------------------------------


def test_trials_that_take_ten_seconds_are_begun_until_none_would_end_in_time(
    store: Store, clock: Clock
) -> None:
    pool = Simulated(clock, ten_each)
    status = loop.search(plan(105.0), store, pool)
    assert (status.finished, len(rows(store))) == (10, 10)
    assert (status.time, status.budget, status.out_of_time) == (105.0, None, True)
    assert status.time_left == pytest.approx(5.0)
    assert pool.begun[-1][1] == pytest.approx(1100.0)


def test_every_slot_is_busy_until_the_end(store: Store, clock: Clock) -> None:
    pool = Simulated(clock, ten_each, slots=4)
    assert loop.search(plan(59.0), store, pool).finished == 4 * 5


def test_of_trials_and_time_what_comes_first_ends_it(store: Store, clock: Clock) -> None:
    first = loop.search(plan(100.0, trials=3), store, Simulated(clock, ten_each))
    assert (first.finished, first.out_of_time, first.budget) == (3, False, 3)
    then = loop.search(plan(40.0, trials=30), store, Simulated(clock, ten_each))
    assert (then.finished, then.out_of_time) == (3 + 4, True)


def test_a_search_with_a_time_budget_ends_when_its_space_is_exhausted(
    store: Store, clock: Clock
) -> None:
    told = {
        "name": "four",
        "pattern": "INPUT -> CONV(width=w) -> GAP -> FC",
        "where": {"w": {"int": [1, 4]}},
    }
    small = dataclasses.replace(plan(1000.0), space=read_space(told, "a test"))
    status = loop.search(small, store, Simulated(clock, ten_each))
    assert (status.finished, status.exhausted, status.out_of_time) == (4, True, False)


def test_time_goes_by_before_the_search_begins(store: Store, clock: Clock) -> None:
    """Imports and what else the command did: its time began when the command did."""
    pool = Simulated(clock, ten_each)
    assert loop.search(plan(100.0), store, pool, since=clock.time - 75.0).finished == 2


def test_the_first_ones_are_begun_whatever_they_take(store: Store, clock: Clock) -> None:
    """Nothing is known of how long they take, and a search that finds nothing is of no use."""
    pool = Simulated(clock, ten_each, slots=3)
    status = loop.search(plan(2.0), store, pool, since=clock.time - 5.0)
    assert (status.finished, status.out_of_time) == (3, True)
    again = loop.search(plan(2.0), store, pool)  # by now it is known
    assert again.finished == 3


def test_failures_teach_nothing_of_time_and_have_an_end(store: Store, clock: Clock) -> None:
    pool = Simulated(clock, ten_each)
    pool.outcome = lambda job, seconds: Failure(kind="diverged", reason="NaN", seconds=seconds)
    status = loop.search(plan(95.0), store, pool)
    assert (status.failed, status.out_of_time) == (10, True)  # the tenth was begun at 90


def test_what_would_end_too_late_is_left_out_and_what_would_not_is_begun(
    store: Store, clock: Clock
) -> None:
    """Trainings of 2 to 30 seconds: the large are left out at the end, by their MACs."""
    pool = Simulated(clock, by_size, slots=2)
    status = loop.search(plan(600.0), store, pool)
    lengths = [end - begin for begin, end in pool.begun]
    end = max(end for _, end in pool.begun) - 1000.0
    assert max(lengths) > 10 * min(lengths)
    assert end <= 600.0
    busy = sum(lengths) / (2 * 600.0)
    assert busy > 0.95, (busy, status.time_left)


def test_a_resumed_search_has_its_time_again_and_is_the_same_study(
    store: Store, clock: Clock
) -> None:
    for number, seconds in enumerate((50.0, 30.0, 50.0), start=1):
        loop.search(plan(seconds), store, Simulated(clock, ten_each))
        assert len(rows(store)) == {1: 5, 2: 8, 3: 13}[number]
    assert store.open_study(plan(None, trials=3).row()) == store.find_study("s")


def test_a_second_driver_has_a_time_of_its_own(url: str, store: Store, clock: Clock) -> None:
    """It begins when the first has seen two trials, with less: it ends, and the first goes on."""
    other: list[Status] = []

    def rival(status: Status) -> None:
        if status.done == 2 and not other:
            with contextlib.closing(open_store(url)) as opened:
                thief = dataclasses.replace(opened, driver="elsewhere//1/2/a")
                other.append(status)  # not again
                other.append(loop.search(plan(30.0), thief, Simulated(clock, ten_each)))

    status = loop.search(plan(100.0), store, Simulated(clock, ten_each), rival)
    assert other[-1].ended == 3
    assert other[-1].out_of_time
    assert status.finished == 10  # its own seven, and what it waited 30 seconds for
    assert clock.time == pytest.approx(1100.0)


def test_other_drivers_are_not_waited_for_when_time_is_over(
    url: str, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(open_store(url)) as opened:
        other = dataclasses.replace(opened, driver="elsewhere//1/2/a", lease=1e6)
        both = plan(60.0, trials=2)
        study = other.open_study(both.row())
        asker = loop.Asker(both, both.row(), 7, lambda row: row)
        asked = asker.ask()
        assert asked
        other.begin(study, [asked[1]])  # and it never ends
        status = loop.search(both, store, Simulated(clock, ten_each))
    assert (status.finished, status.out_of_time) == (1, True)
    assert 1060.0 <= clock.time < 1065.0


def test_what_failed_is_not_tried_again_when_there_is_no_time(store: Store, clock: Clock) -> None:
    """The second chance of a trial is the next run's."""
    pool = Simulated(clock, ten_each)
    simulated = pool.outcome

    def once(job: Job, seconds: float) -> Result | Failure:
        fails = len(pool.begun) == 2
        return Failure(kind="error", reason="no luck") if fails else simulated(job, seconds)

    pool.outcome = once
    status = loop.search(plan(25.0), store, pool)  # it fails when 5 seconds are left
    assert (status.finished, status.failed, status.running) == (1, 0, 0)
    assert [row.state for row in rows(store)] == ["finished", "waiting"]
    assert loop.search(plan(15.0), store, Simulated(clock, ten_each)).finished == 2
    assert [row.state for row in rows(store)] == ["finished"] * 2


# --- rungs ---------------------------------------------------------------------------------------


def test_who_waits_at_a_rung_is_stopped_when_time_is_over(store: Store, clock: Clock) -> None:
    rungs = plan(1000.0, epochs=9, rungs=(3, 9))
    pool = Simulated(clock, ten_each)
    status = loop.search(rungs, store, pool)
    states = {row.state for row in rows(store)}
    assert states == {"finished", "stopped"}
    assert (status.paused, status.out_of_time) == (0, True)
    assert min(status.stopped, status.finished) > 2
    assert pool.begun[-1][1] <= 2000.0


@pytest.mark.parametrize("artifacts", [False, True])
def test_nobody_goes_on_from_a_rung_that_would_end_too_late(
    artifacts: bool, store: Store, clock: Clock, tmp_path: Path
) -> None:
    """By 180 seconds one was trained whole, in 120, and two came to the rung: one of them is next,
    the one that waits or, with other seeds, the one that just arrives. An evaluator has no
    checkpoint to go on from, wherever artifacts are kept."""
    for seed in range(6):
        kept = str(tmp_path) if artifacts else ""
        searched = plan(265.0, epochs=9, rungs=(3, 9), study=f"s{seed}", artifacts=kept)
        job, began = dataclasses.replace(searched.job, seed=seed), clock.time
        pool = Simulated(clock, ten_each)
        status = loop.search(dataclasses.replace(searched, job=job), store, pool)
        assert max(end for _, end in pool.begun) <= began + 265.0, seed
        assert (status.finished, status.out_of_time) == (1, True)


def test_who_waits_at_a_rung_is_left_to_a_driver_that_has_time(
    url: str, store: Store, clock: Clock
) -> None:
    left: list[int] = []

    def rival(status: Status) -> None:
        if status.paused >= 2 and status.running and not left:
            left.append(0)
            with contextlib.closing(open_store(url)) as opened:
                brief = dataclasses.replace(opened, driver="elsewhere//1/2/a")
                loop.search(plan(5.0, epochs=9, rungs=(3, 9)), brief, Simulated(clock, ten_each))
            left[0] = len(list(store.trials(store.find_study("s").id, states=["paused"])))

    searched = plan(1500.0, epochs=9, rungs=(3, 9))
    status = loop.search(searched, store, Simulated(clock, ten_each, slots=2), rival)
    assert left[0] >= 1
    assert status.paused == 0
    assert {row.state for row in rows(store)} == {"finished", "stopped"}


def test_what_waits_in_the_record_is_taken_up_if_there_is_time(store: Store, clock: Clock) -> None:
    def interrupt(status: Status) -> None:
        if status.done == 5 and status.running:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.search(plan(), store, Simulated(clock, ten_each), interrupt)
    assert [row.state for row in rows(store)] == ["finished"] * 5 + ["waiting"]
    assert loop.search(plan(5.0), store, Simulated(clock, ten_each)).ended == 0
    assert [row.state for row in rows(store)] == ["finished"] * 5 + ["waiting"]
    assert loop.search(plan(15.0), store, Simulated(clock, ten_each)).ended == 1
    assert [row.state for row in rows(store)] == ["finished"] * 6


def test_no_baseline_begins_that_is_expected_to_end_late(store: Store, clock: Clock) -> None:
    """It may be thousands of times as large as the candidates, which tell how long it takes."""
    by_macs = lambda job: parse(job.pattern).macs / 1e5  # noqa: E731
    short = plan(20 * by_macs(Job(pattern=str(stack().sample(0)))))
    enter(short, ["resnet18"], store)
    pool = Simulated(clock, by_macs)
    loop.search(short, store, pool, since=(begun := clock.now()))
    assert len(pool.begun) > 1
    assert max(end for _, end in pool.begun) - begun <= (short.seconds or 0)
    assert [row.state for row in rows(store) if row.baseline] == ["waiting"]
    # With time for it, it comes right after the first candidate.
    long = plan(1e9, trials=len(pool.begun) + 1)
    status = loop.search(long, store, Simulated(clock, by_macs))
    assert (status.baselines_ended, status.baselines_failed) == (1, 0)


# --- what a training takes -----------------------------------------------------------------------


def test_the_seconds_of_a_training_are_predicted_by_its_macs() -> None:
    rng = np.random.default_rng(0)
    macs = 10 ** rng.uniform(5, 8, 40)
    true = lambda macs: 3.0 + macs / 1e7  # noqa: E731
    taken = true(macs) * np.exp(rng.normal(0.0, 0.1, 40))
    a, b = time_budget.line(np.stack([macs, taken], axis=1))
    for size in (1e5, 1e7, 1e8):
        assert a + b * size == pytest.approx(true(size), rel=0.1)
    # They may all take the same.
    a, b = time_budget.line(np.stack([macs, np.full(40, 7.0)], axis=1))
    assert (a, b * 1e8) == (pytest.approx(7.0, rel=0.01), pytest.approx(0.0, abs=0.05))
    a, b = time_budget.line(np.array([[0.0, 2.0]] * 9))
    assert (a, b) == (pytest.approx(2.0), pytest.approx(0, abs=2))


def test_a_driver_goes_by_its_own_device_once_it_knows_it(store: Store, clock: Clock) -> None:
    loop.search(plan(None, trials=6), store, Simulated(clock, ten_each))
    slow = [dataclasses.replace(row, number=row.number + 9, device="a GPU", seconds=1.0)
            for row in rows(store)]  # fmt: skip
    told = TimeBudget(60.0, 0.0, lambda: 0.0)
    told.take(rows(store), own=True)
    told.take(slow)
    assert told.expected(10**5, 1) == pytest.approx(10.0, rel=0.05)
    foreign = TimeBudget(60.0, 0.0, lambda: 0.0)
    foreign.take(rows(store))
    foreign.take(slow)  # the latest
    assert foreign.expected(10**5, 1) == pytest.approx(1.0, rel=0.05)


# --- as people write it --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("90s", 90, "90 s"),
        ("45min", 2700, "45 min"),
        ("45m", 2700, "45 min"),
        ("2h", 7200, "2 h"),
        ("1h30m", 5400, "1 h 30 min"),
        ("1h 30min 5s", 5405, "1 h 30 min 5 s"),
        ("1.5h", 5400, "1 h 30 min"),
        (" 2 H ", 7200, "2 h"),
        ("120s", 120, "2 min"),
        ("60s", 60, "1 min"),
    ],
)
def test_a_time_is_read_and_shown(text: str, seconds: float, shown: str) -> None:
    assert durations.read(text, "--budget") == seconds
    assert durations.show(seconds) == shown


@pytest.mark.parametrize(
    "text",
    ["", " ", "2", "2x", "h", "30m1h", "1h1h", "-2h", "1h-3m", "2hours", "nan h", "1e3s", "٣h",
     "2h!", "9" * 400 + "h", "0s", "0h", "0h0m", "0.1s", "10001h", "infh"],
)  # fmt: skip
def test_what_is_no_time_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(NasError, match=r"^--budget [^\n]{,200}: must be [^\n]+$"):
        durations.read(text, "--budget")


def test_a_search_without_an_end_is_refused(store: Store) -> None:
    pool = Simulated(Clock(), ten_each)
    with pytest.raises(StudyError, match="never end"):
        loop.search(plan(None), store, pool)
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(StudyError, match="must be more than 0"):
            loop.search(plan(seconds), store, pool)


@pytest.mark.slow
def test_where_time_is_paid_small_networks_come_first(tmp_path: Path, clock: Clock) -> None:
    """Trainings take what their MACs say, and improvement counts by the square root of it."""

    def spent(seconds: float | None) -> list[float]:
        pool = Simulated(clock, by_size)
        store = open_store(f"sqlite:///{tmp_path}/{seconds}.db")
        loop.search(plan(seconds, trials=22, sampler="default"), store, pool)
        store.close()
        return [round(end - since, 6) for since, end in pool.begun]

    by_trials, by_time = spent(None), spent(1e6)
    assert by_trials[:10] == by_time[:10]  # draws
    assert len(by_trials) == len(by_time) == 22
    assert sum(by_time) < sum(by_trials)
