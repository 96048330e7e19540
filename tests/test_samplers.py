"""The samplers in ordinary Optuna studies, and our mathematics against other derivations."""

from __future__ import annotations

import itertools
import math
import pickle
import random
import warnings
from collections import Counter
from typing import Any

import numpy as np
import optuna
import pytest
import scipy.stats
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import Trial, TrialState
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern
from threadpoolctl import threadpool_info, threadpool_limits

from nas.pareto import hypervolume
from nas.samplers import SAMPLERS
from nas.samplers.acquisition import Marginal, improvement
from nas.samplers.calibration import Calibration
from nas.samplers.ehvi import EHVISampler, one_thread
from nas.samplers.encoding import Encoding, keys, learn_rules
from nas.samplers.gp import GP, Settings, fit
from nas.samplers.problem import Problem
from nas.samplers.warp import Warp

optuna.logging.set_verbosity(optuna.logging.ERROR)


def network(trial: Trial) -> tuple[float, float]:
    """A conditional space with an accuracy that saturates in what it costs."""
    depth = trial.suggest_int("M", 1, 3)
    cost, accuracy = 0.0, 0.0
    for stage in range(1, depth + 1):
        block = trial.suggest_categorical(f"block[{stage}]", ["plain", "residual", "dense"])
        width = trial.suggest_categorical(f"width[{stage}]", [16, 32, 64])
        rate = (
            trial.suggest_float(f"growth[{stage}]", 0.1, 1.0, log=True) if block == "dense" else 0
        )
        cost += width * (1 + rate) * stage
        accuracy += math.log(width) * {"plain": 0.6, "residual": 1.0, "dense": 0.9 + rate}[block]
    return 1 - math.exp(-accuracy / 6), cost


