"""Early stopping: the decisions at rungs, and a search that repeats and loses nothing."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import random
import sqlite3
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from spies import Spy

from nas.driver import ladder, rungs, tradeoffs
from nas.driver.ladder import Ladder
from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.errors import NasError, StudyError
from nas.job import Epoch, Failure, Job, Recipe, Result
from nas.job.pool import Event, Reported
from nas.language.architecture import Architecture
from nas.samplers import SAMPLERS
from nas.spaces.space import Space, read_space
from nas.store import ENDED, Ask, Store, StudyRow, TrialRow, open_store
from nas.training import candidate
from nas.workers.in_process import InProcess

LOG = "NAS_TEST_RUNGS"  # names the file to which the evaluator adds a line an evaluation
RUNGS = (2, 6, 18)
STUDY = StudyRow(
    id=1, created=0.0, name="s", space="", objectives=(("accuracy", "max"), ("params", "min"))
)


# --- evaluators whose learning curves are known --------------------------------------------------


def table(architecture: Architecture, *, fidelity: int, **_: Any) -> dict[str, float]:
    """Errors fall as one power of the epochs for all: what a rung says is never wrong."""
    log(architecture, fidelity)
    return {"accuracy": 1 - error(architecture) * (18 / fidelity) ** 0.4}


def crossing(architecture: Architecture, *, fidelity: int, **_: Any) -> dict[str, float]:
    """The error's power is the architecture's own."""
    log(architecture, fidelity)
    power = 0.2 + 0.3 * random.Random(architecture.fingerprint).random()
    return {"accuracy": max(0.0, 1 - error(architecture) * (18 / fidelity) ** power)}


def interrupts(architecture: Architecture, *, fidelity: int, **_: Any) -> dict[str, float]:
    """Ctrl-C, once, when a whole training is under way."""
    if fidelity == RUNGS[-1] and not any(epochs == fidelity for _, epochs in evaluated()):
        log(architecture, fidelity)
        raise KeyboardInterrupt
    return table(architecture, fidelity=fidelity)


def percent(architecture: Architecture, **_: Any) -> dict[str, float]:
    return {"accuracy": 85.0}


def error(architecture: Architecture) -> float:
    """From 0.1 to 0.4, lower for larger networks but for what is the architecture's own."""
    own = random.Random(architecture.fingerprint + "error").random()
    return 0.1 + 0.15 * own + 0.15 / math.log10(architecture.params)


def log(architecture: Architecture, fidelity: int) -> None:
    with open(os.environ[LOG], "a") as file:
        file.write(f"{architecture.fingerprint} {fidelity}\n")


def evaluated() -> Counter[tuple[str, int]]:
    path = Path(os.environ[LOG])
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter((name, int(epochs)) for name, epochs in map(str.split, lines))


# --- what is searched ----------------------------------------------------------------------------


def stack(**sections: Any) -> Space:
    """340 architectures."""
    told = {
        "name": "stack",
        "pattern": "INPUT -> [CONV(width=w) -> BN -> RELU]*N -> GAP -> FC",
        "where": {"w": {"choice": [4, 8, 12, 16], "per": "N"}, "N": {"int": [1, 4]}},
    }
    return read_space(told | sections, "a test")


def plan(evaluator: str = "table", *, space: Space | None = None, **changes: Any) -> Plan:
    job = Job(pattern="", evaluator=f"test_rungs:{evaluator}", epochs=RUNGS[-1])
    settings = {"study": "s", "trials": 40, "sampler": "random", "rungs": RUNGS, **changes}
    return Plan(space=space or stack(), job=job, **settings)


@pytest.fixture(autouse=True)
def _log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOG, str(tmp_path / "evaluated"))
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def rows(store: Store) -> list[TrialRow]:
    return list(store.trials(store.find_study("s").id))


def by_state(store: Store) -> dict[str, list[TrialRow]]:
    key = lambda row: row.state  # noqa: E731
    return {s: list(some) for s, some in itertools.groupby(sorted(rows(store), key=key), key)}


# --- the rungs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, ()),
        (2, ()),
        (4, ()),
        (5, (2, 5)),
        (20, (7, 20)),
        (100, (33, 100)),
    ],
)
def test_auto_is_a_rung_at_a_third_and_a_whole_training(
    epochs: int, expected: tuple[int, ...]
) -> None:
    assert rungs.auto(epochs) == rungs.read("auto", epochs) == expected


