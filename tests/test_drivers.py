"""A driver keeps its leases while an ask is slow; several drivers share a study."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from spies import Spy, stack
from waiting import eventually

from nas.driver import leases as leasing
from nas.driver import loop
from nas.driver.leases import Leases
from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.driver.tally import Status
from nas.job import Failure, Job, Result
from nas.job.pool import Done, Event
from nas.language.architecture import Architecture
from nas.samplers import SAMPLERS
from nas.samplers.ehvi import EHVISampler
from nas.samplers.evidence import DROPPED
from nas.spaces.space import read_space
from nas.store import Ask, Claim, Store, StudyRow, open_store
from nas.workers.in_process import InProcess

Params = dict[str, Any]


def score(architecture: Architecture, **_: Any) -> dict[str, float]:
    return {"accuracy": 1 - 1 / math.log10(architecture.params)}


def plan(epochs: int = 1, **changes: Any) -> Plan:
    job = Job(pattern="", evaluator="test_drivers:score", epochs=epochs)
    usual = {"space": stack(), "study": "s", "trials": 8, "sampler": "spy"}
    return Plan(job=job, **{**usual, **changes})


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def other(url: str) -> Iterator[Store]:
    """A driver on another machine."""
    with contextlib.closing(open_store(url)) as opened:
        yield dataclasses.replace(opened, driver="elsewhere//1/2/a")


def begin(store: Store, study: StudyRow, count: int, **changes: Any) -> list[Claim]:
    """So many candidates of a driver that asked for them by itself."""
    with_space = plan(study="elsewhere", **changes)
    asker = loop.Asker(with_space, with_space.row(), 7, lambda row: row)
    return store.begin(study, [asked[1] for _ in range(count) if (asked := asker.ask())])


# --- leases --------------------------------------------------------------------------------------


def test_what_a_driver_runs_is_its_own_however_long_it_thinks(
    url: str, store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fifth ask takes until the leases of what runs were renewed, and again; until then another
    driver tries to take them all the time."""
    monkeypatch.setattr(leasing, "BEATS", 600)  # each 0.1 s
    fenced: list[int] = []

    def leases() -> list[float]:
        study = store.find_study("s")
        tries = [t for trial in store.trials(study.id) for t in store.attempts(trial.id)]
        return [t.lease_until - t.started for t in tries if t.state == "running"]

    def think(spy: Spy) -> None:
        def renewed() -> bool:
            fenced.extend(other.recover(store.find_study("s").id))
            return bool(fenced) or min(leases()) > store.lease + 0.5

        if spy.asks == 5:
            assert len(leases()) == 4
            assert eventually(renewed)

    monkeypatch.setitem(SAMPLERS, "spy", lambda seed: Spy(seed, think))
    pool = InProcess()
    pool.slots = 8
    status = search(plan(), store, pool)
    assert fenced == []
    assert (status.finished, status.failed) == (8, 0)


def test_a_driver_learns_which_of_its_attempts_were_lost(store: Store, other: Store) -> None:
    mine = dataclasses.replace(store, lease=-1.0)  # run out as soon as it is taken
    study = mine.open_study(plan().row())
    before = time.monotonic()
    lost, kept = mine.begin(study, [ask(1)]), store.begin(study, [ask(2)])
    assert other.recover(study.id) == [0]
    brisk = dataclasses.replace(store, lease=0.2)
    with Leases(brisk) as leases:
        assert eventually(lambda: leases.lost(lost[0].token, before))
        assert not leases.lost(kept[0].token, before)
        # Begun after the last renewal began: nothing is known of it yet.
        assert not leases.lost("a new one", time.monotonic() + 60)
    threads = [thread.name for thread in threading.enumerate()]
    assert "nas-leases" not in threads


def test_a_trial_that_another_driver_took_over_is_cancelled_here(
    store: Store, url: str, spies: list[Spy]
) -> None:
    """Its worker would go on for nothing: the slot is free for what counts."""
    brisk = dataclasses.replace(store, lease=0.2)

    class Endless(InProcess):
        """The first job has no end but by ``cancel``."""

        cancelled: list[int]

        def wait(self, timeout: float) -> list[Event]:
            if self.cancelled:
                return super().wait(timeout)
            time.sleep(0.05)
            with contextlib.closing(open_store(url)) as opened:
                thief = dataclasses.replace(opened, driver="elsewhere//1/2/a")
                study = thief.find_study("s")
                for trial in thief.trials(study.id, states=["running"]):
                    for attempt in thief.attempts(trial.id):  # as a driver that thinks it is dead
                        died = Failure(kind="worker_died", reason="its lease ran out")
                        thief.release(attempt.token, died)
                        [claim] = thief.claim(study, 1)
                        thief.finish(claim.token, Result(metrics={"accuracy": 0.25}))
            return []

        def cancel(self, ticket: int) -> None:
            self.cancelled.append(ticket)
            super().cancel(ticket)

    pool = Endless()
    pool.cancelled = []
    status = search(plan(trials=3), brisk, pool)
    assert pool.cancelled == [1]
    assert (status.finished, status.failed) == (3, 0)
    study = store.find_study("s")
    assert store.trial(study.id, 0).accuracy == 0.25


