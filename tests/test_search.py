"""The loop: no trial is lost or repeated; however it ends, the next run continues."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from spies import Spy
from waiting import PATIENCE, eventually

from nas.driver.beliefs import believed
from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.driver.tally import Forecast, Status, Tally, UnderWay
from nas.errors import NothingFound, StudyError
from nas.job import Epoch, Failure, Job, Recipe
from nas.job.pool import Pool
from nas.language.architecture import Architecture, parse
from nas.report import front
from nas.samplers import SAMPLERS
from nas.spaces.bounds import Bound
from nas.spaces.space import Space, load_space, read_space
from nas.store import Store, TrialRow, open_store
from nas.workers import open_pool
from nas.workers.in_process import InProcess

TESTS = Path(__file__).parent
LOG = "NAS_TEST_EVALUATED"  # names the file to which the evaluators add a line an evaluation


# --- evaluators ----------------------------------------------------------------------------------


def score(architecture: Architecture, *, seed: int, **_: Any) -> dict[str, float]:
    log(architecture)
    return {"accuracy": accuracy(architecture), "seed": seed}


def slow(architecture: Architecture, **_: Any) -> dict[str, float]:
    time.sleep(0.05)
    return score(architecture, seed=0)


def slow_in_company(architecture: Architecture, **_: Any) -> dict[str, float]:
    """As ``slow``, once a second driver evaluates, too."""
    log = Path(f"{os.environ[LOG]}-drivers")
    with log.open("a") as file:
        file.write(f"{os.getpid()}\n")
    assert eventually(lambda: len(set(log.read_text().split())) > 1)
    return slow(architecture)


def measures(architecture: Architecture, **_: Any) -> dict[str, float]:
    return score(architecture, seed=0) | {"latency_ms": latency(architecture), "f1": 0.5}


def fails_once(architecture: Architecture, **_: Any) -> dict[str, float]:
    if tries(architecture) == 1:
        raise RuntimeError("no luck")
    return score(architecture, seed=0)


def fails(architecture: Architecture, **_: Any) -> dict[str, float]:
    log(architecture)
    raise RuntimeError("no luck")


def diverges(architecture: Architecture, **_: Any) -> Failure:
    log(architecture)
    return Failure(kind="diverged", reason="the loss is NaN after epoch 1")


def dies(architecture: Architecture, **_: Any) -> Failure:
    log(architecture)
    return Failure(kind="worker_died", reason="the node went away")


def is_killed_at_first(architecture: Architecture, **_: Any) -> dict[str, float]:
    if architecture.params % 2 and tries(architecture) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return score(architecture, seed=0)


def gives_nan(architecture: Architecture, **_: Any) -> dict[str, float]:
    log(architecture)
    return {"accuracy": math.nan}


def far_apart(architecture: Architecture, *, seed: int, **_: Any) -> dict[str, float]:
    values = (1e30, -1e30, 1e-300, 5e-324, 0.0)
    return {"f1": values[seed % 5], "loss": values[seed % 7 % 5]}


def is_interrupted(architecture: Architecture, **_: Any) -> dict[str, float]:
    if len(evaluated()) == 4:
        log(architecture)
        raise KeyboardInterrupt
    return score(architecture, seed=0)


def accuracy(architecture: Architecture) -> float:
    return 1 - 1 / math.log10(architecture.params) + 1e-3 * (architecture.macs % 7)


def latency(architecture: Architecture) -> float:
    return architecture.macs / 1e4


def log(architecture: Architecture) -> None:
    with open(os.environ[LOG], "a") as file:
        file.write(architecture.fingerprint + "\n")


def tries(architecture: Architecture) -> int:
    """Which evaluation of the architecture this is, by a log of its own."""
    path = Path(f"{os.environ[LOG]}-{architecture.fingerprint}")
    with path.open("a") as file:
        file.write(".")
    return len(path.read_text())


def evaluated() -> Counter[str]:
    path = Path(os.environ[LOG])
    return Counter(path.read_text().split() if path.exists() else [])


# --- what is searched ----------------------------------------------------------------------------


def small_space(**sections: Any) -> Space:
    """12 architectures."""
    return space_of({"w": {"choice": [4, 8, 16]}, "N": {"int": [1, 4]}}, **sections)


def wide_space(**sections: Any) -> Space:
    """340 architectures: 4 + 16 + 64 + 256."""
    return space_of({"w": {"choice": [4, 8, 12, 16], "per": "N"}, "N": {"int": [1, 4]}}, **sections)


def space_of(where: dict[str, Any], **sections: Any) -> Space:
    told = {
        "name": "stack",
        "pattern": "INPUT -> [CONV(width=w) -> BN -> RELU]*N -> GAP -> FC",
        "where": where,
    }
    return read_space(told | sections, "a test")


def plan(evaluator: str = "score", *, space: Space | None = None, **changes: Any) -> Plan:
    job = {key: changes.pop(key) for key in ("seed", "epochs", "recipe") if key in changes}
    told = Job(pattern="", evaluator=f"test_search:{evaluator}", **{"epochs": 1, **job})
    settings = {"study": "s", "trials": 10, "sampler": "random", **changes}
    return Plan(space=space or wide_space(), job=told, **settings)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the log is: one place for all tests, as workers inherit it when they start."""
    made = tmp_path_factory.mktemp("log")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LOG, str(made / "evaluated"))
        yield made


