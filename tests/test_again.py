"""A search may retrain a network of the front: several trials, shown as one network."""

from __future__ import annotations

import dataclasses
import io
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import test_search
from optuna.distributions import IntDistribution
from rich.console import Console
from scipy.special import ndtri
from scipy.stats import qmc
from test_search import Status, folder  # noqa: F401

from nas.driver import supply
from nas.driver.finalists import choose
from nas.driver.jobs import evaluation_key
from nas.driver.tally import Tally
from nas.driver.tradeoffs import pareto
from nas.language.architecture import Architecture
from nas.pareto import hypervolume
from nas.report.front import stairs, svg
from nas.report.trials import trial_dict, trial_page
from nas.samplers import ehvi, knowing
from nas.samplers.encoding import Encoding
from nas.samplers.evidence import Finished
from nas.samplers.gp import GP, JITTER, Settings
from nas.samplers.model import Model
from nas.store import Store, TrialRow, open_store

TRIALS = 26


def lucky(architecture: Architecture, *, seed: int, **_: Any) -> dict[str, float]:
    own = random.Random(architecture.fingerprint).gauss(0, 0.02)
    luck = random.Random(seed).gauss(0, 0.08)
    return {"accuracy": test_search.accuracy(architecture) + own + luck}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(supply, "LEARNED", 12)
    monkeypatch.setattr(supply, "LATE", 0.7)
    opened = open_store(f"sqlite:///{tmp_path}/record.db")
    yield opened
    opened.close()


def searched(store: Store, trials: int, evaluator: str) -> tuple[Status, list[TrialRow]]:
    plan = test_search.plan(sampler="default", trials=trials)
    job = dataclasses.replace(plan.job, evaluator=evaluator)
    status = test_search.run(store, dataclasses.replace(plan, job=job))
    return status, test_search.rows(store)


def test_where_trainings_have_luck_some_networks_are_trained_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ehvi, "PAYS", 3.0)
    searched(store, 18, "test_again:lucky")
    status, rows = searched(store, TRIALS, "test_again:lucky")  # resumed
    assert [row.number for row in rows] == list(range(TRIALS))
    assert {row.state for row in rows} == {"finished"}
    assert (
        len({evaluation_key(row) for row in rows}) == TRIALS
    )  # nothing is trained twice with one seed
    alike = defaultdict(list)
    for row in rows:
        alike[row.fingerprint].append(row)
    again = {name: own for name, own in alike.items() if len(own) > 1}
    assert again
    for own in again.values():
        assert len({row.accuracy for row in own}) == len(own)
        assert len({str(row.sampled) for row in own}) == 1
    study = store.find_study("s")
    front = pareto(study, rows)
    assert [(r.number, r.trainings) for r in status.front] == [
        (r.number, r.trainings) for r in front
    ]
    assert len({row.fingerprint for row in front}) == len(front)
    for row in front:
        own = alike[row.fingerprint]
        assert trial_dict(study, row)["trainings"] == len(own)
        assert row.value("accuracy") == pytest.approx(np.mean([r.accuracy for r in own]))
    first, *others = next(iter(again.values()))
    page = Console(width=200, file=io.StringIO(), record=True)
    page.print(trial_page(store, study, first))
    told = ", ".join(str(row.number) for row in others)
    assert f"as trial {told}: the front shows their mean" in page.export_text()
    assert f"{len(alike)} networks, a front of {len(front)}" in svg(study, rows)
    finalists = choose(study, rows, 5)
    assert len({row.fingerprint for row in finalists}) == len(finalists)


def test_where_trainings_have_no_luck_hardly_any_is(store: Store) -> None:
    _, rows = searched(store, TRIALS, "test_search:score")
    assert len(rows) - len({row.fingerprint for row in rows}) <= 4


def test_a_network_that_falls_leaves_the_front_and_what_it_beat_comes_back() -> None:
    study, rows, _ = networks.study(40)
    study = dataclasses.replace(study, objectives=(("accuracy", "max"),), constraints={})
    best, second, *_ = sorted(
        (row for row in rows if row.state == "finished" and not row.baseline),
        key=lambda row: -row.value("accuracy"),
    )
    tally = Tally(study, 50)
    tally.take(rows)
    assert [row.number for row in tally.front] == [best.number]
    worse = {"accuracy": second.value("accuracy") - 0.5}
    again = dataclasses.replace(best, id=999, number=99, seed=best.seed + 1, metrics=worse)
    tally.take([again])
    assert [(row.number, row.trainings) for row in tally.front] == [(second.number, 1)]
    assert tally.done == len(rows) + 1


def test_of_equals_the_smallest_is_on_the_front_in_whichever_order_they_ended() -> None:
    study, rows, _ = networks.study(40)
    study = dataclasses.replace(study, objectives=(("accuracy", "max"),), constraints={})
    alike = [
        dataclasses.replace(row, metrics={**row.metrics, "accuracy": 0.5})
        for row in rows
        if row.state == "finished" and not row.baseline
    ]
    smallest = min(alike, key=lambda row: (row.params, row.number))
    for ended in (alike, alike[::-1]):
        tally = Tally(study, 50)
        for row in ended:
            tally.take([row])
        assert [row.number for row in tally.front] == [smallest.number]
        assert [row.number for row in pareto(study, ended)] == [smallest.number]
        drawn = stairs(study, ended, "accuracy", "accuracy")
        assert [row.number for row in drawn] == [smallest.number]