def test_an_audits_rungs_are_geometric() -> None:
    assert rungs.read("auto", 100, rungs.geometric) == (4, 11, 33, 100)
    assert rungs.geometric(20) == (2, 7, 20)
    assert rungs.geometric(3) == ()


def test_rungs_are_read_or_refused() -> None:
    assert rungs.read("off", 20) == rungs.read("20", 20) == ()
    assert rungs.read("3,7,20", 20) == (3, 7, 20)
    for text in ("", "3,7", "7,3,20", "3,3,20", "0,20", "3,30", "-1,20", "a", "3;20", "2.5,20"):
        with pytest.raises(NasError, match=r"--rungs .*up to --epochs 20, such as 7,20"):
            rungs.read(text, 20)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"rungs": (2, 6, 20)}, "the last rung is 20: must be 18 epochs"),
        ({"space": stack(objectives={"params": "min"})}, "need the objective accuracy:max"),
        ({"job": Job(pattern="", epochs=18)}, "'one_cycle': with rungs it must be 'rungs'"),
        (
            {"job": Job(pattern="", epochs=18, recipe=Recipe(schedule="rungs", freeze=2))},
            "recipe.freeze is 2: must be below the first rung, 2",
        ),
    ],
)
def test_rungs_that_do_not_fit_the_plan_are_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(StudyError, match=rule):
        dataclasses.replace(plan(), **changes)


def test_epochs_up_to_a_rung_count_what_its_tail_repeats() -> None:
    assert rungs.costs([2, 7, 20]) == [2, 8, 23]  # tails of 1, 2 and 5 epochs
    assert rungs.costs([4]) == [4]


# --- what a candidate promises -------------------------------------------------------------------


def test_errors_are_expected_to_shrink_as_others_did() -> None:
    trained = [{2: 0.5, 18: 0.8}, {2: 0.6, 18: 0.8}, {2: 0.2, 6: 0.5, 18: 0.84}]
    assert expected(trained, 2, 0.7) == pytest.approx(1 - 0.3 * 0.4, abs=1e-3)
    assert expected(trained, 6, 0.5) == pytest.approx(0.84, abs=1e-3)
    assert expected(trained, 9, 0.5) is None
    assert expected([{2: 1.0, 18: 1.0}], 2, 1.0) == pytest.approx(1.0)


def expected(trained: list[dict[int, float]], rung: int, accuracy: float) -> float | None:
    """What is expected of a candidate that is at the rung with this accuracy."""
    ladder = Ladder(STUDY, RUNGS)
    for number, scores in enumerate(trained):
        below = tuple((epochs, score) for epochs, score in scores.items() if epochs < 18)
        ladder.take(trial(1, scores[18], 1, number=number, rungs=below, epochs=18))
    hoped = ladder.hoped(trial(1, accuracy, 1, rungs=((rung, accuracy),), state="paused"))
    return hoped.value("accuracy") if hoped else None


def test_a_promise_is_the_mean_of_what_may_lie_above_the_bar() -> None:
    rng = random.Random(0)
    for _ in range(200):
        trained = [{2: rng.random(), 18: rng.random()} for _ in range(rng.randint(1, 9))]
        accuracy, bar = rng.random(), rng.random()
        gains = []
        for scores in trained:  # one by one, in plain words
            shrunk = (1.001 - scores[18]) / (1.001 - scores[2])
            gains.append(max(0.0, 1.001 - (1.001 - accuracy) * shrunk - bar))
        shrunk = rungs.shrinkage(trained, 2)
        promise = rungs.promise(shrunk, accuracy, bar)
        assert promise == pytest.approx(sum(gains) / len(gains))
        assert promise <= rungs.promise(shrunk, min(1.0, accuracy + 0.1), bar)
        assert rungs.promise(shrunk, accuracy, math.inf) == 0
        assert rungs.promise(shrunk, [0.0, accuracy], [math.inf, bar]) == pytest.approx(
            [0, float(promise)]
        )
    assert rungs.promise(rungs.shrinkage([], 2), 0.5, 0.9) == math.inf


