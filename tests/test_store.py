"""The record: writes are read back, exactly once, by every driver, on both databases."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import itertools
import json
import logging
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from postgres import Server
from sqlalchemy import Connection, create_engine, delete, event, insert, text, update
from sqlalchemy.exc import DBAPIError
from waiting import PATIENCE, wait

from nas import processes
from nas.errors import NasError, StoreError, StudyError, status
from nas.interrupts import deferred
from nas.job import Epoch, Failure, Latency, Result
from nas.store import (
    ENDED,
    Ask,
    Claim,
    Store,
    Study,
    StudyRow,
    connect,
    driver,
    open_store,
)
from nas.store.tables import HEAD, attempts, metadata, studies

STUDY = Study(
    name="digits",
    space="resnet_like",
    space_text="name: resnet_like\npattern: INPUT -> FC\n",
    objectives=(("accuracy", "max"), ("params", "min")),
    constraints={"params": "<= 1e6"},
    recipe={"lr": 0.1, "batch": 64},
    dataset="digits",
    sampler="default",
    seed=3,
    settings={"epochs": 20, "rungs": (1, 3)},
)
RESULT = Result(
    metrics={"accuracy": 0.75, "f1": 0.5},
    curve=(
        Epoch(epoch=0, train_loss=2.25, accuracy=0.5, seconds=1.5),
        Epoch(epoch=1, train_loss=math.nan, accuracy=0.75, seconds=3.0),
    ),
    latency=Latency(ms=1.5, low=1.25, high=1.75, device="cpu/4"),
    seconds=3.5,
    device="gpu/h",
)
DIED = Failure(kind="worker_died", reason="the node went away")
DIVERGED = Failure(kind="diverged", reason="the loss is NaN after epoch 2", seconds=2.5)


def whole(low: int, high: int) -> str:
    """A domain as Optuna writes it."""
    told = {"log": False, "step": 1, "low": low, "high": high}
    return json.dumps({"name": "IntDistribution", "attributes": told})


def some(*choices: Any) -> str:
    told = {"choices": choices}
    return json.dumps({"name": "CategoricalDistribution", "attributes": told})


DOMAINS = {"N[1]": whole(0, 100), "BLOCK": some("PLAIN", "DENSE"), "scale": some(0.5, 1.0)}


def ask(n: int = 0) -> Ask:
    return Ask(
        sampled={"N[1]": n, "BLOCK": "PLAIN", "scale": 0.5},
        distributions=DOMAINS,
        pattern="INPUT -> [CONV(16) -> RELU]*2 -> FC",
        fingerprint=f"fingerprint{n}",
        params=5_000_000_000 + n,
        macs=1 << 62,
        recipe={"lr": 0.1},
        job_key="key",
        epochs=20,
        seed=n,
    )


@pytest.fixture
def url(either: str) -> str:
    return either


@pytest.fixture
def study(store: Store) -> StudyRow:
    return store.open_study(STUDY)


def begin(store: Store, study: StudyRow, n: int = 0) -> Claim:
    [claim] = store.begin(study, [ask(n)])
    return claim


def another(store: Store, lease: float = 60.0, name: str = "elsewhere//1/2/a") -> Store:
    """A second driver on the same record, on a machine that cannot be looked into."""
    return dataclasses.replace(store, driver=name, lease=lease)


def test_until_it_has_a_trial_a_study_takes_any_other_settings(
    store: Store, study: StudyRow
) -> None:
    """Whoever opened it with the old ones learns of it before beginning a trial."""
    settings = {**STUDY.settings, "epochs": 7}
    other = dataclasses.replace(STUDY, recipe={"lr": 0.3}, seed=4, settings=settings)
    now = store.open_study(other)
    assert (now.id, now.folder) == (study.id, study.folder)
    assert (now.recipe, now.seed, now.settings["epochs"]) == ({"lr": 0.3}, 4, 7)
    with pytest.raises(StudyError, match=r"study 'digits' were changed meanwhile: recipe\.lr is"):
        store.begin(study, [ask(0)])
    for record in (
        lambda: store.enqueue(study, [ask(0)]),  # a baseline
        lambda: store.enter(study, ask(0), RESULT),  # a distilled network
    ):
        with pytest.raises(StudyError, match="were changed meanwhile"):
            record()
    [claim] = store.begin(now, [ask(0)])
    store.finish(claim.token, DIED)
    with pytest.raises(StudyError, match=r"recipe\.lr is"):
        store.open_study(STUDY)


def test_until_something_is_evaluated_a_study_takes_other_objectives(
    store: Store, study: StudyRow
) -> None:
    """Mistyped and interrupted, they are in nobody's way; who searches by the old ones is told
    before it begins another trial, and one that runs keeps them."""
    only = dataclasses.replace(STUDY, objectives=(("f1", "max"),))
    other = another(store)
    begun = begin(store, study)
    with pytest.raises(StudyError, match="objectives is accuracy:max,params:min in the study"):
        other.open_study(only)
    store.release(begun.token, DIED)
    now = other.open_study(only)
    assert now.objectives == (("f1", "max"),)
    changed = "settings of study 'digits' were changed meanwhile: objectives is f1:max"
    with pytest.raises(StudyError, match=changed):
        store.claim(study, 1)
    with pytest.raises(StudyError, match=changed):
        store.begin(study, [ask(1)])
    [claim] = other.claim(now, 1)
    other.finish(claim.token, RESULT)
    with pytest.raises(StudyError, match="objectives is f1:max in the study"):
        store.open_study(STUDY)


# -- studies --------------------------------------------------------------------------------------


def test_a_study_notes_where_its_images_and_its_teachers_are_now(store: Store) -> None:
    def at(folder: str, taught: str) -> Study:
        settings = {"teachers": [f"/{folder}/m"], "taught": {"1234": [taught]}}
        return dataclasses.replace(
            STUDY, directory=f"/{folder}", settings={**STUDY.settings, **settings}
        )

    for name, known in (("by file", "/old/m"), ("by trial", "trial 3 of study x")):
        before = store.open_study(dataclasses.replace(at("old", known), name=name))
        store.open_study(dataclasses.replace(at("new", "/new/m"), name=name))
        after = store.find_study(name)
        assert (after.id, after.folder, after.directory) == (before.id, before.folder, "/new")
        assert after.settings["teachers"] == ["/new/m"]
        assert after.settings["taught"] == {"1234": ["/new/m" if known == "/old/m" else known]}
        # Whoever does not tell changes nothing.
        store.open_study(dataclasses.replace(STUDY, name=name))
        assert store.find_study(name) == after
    begin(store, after)
    # Nor does who is refused.
    with pytest.raises(StudyError, match="seed is 3 in the study and 4 now"):
        store.open_study(dataclasses.replace(at("far", "/far/m"), name=name, seed=4))
    assert store.find_study(name) == after


def test_a_study_comes_back_as_it_was_made(store: Store, study: StudyRow) -> None:
    assert store.open_study(STUDY) == study
    assert store.find_study("digits") == study
    assert store.studies() == [study]
    assert study.objectives == STUDY.objectives
    assert abs(study.created - time.time()) < 60


@pytest.mark.parametrize(
    ("changed", "clause"),
    [
        ({"seed": 4}, "seed is 3 in the study and 4 now"),
        ({"recipe": {"lr": 0.2, "batch": 64}}, "recipe.lr is 0.1 in the study and 0.2 now"),
        ({"settings": {"epochs": 20}}, r"settings.rungs is \[1, 3\] in the study and absent now"),
        (
            {"space_text": "name: resnet_like\npattern: INPUT -> RELU -> FC\n"},
            "space.pattern is 'INPUT -> FC' in the study and 'INPUT -> RELU -> FC' now",
        ),
        ({"objectives": (("accuracy", "max"),)}, "objectives is"),
    ],
)
def test_other_settings_are_refused_by_name(
    store: Store, study: StudyRow, changed: dict[str, object], clause: str
) -> None:
    begin(store, study)
    with pytest.raises(StudyError, match=clause):
        store.open_study(dataclasses.replace(STUDY, **changed))
    assert store.studies() == [study]


def test_an_unknown_study_gets_the_nearest_name(store: Store) -> None:
    with pytest.raises(StudyError, match="no study yet"):
        store.find_study("digit")
    store.open_study(STUDY)
    with pytest.raises(StudyError, match="did you mean digits"):
        store.find_study("digit")


@pytest.mark.parametrize("name", ["", "a" * 513, "two\nlines", "\udcff", "nul\0"])
def test_a_study_has_a_name_that_can_be_shown(store: Store, name: str) -> None:
    with pytest.raises(StudyError, match="printable"):
        store.open_study(dataclasses.replace(STUDY, name=name))


def test_a_directory_whose_name_no_database_holds_is_refused(store: Store) -> None:
    with pytest.raises(StudyError, match=r"directory '/x/\\udcff': its name is no text in UTF-8"):
        store.open_study(dataclasses.replace(STUDY, directory=os.fsdecode(b"/x/\xff")))


# -- trials ---------------------------------------------------------------------------------------


def test_a_finished_trial_comes_back_whole(store: Store, study: StudyRow) -> None:
    claim = begin(store, study, 7)
    assert claim.trial.state == "running"
    assert store.finish(claim.token, RESULT)
    [trial] = store.trials(study.id)
    assert {f.name: getattr(trial, f.name) for f in dataclasses.fields(Ask)} == dataclasses.asdict(
        ask(7)
    )
    assert (trial.state, trial.number, trial.accuracy) == ("finished", 0, 0.75)
    assert trial.metrics == RESULT.metrics
    assert (trial.latency_ms, trial.latency_low, trial.latency_high) == (1.5, 1.25, 1.75)
    assert (trial.device, trial.latency_device, trial.seconds) == ("gpu/h", "cpu/4", 3.5)
    assert trial.finished is not None
    assert trial.finished >= trial.created
    assert trial == store.trial(study.id, 0) == store.find_result(ask(7))
    first, second = store.curve(trial.id)
    assert first == RESULT.curve[0]
    assert math.isnan(second.train_loss)
    assert second.accuracy == 0.75


def test_a_trials_value_of_any_objective_is_found_by_name(store: Store, study: StudyRow) -> None:
    store.finish(begin(store, study).token, RESULT)
    trial = store.trial(study.id, 0)
    names = ("accuracy", "f1", "params", "latency_ms")
    assert [trial.value(name) for name in names] == [0.75, 0.5, 5e9, 1.5]
    assert math.isnan(trial.value("unheard_of"))


def test_a_failed_trial_keeps_its_reason_whatever_is_in_it(store: Store, study: StudyRow) -> None:
    curve = RESULT.curve[:1]
    failure = Failure(kind="error", reason="bad \0 and \udcff " + "x" * 20_000, curve=curve)
    assert store.finish(begin(store, study).token, failure)
    trial = store.trial(study.id, 0)
    assert (trial.state, trial.failure) == ("failed", "error")
    assert trial.reason is not None
    assert trial.reason.startswith(r"bad \0 and \udcff xxx")
    assert store.curve(trial.id) == curve
    assert store.find_result(ask()) is None


def test_metrics_that_are_not_finite_come_back_as_nan(store: Store, study: StudyRow) -> None:
    store.finish(begin(store, study).token, Result(metrics={"accuracy": math.inf, "f1": 1}))
    trial = store.trial(study.id, 0)
    assert math.isnan(trial.metrics["accuracy"])
    assert trial.metrics["f1"] == 1
    assert trial.accuracy is None


def test_a_loss_beyond_all_bounds_comes_back_as_nan(store: Store, study: StudyRow) -> None:
    curve = (Epoch(epoch=1, train_loss=1e35, accuracy=0.1, seconds=3.0),)
    store.finish(begin(store, study).token, dataclasses.replace(RESULT, curve=curve))
    [point] = store.curve(store.trial(study.id, 0).id)
    assert math.isnan(point.train_loss)
    assert point.accuracy == 0.1


def test_numbers_count_up_and_trials_are_read_from_any(store: Store, study: StudyRow) -> None:
    claims = store.begin(study, [ask(n) for n in range(5)])
    assert [claim.trial.number for claim in claims] == [0, 1, 2, 3, 4]
    assert [claim.trial.seed for claim in claims] == [0, 1, 2, 3, 4]
    store.finish(claims[3].token, RESULT)
    assert [trial.number for trial in store.trials(study.id, since=2)] == [2, 3, 4]
    assert [trial.number for trial in store.trials(study.id, states=["finished"])] == [3]
    of_one = store.trials(study.id, fingerprint="fingerprint2")
    assert [trial.number for trial in of_one] == [2]
    assert store.counts(study.id) == {"running": 4, "finished": 1}
    with pytest.raises(StudyError, match="no trial 5"):
        store.trial(study.id, 5)


def test_reading_goes_on_past_a_page(
    store: Store, study: StudyRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.store.reading.PAGE", 3)
    store.begin(study, [ask(n) for n in range(7)])
    assert [trial.number for trial in store.trials(study.id)] == list(range(7))


def test_the_budget_is_kept_to_the_trial(store: Store, study: StudyRow) -> None:
    assert len(store.begin(study, [ask(1), ask(2)], budget=3)) == 2
    assert len(another(store).begin(study, [ask(3), ask(4)], budget=3)) == 1
    assert store.begin(study, [ask(5)], budget=3) == []
    assert store.counts(study.id) == {"running": 3}


def test_a_result_is_reused_in_another_study(store: Store, study: StudyRow) -> None:
    store.finish(begin(store, study).token, RESULT)
    source = store.find_result(ask())
    assert source is not None
    for other in ({"job_key": "other recipe"}, {"seed": 1}, {"fingerprint": "another"}):
        assert store.find_result(dataclasses.replace(ask(), **other)) is None
    assert store.find_result(ask(), ["f1", "params"]) == source
    assert store.find_result(ask(), ["energy"]) is None  # it was never measured
    later = store.open_study(dataclasses.replace(STUDY, name="later"))
    trial = store.reuse(later, ask(0), source, budget=1)
    assert trial is not None
    assert (trial.state, trial.reused_from, trial.seconds) == ("reused", source.id, 0.0)
    assert (trial.accuracy, trial.metrics) == (source.accuracy, source.metrics)
    assert store.reuse(later, ask(0), source, budget=1) is None
    assert trial.latency_ms is None  # no device was named: nobody knows what it is there


def test_one_architecture_on_one_device_has_one_latency(store: Store, study: StudyRow) -> None:
    """However often it is trained; and another on another device."""
    again = dataclasses.replace(ask(), job_key="another recipe")
    claims = store.begin(study, [ask(), again, dataclasses.replace(again, seed=9)])
    later = dataclasses.replace(RESULT, latency=Latency(ms=9, low=8, high=10, device="cpu/4"))
    elsewhere = dataclasses.replace(RESULT, latency=Latency(ms=7, low=6, high=8, device="gpu"))
    for claim, result in zip(claims, (RESULT, later, elsewhere), strict=True):
        assert store.finish(claim.token, result)
    found = [(t.latency_ms, t.latency_low, t.latency_device) for t in store.trials(study.id)]
    assert found == [(1.5, 1.25, "cpu/4"), (1.5, 1.25, "cpu/4"), (7.0, 6.0, "gpu")]
    known = store.measured("fingerprint0")
    assert known == {"cpu/4": RESULT.latency, "gpu": elsewhere.latency}
    assert store.measured("other") == {}
    with store.engine.connect() as connection:
        query = text("SELECT latency_ms, device FROM tradeoffs ORDER BY trial")
        assert [tuple(row) for row in connection.execute(query)] == [
            (1.5, "cpu/4"), (1.5, "cpu/4"), (7.0, "gpu")
        ]  # fmt: skip


def test_an_accuracy_is_taken_over_and_a_latency_measured_here(
    store: Store, study: StudyRow
) -> None:
    store.finish(begin(store, study).token, RESULT)
    source = store.find_result(ask())
    later = store.open_study(dataclasses.replace(STUDY, name="on a laptop"))
    [claim] = store.begin(later, [ask()])
    here = Result(metrics={}, latency=Latency(ms=40, low=39, high=41, device="laptop"), seconds=1)
    assert store.finish(claim.token, here, source)
    [trial] = store.trials(later.id)
    assert source is not None
    assert (trial.state, trial.reused_from, trial.accuracy) == ("reused", source.id, 0.75)
    assert (trial.latency_ms, trial.latency_device, trial.seconds) == (40.0, "laptop", 1.0)
    assert store.trial(study.id, 0).latency_ms == 1.5
    assert trial.value("latency_ms") == 40.0
    assert trial.value("f1") == 0.5


def test_an_evaluators_own_latency_is_a_metric_of_its_evaluation(
    store: Store, study: StudyRow
) -> None:
    told = Result(metrics={"accuracy": 0.5, "latency_ms": 3.0})
    store.finish(begin(store, study).token, told)
    [trial] = store.trials(study.id)
    assert (trial.latency_ms, trial.value("latency_ms"), trial.latency_device) == (3.0, 3.0, None)
    reused = store.reuse(study, ask(), trial)
    assert reused is not None
    assert reused.value("latency_ms") == reused.latency_ms == 3.0


def test_counts_beyond_64_bits_are_refused() -> None:
    with pytest.raises(StoreError, match="params"):
        dataclasses.replace(ask(), params=1 << 63)


def test_endings_are_told_once_whoever_made_them(store: Store, study: StudyRow) -> None:
    def news() -> list[int]:
        return [trial.number for trial in next(changes) if trial.state in ENDED]

    changes = store.changes(study.id)
    other = another(store)
    first, second = begin(store, study), begin(other, study)
    assert news() == []
    other.finish(second.token, RESULT)
    third = begin(store, study)
    store.finish(third.token, DIVERGED)
    assert news() == [1, 2]
    store.finish(first.token, RESULT)
    assert news() == [0]
    assert news() == []
    assert [trial.number for trial in next(store.changes(study.id))] == [0, 1, 2]


def test_changes_tell_a_trial_when_it_begins_and_when_it_ended(
    store: Store, study: StudyRow
) -> None:
    def news() -> list[tuple[int, str]]:
        return [(trial.number, trial.state) for trial in next(changes)]

    changes = store.changes(study.id)
    other = another(store)
    first, second = begin(store, study), begin(other, study)
    assert news() == [(0, "running"), (1, "running")]
    assert store.reach(first.token, 2, RESULT, "paused")
    assert news() == []
    other.finish(second.token, DIVERGED)
    third = begin(store, study)
    assert news() == [(1, "failed"), (2, "running")]
    store.finish(third.token, RESULT)
    assert store.stop(study.id, [0])
    assert news() == [(0, "stopped"), (2, "finished")]
    assert news() == []
    assert store.begun(study.id) == 3


def test_a_look_at_changes_reads_no_row_of_what_goes_on(store: Store, study: StudyRow) -> None:
    """At 1,000 pending trials whole rows took 65 ms a look."""
    store.begin(study, [ask(n) for n in range(50)])
    changes = store.changes(study.id)
    assert len(next(changes)) == 50
    read: list[int] = []

    @event.listens_for(store.engine, "after_cursor_execute")
    def _rows(_: object, cursor: Any, statement: str, *__: object) -> None:
        if "sampled" in statement:
            read.append(statement.count("?") + statement.count("%("))

    assert next(changes) == []
    assert len(read) == 1  # those that are new, of which there are none
    begin(store, study, 50)
    assert [trial.number for trial in next(changes)] == [50]


def test_a_trial_may_wait_before_its_first_attempt(store: Store, study: StudyRow) -> None:
    assert [row.state for row in store.enqueue(study, [ask(1), ask(2)])] == ["waiting"] * 2
    assert store.enqueue(study, [ask(2)]) == []  # the study has it
    [claim] = another(store).claim(study, 1)
    assert (claim.trial.number, claim.attempt, claim.trial.finished) == (0, 1, None)
    assert [claim.trial.number for claim in store.claim(study, 9)] == [1]


def test_the_view_of_the_tradeoffs(store: Store, study: StudyRow) -> None:
    store.finish(begin(store, study, 1).token, RESULT)
    store.finish(begin(store, study, 2).token, DIVERGED)
    begin(store, study, 3)
    with store.engine.connect() as connection:
        found = connection.execute(text("SELECT * FROM tradeoffs"))
        assert [tuple(row._asdict().items()) for row in found] == [
            (
                ("study", "digits"),
                ("trial", 0),
                ("state", "finished"),
                ("pattern", ask().pattern),
                ("fingerprint", "fingerprint1"),
                ("accuracy", 0.75),
                ("params", 5_000_000_001),
                ("macs", 1 << 62),
                ("latency_ms", 1.5),
                ("device", "cpu/4"),
                ("epochs", 20),
                ("seconds", 3.5),
            )
        ]


# -- attempts -------------------------------------------------------------------------------------


def test_a_result_is_accepted_once(store: Store, study: StudyRow) -> None:
    claim = begin(store, study)
    assert store.finish(claim.token, RESULT)
    assert not store.finish(claim.token, RESULT)
    assert not store.finish(claim.token, DIVERGED)
    assert store.trial(study.id, 0).state == "finished"


def test_a_requeued_attempt_fences_the_one_before(store: Store, study: StudyRow) -> None:
    first = begin(store, study)
    second = store.requeue(first.token, DIED)
    assert second is not None
    third = store.requeue(second.token, DIVERGED)
    assert third is not None
    assert (second.attempt, second.faults, third.attempt, third.faults) == (2, 0, 3, 1)
    late = dataclasses.replace(RESULT, metrics={"accuracy": 1.0})
    assert not store.finish(first.token, late)
    assert store.requeue(first.token, DIED) is None
    assert store.finish(third.token, RESULT)
    assert store.trial(study.id, 0).accuracy == 0.75
    tried = [(a.number, a.state, a.failure) for a in store.attempts(third.trial.id)]
    assert tried == [
        (1, "lost", "worker_died"),
        (2, "failed", "diverged"),
        (3, "finished", None),
    ]


def test_an_expired_lease_is_taken_over(store: Store, study: StudyRow) -> None:
    frozen = another(store, lease=-1.0)
    alive = another(store, name="elsewhere//3/4/b")
    lost, kept = begin(frozen, study, 0), begin(alive, study, 1)
    assert store.recover(study.id) == [0]
    assert store.recover(study.id) == []
    [claim] = store.claim(study, 5)
    assert (claim.trial.number, claim.attempt, claim.faults) == (0, 2, 0)
    assert store.claim(study, 5) == []
    assert frozen.beat() == set()
    assert not frozen.finish(lost.token, RESULT)
    assert store.finish(claim.token, RESULT)
    assert alive.finish(kept.token, RESULT)
    assert store.counts(study.id) == {"finished": 2}


def test_a_running_trial_whose_attempt_was_removed_by_hand_is_taken_over_and_told(
    store: Store, study: StudyRow, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody would ever end it, and a search waited for it for ever."""
    first, kept = begin(store, study, 0), begin(store, study, 1)
    assert store.requeue(first.token, DIED) is not None
    with store.engine.begin() as connection:  # the lost one stays, under the number of the other
        connection.execute(delete(attempts).where(attempts.c.number == 2))
        connection.execute(update(attempts).where(attempts.c.token == first.token).values(number=2))
    assert store.recover(study.id) == [0]
    assert "no attempt that runs trial 0: taken for lost" in caplog.text
    assert store.recover(study.id) == []
    [claim] = store.claim(study, 5)
    assert (claim.trial.number, claim.attempt) == (0, 3)
    assert store.finish(claim.token, RESULT)
    assert store.finish(kept.token, RESULT)