def study(name: str, seed: int = 0, *directions: str) -> Study:
    return optuna.create_study(directions=directions, sampler=SAMPLERS[name](seed))


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_sampler_runs_a_plain_study_of_a_conditional_space(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        several = study(name, 0, "maximize", "minimize")
        several.optimize(network, n_trials=12)
        one = study(name, 0, "maximize")
        one.optimize(lambda t: network(t)[0], n_trials=12)
    assert all(t.state == TrialState.COMPLETE for t in several.trials + one.trials)


# The mathematics.


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_improvement_equals_a_simulation_of_it(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    front, reference = rng.random((12, objectives)), np.full(objectives, 1.1)
    mean = rng.random((4, objectives)) * 0.8
    deviation = rng.random((4, objectives)) * 0.4
    deviation[:, -1] = 0.0 if objectives > 1 else deviation[:, -1]  # known beforehand
    marginals = [Marginal(*b) for b in zip(mean.T, deviation.T, strict=True)]
    got = improvement(front, reference, marginals)
    directions = ["min"] * objectives
    before = hypervolume(front, reference, directions)  # type: ignore[arg-type]
    for k in range(4):
        drawn = mean[k] + deviation[k] * rng.standard_normal((4000, objectives))
        gains = [
            hypervolume(np.vstack([front, point]), reference, directions) - before  # type: ignore[arg-type]
            for point in drawn
        ]
        error = np.std(gains) / math.sqrt(len(gains))
        assert abs(got[k] - np.mean(gains)) <= 4 * error + 1e-4


def test_improvement_through_a_warp_is_in_the_objectives_units() -> None:
    rng = np.random.default_rng(0)
    values = np.exp(rng.standard_normal(200))
    warp = Warp.of(values)
    front, reference = np.quantile(values, np.linspace(0.02, 0.9, 40))[:, None], np.array([9.0])
    got = improvement(
        front, reference, [Marginal(np.array([-0.5, -2.0]), np.array([0.8, 0.3]), warp)]
    )
    for k, (mean, deviation) in enumerate([(-0.5, 0.8), (-2.0, 0.3)]):
        drawn = warp.inverse(mean + deviation * rng.standard_normal(100_000))
        assert got[k] == pytest.approx(np.maximum(front.min() - drawn, 0).mean(), rel=0.15)


def test_the_posterior_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    x, y, new = rng.random((30, 3)), rng.standard_normal(30), rng.random((7, 3))
    weights = np.array([0.5, 3.0, 9.0])
    noise = 0.1
    ours = GP.given(Settings(weights, 2.0, 0.5, 7.0, noise), np.arange(3), x, y)
    kernel = ConstantKernel(2.0) * Matern(1 / np.sqrt(weights), nu=2.5)
    kernel += ConstantKernel(0.5) * Matern(1 / np.sqrt(7.0 * weights), nu=0.5)
    peer = GaussianProcessRegressor(kernel, alpha=noise + 1e-6, optimizer=None).fit(x, y)
    for rows, (mean, deviation) in [(new, ours.predict(new)), (x, ours.observed())]:
        expected, spread = peer.predict(rows, return_std=True)
        np.testing.assert_allclose(mean, expected, atol=1e-5)
        np.testing.assert_allclose(deviation, spread, atol=1e-5)
    _, joint = peer.predict(np.vstack([x, new]), return_cov=True)
    np.testing.assert_allclose(ours.covariance_with(new), joint[: len(x), len(x) :], atol=1e-5)


def test_believing_leaves_the_mean_and_narrows_the_deviation() -> None:
    rng = np.random.default_rng(2)
    x, y, more, new = (rng.random(s) for s in [(20, 2), 20, (5, 2), (9, 2)])
    gp = GP.given(Settings(np.ones(2), 1.0, 0.2, 5.0, 0.01), np.arange(2), x, y)
    grown = gp.believing(more)
    anew = GP.given(gp.settings, gp.scales, np.vstack([x, more]), np.append(y, gp.mean(more)))
    np.testing.assert_allclose(grown.predict(new), anew.predict(new), atol=1e-7)
    np.testing.assert_allclose(grown.mean(new), gp.mean(new), atol=1e-9)
    assert (grown.predict(new)[1] <= gp.predict(new)[1] + 1e-9).all()


def test_rows_weighed_together_are_what_the_process_believes_of_them() -> None:
    rng = np.random.default_rng(4)
    x, y, rows = (rng.random(s) for s in [(20, 2), 20, (6, 2)])
    gp = GP.given(Settings(np.ones(2), 1.0, 0.2, 5.0, 0.01), np.arange(2), x, y)
    joint = gp.joint(rows)
    for told in ([], [3], [3, 1]):
        mean, deviation = gp.believing(rows[told]).predict(rows) if told else gp.predict(rows)
        np.testing.assert_allclose(joint.mean, mean, atol=1e-5)
        np.testing.assert_allclose(joint.deviation, deviation, atol=1e-5)
        joint = joint.believing(3 if not told else 1)


def test_fitting_tells_noise_from_signal_and_what_matters_from_what_does_not() -> None:
    rng = np.random.default_rng(3)
    x = rng.random((120, 3))
    signal = np.sin(5 * x[:, 0])
    signal = (signal - signal.mean()) / signal.std()
    exact = fit(x, np.arange(3), signal)
    noisy = fit(x, np.arange(3), signal + 0.5 * rng.standard_normal(120))
    assert exact.noise < 1e-4
    assert noisy.noise == pytest.approx(0.25, rel=0.4)
    assert exact.weights[0] > 100 * exact.weights[1:].max()


def test_warp_is_yeo_johnson_and_has_an_inverse() -> None:
    values = np.random.default_rng(4).lognormal(sigma=0.5, size=300)
    warp = Warp.of(values)
    z = (values - warp.centre) / warp.scale
    assert warp.power == pytest.approx(scipy.stats.yeojohnson_normmax(z), abs=0.15)
    expected = scipy.stats.yeojohnson(z, warp.power)
    np.testing.assert_allclose(warp(values) * warp.deviation + warp.mean, expected, atol=1e-9)
    np.testing.assert_allclose(warp.inverse(warp(values)), values, rtol=1e-6)


# The encoding.

MIXED = {
    "M": IntDistribution(1, 3),
    "block[1]": CategoricalDistribution(["plain", "dense"]),
    "width[1]": CategoricalDistribution([16, 64, 32]),
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "steps": IntDistribution(1, 1000, log=True),
    "pool": CategoricalDistribution([True, False]),
    "one": CategoricalDistribution(["single"]),
}


def test_encoded_parameter_sets_come_back_unchanged_and_within_their_domains() -> None:
    encoding = Encoding.of(MIXED)
    rng = np.random.default_rng(0)
    rows = encoding.draw(rng, 200)
    rows[::3, 3] = np.nan
    for row in np.vstack([rows, encoding.mutate(rng, rows)]):
        params = encoding.params(row)
        assert all(MIXED[n]._contains(MIXED[n].to_internal_repr(v)) for n, v in params.items())
        assert keys(encoding.row(params)[None]) == keys(row[None])


def test_choices_that_are_numbers_are_ordered() -> None:
    encoding = Encoding.of({"width": CategoricalDistribution([16, 64, 32])})
    x, scales = encoding.embed(np.array([[0.0], [1.0], [2.0]]))
    assert x[:, scales == 0].ravel().tolist() == [0.0, 1.0, 0.5]


def test_every_whole_number_of_a_logarithmic_range_has_a_column_of_its_own() -> None:
    encoding = Encoding.of({"n": IntDistribution(1, 8, log=True)})
    rows = np.arange(1.0, 9.0)[:, None]
    assert (encoding.every() == rows).all()
    x, scales = encoding.embed(rows)
    named = x[:, scales == 1] > 0
    assert (named.sum(axis=1) == 1).all()
    assert (named.sum(axis=0)[:-1] == 1).all()  # the last is for an inactive parameter


def test_a_mutation_changes_little() -> None:
    encoding = Encoding.of(MIXED)
    rng = np.random.default_rng(1)
    rows = encoding.draw(rng, 2000)
    changed = (encoding.mutate(rng, rows) != rows).sum(axis=1)
    assert 0.5 < changed.mean() < 2.0
    assert changed.max() <= len(encoding.parameters)


def test_rules_of_activity_are_learned_from_rows() -> None:
    s = study("random", 0, "maximize", "minimize")
    s.optimize(network, n_trials=60)
    names = ["M", *(f"{n}[{k}]" for k in (1, 2, 3) for n in ("block", "width", "growth"))]
    found = {n: d for t in s.trials for n, d in t.distributions.items()}
    encoding = Encoding.of({n: found[n] for n in names})
    rows = np.array([encoding.row(t.params) for t in s.trials])
    rules = learn_rules(rows[:40])
    whole = np.where(np.isnan(rows), 0.5, rows)
    masked = Encoding(encoding.parameters, rules).masked(np.where(np.isnan(rows), 0.0, whole))
    assert (np.isnan(masked) == np.isnan(rows)).mean() > 0.99


# The sampler in studies.


def sets(s: Study) -> Counter[str]:
    return Counter(repr(sorted(t.params.items())) for t in s.trials)


def grid(trial: Trial) -> tuple[float, float]:
    x = [trial.suggest_int(f"x{k}", 0, 3) for k in range(3)]
    return -sum((v - 2) ** 2 for v in x) + 0.1 * x[0] * x[1], float(sum(x))


def powers(trial: Trial) -> tuple[float, float]:
    n, k = trial.suggest_int("n", 1, 16, log=True), trial.suggest_int("k", 0, 1)
    return n / (n + 3) - 0.1 * k, float(n)


@pytest.mark.parametrize(("of", "count"), [(grid, 64), (powers, 32)])
def test_no_set_is_asked_twice_until_all_were(of: Any, count: int) -> None:
    s = study("default", 0, "maximize", "minimize")
    s.optimize(of, n_trials=count)
    assert max(sets(s).values()) == 1
    s.optimize(of, n_trials=3)  # nothing new is left, and it still answers
    assert len(s.trials) == count + 3


def test_pending_trials_are_accounted_for() -> None:
    s = study("default", 0, "maximize", "minimize")
    s.optimize(grid, n_trials=12)
    batch = [s.ask() for _ in range(20)]
    for t in batch:
        for k in range(3):
            t.suggest_int(f"x{k}", 0, 3)
    assert max(sets(s).values()) == 1


def test_several_proposals_at_once_are_those_of_asks_one_by_one_while_all_are_under_way() -> None:
    """The first is the ask's own. On a grid that is weighed whole, the others are what asks would
    propose, too; more than are left there are not."""
    s = optuna.create_study(directions=["maximize", "minimize"], sampler=EHVISampler(3))
    s.optimize(grid_of_two, n_trials=30)
    at_once = EHVISampler(3).propose(s, 4)
    assert len({tuple(sorted(p.items())) for p in at_once}) == 4
    one_by_one = []
    for _ in range(4):
        trial = s.ask()
        grid_of_two(trial)
        one_by_one.append(trial.params)
    assert at_once == one_by_one
    s.optimize(grid_of_two, n_trials=25)
    assert len(EHVISampler(3).propose(s, 50)) == 5


def grid_of_two(trial: Trial) -> tuple[float, float]:
    a, b = trial.suggest_int("a", 0, 7), trial.suggest_int("b", 0, 7)
    return math.sin(a) + b**0.5, a + b


def test_linear_algebra_takes_one_thread_and_gives_the_others_back() -> None:
    def threads() -> set[int]:
        return {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"}

    with threadpool_limits(2, "blas"):
        with one_thread():
            assert threads() == {1}
        assert threads() == {2}


def test_threads_share_a_sampler() -> None:
    s = study("default", 0, "maximize", "minimize")
    s.optimize(network, n_trials=40, n_jobs=4)
    assert all(t.state == TrialState.COMPLETE for t in s.trials)


GRID = {f"x{k}": IntDistribution(0, 3) for k in range(3)}


@pytest.mark.parametrize(
    "problem", [None, Problem(distributions=GRID, known=lambda p: {1: float(sum(p.values()))})]
)
def test_a_sampler_made_anew_goes_on_as_the_old_one(problem: Problem | None) -> None:
    directions = ["maximize", "minimize"]
    s = optuna.create_study(directions=directions, sampler=EHVISampler(5, problem))
    s.optimize(grid, n_trials=33)
    again = optuna.create_study(directions=directions, sampler=EHVISampler(5, problem))
    again.add_trials(s.trials[:25])
    again.optimize(grid, n_trials=8)
    assert [t.params for t in again.trials] == [t.params for t in s.trials]


def test_a_pickled_sampler_goes_on_as_the_one_that_it_was_made_of() -> None:
    pickled, whole = (study("default", 5, "maximize", "minimize") for _ in range(2))
    whole.optimize(grid, n_trials=14)
    pickled.optimize(grid, n_trials=12)
    pickled.sampler = pickle.loads(pickle.dumps(pickled.sampler))
    pickled.optimize(grid, n_trials=2)
    assert [t.params for t in pickled.trials] == [t.params for t in whole.trials]


def test_what_failed_is_not_asked_again_and_is_avoided() -> None:
    def fragile(trial: Trial) -> tuple[float, float]:
        x = [trial.suggest_categorical(f"op{k}", ["a", "b", "c", "d"]) for k in range(5)]
        if x.count("a") != 1:  # 60% of the space
            raise optuna.TrialPruned
        return float(x.count("b") + 0.5 * x.count("c")), float(x.count("b"))

    s = study("default", 0, "maximize", "minimize")
    s.optimize(fragile, n_trials=80)
    assert max(sets(s).values()) == 1
    late = [t.state == TrialState.COMPLETE for t in s.trials[40:]]
    assert np.mean(late) > 0.7


def test_constraints_are_kept() -> None:
    def limited(trial: Trial) -> float:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        trial.set_constraint("sum", x + y - 0.8)
        return x + 0.5 * y

    s = study("default", 0, "maximize")
    s.optimize(limited, n_trials=40)
    assert s.best_value > 0.77
    assert np.median([t.constraints["sum"] for t in s.trials[20:]]) < 0.05


def test_it_learns_in_spite_of_a_diverged_training_and_of_values_that_are_none() -> None:
    def diverging(trial: Trial) -> float:
        x = [trial.suggest_int(f"x{k}", 0, 9) for k in range(4)]
        if trial.number == 3:
            return -1e9
        if trial.number == 4:
            return float("nan")
        if trial.number == 5:
            return float("-inf")
        return -float(sum((v - 6) ** 2 for v in x))

    s = study("default", 0, "maximize")
    s.optimize(diverging, n_trials=45, catch=())
    assert s.best_value >= -1


def test_spaces_that_cannot_be_modelled_get_uniform_draws() -> None:
    s = study("default", 0, "maximize")
    s.optimize(lambda t: 1.0, n_trials=12)
    s = study("default", 0, "maximize")
    s.optimize(lambda t: float(t.suggest_int(f"x{t.number}", 0, 5)), n_trials=15)
    s = study("default", 0, "maximize")
    s.optimize(lambda t: float(t.suggest_int("x", 0, t.number) * 0), n_trials=15)
    assert all(t.state == TrialState.COMPLETE for t in s.trials)


CODES = {f"op{k}": CategoricalDistribution(["skip", "small", "large"]) for k in range(6)}
PRICE = {"skip": 0.0, "small": 1.0, "large": 3.0}


def price(params: dict[str, Any]) -> float:
    return sum(PRICE[params[name]] for name in CODES)


def worth(params: dict[str, Any]) -> float:
    places = range(1, 7)
    return sum(k * PRICE[params[f"op{k - 1}"]] ** 0.5 for k in places) / 30


def test_a_problem_rejects_before_any_trial() -> None:
    known = lambda params: {1: price(params)} if price(params) <= 9 else None  # noqa: E731
    sampler = EHVISampler(0, Problem(distributions=CODES, known=known))
    s = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for _ in range(40):
        t = s.ask(CODES)
        assert price(t.params) <= 9
        s.tell(t, [worth(t.params), price(t.params)])
    assert max(sets(s).values()) == 1


def test_a_problem_sees_parameters_that_have_one_value() -> None:
    distributions = CODES | {"stride": IntDistribution(2, 2)}
    problem = Problem(
        distributions=distributions, known=lambda p: {1: price(p) / float(p["stride"])}
    )
    s = optuna.create_study(
        directions=["maximize", "minimize"], sampler=EHVISampler(0, problem, startup=3)
    )
    for _ in range(6):
        t = s.ask(distributions)
        assert t.params["stride"] == 2
        s.tell(t, [worth(t.params), price(t.params) / 2])


def test_a_problem_completes_conditional_sets() -> None:
    distributions = {
        "M": IntDistribution(1, 4),
        **{f"w{k}": IntDistribution(0, 2) for k in range(4)},
    }

    def complete(params: dict[str, Any], rng: random.Random) -> dict[str, Any]:
        depth = params.get("M", rng.randint(1, 4))
        return {"M": depth} | {
            f"w{k}": params.get(f"w{k}", rng.randint(0, 2)) for k in range(depth)
        }

    problem = Problem(
        distributions=distributions,
        known=lambda p: {1: float(sum(v for n, v in p.items() if n != "M"))},
        complete=complete,
    )
    sampler = EHVISampler(0, problem)
    s = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for _ in range(30):
        t = s.ask()
        drawn = {"M": t.suggest_int("M", 1, 4)}
        drawn |= {f"w{k}": t.suggest_int(f"w{k}", 0, 2) for k in range(drawn["M"])}
        total = float(sum(v for n, v in drawn.items() if n != "M"))
        s.tell(t, [math.sqrt(total) + 0.01 * drawn["M"], total])
    assert max(sets(s).values()) == 1


@pytest.mark.parametrize("told", [True, False])
def test_it_finds_more_than_random_search_with_three_times_the_trials(told: bool) -> None:
    def found(sampler: optuna.samplers.BaseSampler, trials: int) -> float:
        s = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        for _ in range(trials):
            t = s.ask(CODES)
            s.tell(t, [worth(t.params), price(t.params)])
        return hypervolume([t.values for t in s.trials], [0.0, 18.0], ["max", "min"])

    problem = Problem(distributions=CODES, known=lambda p: {1: price(p)}) if told else None
    ours = [found(EHVISampler(seed, problem), 40) for seed in range(3)]
    random_search = [found(RandomSampler(seed), 120) for seed in range(3)]
    assert np.mean(ours) > np.mean(random_search)


def test_with_three_objectives_no_set_is_asked_twice_and_a_front_is_found() -> None:
    s = study("default", 0, "maximize", "minimize", "minimize")
    for _ in range(30):
        t = s.ask(CODES)
        s.tell(t, [worth(t.params), price(t.params), sum(v == "large" for v in t.params.values())])
    assert max(sets(s).values()) == 1
    assert len(s.best_trials) >= 8


def test_the_posterior_picks_better_than_one_noisy_evaluation() -> None:
    """Regret of the pick, over ten studies of the same candidates evaluated with heavy noise."""
    codes = [dict(zip(CODES, v, strict=True)) for v in itertools.product(PRICE, repeat=6)]
    by_value, by_model = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        s = study("default", seed, "maximize")
        for k in rng.choice(len(codes), 60, replace=False):
            value = worth(codes[k]) + 0.15 * rng.standard_normal()
            s.add_trial(
                optuna.trial.create_trial(params=codes[k], distributions=CODES, value=value)
            )
        means, deviations = s.sampler.posterior(s, s.trials)
        assert means.shape == deviations.shape == (60, 1)
        assert (deviations > 0).all()
        true = np.array([worth(t.params) for t in s.trials])
        by_value.append(true.max() - true[np.argmax([t.value for t in s.trials])])
        by_model.append(true.max() - true[np.argmax(means[:, 0])])
    assert np.mean(by_model) < np.mean(by_value)


def test_known_costs_predict_an_accuracy_that_follows_from_them() -> None:
    """Costs drawn by lot, and an accuracy that follows from them alone."""
    rng = np.random.default_rng(0)
    codes = [dict(zip(CODES, v, strict=True)) for v in itertools.product(PRICE, repeat=6)]
    drawn = rng.lognormal(size=len(codes)).tolist()
    lot = {tuple(code.values()): cost for code, cost in zip(codes, drawn, strict=True)}
    problem = Problem(distributions=CODES, known=lambda p: {1: lot[tuple(p.values())]})
    sampler = EHVISampler(0, problem)
    s = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    trials = [
        optuna.trial.create_trial(
            params=codes[k], distributions=CODES, values=[math.log(drawn[k]), drawn[k]]
        )
        for k in rng.choice(len(codes), 120, replace=False)
    ]
    s.add_trials(trials[:20])
    means, deviations = sampler.posterior(s, trials[20:])
    true = np.array([t.values for t in trials[20:]])
    assert np.corrcoef(means[:, 0], true[:, 0])[0, 1] > 0.9
    assert (means[:, 1] == true[:, 1]).all()
    assert (deviations[:, 1] == 0).all()


def test_the_posterior_of_too_few_trials_is_their_values() -> None:
    s = study("default", 0, "maximize", "minimize")
    s.optimize(grid, n_trials=1)
    means, deviations = s.sampler.posterior(s, s.trials)
    assert means.tolist() == [s.trials[0].values]
    assert np.isnan(deviations).all()


def test_the_gradient_of_the_fit_is_that_of_its_value() -> None:
    from nas.samplers.gp import objective

    rng = np.random.default_rng(6)
    x, y = rng.random((25, 4)), rng.standard_normal(25)
    loss = objective(x, np.array([0, 1, 1, 2]), y)
    for theta in rng.normal(-1.0, 1.0, (5, 7)):
        error = check_grad(lambda p: loss(p)[0], lambda p: loss(p)[1], theta)
        assert error < 1e-3


# Beliefs.

WORTHS = np.array(
    [worth(dict(zip(CODES, v, strict=True))) for v in itertools.product(PRICE, repeat=6)]
)
RNG = np.random.default_rng(0)
TABLES = {
    "fractions": WORTHS / WORTHS.max(),
    "percents": 100 * WORTHS / WORTHS.max(),
    "failed nets": np.where(RNG.random(len(WORTHS)) < 0.1, 10.0, 90 + 5 * WORTHS),
    "crowded at the best": 100 * (1 - np.exp(-12 * WORTHS)),
    "crowded at the worst": np.exp(8 * WORTHS),
    "a tiny range": 0.9 + 1e-9 * WORTHS,
    "constant": np.full(len(WORTHS), 71.0),
    "two values": np.where(np.median(WORTHS) < WORTHS, 1.0, 0.0),
    "a diverged one": np.where(np.arange(len(WORTHS)) % 40 == 7, -1e9, WORTHS),
}


@pytest.mark.parametrize("trials", [12, 50])
@pytest.mark.parametrize("name", TABLES)
def test_believed_values_lie_within_the_range_seen_and_to_both_sides(
    name: str, trials: int
) -> None:
    """Within the range seen and as much to both sides, of networks seen and not; near what was
    measured where that is exact."""
    table = TABLES[name]
    codes = [dict(zip(CODES, v, strict=True)) for v in itertools.product(PRICE, repeat=6)]
    s = study("default", 0, "maximize")
    for k in np.random.default_rng(1).choice(len(codes), trials, replace=False):
        s.add_trial(
            optuna.trial.create_trial(params=codes[k], distributions=CODES, value=float(table[k]))
        )
    others = [
        optuna.trial.create_trial(params=c, distributions=CODES, value=0.0) for c in codes[::5]
    ]
    measured = np.array([t.value for t in s.trials])
    reach = np.ptp(measured) * (1 + 1e-9)
    assert isinstance(s.sampler, EHVISampler)
    for asked in (s.trials, others):
        found = s.sampler.believed(s, asked)
        assert found is not None
        for values in (found.mean, *found.interval(0.95)):
            assert (values >= measured.min() - reach).all()
            assert (values <= measured.max() + reach).all()
        assert np.isfinite(found.deviation).all()
        assert (found.deviation <= 2 * 4 * reach).all()
    if name in ("fractions", "percents", "a tiny range"):
        near = s.sampler.posterior(s, s.trials)[0][:, 0]
        assert np.abs(near - measured).mean() < 0.15 * measured.std()


@pytest.mark.parametrize("name", ["fractions", "percents", "crowded at the best"])
def test_intervals_hold_what_they_say_of_networks_that_were_not_seen(name: str) -> None:
    """With a part of each network's own that no feature tells, over the space and at its top."""
    codes = [dict(zip(CODES, v, strict=True)) for v in itertools.product(PRICE, repeat=6)]
    everywhere, top = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        table = TABLES[name] + 0.2 * TABLES[name].std() * rng.standard_normal(len(codes))
        s = study("default", seed, "maximize")
        trials = [
            optuna.trial.create_trial(params=c, distributions=CODES, value=float(v))
            for c, v in zip(codes, table, strict=True)
        ]
        order = rng.permutation(len(codes))
        s.add_trials([trials[k] for k in order[:50]])
        assert isinstance(s.sampler, EHVISampler)
        found = s.sampler.believed(s, [trials[k] for k in order[50:]])
        assert found is not None
        unseen = table[order[50:]]
        low, high = (end[:, 0] for end in found.interval(0.8))
        held = (low <= unseen) & (unseen <= high)
        everywhere.append(held.mean())
        top.append(held[unseen >= np.quantile(unseen, 0.9)].mean())
    assert 0.7 <= np.mean(everywhere) <= 0.9
    assert 0.6 <= np.mean(top) <= 0.95


def test_where_nothing_is_to_choose_nothing_is_believed() -> None:
    s = study("default", 0, "maximize")
    s.optimize(lambda t: float(t.suggest_int("x", 1, 1) + t.number), n_trials=12)
    assert isinstance(s.sampler, EHVISampler)
    assert s.sampler.believed(s, s.trials) is None


def test_a_calibration_corrects_and_says_where_it_cannot() -> None:
    rng = np.random.default_rng(0)
    sure = Calibration.of(2.0 * rng.standard_normal(200))
    assert 1.4 < sure.factor < 2.1
    assert Calibration.of(1.1 * rng.standard_normal(200)).holds
    assert not Calibration.of(rng.standard_cauchy(200)).holds


def test_luck_is_told_from_what_is_a_networks_own() -> None:
    """The same rough function, measured exactly and with luck."""
    rng = np.random.default_rng(5)
    x = rng.integers(0, 3, (150, 6)) / 2
    d = np.abs(x[:, None] - x[None]).sum(axis=2)
    y = rng.multivariate_normal(np.zeros(150), np.exp(-d) + 1e-9 * np.eye(150))
    exact, noisy = (
        fit(x, np.arange(6), y / y.std() + luck * rng.standard_normal(150)) for luck in (0.0, 0.5)
    )
    assert exact.noise < 0.05
    assert noisy.noise == pytest.approx(0.25, rel=0.6)


def test_a_range_is_taken_for_numbers_where_they_tell_more() -> None:
    encoding = Encoding.of({f"n{k}": IntDistribution(1, 6) for k in range(5)})
    rows = encoding.draw(np.random.default_rng(0), 80)
    x, scales = encoding.embed(rows)
    line = rows @ np.arange(1.0, 6.0)
    by_name = (rows % 2).sum(axis=1)
    for y, numbers in ((line, True), (by_name, False)):
        settings = fit(x, scales, (y - y.mean()) / y.std(), encoding.doubtful)
        assert (settings.weights[encoding.doubtful] == 0).all() == numbers