def test_the_bar_is_where_the_front_begins() -> None:
    """Against brute force: a hair above the bar a trial is on the front, a hair below it is not."""
    rng = random.Random(1)
    objectives = (("params", "min"), ("accuracy", "max"), ("latency_ms", "min"))
    study = StudyRow(
        id=1, created=0.0, name="s", space="", objectives=objectives, constraints={"macs": "<= 9"}
    )
    for _ in range(300):
        points = [(rng.randint(1, 5), rng.random(), rng.randint(1, 5)) for _ in range(8)]
        front = tradeoffs.pareto(study, [trial(*p) for p in points])
        params, _, latency = points[0]
        asked = trial(params, 0.0, latency, state="paused")
        (bar,) = tradeoffs.bars(study, front, [asked])
        for accuracy in (bar + 1e-9, bar - 1e-9):
            beaten = any(p[0] <= params and p[2] <= latency and p[1] >= accuracy for p in points)
            assert beaten == (accuracy < bar), (points, accuracy)
    assert tradeoffs.bars(study, [], [trial(1, 0.0, 1, macs=10)]) == [math.inf]
    needy = dataclasses.replace(study, constraints={"accuracy": ">= 0.9"})
    assert tradeoffs.bars(needy, [], [trial(1, 0.5, 1)]) == pytest.approx([0.9])


def trial(params: int, accuracy: float, latency: float, **told: Any) -> TrialRow:
    values = {"number": 0, "state": "finished", "macs": 1} | told
    return TrialRow(
        id=1,
        study_id=1,
        pattern="",
        fingerprint=f"{params} {accuracy} {latency}",  # trainings of one network count as one
        params=params,
        accuracy=accuracy,
        latency_ms=latency,
        metrics={"accuracy": accuracy},
        created=0.0,
        **values,
    )


@pytest.mark.parametrize("ladder", [(2, 6, 18), (2, 20), (1, 4, 30)])
def test_besides_the_learners_every_rung_costs_what_the_first_does(ladder: tuple[int, ...]) -> None:
    for count in range(1, 200):
        reached = [ladder[0]] * count
        for rung, following in itertools.pairwise(ladder):
            while rung in reached and rungs.room(Counter(reached), ladder, rung):
                reached[reached.index(rung)] = following
            went = sum(epochs > rung for epochs in reached)
            learners = min(rungs.LEARNERS, count / 2)
            assert went >= learners
            apart = max(0, went - learners)
            most = max(0, count - rungs.LEARNERS) * ladder[0]
            assert apart * following < most + following
            assert went == count or (apart + 1) * following > most


def area(points: list[tuple[float, float]], widest: float, lowest: float) -> float:
    """Of what lies below the best accuracy for so many parameters or fewer, from left to right."""
    total, best = 0.0, lowest
    for (params, accuracy), (following, _) in itertools.pairwise(
        [*sorted(points), (widest, lowest)]
    ):
        best = max(best, accuracy)
        total += (following - params) * (best - lowest)
    return total


def test_next_is_who_adds_most_to_all_that_are_ahead() -> None:
    """Against brute force: the mean, over each gain that was seen, of the area added to that of
    the front and of those past the rung, over the logarithm of the parameters."""
    rng = random.Random(2)
    sent = 0
    for _ in range(60):
        ladder = Ladder(STUDY, RUNGS)
        places = [2] * 30 + [6] * 3 + [18] * 4
        candidates = [
            dataclasses.replace(
                trial(rng.randint(1, 99), score := rng.uniform(0.3, 0.9), 1, state="paused"),
                number=number,
                epochs=place,
                rungs=tuple((epochs, score) for epochs in RUNGS[:-1] if epochs <= place),
            )
            for number, place in enumerate(places)
        ]
        front = []
        for row in candidates:
            if row.epochs < RUNGS[-1]:
                ladder.pause(row)
            else:
                accuracy = rng.uniform(row.accuracy or 0, 1)
                ended = {"state": "finished", "accuracy": accuracy}
                row = dataclasses.replace(row, metrics={"accuracy": accuracy}, **ended)
                front.append(row)
                ladder.take(row)

        def ends(row: TrialRow, ended: list[TrialRow] = front) -> list[float]:
            left = 1.001 - (row.accuracy or 0)
            return [
                1.001 - left * (1.001 - (f.accuracy or 0)) / (1.001 - f.rungs[0][1]) for f in ended
            ]

        past = [(math.log10(f.params), f.accuracy or 0.0) for f in front]
        past += [(math.log10(r.params), statistics.median(ends(r))) for r in ladder.at(6)]
        possible = {r.number: [(math.log10(r.params), e) for e in ends(r)] for r in ladder.at(2)}
        hopeful = {
            number: ends
            for number, ends in possible.items()
            if any(all(x > p[0] or y < p[1] for x, y in past) for p in ends)
        }
        seen = [*past, *itertools.chain(*hopeful.values())]
        (left, right), (low, high) = ((min(v), max(v)) for v in zip(*seen, strict=True))
        corner = right + (right - left) / 10, low - (high - low) / 10
        added = {
            number: statistics.mean(area([*past, e], *corner) - area(past, *corner) for e in ends)
            for number, ends in hopeful.items()
        }
        following = ladder.next_up(2, tuple(front))
        assert (following is None) == (not added)
        if following:
            assert added[following.number] == pytest.approx(max(added.values()))
            sent += 1
        ladder.send(candidates[0], 2)  # it is on its way to the rung, not past
        if following != candidates[0]:
            assert ladder.next_up(2, tuple(front)) == following
    assert sent > 30