def test_a_beat_renews_every_lease_of_its_driver_only(store: Store, study: StudyRow) -> None:
    mine, theirs = another(store, lease=-1.0), another(store, lease=-1.0, name="elsewhere//3/4/b")
    held = {begin(mine, study, n).token for n in range(3)}
    begin(theirs, study, 3)
    assert dataclasses.replace(mine, lease=60.0).beat() == held
    assert store.recover(study.id) == [3]


def test_a_released_trial_can_be_claimed_at_once(store: Store, study: StudyRow) -> None:
    claim = begin(store, study)
    stopped = Failure(kind="cancelled", reason="interrupted")
    assert store.release(claim.token, stopped)
    assert not store.release(claim.token, stopped)
    [taken] = another(store).claim(study, 1)
    assert taken.trial.number == claim.trial.number


def test_what_a_killed_driver_left_is_recovered_at_once(url: str, store: Store) -> None:
    study = store.open_study(STUDY)
    script = (
        "import os, sys, time, test_store as t\n"
        "store = t.open_store(os.environ['NAS_STORAGE'])\n"
        "t.begin(store, store.open_study(t.STUDY))\n"
        "print('began', flush=True)\n"
        "time.sleep(1000)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env=os.environ
        | {"NAS_STORAGE": url, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"began\n"
    assert store.recover(study.id) == []  # it lives
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert store.recover(study.id) == [0]
    child.stdout.close()


def test_a_driver_is_gone_only_when_that_is_sure() -> None:
    here = driver.name()
    place, pid, start, nonce = here.rsplit("/", 3)
    assert not driver.gone(here)
    assert driver.gone(f"{place}/{pid}/{int(start) - 1}/{nonce}")  # its number was given out again
    assert not driver.gone(f"otherhost{here}")


@pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0,
    reason="needs a mount namespace",
)
def test_a_driver_on_another_machine_of_the_same_name_is_not_gone(tmp_path: Path) -> None:
    """Its process has ended, which here is seen of processes of this machine alone."""
    code = "from nas.store import driver; print(driver.name())"
    (tmp_path / "boot_id").write_text("1c1d8de6-0000-4000-8000-000000000000\n")
    mount = f'mount --bind {tmp_path}/boot_id {processes.BOOT} && exec "$@"'
    there = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    names = [
        subprocess.run(
            [*place, sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.strip()
        for place in ([], there)
    ]
    assert [driver.gone(name) for name in names] == [True, False]


def test_new_records_are_made_in_threads_of_a_process(tmp_path: Path) -> None:
    """As by two searches of one Python process: Alembic's context is the whole process's."""
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        opened = [*threads.map(open_store, (f"sqlite:///{tmp_path}/{n}.db" for n in range(4)))]
    assert [store.studies() for store in opened] == 4 * [[]]


# -- several writers ------------------------------------------------------------------------------


def _work(url: str, study: StudyRow, count: int) -> tuple[list[int], list[int]]:
    """The numbers of the trials that it began, and of those that it claimed."""
    store = open_store(url)
    begun, claimed = [], []
    for n in range(count):
        [claim] = store.begin(study, [ask(n)])
        assert store.finish(claim.token, RESULT)
        begun.append(claim.trial.number)
        for claim in store.claim(study, 1):
            assert store.finish(claim.token, RESULT)
            claimed.append(claim.trial.number)
    store.close()
    return begun, claimed


def test_eight_processes_write_to_one_record_and_claim_from_one_queue(
    url: str, store: Store, study: StudyRow, fork: ForkServerContext
) -> None:
    lost = another(store, lease=-1.0)
    lost.begin(study, [ask(n) for n in range(40)])
    assert len(store.recover(study.id)) == 40
    with concurrent.futures.ProcessPoolExecutor(8, mp_context=fork) as pool:
        shares = [pool.submit(_work, url, study, 10) for _ in range(8)]
        begun, claimed = (
            sorted(number for share in shares for number in share.result()[kind]) for kind in (0, 1)
        )
    assert claimed == list(range(40))
    assert begun == list(range(40, 120))
    assert store.counts(study.id) == {"finished": 120}


def test_each_waiting_trial_goes_to_one_of_many_drivers(
    url: str, store: Store, study: StudyRow
) -> None:
    lost = another(store, lease=-1.0)
    lost.begin(study, [ask(n) for n in range(40)])
    store.recover(study.id)

    def take(n: int) -> list[int]:
        mine, got = another(store, name=f"elsewhere//{n}/0/c"), []
        while claims := mine.claim(study, 3):
            got += [claim.trial.number for claim in claims]
        return got

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        shares = list(pool.map(take, range(8)))
    assert sorted(number for share in shares for number in share) == list(range(40))


def test_stores_that_open_at_once_migrate_once(url: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(open_store, [url] * 8))
    studies = {store.open_study(STUDY).id for store in stores}
    assert len(studies) == 1
    for store in stores:
        store.close()


def test_a_restart_of_the_server_is_waited_out(postgres: Server) -> None:
    store = open_store(postgres.database())
    study = store.open_study(STUDY)
    claim = begin(store, study)
    postgres.stop("immediate")
    timer = threading.Timer(0.7, postgres.start)
    timer.start()
    assert store.finish(claim.token, RESULT)
    timer.join()
    assert store.trial(study.id, 0).state == "finished"
    store.close()


def test_a_server_that_takes_no_writes_for_a_while_is_waited_out(postgres: Server) -> None:
    """As in a failover: connections are lost, and the next ones may only read at first."""
    url = postgres.database()
    name = url.rpartition("/")[2]
    store = open_store(url)
    study = store.open_study(STUDY)
    claim = begin(store, study)
    reads_alone = f"ALTER DATABASE {name} SET default_transaction_read_only"
    postgres.sql(f"{reads_alone}=on")
    postgres.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname='{name}'")
    timer = threading.Timer(0.7, postgres.sql, [f"{reads_alone}=off"])
    timer.start()
    assert store.finish(claim.token, RESULT)
    timer.join()
    assert store.trial(study.id, 0).state == "finished"
    store.close()


def test_a_statement_that_is_cancelled_is_said_again(postgres: Server) -> None:
    url = postgres.database()
    name = url.rpartition("/")[2]
    store = open_store(url)
    study = store.open_study(STUDY)
    tables = "nas_studies, nas_trials"
    with store.engine.connect() as held:  # until it is cancelled, the other waits for it
        held.exec_driver_sql(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
        waits = f"FROM pg_stat_activity WHERE datname='{name}' AND wait_event_type='Lock'"
        with concurrent.futures.ThreadPoolExecutor() as threads:
            begun = threads.submit(begin, store, study)
            wait("it waits", lambda: postgres.sql(f"SELECT pg_cancel_backend(pid) {waits}"))
            held.rollback()
            assert begun.result(PATIENCE).trial.number == 0
    store.close()


def test_a_database_locked_too_long_is_told_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "record.db"
    store = open_store(f"sqlite:///{file}", patience=0.2)
    study = store.open_study(STUDY)
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
    blocker = sqlite3.connect(file, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"does not answer for 0 s: database is locked"):
        store.begin(study, [ask()])
    blocker.execute("ROLLBACK")
    assert begin(store, study).trial.number == 0
    blocker.close()
    store.close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As a process that a terminal's Ctrl-C reaches, whatever this one is told."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_wherever_an_interrupt_comes_it_leaves_no_lock(tmp_path: Path) -> None:
    """Its traceback, which the driver's end runs under, held one at 8 of 100 places."""
    file = tmp_path / "record.db"
    store = open_store(f"sqlite:///{file}")
    study = store.open_study(STUDY)
    probe = sqlite3.connect(file, timeout=0, isolation_level=None)

    def interrupted(after: int) -> KeyboardInterrupt | None:
        """Begins a trial, with an interrupt after so many lines."""
        left = itertools.count(after, -1)

        def trace(*_: object) -> Any:
            if not next(left):
                signal.raise_signal(signal.SIGINT)
            return trace

        before = sys.gettrace()  # a debugger's, or that of a measurement of coverage
        try:
            sys.settrace(trace)
            begin(store, study)
        except KeyboardInterrupt as error:
            return error
        finally:
            sys.settrace(before)
        return None

    begin(store, study)  # statements are compiled once
    places = itertools.count(1, 101)
    while error := interrupted(next(places)):
        probe.execute("BEGIN IMMEDIATE")
        probe.execute("ROLLBACK")
        del error
    assert next(places) > 10_000
    store.close()
    probe.close()


@pytest.mark.usefixtures("interruptible")
def test_who_interrupts_twice_does_not_wait_for_the_end() -> None:
    done = []

    def work() -> None:
        with deferred():
            signal.raise_signal(signal.SIGINT)
            done.append("after the first")
            signal.raise_signal(signal.SIGINT)
            done.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["after the first"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("step", ["begin", "finish", "requeue", "release", "reuse"])
def test_a_commit_whose_answer_was_lost_counts_once(
    store: Store, study: StudyRow, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit arrives and then the connection breaks: the same step again must find it."""
    store.finish(begin(store, study).token, RESULT)
    claim, source = begin(store, study, 1), store.trial(study.id, 0)
    broken = []

    def commit_and_break(connection: object) -> None:
        original(connection)  # type: ignore[arg-type]
        if not broken:
            broken.append(True)
            lost = sqlite3.OperationalError("the answer got lost")
            lost.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise DBAPIError("COMMIT", None, lost)

    dialect = type(store.engine.dialect)
    original = store.engine.dialect.do_commit
    monkeypatch.setattr(dialect, "do_commit", lambda _, connection: commit_and_break(connection))
    answer = {
        "begin": lambda: len(store.begin(study, [ask(2)])) == 1,
        "finish": lambda: store.finish(claim.token, RESULT),
        "requeue": lambda: store.requeue(claim.token, DIED) is not None,
        "release": lambda: store.release(claim.token, DIED),
        "reuse": lambda: store.reuse(study, ask(0), source) is not None,
    }[step]()
    assert broken
    assert answer
    monkeypatch.undo()
    expected = {
        "begin": {"finished": 1, "running": 2},
        "finish": {"finished": 2},
        "requeue": {"finished": 1, "running": 1},
        "release": {"finished": 1, "waiting": 1},
        "reuse": {"finished": 1, "running": 1, "reused": 1},
    }[step]
    assert store.counts(study.id) == expected
    assert len(store.attempts(claim.trial.id)) == (2 if step == "requeue" else 1)


def test_a_trial_has_its_own_domains_though_the_record_keeps_them_once(
    store: Store, study: StudyRow
) -> None:
    """Among them those of another text than the study has, of a row that a version before this one
    wrote, and of a parameter that is called as a baseline is marked."""
    wider = {**DOMAINS, "BLOCK": some("PLAIN", "RESIDUAL")}
    first = ask(0)
    other = dataclasses.replace(ask(1), distributions=wider)
    called = {"baseline": whole(1, 4)}
    named = dataclasses.replace(ask(2), sampled={"baseline": 3}, distributions=called)
    network = dataclasses.replace(ask(3), sampled={"baseline": "resnet18"}, distributions={})
    asks = [first, other, named, network]
    for claim, asked in zip(store.begin(study, asks), asks, strict=True):
        assert dict(claim.trial.distributions) == asked.distributions
        assert list(claim.trial.distributions) == list(asked.distributions)
    query = "SELECT distributions FROM nas_trials ORDER BY number"
    with store.engine.connect() as connection:
        kept = [str(text) for text in connection.exec_driver_sql(query).scalars()]
        assert "N[1]" not in kept[0]
        assert "RESIDUAL" in kept[1]
        assert "DENSE" not in kept[1]
        written = text("UPDATE nas_trials SET distributions = :told WHERE number = 0")
        connection.execute(written, {"told": json.dumps(wider)})
        connection.commit()
    rows = list(store.trials(study.id))
    assert dict(rows[0].distributions) == wider
    assert [row.baseline for row in rows] == ["", "", "", "resnet18"]


# -- opening --------------------------------------------------------------------------------------


def test_the_migrations_make_the_tables(url: str, store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    options = {"compare_type": True, "compare_server_default": True}
    with store.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts=options | {"version_table": "nas_alembic_version"}
        )
        assert compare_metadata(context, metadata) == []
    folder = Path(connect.__file__).with_name("migrations")
    assert ScriptDirectory(str(folder)).get_current_head() == HEAD


VERSION = "SELECT version_num FROM nas_alembic_version"

# A study of the schema before this one: two trainings of one architecture on one device.
OLD = (
    "INSERT INTO nas_studies VALUES (1, 'old', 's', '', '[[\"accuracy\", \"max\"]]', "
    """'{"params": "<= 1e+06"}', '{}', 'digits', 'default', 0, '{}', 5.0, 2)""",
    *(
        f"INSERT INTO nas_trials VALUES ({n + 1}, 1, {n}, 'ask{n}', 'finished', '{{}}', '{{}}', "
        f"'p', 'fp', 10, 20, '{{}}', 'k{n}', 3, 0, NULL, 0.5, {ms}, {ms}, {ms + 1}, 'cpu', "
        """'{"latency_ms": 7.5}', NULL, NULL, 1.0, 'cpu', 1.0, 2.0, NULL)"""
        for n, ms in enumerate((0.25, 0.375))
    ),
)


def test_a_record_of_the_old_schema_loses_nothing(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    from alembic import command
    from alembic.config import Config

    engine = create_engine(connect.parse(url))
    config = Config()
    config.set_main_option("script_location", str(Path(connect.__file__).with_name("migrations")))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for row in OLD:
            connection.exec_driver_sql(row)
    # What cannot go on with it leaves it to those that can.
    other = Study(name="old", space="s", objectives=(("accuracy", "max"),), images="0f")
    with pytest.raises(StudyError, match="images that nas did not yet identify"):
        open_store(url, study=other)
    with engine.connect() as connection:
        assert connection.exec_driver_sql(VERSION).scalar() == "0001"
    engine.dispose()
    store = open_store(url)
    assert [r.getMessage()[:38] for r in caplog.records] == [
        "2 evaluations were made before nas ide"
    ]
    [study] = store.studies()
    rows = list(store.trials(study.id))
    assert [(t.latency_ms, t.latency_low, t.latency_high) for t in rows] == [(0.25, 0.25, 1.25)] * 2
    assert {t.value("latency_ms") for t in rows} == {0.25}
    assert (study.images, rows[0].accuracy, rows[1].job_key) == ("", 0.5, "k1")
    now = Study(**{f.name: getattr(study, f.name) for f in dataclasses.fields(Study)})
    same = dataclasses.replace(now, constraints={"params": "<= 1000000"})
    assert store.open_study(same).id == 1
    with pytest.raises(StudyError, match="images that nas did not yet identify, and now they"):
        store.open_study(dataclasses.replace(now, images="0f", images_about="9 images"))
    store.close()


def test_opening_again_needs_no_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/record.db"
    open_store(url).close()
    script = (
        "import sys, nas.store; nas.store.open_store(sys.argv[1]);"
        "print({'alembic', 'optuna', 'torch', 'sqlalchemy.orm'} & set(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, url], capture_output=True, text=True, check=True
    )
    assert out.stdout == "set()\n"


def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "record.db"
    open_store(f"sqlite:///{file}").close()
    connection = sqlite3.connect(file)
    connection.execute("UPDATE nas_alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"'9999', newer than .* \('0005'\): update nas"):
        open_store(f"sqlite:///{file}")
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_newer_schema_is_left_alone_on_a_server(postgres: Server) -> None:
    url = postgres.database()
    open_store(url).close()
    postgres.sql("UPDATE nas_alembic_version SET version_num = '9999'", url.rsplit("/", 1)[1])
    with pytest.raises(StoreError, match=r"'9999', newer than"):
        open_store(url)


@pytest.mark.parametrize("content", [b"a photograph, say\n" * 99, b"x", b"SQLite format 3\0" * 9])
def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "holiday.db"
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"holiday\.db.*not a"):
        open_store(f"sqlite:///{file}")
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_places_where_no_database_can_be(tmp_path: Path) -> None:
    for place, rule in {
        "none/record.db": "there is no directory",
        ".": "is not a file",
    }.items():
        with pytest.raises(StoreError, match=rule):
            open_store(f"sqlite:///{tmp_path}/{place}")
    with pytest.raises(StoreError, match="there is no database yet"):
        open_store(f"sqlite:///{tmp_path}/record.db", create=False)
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="there is no database yet"):
        open_store(f"sqlite:///{tmp_path}/empty.db", create=False)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.db"]


def test_a_server_without_a_record_can_be_left_so(postgres: Server) -> None:
    url = postgres.database()
    with pytest.raises(StoreError, match="no record in this database yet"):
        open_store(url, create=False)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("", "is no database URL"),
        ("record.db", "is no database URL"),
        ("sqlite:record.db", "is no database URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite://record.db", "names no file"),
        ("sqlite:///file:m?mode=memory&cache=shared&uri=true", "no file: and no uri="),
        ("sqlite:///file:record.db", "no file: and no uri="),
        ("sqlite:///record.db?uri=true", "no file: and no uri="),
        ("postgres://u:hunter2@h/db", "did you mean postgresql"),
        ("mysql://u:hunter2@h/db", "no database 'mysql'"),
        ("postgresql+psycopg://u:hunter2@h:port/db", "does not parse"),
        ("postgresql+psycopg://u:p@hunter2@h/db", "one @ too many"),
        ("postgresql+psycopg://u:p@w/hunter2@h/db", "one @ too many"),
        ("postgresql://u:hunter2@127.0.0.1:1/db", "does not answer"),
        ("postgresql://127.0.0.1:1/db?user=u&password=hunter2", "does not answer"),
    ],
)
def test_urls_that_cannot_be_used(url: str, rule: str) -> None:
    start = time.monotonic()
    with pytest.raises(StoreError, match=rule) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 30  # 4 s and no 60, which a lock is waited for


def test_a_wrong_password_is_not_repeated(
    postgres: Server,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = postgres.database()
    with pytest.raises(StoreError, match="password authentication failed") as caught:
        open_store(good.replace(":p%40", ":hunter2%40", 1))
    shown = str(caught.value) + caplog.text + repr(caught.value.__cause__)
    assert "hunter2" not in shown
    assert postgres.password not in shown


def test_network_file_systems_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_bytes(
        os.fsencode(
            f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path}/far\\040away nfs4 rw 0 0\n"
            f"/dev/sdb {tmp_path}/far\\040away/near xfs rw 0 0\n"
            f"server:/y {tmp_path}/données nfs rw 0 0\nserver:/z {tmp_path}/\udcff cifs rw 0 0\n"
        )
    )
    found = {
        place: connect.filesystem(tmp_path / place, str(mounts))
        for place in ("here", "far away", "far away/deep", "far away/near", "données", "\udcff")
    }
    assert found == {
        "here": "ext4",
        "far away": "nfs4",
        "far away/deep": "nfs4",
        "far away/near": "xfs",
        "données": "nfs",
        "\udcff": "cifs",
    }
    assert connect.filesystem(tmp_path, str(tmp_path / "none")) == ""
    assert "nfs4" in connect.NETWORK
    with caplog.at_level(logging.WARNING):
        open_store(f"sqlite:///{tmp_path}/record.db").close()
    assert caplog.text == ""


def test_sqlite_is_set_up_for_many_readers(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/record.db")
    with store.engine.connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    assert settings == {
        "journal_mode": "wal",
        "foreign_keys": 1,
        "synchronous": 1,
        "busy_timeout": 10_000,
    }
    store.close()


def test_the_record_lives_beside_other_tables(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('v3.2.0.a')"))
    open_store(url).close()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "v3.2.0.a"
    engine.dispose()


def test_two_thousand_trials_are_read_to_resume(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    store = open_store(f"sqlite:///{tmp_path}/record.db")
    study = store.open_study(STUDY)
    domain = whole(1, 4)
    names = [f"RESIDUAL.width[{n}]" for n in range(25)]
    full = dataclasses.replace(
        ask(), sampled=dict.fromkeys(names, 3), distributions=dict.fromkeys(names, domain)
    )
    store.begin(study, [full] * 2000)
    start = time.process_time()
    assert sum(len(trial.distributions) for trial in store.trials(study.id)) == 50_000
    seconds = time.process_time() - start
    record_property("resume_seconds", seconds)
    print(f"2,000 trials of 25 parameters read in {seconds:.2f} s")
    assert seconds < 5  # about 0.12 s; a quadratic read would take half a minute
    store.close()


def test_a_record_opened_twice_by_a_process_keeps_its_locks(tmp_path: Path) -> None:
    """POSIX: to close any descriptor of a file drops the locks of all. Another process that ends
    then removes the log that this one goes on to write to, and its rows with it."""
    url = f"sqlite:///{tmp_path}/nas.db"
    first = open_store(url)
    study = first.open_study(STUDY)
    begin(first, study, 0)
    second = open_store(url)
    code = (
        "import sys; from test_store import ask; from nas.store import open_store\n"
        "store = open_store(sys.argv[1]); [study] = store.studies()\n"
        "if len(sys.argv) > 2: store.begin(study, [ask(int(sys.argv[2]))])\n"
        "print(*(row.fingerprint for row in store.trials(study.id)))\n"
        "store.close()\n"
    )

    def elsewhere(*told: str) -> list[str]:
        asked = [sys.executable, "-c", code, url, *told]
        done = subprocess.run(
            asked, capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        )
        return done.stdout.split()

    assert elsewhere("1") == ["fingerprint0", "fingerprint1"]
    begin(second, study, 2)
    begin(first, study, 3)
    assert elsewhere("4") == [f"fingerprint{n}" for n in range(5)]
    first.close()
    second.close()
    assert elsewhere() == [f"fingerprint{n}" for n in range(5)]


def test_what_was_evaluated_is_entered_once_and_whole(store: Store, study: StudyRow) -> None:
    result = Result(metrics={"accuracy": 0.5}, seconds=2.0, model="kept.safetensors")
    assert store.enter(study, ask(), result)
    assert not store.enter(study, ask(), result)
    [row] = store.trials(study.id)
    assert (row.state, row.accuracy, row.model) == ("finished", 0.5, "kept.safetensors")
    [attempt] = store.attempts(row.id)
    assert attempt.state == "finished"
    assert store.claim(study, 1) == []


def test_a_record_that_can_grow_no_further_names_the_cause_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / "record.db"
    url = f"sqlite:///{file}"
    with contextlib.closing(open_store(url, patience=0)) as store:

        def grow(connection: Connection, _: bool) -> None:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            for number in range(100):
                named = {"name": f"{number}", "space_text": "x" * 10_000}
                values = dataclasses.asdict(dataclasses.replace(STUDY, **named))
                connection.execute(insert(studies).values(**values, created=0.0, numbers=0))

        with pytest.raises(StoreError) as refused:
            store.write(grow)
    # The disk has room: no size of it is told, which would be a false cause.
    assert str(refused.value) == f"{url} has no room: database or disk is full"
    assert status(refused.value) == 1


def test_a_record_above_the_limit_of_a_files_size_names_the_limit(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/record.db"
    open_store(url).close()
    grow = (
        "import sys; from nas.store import Study, open_store; store = open_store(sys.argv[1])\n"
        "for n in range(10_000): store.open_study(Study(name=f'{n}', space='x' * 1000,"
        " objectives=(('accuracy', 'max'),)))"
    )
    limited = 'ulimit -f 1000; exec "$@"'
    ended = subprocess.run(
        ["bash", "-c", limited, "-", sys.executable, "-c", grow, url],
        capture_output=True,
        text=True,
    )
    why = "disk I/O error: this process may write no file of more than 1.02 MB (ulimit -f)"
    assert ended.stderr.splitlines()[-1].endswith(f"StoreError: {url}: {why}")


@pytest.mark.parametrize("change", ["moved", "removed", "replaced"])
def test_a_record_that_was_moved_or_replaced_is_written_no_further(
    tmp_path: Path, change: str
) -> None:
    file = tmp_path / "record.db"
    url = f"sqlite:///{file}"
    with contextlib.closing(open_store(url)) as store:
        store.open_study(STUDY)
        if change == "removed":
            file.unlink()
        else:
            file.rename(tmp_path / "moved.db")
        if change == "replaced":
            with contextlib.closing(sqlite3.connect(file)) as other:
                other.execute("CREATE TABLE x (y)")
        told = "is another file than" if change == "replaced" else "is no longer there: it was"
        for ask_of in (store.studies, lambda: store.find_study(STUDY.name), lambda: written(store)):
            with pytest.raises(StoreError, match=told) as refused:
                ask_of()
            assert str(refused.value).startswith(url)
            assert status(refused.value) == 1
    assert file.exists() == (change == "replaced")
    if change == "moved":  # put back, with the log that stayed, it is whole
        (tmp_path / "moved.db").rename(file)
        with contextlib.closing(open_store(url)) as store:
            assert [found.name for found in store.studies()] == [STUDY.name]


def written(store: Store) -> None:
    store.open_study(dataclasses.replace(STUDY, name="another"))


def test_a_disk_that_fails_is_no_wrong_input_and_a_right_that_lacks_is() -> None:
    def told(code: int) -> None:
        try:
            raise OSError(code, "x")
        except OSError:
            raise NasError("x") from None

    for code, expected in ((errno.ENOSPC, 1), (errno.EIO, 1), (errno.EACCES, 2)):
        with pytest.raises(NasError) as refused:
            told(code)
        assert status(refused.value) == expected