def ask(n: int) -> Ask:
    return Ask(pattern="INPUT -> FC", fingerprint=str(n), params=1, macs=1)


# --- events --------------------------------------------------------------------------------------


class Prompt(InProcess):
    """Every job has ended by the next look, however many there are."""

    slots = 16

    def wait(self, timeout: float) -> list[Event]:
        events: list[Event] = []
        while self._jobs:
            events += super().wait(1.0)
        return events


def test_results_are_taken_in_after_each_ask(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ask takes a second with a large model: a result is not to wait for 16 of them."""
    known: list[int] = []
    think: Callable[[Spy], None] = lambda spy: known.append(spy.count(TrialState.COMPLETE))  # noqa: E731
    monkeypatch.setitem(SAMPLERS, "spy", lambda seed: Spy(seed, think))
    search(plan(trials=16), store, Prompt())
    assert len(known) >= 16
    assert known == list(range(len(known)))


@pytest.mark.parametrize(("slots", "known"), [(1, [0, 1, 2, 3]), (2, [0, 0, 0, 1])])
def test_where_slots_are_a_few_a_candidate_is_ready_before_one_is_free(
    store: Store, monkeypatch: pytest.MonkeyPatch, slots: int, known: list[int]
) -> None:
    """A slot would stand idle for the time of an ask. With one slot, to wait is to know more."""

    class Patient(InProcess):
        """Nothing ends while there is something to do."""

        def wait(self, timeout: float) -> list[Event]:
            return super().wait(timeout) if timeout else []

    asks: list[int] = []
    think: Callable[[Spy], None] = lambda spy: asks.append(spy.count(TrialState.COMPLETE))  # noqa: E731
    monkeypatch.setitem(SAMPLERS, "spy", lambda seed: Spy(seed, think))
    pool = Patient()
    pool.slots = slots
    search(plan(trials=4), store, pool)
    assert asks == known


# --- several drivers -----------------------------------------------------------------------------


def test_nothing_is_asked_while_others_have_the_budget(
    store: Store, other: Store, spies: list[Spy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "POLL", 0.02)
    study = other.open_study(plan().row())
    claims = begin(other, study, 8)
    looks = Counter[str]()

    class Watched(InProcess):
        def wait(self, timeout: float) -> list[Event]:
            looks["waits"] += 1
            if looks["waits"] == 10:
                for claim in claims:
                    other.finish(claim.token, Result(metrics={"accuracy": 0.5}))
            return super().wait(timeout)

    status = search(plan(), store, Watched())
    assert (status.finished, status.ended) == (8, 0)
    assert looks["waits"] >= 10
    assert spies[-1].asks == 0


def test_what_others_run_is_pending_and_then_what_came_of_it(
    store: Store, other: Store, spies: list[Spy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "POLL", 0.0)
    study = other.open_study(plan().row())
    [first, second] = begin(other, study, 2)
    seen: list[dict[str, TrialState]] = []

    def look(status: Status) -> None:
        if not (spies and spies[-1].study):
            return
        trials = spies[-1].study.get_trials(deepcopy=False)
        assert len({str(t.params) for t in trials}) == len(trials), "one was told twice"
        seen.append({str(t.params): t.state for t in trials})
        if status.done == 2:
            other.finish(first.token, Result(metrics={"accuracy": 0.5}))
        if status.done == 5:
            other.finish(second.token, Failure(kind="diverged", reason="NaN"))

    status = search(plan(), store, InProcess(), look)
    assert (status.finished, status.failed) == (7, 1)
    mine = [str(dict(claim.trial.sampled)) for claim in (first, second)]
    assert {states[name] for states in seen for name in mine[:1]} == {
        TrialState.RUNNING, TrialState.COMPLETE
    }  # fmt: skip
    assert {states[name] for states in seen for name in mine[1:]} == {
        TrialState.RUNNING, TrialState.FAIL
    }  # fmt: skip
    assert [seen[0][name] for name in mine] == [TrialState.RUNNING] * 2


def test_a_driver_whose_space_is_exhausted_waits_for_what_others_run(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its result would lack theirs."""
    monkeypatch.setattr(loop, "POLL", 0.1)
    space = read_space(
        {"name": "three", "pattern": "INPUT -> CONV(w) -> FC", "where": {"w": [2, 4, 8]}}, "a test"
    )
    asked = plan(space=space, sampler="random", trials=20)
    study = other.open_study(asked.row())
    [theirs] = begin(other, study, 1, space=space, sampler="random")
    looks = 0

    class Watched(InProcess):
        def wait(self, timeout: float) -> list[Event]:
            nonlocal looks
            looks += store.counts(study.id).get("finished", 0) == 2
            if looks == 3:
                other.finish(theirs.token, Result(metrics={"accuracy": 0.5}))
            return super().wait(timeout)

    status = search(asked, store, Watched())
    assert (status.finished, status.ended, status.exhausted) == (3, 2, True)
    assert looks >= 3


@pytest.mark.parametrize("sampler", ["random", "tpe", "default"])
def test_two_drivers_with_one_seed_ask_for_different_things(
    url: str, store: Store, sampler: str
) -> None:
    """The second begins when the first has not asked yet, and is done before it does."""
    asked = plan(trials=9, sampler=sampler)
    repeated: list[int] = []

    def rival(status: Status) -> None:
        if not repeated:
            repeated.append(0)
            with contextlib.closing(open_store(url)) as opened:
                repeated[0] = search(asked, opened, InProcess()).repeated

    status = search(dataclasses.replace(asked, trials=18), store, InProcess(), rival)
    study = store.find_study("s")
    assert status.finished == 18
    drivers = Counter(store.attempts(row.id)[0].driver for row in store.trials(study.id))
    assert sorted(drivers.values()) == [9, 9]
    assert status.repeated <= 1  # by then it knows that it is not alone
    assert repeated == [0]


def test_a_driver_alone_is_reproducible_after_an_interrupt(url: str, store: Store) -> None:
    """What a run left waiting is no other driver's."""

    def stop(status: Status) -> None:
        if status.done == 4:
            raise KeyboardInterrupt

    for study in ("a", "b"):
        # Another fidelity, so that none can take another's results.
        told = plan(study=study, sampler="random", epochs=ord(study))
        with pytest.raises(KeyboardInterrupt):
            search(told, store, InProcess(), stop)
        with contextlib.closing(open_store(url)) as again:
            search(told, again, InProcess())
    a, b = ([r.pattern for r in store.trials(store.find_study(s).id)] for s in "ab")
    assert a == b
    assert len(a) == 8


# --- what a driver tells its sampler ------------------------------------------------------------


def test_a_dropped_trial_teaches_the_model_nothing_and_is_not_proposed_again() -> None:
    rng = random.Random(0)
    space = {f"x{n}": FloatDistribution(0, 1) for n in range(3)}
    points = [{name: rng.random() for name in space} for _ in range(14)]

    def proposal(*, failed: int = 0, marks: dict[str, bool], more: Sequence[Params] = ()) -> Params:
        """For a trial of the same number, after so many more that came to nothing."""
        study = optuna.create_study(directions=["minimize"] * 2)
        for x in points:
            values = [x["x0"] + (x["x1"] - 0.5) ** 2, 1 - x["x0"]]
            study.add_trial(optuna.create_trial(values=values, params=x, distributions=space))
        for x in [*points[:failed], *more]:
            study.add_trial(
                optuna.create_trial(
                    state=TrialState.FAIL, params=x, distributions=space, user_attrs=marks
                )
            )
        trial = optuna.trial.create_trial(state=TrialState.RUNNING)
        trial.number = 100
        return EHVISampler(0).sample_relative(study, trial, space)

    first = proposal(marks={})
    assert proposal(failed=8, marks={DROPPED: True}) == first
    assert proposal(failed=8, marks={}) != first
    assert proposal(more=[first], marks={DROPPED: True}) != first


def test_an_ask_that_another_driver_was_faster_with_teaches_nothing(
    url: str, store: Store, spies: list[Spy]
) -> None:
    def rival(status: Status) -> None:
        if status.done == 0 and len(spies) == 1:
            with contextlib.closing(open_store(url)) as opened:
                search(plan(trials=4), opened, InProcess())

    search(plan(), store, InProcess(), rival)
    study = spies[0].study or spies[-1].study
    assert study
    failed = [t for t in study.trials if t.state == TrialState.FAIL]
    assert len(failed) == 1
    assert "dropped" in failed[0].user_attrs


def test_commonest_failures_are_told_first(store: Store, spies: list[Spy]) -> None:
    reasons = itertools.cycle(["disk", "NaN", "NaN"])

    class Failing(InProcess):
        def wait(self, timeout: float) -> list[Event]:
            events = super().wait(timeout)
            return [
                Done(e.ticket, Failure(kind="diverged", reason=next(reasons)))
                for e in events
                if isinstance(e, Done)
            ]

    status = search(plan(trials=6), store, Failing())
    assert list(status.failures.items()) == [("NaN", 4), ("disk", 2)]
    assert status.front == ()