def test_what_an_evaluation_pays_is_what_it_brings_once_it_is_made() -> None:
    """Against posteriors that are conditioned anew on each outcome, drawn by chance."""
    encoding = Encoding.of({name: IntDistribution(0, 5) for name in "ab"})
    rng = np.random.default_rng(3)
    rows = encoding.every()[rng.permutation(36)]
    cost = rows.sum(axis=1) + rows[:, 0] / 10
    value = -np.sqrt(1 + cost) + 0.3 * rng.standard_normal(36)
    finished = [
        Finished(row, np.array([v, c]), {})
        for row, v, c in zip(rows[:20], value[:20], cost[:20], strict=True)
    ]
    finished += [
        Finished(row, np.array([v + 0.3, c]), {})
        for row, v, c in zip(rows[:4], value[:4], cost[:4], strict=True)
    ]
    plain = Settings(np.full(5, 2.0), 1.5, 0.1, 3.0, 0.2)
    told = np.array([False, True])
    model = Model.of(encoding, finished, np.empty((0, 2)), np.empty((0, 2)), told, lambda *_: plain)
    new, costs = rows[20:23], np.stack([np.full(3, np.nan), cost[20:23]], axis=1)
    reference = np.array([1.0, 15.0])
    known, found = knowing.gains(model, new, costs, reference)
    assert not known[20:].any()  # again counts once, where the network stands first
    reference[0] = min(1.0, np.quantile(model.means[:, 0], knowing.WORST))
    surrogate = model.surrogates[0]
    assert surrogate is not None
    own, some = np.vstack([model.rows[:20], new]), np.vstack([model.means[:20], costs])
    x, _ = model.features(own, some)
    process, warp = surrogate.process, surrogate.warp

    def volume(means: Any, who: Any) -> float:
        points = np.stack([warp.inverse(means[who]), some[who, 1]], axis=1)
        return hypervolume(points, reference, ["min", "min"])

    now = volume(process.mean(x), np.arange(20))
    mean, deviation = process.predict(x)
    for candidate in [*np.flatnonzero(known)[:2], 20, 22]:
        who = np.arange(20) if candidate < 20 else np.append(np.arange(20), candidate)
        brought = []
        for z in np.random.default_rng(0).standard_normal(400):
            came = mean[candidate] + z * np.hypot(deviation[candidate], np.sqrt(0.2))
            after = GP.given(
                plain,
                process.scales,
                np.vstack([surrogate.x, x[candidate : candidate + 1]]),
                np.append(process.y, came),
            )
            brought.append(volume(after.mean(x), who))
        got = known[candidate] if candidate < 20 else found[candidate - 20]
        error = np.std(brought) / 20
        assert got == pytest.approx(np.mean(brought) - now, abs=3 * error + 0.1 * abs(got))


@pytest.mark.parametrize("told", [[False, True], [False, True, True], [False, False]])
def test_a_first_look_finds_who_pays_most_of_all(told: list[bool]) -> None:
    """Against all that were evaluated, each weighed by all that it moves, by moocore."""
    encoding = Encoding.of({name: IntDistribution(0, 5) for name in "abc"})
    rng = np.random.default_rng(5)
    rows = encoding.every()[rng.permutation(216)]
    costs = [rows @ rng.uniform(0.5, 2, 3) + rng.uniform(0, 1, 216) for _ in told[1:]]
    value = -np.sqrt(1 + rows.sum(axis=1)) + 0.1 * rng.standard_normal(216)
    values = np.stack([value, *costs], axis=1)
    finished = [Finished(row, own, {}) for row, own in zip(rows[:200], values[:200], strict=True)]

    def plain(_: str, x: Any, scales: Any, y: Any, noise: Any) -> Settings:
        return Settings(np.full(scales.max() + 1, 0.3), 1.0, 0.02, 3.0, 0.1)

    pending, no_costs = np.empty((0, 3)), np.empty((0, len(told)))
    model = Model.of(encoding, finished, pending, no_costs, np.array(told), plain)
    reference = values.max(axis=0) + 0.1
    known, _ = knowing.gains(model, rows[200:], values[200:], reference)

    x, _ = model.features(model.rows, model.means)
    learned = {k: s for k, s in enumerate(model.surrogates) if s is not None}
    half = ndtri(qmc.Sobol(len(learned), seed=0).random(knowing.OUTCOMES // 2))
    corner, means, shifts = reference.copy(), {}, {}
    for k, surrogate in learned.items():
        corner[k] = min(corner[k], np.quantile(model.means[:, k], knowing.WORST))
        process = surrogate.process.doubting()
        joint = process.joint(x)
        means[k], covariance = joint.mean, joint.covariance
        luck = process.settings.noise + JITTER
        shifts[k] = covariance / np.sqrt(np.diag(covariance) + luck)

    def volume(candidate: int, outcome: Any) -> float:
        points = model.means.copy()
        for z, (k, surrogate) in zip(outcome, learned.items(), strict=True):
            points[:, k] = surrogate.warp.inverse(means[k] + z * shifts[k][:, candidate])
        return hypervolume(points, corner, ["min"] * len(told))

    now = volume(0, np.zeros(len(learned)))
    every = [np.mean([volume(k, z) for z in [*half, *-half]]) - now for k in range(200)]
    weighed = np.flatnonzero(known)
    assert 1 < len(weighed) <= knowing.CLOSER
    assert np.argmax(known) == np.argmax(every)
    assert known[weighed] == pytest.approx(np.array(every)[weighed], rel=1e-6, abs=1e-9)