# --- a search ------------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluator", ["table", "crossing"])
@pytest.mark.parametrize("slots", [1, 8])
def test_nothing_is_evaluated_twice_and_few_are_trained_whole(
    store: Store, evaluator: str, slots: int
) -> None:
    pool = InProcess()
    pool.slots = slots
    status = search(plan(evaluator, trials=60), store, pool)
    assert (status.done, status.paused) == (60, 0)
    assert max(evaluated().values()) == 1
    states = by_state(store)
    assert set(states) == {"finished", "stopped"}
    assert 5 <= len(states["finished"]) <= 20
    for row in states["finished"]:
        assert [epochs for epochs, _ in row.rungs] == [2, 6]
        assert row.epochs == 18
    for row in states["stopped"]:
        assert row.epochs in (2, 6)
        assert row.rungs[-1] == (row.epochs, row.accuracy)
    epochs = Counter(epochs for _, epochs in evaluated())
    assert epochs == {
        2: 60,
        6: sum(len(row.rungs) > 1 for row in rows(store)),
        18: len(states["finished"]),
    }
    assert all(row.state == "finished" for row in status.front)


def test_where_rungs_are_never_wrong_the_front_is_that_of_whole_trainings(
    store: Store, tmp_path: Path
) -> None:
    """Same draws, all trained whole: nothing of their front was stopped at the first rung for lack
    of promise, and what the front has lost was only for want of room."""
    found = search(plan(trials=60), store, InProcess())
    other = open_store(f"sqlite:///{tmp_path}/whole.db")
    whole = search(plan(trials=60, rungs=()), other, InProcess())
    other.close()
    assert {row.fingerprint for row in rows(store)} >= {r.fingerprint for r in whole.front}
    mine = {row.fingerprint: row for row in rows(store)}
    kept = [row for row in whole.front if mine[row.fingerprint].state == "finished"]
    assert len(kept) >= 0.7 * len(whole.front)
    best = max(row.accuracy or 0 for row in found.front)
    assert best == max(row.accuracy or 0 for row in whole.front)