@pytest.fixture(autouse=True)
def _empty_log(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def run(store: Store, searched: Plan, watch: Callable[[Status], None] = lambda _: None) -> Status:
    return search(searched, store, InProcess(), watch)


def rows(store: Store, study: str = "s") -> list[TrialRow]:
    return list(store.trials(store.find_study(study).id))


def assert_whole(store: Store, trials: int, study: str = "s") -> list[TrialRow]:
    """Exactly so many trials, numbered without a gap, each finished, no architecture twice."""
    found = rows(store, study)
    assert [row.number for row in found] == list(range(trials))
    assert {(row.state, row.reason) for row in found} == {("finished", None)}
    assert max(Counter((row.fingerprint, row.job_key) for row in found).values()) == 1
    return found


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """``a`` is better than ``b``, both maximised."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


# --- what a search leaves ------------------------------------------------------------------------


def test_a_search_with_the_largest_seed_can_be_resumed(store: Store) -> None:
    searched = plan(seed=(1 << 32) - 1, trials=2)
    run(store, searched)
    run(store, dataclasses.replace(searched, trials=4))
    assert_whole(store, 4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_evaluates_so_many_architectures_with_every_sampler(
    store: Store, sampler: str
) -> None:
    status = run(store, plan(sampler=sampler, trials=14))
    found = assert_whole(store, 14)
    assert (status.finished, status.failed, status.reused, status.running) == (14, 0, 0, 0)
    assert set(evaluated().values()) == {1}
    for row in found:
        network = parse(row.pattern)
        assert (row.fingerprint, row.params, row.macs) == (
            network.fingerprint,
            network.params,
            network.macs,
        )
        assert row.accuracy == accuracy(network)


def test_the_front_is_what_no_other_trial_dominates(store: Store) -> None:
    status = run(store, plan(trials=40))
    points = {row.number: (row.accuracy or 0.0, -row.params) for row in rows(store)}
    best = {
        number: point
        for number, point in points.items()
        if not any(dominates(other, point) for other in points.values())
    }
    assert {points[row.number] for row in status.front} == set(best.values())
    accuracies = [row.accuracy or 0.0 for row in status.front]
    assert accuracies == sorted(accuracies, reverse=True)


def test_watch_is_told_of_everything_in_order(store: Store) -> None:
    told: list[Status] = []
    status = run(store, plan(trials=6), told.append)
    assert [done for done, _ in itertools.groupby(s.done for s in told)] == [0, 1, 2, 3, 4, 5, 6]
    assert told[0].forecast is None
    assert told[-1] == status
    assert status.latest == rows(store)[5]


def epoch(number: int, seconds: float) -> Epoch:
    return Epoch(epoch=number, train_loss=1.0, accuracy=0.5, seconds=seconds)


def test_what_is_left_is_predicted_by_what_trials_took(store: Store) -> None:
    told: list[Status] = []
    run(store, plan(trials=4), told.append)
    run(store, plan(trials=10), told.append)  # before it starts another
    (first, *_) = (s for s in told if s.budget == 10)
    took = [row.seconds or 0.0 for row in rows(store)[:4]]
    assert first.forecast
    assert first.forecast.trials == 4
    assert first.forecast.seconds == pytest.approx(6 * sum(took) / 4)
    study = store.find_study(plan(trials=4).study)
    more = {"slots": 2, "paused": 0, "rejected": 0, "repeated": 0, "exhausted": False}
    begun = [UnderWay(n, "", 20).told(epoch(1, 5.0)) for n in (1, 2)]
    assert Tally(study, 12).status(under_way=begun, **more).forecast is None
    later = [run.told(epoch(5, 5.0 + 2.0 * run.number)) for run in begun]
    predicted = Tally(study, 12).status(under_way=later, **more).forecast
    # 5 seconds for the first epoch, and 19 of .5 or 1 second; two at once
    assert predicted == Forecast(12 * (14.5 + 24.0) / 2 / 2, 0)
    few = Tally(study, 12, {"of", "three", "networks"}).status(under_way=later, **more)
    assert few.forecast == Forecast(3 * (14.5 + 24.0) / 2 / 2, 0)


def test_one_seed_gives_one_search(store: Store) -> None:
    for study, seed in (("a", 1), ("b", 1), ("c", 2)):
        # Another fidelity, so that none can take another's results.
        run(store, plan(study=study, seed=seed, epochs=ord(study)))
    a, b, c = ([row.pattern for row in rows(store, study)] for study in "abc")
    assert a == b
    assert a != c


def test_the_seed_of_an_evaluation_follows_from_the_architecture(store: Store) -> None:
    run(store, plan(study="a"))
    run(store, plan(study="b", epochs=2, sampler="tpe"))
    seeds = {row.fingerprint: row.seed for row in rows(store, "a")}
    for row in rows(store, "b"):
        assert seeds.setdefault(row.fingerprint, row.seed) == row.seed
        assert row.metrics["seed"] == row.seed
    assert len(set(seeds.values())) == len(seeds)


# --- resumed -------------------------------------------------------------------------------------


def test_more_trials_go_on_from_the_first(store: Store) -> None:
    run(store, plan(trials=5))
    first = rows(store)
    run(store, plan(trials=5))
    assert rows(store) == first
    run(store, plan(trials=9))
    assert assert_whole(store, 9)[:5] == first
    assert set(evaluated().values()) == {1}


@pytest.mark.parametrize("after", [0, 1, 7])
def test_interrupted_between_trials_it_goes_on(store: Store, after: int) -> None:
    def interrupt(status: Status) -> None:
        if status.done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(store, plan(trials=12), interrupt)
    assert len(rows(store)) == after
    run(store, plan(trials=12))
    assert_whole(store, 12)
    assert sum(evaluated().values()) == 12


def test_interrupted_in_a_trial_it_goes_on_with_that_trial(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(store, plan("is_interrupted", trials=8))
    assert [row.state for row in rows(store)] == ["finished"] * 4 + ["waiting"]
    run(store, plan("is_interrupted", trials=8))
    found = assert_whole(store, 8)
    assert [len(store.attempts(row.id)) for row in found] == [1, 1, 1, 1, 2, 1, 1, 1]
    # The one that was interrupted has two lines, as it was begun twice.
    assert sorted(evaluated().values()) == [1] * 7 + [2]


NAS = [sys.executable, "-m", "nas.cli"]  # in a process of its own


def asked(url: str, trials: int, *options: str) -> list[str]:
    """A search of lenet_like."""
    told = ["search", "--space", "lenet_like", "--storage", url, "--study", "s"]
    told += ["--trials", str(trials), "--workers", "0", "--sampler", "random"]
    usual = [] if "--evaluator" in options else ["--evaluator", "test_search:slow"]
    return [*told, *usual, *options]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}


def test_killed_it_goes_on_at_once(store: Store, url: str) -> None:
    search = asked(url, 24)
    first = subprocess.Popen([*NAS, *search], env=environment(), stderr=subprocess.DEVNULL)
    assert eventually(lambda: len(evaluated()) >= 5)
    first.kill()
    first.wait()
    assert 5 <= len(rows(store)) < 24
    # Where it waits for the dead driver's lease it does not end.
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE nas_attempts SET lease_until = lease_until + 1e6")
    again = {"env": environment(), "stderr": subprocess.DEVNULL, "timeout": PATIENCE}
    subprocess.run([*NAS, *search], check=True, **again)
    found = assert_whole(store, 24)
    # At most the trial that was under way is evaluated again.
    assert sum(evaluated().values()) <= 25
    assert sum(len(store.attempts(row.id)) for row in found) <= 25


def test_two_drivers_share_a_study(store: Store, url: str) -> None:
    both = [
        subprocess.Popen(
            [*NAS, *asked(url, 16, "--evaluator", "test_search:slow_in_company")],
            env=environment(),
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    told = [driver.communicate(timeout=PATIENCE)[1] for driver in both]
    assert [driver.returncode for driver in both] == [0, 0], told
    found = assert_whole(store, 16)
    drivers = Counter(store.attempts(row.id)[0].driver for row in found)
    assert len(drivers) == 2
    assert set(evaluated().values()) == {1}, "both drivers evaluated one architecture"


def test_a_seed_draws_the_same_in_every_process() -> None:
    """The order of a set of names is another in each process, unless PYTHONHASHSEED says."""
    code = """
import optuna
from nas.driver.asking import Asker
from nas.job import Job
from nas.driver.plan import Plan
from nas.spaces.space import load_space
optuna.logging.set_verbosity(optuna.logging.WARNING)
plan = Plan(study="s", space=load_space("vgg_like", (1, 8, 8), 10), job=Job(pattern=""), trials=9)
asker = Asker(plan, plan.row(), 0, lambda row: row)
print([asker.ask()[1].pattern for _ in range(9)])
"""
    drawn = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert len(drawn) == 1


def test_resumed_the_default_sampler_proposes_what_it_would_have(url: str, store: Store) -> None:
    whole = plan(study="whole", sampler="default", trials=13)
    run(store, whole)
    # The same in two halves, by a new driver; another fidelity hides the results.
    for trials in (11, 13):
        again = open_store(url)
        run(again, plan(study="halves", sampler="default", trials=trials, epochs=2))
        again.close()
    patterns = [[row.pattern for row in rows(store, study)] for study in ("whole", "halves")]
    assert patterns[0] == patterns[1]


def test_a_study_is_not_resumed_with_other_settings(store: Store) -> None:
    run(store, plan(trials=2))
    with pytest.raises(StudyError, match=r"settings\.epochs is 1 in the study and 2 now"):
        run(store, plan(trials=2, epochs=2))
    assert len(rows(store)) == 2


# --- what costs nothing --------------------------------------------------------------------------


def test_results_of_another_study_are_taken_over(store: Store) -> None:
    run(store, plan(space=small_space(), study="a", trials=12))
    status = run(store, plan(space=small_space(), study="b", trials=12))
    assert (status.reused, status.finished) == (12, 0)
    assert set(evaluated().values()) == {1}
    first = {row.fingerprint: row for row in rows(store, "a")}
    for row in rows(store, "b"):
        assert row.state == "reused"
        assert row.accuracy == first[row.fingerprint].accuracy
        assert row.reused_from == first[row.fingerprint].id
    # Under another fidelity, or with another seed, they are other results.
    assert run(store, plan(space=small_space(), study="c", epochs=2)).reused == 0
    assert run(store, plan(space=small_space(), study="d", seed=7)).reused == 0


def test_what_arithmetic_rejects_costs_no_trial(store: Store) -> None:
    limit = 1_500
    status = run(store, plan(space=wide_space(constraints={"params": f"<= {limit}"}), trials=20))
    found = assert_whole(store, 20)
    assert max(row.params for row in found) <= limit
    assert status.rejected > 5
    assert len(evaluated()) == 20


def test_where_nothing_fits_the_search_says_so(store: Store) -> None:
    with pytest.raises(NothingFound, match=r"none of 2000 draws of stack .*params <= 10\b"):
        run(store, plan(space=wide_space(constraints={"params": "<= 10"})))
    assert store.studies() == []
    assert not evaluated()


@pytest.mark.parametrize("sampler", ["random", "tpe", "default"])
def test_an_exhausted_space_ends_the_search(store: Store, sampler: str) -> None:
    status = run(store, plan(space=small_space(), trials=30, sampler=sampler))
    assert status.exhausted
    assert_whole(store, 12)
    assert run(store, plan(space=small_space(), trials=30, sampler=sampler)).exhausted
    assert sum(evaluated().values()) == 12


class Stuck(RandomSampler):
    """A sampler that proposes the first of everything, always."""

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        return distribution.to_external_repr(0 if hasattr(distribution, "choices") else 1)


def test_a_sampler_that_is_stuck_does_not_end_the_search(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SAMPLERS, "stuck", Stuck)
    monkeypatch.setattr("nas.driver.asking.DRAWS", 20)
    for trials in (25, 50):  # the second run must not draw what the first has drawn
        assert not run(store, plan(trials=trials, sampler="stuck")).exhausted
    assert_whole(store, 50)


def test_a_closed_space_is_one_trial(store: Store) -> None:
    status = run(store, plan(space=load_space("linear"), trials=5, sampler="default"))
    assert (status.exhausted, status.done) == (True, 1)


# --- failures ------------------------------------------------------------------------------------


def test_an_error_is_tried_once_more(store: Store) -> None:
    run(store, plan("fails_once", trials=4))
    for row in assert_whole(store, 4):
        first, second = store.attempts(row.id)
        assert (first.state, first.failure, second.state) == ("failed", "error", "finished")
        assert "no luck" in (first.reason or "")


@pytest.mark.parametrize(
    ("evaluator", "kind", "attempts", "reason"),
    [
        ("fails", "error", 2, "no luck"),
        ("diverges", "diverged", 1, "the loss is NaN after epoch 1"),
        ("dies", "error", 2, "a Failure's kind is 'worker_died'"),
        ("gives_nan", "error", 2, "metric accuracy is nan: must be finite"),
        ("no_such", "error", 2, "no_such"),
    ],
)
def test_a_failed_candidate_is_a_trial_with_its_reason(
    store: Store, evaluator: str, kind: str, attempts: int, reason: str
) -> None:
    status = run(store, plan(evaluator, trials=3))
    assert (status.failed, status.finished, status.front) == (3, 0, ())
    for row in rows(store):
        assert (row.state, row.failure) == ("failed", kind)
        assert reason in (row.reason or "")
        assert len(store.attempts(row.id)) == attempts
    # They are not tried again by the next run.
    assert run(store, plan(evaluator, trials=3)).ended == 0


# --- objectives, constraints, recipe -------------------------------------------------------------


def test_objectives_may_be_any_metric(store: Store) -> None:
    space = dataclasses.replace(wide_space(), objectives={"latency_ms": "min"})
    status = run(store, plan("measures", space=space, trials=15))
    fastest = min(latency(parse(row.pattern)) for row in rows(store))
    assert [row.value("latency_ms") for row in status.front] == [fastest]
    assert store.find_study("s").objectives == (("latency_ms", "min"),)


def test_measured_constraints_reach_the_sampler_and_the_front(
    store: Store, spies: list[Spy]
) -> None:
    bounds = {"latency_ms": Bound(True, 8.0), "accuracy": Bound(False, 0.6)}
    space = dataclasses.replace(wide_space(), constraints=bounds)
    run(store, plan("measures", space=space, trials=15, sampler="spy"))
    # Of these half are read from the record.
    status = run(store, plan("measures", space=space, trials=30, sampler="spy"))
    networks = {str(row.sampled): parse(row.pattern) for row in rows(store)}
    assert spies[1].study
    known = spies[1].study.get_trials(states=[TrialState.COMPLETE])
    assert {str(trial.params) for trial in known} == networks.keys()
    for trial in known:
        network = networks[str(trial.params)]
        assert trial.constraints["latency_ms"] == pytest.approx(latency(network) - 8.0)
        assert trial.constraints["accuracy"] == pytest.approx(0.6 - accuracy(network))
    assert any(max(trial.constraints.values()) > 0 for trial in known)
    assert status.front
    for row in status.front:
        assert latency(parse(row.pattern)) <= 8.0
        assert (row.accuracy or 0.0) >= 0.6


def test_the_recipe_is_searched_and_stored(store: Store) -> None:
    searched = {"lr": {"float": [0.02, 0.2], "log": True}, "flip": {"choice": [True, False]}}
    space = small_space(recipe=searched | {"batch": 32})
    base = Recipe(weight_decay=1e-3)
    run(store, plan(space=space, trials=15, recipe=base))
    found = rows(store)
    assert len(found) == 15, "an architecture counts anew under another recipe"
    for row in found:
        rate, flip = row.sampled["recipe.lr"], row.sampled["recipe.flip"]
        assert 0.02 <= rate <= 0.2
        expected = dataclasses.replace(base, lr=rate, flip=flip, batch=32)
        assert Recipe.of(row.recipe) == expected
    assert len({row.job_key for row in found}) == 15


# --- workers, and the dashboard's copy -----------------------------------------------------------


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    opened = open_pool(2)
    yield opened
    opened.close()


def test_a_worker_that_is_killed_costs_no_trial(store: Store, pool: Pool) -> None:
    status = search(plan("is_killed_at_first", trials=8), store, pool)
    found = assert_whole(store, 8)
    assert status.failed == 0
    for row in found:
        killed = [a.state for a in store.attempts(row.id)]
        assert killed == (["lost", "finished"] if row.params % 2 else ["finished"])
    assert set(evaluated().values()) == {1}


def test_a_search_interrupted_in_its_workers_goes_on(store: Store, pool: Pool) -> None:
    def interrupt(status: Status) -> None:
        if status.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(plan("slow", trials=12), store, pool, interrupt)
    assert not [row for row in rows(store) if row.state == "running"]
    search(plan("slow", trials=12), store, pool)
    assert_whole(store, 12)


@pytest.mark.parametrize("stops", [(), (4, 9)])
def test_the_optuna_study_is_in_step_at_the_end(
    store: Store, url: str, stops: tuple[int, ...]
) -> None:
    for trials in (*stops, 12):
        run(store, plan(trials=trials))
    copy = optuna.load_study(study_name="s", storage=url)
    found = {row.number: row for row in rows(store)}
    assert copy.metric_names == ["accuracy", "params"]
    assert [d.name for d in copy.directions] == ["MAXIMIZE", "MINIMIZE"]
    told = {trial.user_attrs["trial"]: trial for trial in copy.trials}
    assert told.keys() == found.keys()
    for number, trial in told.items():
        row = found[number]
        assert trial.state == TrialState.COMPLETE
        assert trial.values == [row.accuracy, row.params]
        assert trial.params == dict(row.sampled)
        for name in ("pattern", "fingerprint", "params", "macs", "accuracy"):
            assert trial.user_attrs[name] == getattr(row, name)
    best = {trial.user_attrs["trial"] for trial in copy.best_trials}
    dominated = {
        a for a, b in itertools.permutations(found, 2)
        if dominates((found[b].accuracy, -found[b].params), (found[a].accuracy, -found[a].params))
    }  # fmt: skip
    assert best == found.keys() - dominated


@pytest.mark.filterwarnings("error")
def test_metrics_as_far_apart_as_any_can_be_are_searched_and_drawn(store: Store) -> None:
    """Of squares, spreads and volumes of them no float runs over."""
    space = wide_space(objectives={"f1": "max", "loss": "min", "params": "min"})
    status = run(store, plan("far_apart", space=space, trials=24, sampler="default"))
    assert (status.finished, status.failed) == (24, 0)
    assert max(row.value("f1") for row in status.front) == 1e30
    study = store.find_study("s")
    believed(study, rows(store))
    assert "<svg" in front.svg(study, rows(store))
