"""The noise of an accuracy is estimated before any network is trained twice."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
import test_search
from optuna.distributions import IntDistribution
from scipy.optimize import approx_fprime

from nas.driver import noise
from nas.samplers.ehvi import EHVISampler
from nas.samplers.gp import fit, objective
from nas.samplers.problem import Problem
from nas.store import Store

RNG = np.random.default_rng


@pytest.mark.parametrize(
    ("accuracies", "known", "expected"),
    [
        ([358 / 359, 353 / 359], 1, 359),
        ([0.5, 0.75, 1.0], 1, 4),
        ([1 / 3], 120, 120),
        ([1 / 7], 120, 840),
        ([0.1234567890123], 1, 0),  # a share of nothing that is counted
        ([0.5], 0, 0),  # and none is found afterwards
        ([999_999 / 1_000_000, 999_998 / 999_999], 1, 0),  # too many
        ([], 1, 1),
    ],
)
def test_accuracies_tell_of_how_many_images_they_are_shares(
    accuracies: list[float], known: int, expected: int
) -> None:
    assert noise.images(accuracies, known) == expected


def test_the_variance_is_that_of_calibrated_trainings() -> None:
    """Trainings that are wrong about an image with its own probability, as often as they say: their
    agreement with each other is their accuracy, and the error's variance is half of error / n."""
    rng = RNG(0)
    wrong = rng.beta(0.15, 3.0, 4000)  # of each image, whose true label is drawn by it
    label = rng.random(4000) < wrong
    trainings = rng.random((3000, 4000)) < wrong
    errors = (trainings != label).mean(axis=1)
    told = noise.variance(np.array([1 - errors.mean()]), 4000)
    assert told[0] == pytest.approx(errors.var(), rel=0.15)


def test_an_evaluators_noise_is_not_known(store: Store) -> None:
    plan = test_search.plan(trials=1)
    assert plan.job.evaluator
    told = noise.of_objectives(plan.row(), lambda: 100)
    assert told(0, np.array([0.9])) is None


def test_the_fit_follows_its_gradient_where_noise_differs() -> None:
    rng = RNG(1)
    x, y, ratios = rng.random((25, 3)), rng.standard_normal(25), rng.uniform(0.2, 5.0, 25)
    loss = objective(x, np.arange(3), y, ratios=ratios)
    theta = np.array([0.5, -1.0, 0.2, 0.1, -1.0, 1.0, -1.5])
    numeric = approx_fprime(theta, lambda t: loss(t)[0], 1e-6)
    np.testing.assert_allclose(loss(theta)[1], numeric, rtol=1e-3, atol=1e-3)


def test_the_expected_noise_is_kept_where_the_data_do_not_contradict_it() -> None:
    rng = RNG(2)
    x, y = rng.random((12, 4)), rng.standard_normal(12)
    for variance in (0.001, 0.1):
        settings = fit(x, np.arange(4), y, noise=np.full(12, variance))
        assert variance / 3 < settings.noise < variance * 3


@pytest.mark.parametrize("images", [200, 1000])
def test_intervals_hold_what_other_trainings_would_give(images: int) -> None:
    """Networks whose error falls with their size, each measured once on so many images."""
    rng, names = RNG(3), [f"n{k}" for k in range(6)]
    distributions = {name: IntDistribution(1, 4) for name in names}
    told = noise.variance
    problem = Problem(
        distributions=dict(distributions), noise=lambda _, values: told(values, images)
    )
    inside: list[bool] = []
    for _ in range(12):
        sizes = rng.integers(1, 5, (24, 6))
        own = 0.15 * rng.standard_normal(24)
        error = 0.3 * np.exp(-0.12 * sizes @ np.array([3, 2, 1, 1, 0, 0]) + own)
        measured = 1 - np.clip(error + rng.standard_normal(24) * np.sqrt(error / 2 / images), 0, 1)
        study = optuna.create_study(direction="maximize")
        for values, value in zip(sizes.tolist(), measured.tolist(), strict=True):
            params = dict(zip(names, values, strict=True))
            study.add_trial(
                optuna.trial.create_trial(
                    params=params, distributions=dict(distributions), value=value
                )
            )
        believed = EHVISampler(0, problem).believed(study, study.get_trials())
        assert believed is not None
        low, high = (part[:, 0] for part in believed.interval(0.8))
        inside += list((low <= 1 - error) & (1 - error <= high))
    assert 0.65 < np.mean(inside) < 0.95