def test_an_interrupted_search_goes_on_at_the_rung_it_had_reached(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(plan("interrupts"), store, InProcess())
    (under_way,) = by_state(store)["waiting"]
    assert [epochs for epochs, _ in under_way.rungs] == [2, 6]
    status = search(plan("interrupts"), store, InProcess())
    assert status.done == 40
    counts = evaluated()
    repeated = (under_way.fingerprint, 18)  # what was under way begins again, and nothing else
    assert counts.pop(repeated) == 2
    assert max(counts.values()) == 1
    assert store.trial(under_way.study_id, under_way.number).state == "finished"


def test_paused_trials_outlive_their_driver(store: Store) -> None:
    """A driver that ends while candidates wait leaves them to the next, which decides on each."""

    def stop(status: Any) -> None:
        if status.paused == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(plan("crossing"), store, InProcess(), stop)
    assert len(by_state(store)["paused"]) == 3
    assert search(plan("crossing"), store, InProcess()).done == 40
    assert set(by_state(store)) == {"finished", "stopped"}
    assert max(evaluated().values()) == 1


def test_a_paused_candidate_is_promoted_when_its_turn_comes(store: Store) -> None:
    search(plan("crossing", trials=60), store, InProcess())
    promoted = [row for row in by_state(store)["finished"] if len(store.attempts(row.id)) > 1]
    assert promoted  # begun again after a pause, each time at the next rung
    for row in promoted:
        assert {a.state for a in store.attempts(row.id)} == {"finished"}


def test_the_sampler_is_told_what_to_expect_and_never_the_bare_score(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[tuple[float, ...], int] = Counter()

    class Spy(RandomSampler):
        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            if values:
                told[tuple(values)] += 1

    monkeypatch.setitem(SAMPLERS, "random", lambda seed: Spy(seed=seed))
    search(plan(trials=40), store, InProcess())
    stopped = by_state(store)["stopped"]
    assert stopped
    accuracies = {params: accuracy for accuracy, params in told}
    for row in stopped:
        rung, score = row.rungs[-1]
        if len([r for r in rows(store) if r.params == row.params]) == 1:
            final = 1 - (1 - score) * (rung / 18) ** 0.4  # the evaluator's own curve
            assert accuracies[math.log10(row.params)] == pytest.approx(final, abs=2e-3)
            assert (score, math.log10(row.params)) not in told


def test_an_accuracy_that_is_no_fraction_is_a_failure(store: Store) -> None:
    search(plan("percent", trials=2), store, InProcess())
    assert {row.state for row in rows(store)} == {"failed"}
    assert "accuracy is 85: must be a fraction from 0 to 1" in (rows(store)[0].reason or "")


def test_the_dashboard_shows_what_was_stopped_and_the_view_does_not(
    store: Store, tmp_path: Path
) -> None:
    search(plan(), store, InProcess())
    stopped = by_state(store)["stopped"]
    connection = sqlite3.connect(tmp_path / "record.db")
    shown = connection.execute("SELECT trial, state, epochs FROM tradeoffs").fetchall()
    connection.close()
    ended = [row for row in rows(store) if row.state in ("finished", "reused")]
    assert stopped
    assert sorted(shown) == [(row.number, row.state, row.epochs) for row in ended]
    copy = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/record.db")
    states = Counter(trial.state.name for trial in copy.trials)
    assert states == {"PRUNED": len(stopped), "COMPLETE": 40 - len(stopped)}


def test_a_study_is_not_resumed_with_other_rungs(store: Store) -> None:
    search(plan(trials=3), store, InProcess())
    with pytest.raises(StudyError, match=r"settings\.rungs"):
        search(plan(trials=3, rungs=()), store, InProcess())


# --- the record ----------------------------------------------------------------------------------


def test_a_fenced_attempt_reaches_no_rung(store: Store) -> None:
    study = store.open_study(plan().row())
    ask = Ask(pattern="INPUT -> FC", fingerprint="f", params=1, macs=1, epochs=18)
    (claim,) = store.begin(study, [ask])
    result = Result(metrics={"accuracy": 0.5}, seconds=2.0)
    died = Failure(kind="worker_died", reason="the node went away")
    retry = store.requeue(claim.token, died)
    assert retry
    assert not store.reach(claim.token, 2, result, "paused")
    assert store.reach(retry.token, 2, result, "running")
    assert store.reach(retry.token, 6, result, "paused")
    assert not store.reach(retry.token, 18, result, "paused")
    assert store.stop(study.id, [99]) == store.promote(study.id, [99]) == []
    (again,) = store.promote(study.id, [claim.trial.number])
    assert again.trial.rungs == ((2, 0.5), (6, 0.5))
    assert store.promote(study.id, [claim.trial.number]) == []
    assert store.stop(study.id, [claim.trial.number]) == []
    assert store.reach(again.token, 18, result, "stopped")
    row = store.trial(study.id, claim.trial.number)
    assert (row.state, row.epochs, row.seconds) == ("stopped", 18, 6.0)
    assert row.state in ENDED


# --- real training -------------------------------------------------------------------------------


def test_a_promoted_candidate_ends_as_if_it_had_never_been_stopped(
    store: Store, tmp_path: Path
) -> None:
    space = read_space(
        {
            "name": "l",
            "pattern": "INPUT -> FLATTEN -> FC(w) -> FC",
            "where": {"w": {"int": [1, 9]}},
        },
        "a test",
    )
    job = Job(pattern="", epochs=4, recipe=Recipe(schedule="rungs", batch=256), latency=False)
    space = dataclasses.replace(space, input=(1, 8, 8), classes=10)
    searched = Plan(
        study="s",
        space=space,
        job=job,
        trials=3,
        sampler="random",
        rungs=(2, 4),
        artifacts=str(tmp_path / "artifacts"),
    )
    search(searched, store, InProcess())
    whole = by_state(store)["finished"]
    assert len(whole) == 2
    for row in whole:
        alone = dataclasses.replace(job, pattern=row.pattern, seed=row.seed)
        result = candidate.evaluate(alone, lambda _: None)
        assert isinstance(result, Result)
        assert row.accuracy == result.metrics["accuracy"]
        kept = store.curve(row.id)
        assert [(e.epoch, e.train_loss, e.accuracy) for e in kept] == [
            (e.epoch, e.train_loss, e.accuracy) for e in result.curve
        ]
    assert not [*(tmp_path / "artifacts").rglob("*.checkpoint*")]  # nothing can go on from them


# --- what is told, and what is worked out --------------------------------------------------------


@pytest.mark.parametrize("stops", [(), (15,)])
def test_a_candidate_is_one_trial_of_the_samplers_study(
    store: Store, spies: list[Spy], stops: tuple[int, ...]
) -> None:
    """However often it paused, and whatever came of it; the last thing told is what it came to."""
    pool = InProcess()
    pool.slots = 4
    for trials in (*stops, 40):
        status = search(plan("crossing", trials=trials, sampler="spy"), store, pool)
    assert spies[-1].study
    told = spies[-1].study.get_trials(deepcopy=False)
    states = by_state(store)
    promoted = [row for row in states["finished"] if len(store.attempts(row.id)) > 1]
    assert promoted
    assert states["stopped"]
    # The same asked for again is told as what it is known to be, or dropped while it is under way.
    times = Counter(str(trial.params) for trial in told)
    assert len(times) == 40
    assert len(told) == 40 + status.repeated
    values = {str(t.params): t.values for t in told if t.state == optuna.trial.TrialState.COMPLETE}
    for row in states["finished"]:
        accuracy, params = values[str(dict(row.sampled))]
        assert (accuracy, params) == (row.accuracy, math.log10(row.params))
    for row in states["stopped"]:
        accuracy, _ = values[str(dict(row.sampled))]
        assert accuracy > row.rungs[-1][1]  # what it was expected to end with


def test_an_epoch_that_changes_nothing_makes_nothing_be_worked_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two searches, in one of which each job reports 30 epochs, each by an event of its own."""

    class Reporting(InProcess):
        slots = 8

        def __init__(self, epochs: int) -> None:
            super().__init__()
            self.epochs, self.due, self.events = epochs, list[Event](), 0

        def wait(self, timeout: float) -> list[Event]:
            if not self.due and timeout:
                for event in super().wait(timeout):
                    epoch = Epoch(epoch=1, train_loss=1.0, accuracy=0.5, seconds=0.0)
                    self.due += [*[Reported(event.ticket, epoch)] * self.epochs, event]
            self.events += bool(self.due)
            return [self.due.pop(0)] if self.due else []

    counts = Counter[str]()
    for module, name in ((rungs, "promise"), (rungs, "shrinkage"), (ladder, "gains")):
        monkeypatch.setattr(module, name, counted(getattr(module, name), name, counts))
    worked: list[dict[str, int]] = []
    for epochs in (0, 30):
        counts.clear()
        pool = Reporting(epochs)
        opened = open_store(f"sqlite:///{tmp_path}/{epochs}.db")
        status = search(plan("crossing", trials=40), opened, pool)
        opened.close()
        assert status.done == 40
        assert pool.events >= 40 * (epochs + 1)
        worked.append(dict(counts))
    assert worked[0] == worked[1]
    assert worked[0]["promise"] > 40


def counted(function: Any, name: str, counts: Counter[str]) -> Any:
    def call(*told: Any) -> Any:
        counts[name] += 1
        return function(*told)

    return call
