"""The audit: training-free scores against their formulas, verdicts on data whose truth is known."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import nn

import nas
from nas.driver import audit as audits
from nas.driver.audit import Subject, audit, judge, right
from nas.errors import StudyError
from nas.job import Job, Recipe
from nas.spaces.space import read_space
from nas.training.indicators import INDICATORS, gradient_norm, naswot, synflow

LINEAR = nas.parse("INPUT(1, 4, 4) -> FLATTEN -> FC(5) -> FC(3)")
RELU = nas.parse("INPUT(1, 4, 4) -> FLATTEN -> FC(5) -> RELU -> FC(3)")
WHOLE = nas.parse(
    "INPUT(1, 8, 8) -> CONV(8) -> BN -> RELU -> RESIDUAL(8) -> DROPOUT -> GAP -> FC(10)"
)
X = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def weights(module: nn.Module) -> list[np.ndarray]:
    return [p.detach().double().numpy() for p in module.parameters() if p.ndim > 1]


# --- training-free scores ------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [LINEAR, RELU], ids=["linear", "relu"])
def test_synflow_is_the_product_of_absolute_weights_once_for_each_layer(
    architecture: nas.Architecture,
) -> None:
    module = nas.build(architecture, seed=1)
    first, second = map(np.abs, weights(module))
    flow = np.ones(3) @ second @ first @ np.ones(16)
    assert synflow(module, X, Y) == pytest.approx(math.log(2 * flow))


def test_naswot_counts_the_activations_on_which_two_images_agree() -> None:
    module = nas.build(RELU, seed=1)
    linear = next(m for m in module.modules() if isinstance(m, nn.Linear))
    codes = (linear(X.flatten(1)) > 0).int().numpy()
    kernel = [[5 - np.sum(a != b) for b in codes] for a in codes]
    sign, logarithm = np.linalg.slogdet(kernel)
    expected = logarithm if sign > 0 else -math.inf
    assert naswot(module, X, Y) == pytest.approx(expected)
    assert naswot(nas.build(LINEAR), X, Y) == -math.inf


def test_the_gradient_norm_is_that_of_finite_differences() -> None:
    module = nas.build(LINEAR, seed=1).double()
    x = X.double()
    total = 0.0
    for parameter in module.parameters():
        squares = 0.0
        for place in np.ndindex(*parameter.shape):
            losses = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter[place] += step
                    losses.append(float(nn.functional.cross_entropy(module(x), Y)))
                    parameter[place] -= step
            squares += ((losses[0] - losses[1]) / 2e-5) ** 2
        total += math.sqrt(squares)
    assert gradient_norm(module, x, Y) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("name", INDICATORS)
def test_a_score_repeats_and_leaves_the_network_as_it_was(name: str) -> None:
    module = nas.build(WHOLE, seed=1)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(8)
    first = INDICATORS[name](module, x, y)
    assert math.isfinite(first)
    assert INDICATORS[name](module, x, y) == first
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    assert module.training


# --- verdicts ------------------------------------------------------------------------------------


def subjects(count: int = 12) -> list[Subject]:
    """Params rank at random, synflow as the end does; 7 epochs nearly do, 2 do not at all."""
    rng = random.Random(3)
    found = []
    for n in range(count):
        final = 0.5 + 0.02 * n
        scores = {2: rng.random(), 7: final - 0.1 + 0.01 * rng.random(), 20: final}
        noise = {name: rng.random() for name in ("params", "macs", "naswot", "gradient norm")}
        found.append(Subject(LINEAR, scores, noise | {"synflow": float(n)}, {}))
    return found


def test_the_cheapest_rung_to_trust_is_named() -> None:
    found = judge(subjects())
    assert found.trusted == 7
    assert found.better == ("synflow",)
    signals = {signal.name: signal for signal in found.signals}
    assert list(signals) == [*subjects()[0].free, "2 epochs", "7 epochs"]
    final = [s.final for s in found.subjects]
    early = [s.scores[7] for s in found.subjects]
    assert signals["7 epochs"].kendall.value == pytest.approx(
        stats.kendalltau(early, final).statistic
    )
    assert signals["7 epochs"].spearman.value == pytest.approx(
        stats.spearmanr(early, final).statistic
    )
    for signal in found.signals:
        for rank in (signal.kendall, signal.spearman):
            assert -1 <= rank.low <= rank.value + 1e-9
            assert rank.value <= rank.high + 1e-9 <= 1 + 1e-8


def test_correlations_are_scipys_with_ties_and_infinities() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        x, y = rng.integers(6, size=(2, 9)).astype(float)
        x[0] = -math.inf
        assert audits.kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
        assert audits.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert audits.kendall(np.ones(9), y) == audits.spearman(np.ones(9), y) == 0


def test_pairs_in_the_right_order_are_counted_without_ties() -> None:
    values, final = np.array([1.0, 1.0, 2.0, 3.0, 4.0]), np.array([0.1, 0.2, 0.3, 0.3, 0.2])
    pairs = [(a, b) for a in range(5) for b in range(a)]
    compared = [(a, b) for a, b in pairs if values[a] != values[b] and final[a] != final[b]]
    agree = [(values[a] > values[b]) == (final[a] > final[b]) for a, b in compared]
    assert right(values, final) == sum(agree) / len(compared) == 5 / 7
    assert math.isnan(right(np.ones(3), np.arange(3.0)))


def test_where_no_rung_separates_the_networks_none_is_trusted() -> None:
    same = [
        dataclasses.replace(s, scores={2: 0.5, 20: s.final}, free=s.free | {"synflow": 1.0})
        for s in subjects()
    ]
    found = judge(same)
    assert (found.trusted, found.better) == (None, ())


def test_few_in_the_right_order_may_be_so_by_chance() -> None:
    """Against all rankings of six, each weighed by its discordant pairs."""
    orders = list(itertools.permutations(range(6)))
    taus = np.array([stats.kendalltau(order, range(6)).statistic for order in orders])
    discordant = (1 - taus) * 15 / 2

    def weighed(q: float) -> np.ndarray:
        weights = q**discordant
        return weights / weights.sum()

    q = optimize.brentq(lambda q: weighed(q)[0] - 0.025, 0.01, 1.0)
    assert audits.least(6) == pytest.approx(weighed(q) @ taus)
    assert audits.least(4) == 0.0
    assert 0.68 < audits.least(8) < 0.69
    order = np.arange(6.0)
    for rank in audits.ranks(order, order):
        assert (rank.value, rank.low, rank.high) == (1.0, audits.least(6), 1.0)
    for rank in audits.ranks(order, -order):
        assert (rank.value, rank.low, rank.high) == (-1.0, -1.0, -audits.least(6))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 95% intervals of the correlation of independent numbers about 95% hold 0; few subjects
    make percentile intervals somewhat too narrow."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        rank = audits.interval(audits.spearman, rng.normal(size=15), rng.normal(size=15))
        held += rank.low <= 0 <= rank.high
    assert held >= 175


# --- the whole -----------------------------------------------------------------------------------


def test_an_audit_trains_different_architectures_to_every_rung() -> None:
    space = read_space(
        {
            "name": "perceptron",
            "pattern": "INPUT -> FLATTEN -> FC(w) -> RELU -> FC",
            "where": {"w": {"int": [1, 60]}},
            "constraints": {"params": "<= 3000"},
        },
        "a test",
        (1, 8, 8),
        10,
    )
    job = Job(pattern="", epochs=4, recipe=Recipe(batch=128))
    told: list[int] = []
    found = audit(space, job, (2, 4), 5, lambda number, _: told.append(number))
    assert told == [0, 1, 2, 3, 4]
    assert len({s.architecture.fingerprint for s in found.subjects}) == 5
    for subject in found.subjects:
        assert subject.architecture.params <= 3000
        assert list(subject.scores) == [2, 4]
        assert set(subject.free) == {"params", "macs", *INDICATORS}
    again = audit(space, job, (2, 4), 5)
    assert [s.scores for s in again.subjects] == [s.scores for s in found.subjects]
    with pytest.raises(StudyError, match="count is 4: an audit needs 5"):
        audit(space, job, (2, 4), 4)
    with pytest.raises(StudyError, match=r"gave \d\d architectures that meet its constraints"):
        audit(space, job, (2, 4), 100)
