"""The forecast of further trials' gain is right within its stated uncertainty."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import optuna
import pytest
from test_search import plan, rows, run, small_space

from nas.cli import searches
from nas.driver.outlook import MOST, gains, outlook
from nas.driver.plan import Plan
from nas.pareto import hypervolume
from nas.samplers.ehvi import EHVISampler
from nas.samplers.problem import Problem, nothing
from nas.store import Store
from nas.workers.in_process import InProcess

pytestmark = pytest.mark.usefixtures("evaluated")


def asked(**told: Any) -> Plan:
    return plan(sampler="default", **told)


def test_a_gain_is_the_mean_accuracy_gained_over_all_costs() -> None:
    rng = np.random.default_rng(0)
    now, futures = rng.random((12, 2)), rng.random((5, 4, 2))
    levels = np.linspace(now[:, 1].min(), now[:, 1].max(), 20_001)

    def best(points: np.ndarray) -> np.ndarray:
        within = points[:, 1][None] <= levels[:, None] + 1e-12
        return np.where(within, points[:, 0][None], np.inf).min(axis=1)

    for gained, future in zip(gains(now, futures, 0), futures, strict=True):
        expected = (best(now) - best(np.vstack([now, future]))).mean()
        assert gained == pytest.approx(expected, abs=1e-4)
    assert gains(now, now[None], 0) == pytest.approx([0.0], abs=1e-12)


def test_with_three_objectives_it_is_the_share_of_the_hypervolume() -> None:
    rng = np.random.default_rng(1)
    now, future = rng.random((20, 3)), rng.random((5, 3)) * 0.5
    corner = np.quantile(now, 0.75, axis=0)
    before = hypervolume(now, corner, ("min",) * 3)
    after = hypervolume(np.vstack([now, future]), corner, ("min",) * 3)
    assert gains(now, future[None], 0) == pytest.approx([(after - before) / before])


def test_with_one_objective_it_is_the_best() -> None:
    now = np.array([[3.0], [2.0]])
    futures = np.array([[[1.5], [5.0]], [[2.5], [2.1]]])
    assert gains(now, futures, 0).tolist() == [0.5, 0.0]


def smooth(params: dict[str, Any]) -> float:
    return -sum((params[f"x{k}"] - 3 - k) ** 2 for k in range(4)) / 10


@pytest.fixture
def searched() -> tuple[EHVISampler, optuna.Study]:
    distributions = {f"x{k}": optuna.distributions.IntDistribution(0, 9) for k in range(4)}
    known = lambda params: {1: float(sum(params.values()))}  # noqa: E731
    sampler = EHVISampler(3, Problem(distributions=distributions, known=known))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    evaluate(study, 20)
    return sampler, study


def evaluate(study: optuna.Study, count: int) -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        params = {f"x{k}": trial.suggest_int(f"x{k}", 0, 9) for k in range(4)}
        return smooth(params), float(sum(params.values()))

    study.optimize(objective, n_trials=count)


def test_the_gains_to_come_lie_within_those_expected(
    searched: tuple[EHVISampler, optuna.Study],
) -> None:
    sampler, study = searched
    signs = np.array([-1.0, 1.0])
    futures = sampler.futures(study, 20)
    assert futures is not None
    assert futures.shape == (64, 20, 2)
    now = np.array([trial.values for trial in study.trials]) * signs
    expected = gains(now, futures * signs, 0)
    evaluate(study, 20)
    then = np.array([trial.values for trial in study.trials]) * signs
    (came,) = gains(now, then[None], 0)
    assert came > 0
    assert np.quantile(expected, 0.05) <= came <= np.quantile(expected, 0.95)


def test_futures_are_certain_of_metrics_known_by_arithmetic(
    searched: tuple[EHVISampler, optuna.Study],
) -> None:
    sampler, study = searched
    futures = sampler.futures(study, 5)
    assert futures is not None
    assert np.ptp(futures[:, :, 1], axis=0).max() == 0.0
    assert np.ptp(futures[:, :, 0], axis=0).min() > 0.0
    again = EHVISampler(3, sampler._problem).futures(study, 5)
    np.testing.assert_array_equal(again, futures)  # by the seed and the trials alone


def test_a_search_tells_what_going_on_is_expected_to_bring(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    url = store.engine.url.render_as_string()
    _, ended, status, ahead = searches.run(asked(trials=14), url, lambda *_: InProcess())
    assert ahead is not None
    assert (ahead.metric, ahead.at_equal, ahead.trials) == ("accuracy", "params", 14)
    assert 0 <= ahead.low <= ahead.mean <= ahead.high < 1
    searches._tell_next(asked(trials=14), url, status, ahead)
    line = capsys.readouterr().err.splitlines()[-1]
    assert "14 more trials, about " in line
    assert f"best accuracy at given params by {100 * ahead.mean:.2f} points on average" in line
    assert f"(80 % interval {100 * ahead.low:.2f} to {100 * ahead.high:.2f})" in line
    nothing = dataclasses.replace(ahead, mean=0.0, low=0.0, high=4e-6)
    searches._tell_next(asked(trials=14), url, status, nothing)
    assert "not expected to improve the front)" in capsys.readouterr().err
    more = outlook(asked(trials=14), store.find_study("s"), ended, 1_000)
    assert more is not None
    assert more.trials == MOST


def test_no_gain_is_forecast_beyond_what_the_metric_can_be(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(store, asked(trials=14))
    study = store.find_study("s")
    best = [row for row in rows(store) if row.evaluated]
    left = 1.0 - max(row.value("accuracy") for row in best)

    def wild(self: EHVISampler, study: optuna.Study, count: int) -> Any:
        drawn = np.random.default_rng(0).normal(0.5, 3.0, size=(64, count, 2))
        drawn[..., 1] = min(math.log10(row.params) for row in best)
        return drawn

    monkeypatch.setattr(EHVISampler, "futures", wild)
    ahead = outlook(asked(), study, rows(store), 20)
    assert ahead is not None
    assert left < ahead.mean <= ahead.high < 1.0


def test_there_is_no_outlook_without_a_model_of_all_objectives(store: Store) -> None:
    run(store, asked(trials=4))
    study = store.find_study("s")
    assert outlook(asked(), study, rows(store), 4) is None  # before there is a model
    run(store, asked(trials=14))
    ended = rows(store)
    assert outlook(asked(), study, ended, 4) is not None
    assert outlook(plan(sampler="random"), study, ended, 4) is None
    bound = dataclasses.replace(study, constraints={"latency_ms": "<= 5"})
    assert outlook(asked(), bound, ended, 4) is None
    alone = dataclasses.replace(study, objectives=(("accuracy", "max"),))
    best = outlook(asked(space=small_space(objectives={"accuracy": "max"})), alone, ended, 4)
    assert best is not None
    assert best.at_equal == ""
    assert math.isfinite(best.mean)


def proposed(seconds: Any, objectives: int = 2) -> list[dict[str, Any]]:
    """What is proposed where time is paid, after ten draws and 14 proposals."""
    distributions = {f"x{k}": optuna.distributions.IntDistribution(0, 9) for k in range(4)}
    known = (lambda params: {1: float(sum(params.values()))}) if objectives == 2 else nothing
    problem = Problem(distributions=distributions, known=known, seconds=seconds)
    directions = ["maximize", "minimize"][:objectives]
    study = optuna.create_study(directions=directions, sampler=EHVISampler(5, problem))
    for _ in range(24):
        trial = study.ask()
        params = {name: trial.suggest_int(name, 0, 9) for name in distributions}
        study.tell(trial, [smooth(params), float(sum(params.values()))][:objectives])
    return [trial.params for trial in study.trials]


def test_where_time_is_paid_what_takes_less_comes_first() -> None:
    plain = proposed(None)
    assert proposed(lambda _: 7.0) == plain
    steep = proposed(lambda params: 10.0 ** params["x0"])
    assert steep[:10] == plain[:10]  # draws
    mean = lambda of: float(np.mean([params["x0"] for params in of[10:]]))  # noqa: E731
    assert mean(steep) < mean(plain) - 0.5
    assert proposed(lambda params: 10.0 ** params["x0"], 1) == proposed(None, 1)
