"""Zoo networks beside a search's candidates: on the record, outside the budget and the sampler."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import optuna
import pytest

import nas
from nas.driver import baselines
from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.errors import NasError
from nas.job import Job
from nas.store import open_store
from nas.workers import open_pool


def plan(trials: int) -> Plan:
    job = Job(pattern="", evaluator="tests.test_baselines:by_size")
    return Plan(study="s", space=nas.load_space("lenet_like"), job=job, trials=trials)


def by_size(architecture: nas.Architecture, **_: object) -> dict[str, float]:
    return {"accuracy": 1 - 1 / architecture.params}


def test_a_baseline_is_trained_once_and_costs_no_trial(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    names = ["linear_classifier", "resnet18"]
    store, pool = open_store(url), open_pool(0)
    for trials in (3, 5):
        baselines.enter(plan(trials), names, store)
        status = search(plan(trials), store, pool)
        assert status.done == status.budget == trials + len(names)
    rows = list(store.trials(store.find_study("s").id))
    assert sorted(row.baseline for row in rows if row.baseline) == names
    largest = next(row for row in rows if row.baseline == "resnet18")
    assert largest.params == nas.load_space("resnet18", (1, 8, 8), 10).sample(0).params
    assert largest.accuracy == max(row.accuracy or 0 for row in rows)
    assert largest not in status.front  # it breaks the space's constraint on params
    store.close()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    copied = optuna.load_study(study_name="s", storage=url).get_trials()
    assert sorted(t.user_attrs.get("baseline", "") for t in copied if not t.params) == names


def test_a_classical_method_is_fitted_on_the_study_s_images(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.db")
    for _ in range(2):
        baselines.enter(plan(1), ["logistic", "hog_svm"], store)
    rows = {row.baseline: row for row in store.trials(store.find_study("s").id)}
    assert list(rows) == ["logistic", "hog_svm"]
    assert rows["logistic"].params == 64 * 10 + 10
    assert all(0.9 < (row.accuracy or 0) < 1 for row in rows.values())


def test_what_is_no_network_or_does_not_fit_is_refused_by_name() -> None:
    for names, reason in {
        ("resnet19",): "unknown network resnet19",
        ("mixed",): "search space",
    }.items():
        with pytest.raises(NasError, match=reason):
            baselines.architectures(plan(1), names)
    wide = dataclasses.replace(plan(1), space=nas.load_space("linear", (1, 8, 8), 10))
    with pytest.raises(NasError, match=r"lenet5.*4x4"):
        baselines.architectures(wide, ["lenet5"])
