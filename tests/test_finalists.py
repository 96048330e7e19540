"""The report: chosen without luck, trained again, compared at equal cost, tested once."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution, distribution_to_json
from scipy import stats
from typer.testing import CliRunner

from nas.cli import app as cli
from nas.cli.options import identified
from nas.driver import finalists
from nas.driver.finalists import Mean, believed, choose, random_plan, report, trained_epochs
from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.errors import StudyError
from nas.job import DataRef, Epoch, Job, Recipe
from nas.spaces.space import Space, read_space
from nas.store import Store, StudyRow, TrialRow, open_store
from nas.training import train
from nas.workers.in_process import InProcess

SPACE = {
    "name": "perceptron",
    "pattern": "INPUT -> FLATTEN -> FC(w) -> RELU -> FC",
    "where": {"w": {"int": [1, 40]}},
    "constraints": {"params": "<= 2500"},
}
JOB = Job(pattern="", epochs=4, recipe=Recipe(schedule="rungs", batch=128), latency=False)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path}/record.db")
    yield opened
    opened.close()


def perceptrons() -> Space:
    return read_space(SPACE, "a test", (1, 8, 8), 10)


@pytest.fixture
def study(store: Store) -> StudyRow:
    data, about = identified(DataRef())
    job = dataclasses.replace(JOB, data=data)
    plan = Plan(
        study="s",
        space=perceptrons(),
        job=job,
        trials=9,
        sampler="random",
        rungs=(2, 4),
        images=about,
    )
    search(plan, store, InProcess())
    return store.find_study("s")


# --- the choice ----------------------------------------------------------------------------------


def noisy(count: int = 60) -> tuple[StudyRow, list[TrialRow]]:
    """A study whose true accuracy rises with n up to 30 and falls after; params rise. One trial
    far from the best had a lucky training."""
    rng = random.Random(0)
    domain = distribution_to_json(IntDistribution(0, count - 1))
    rows = []
    for n in range(count):
        accuracy = 0.9 - ((n - 30) / 60) ** 2 + rng.gauss(0, 0.003)
        accuracy = 0.93 if n == 5 else accuracy
        rows.append(
            TrialRow(
                id=n,
                study_id=1,
                number=n,
                state="finished",
                sampled={"n": n},
                distributions={"n": domain},
                pattern="",
                fingerprint=str(n),
                params=1000 + n,
                macs=1,
                accuracy=accuracy,
                metrics={"accuracy": accuracy},
                created=0.0,
            )
        )
    objectives = (("accuracy", "max"), ("params", "min"))
    return StudyRow(id=1, created=0.0, name="s", space="", objectives=objectives), rows


def test_a_lucky_training_is_not_chosen() -> None:
    study, rows = noisy()
    assert max(rows, key=lambda row: row.accuracy or 0).number == 5
    chosen = choose(study, rows, 3)
    assert len(chosen) == 3
    assert all(22 <= row.number <= 38 for row in chosen)
    assert chosen == [rows[row.number] for row in chosen]  # as they were measured


def test_what_is_believed_has_an_interval_that_luck_is_outside_of() -> None:
    study, rows = noisy()
    found = believed(study, rows)
    assert set(found) == set(range(60))
    truth = {n: 0.9 - ((n - 30) / 60) ** 2 for n in range(60)}
    held = [found[n].low <= truth[n] <= found[n].high for n in truth if n != 5]
    assert np.mean(held) > 0.7
    assert found[5].mean < 0.93 - 0.05
    assert all(0.0 <= b.low <= b.mean <= b.high <= 1.0 for b in found.values())


def test_of_two_trials_is_believed_what_was_measured() -> None:
    study, rows = noisy()
    found = believed(study, rows[:1])
    assert found[0].mean == rows[0].accuracy
    assert math.isnan(found[0].low)
    assert believed(study, []) == {}


def test_what_did_not_finish_or_was_not_sampled_is_not_chosen() -> None:
    study, rows = noisy(12)
    others = [
        dataclasses.replace(rows[0], state="stopped", accuracy=1.0, metrics={"accuracy": 1.0}),
        dataclasses.replace(rows[1], sampled={"baseline": "lenet5"}, distributions={}),
        dataclasses.replace(rows[2], metrics={"accuracy": math.nan}),
    ]
    assert choose(study, others, 3) == []
    assert {row.id for row in choose(study, [*others, *rows[3:]], 9)} <= set(range(3, 12))


def test_the_interval_of_one_training_is_wilsons() -> None:
    for right in (349, 360, 0):
        interval = stats.binomtest(right, 360).proportion_ci(method="wilson")
        for scores in ([right / 360], [right / 360] * 2, [right / 360] * 3):  # agreeing is no proof
            found = Mean.of(scores, 360)
            assert (found.low, found.high) == pytest.approx(tuple(interval))
            assert found.value == pytest.approx(right / 360)


def test_the_interval_of_several_trainings_by_hand() -> None:
    found = Mean.of([0.91, 0.93, 0.95], 1000)
    # Of the seeds 0.0004 / 3 = 1.3333e-4, of the images 0.93 * 0.07 / 1000 = 6.51e-5: as 1000 *
    # 6.51e-5 / 1.98433e-4 = 328.07 images; 2 / 0.67193^2 = 4.4297 degrees of freedom.
    t = stats.t.ppf(0.975, 4.4297)
    # Wilson's ends are where the score is t of its own standard deviations away.
    for end in (found.low, found.high):
        assert abs(0.93 - end) == pytest.approx(t * math.sqrt(end * (1 - end) / 328.07), rel=1e-3)
    assert found.low < found.value < found.high


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Images from easy to hard, seeds from lucky to unlucky; the truth is over all of both."""
    rng = np.random.default_rng(0)
    images, seeds, repeats = 300, 2, 1500
    hardness = rng.normal(2.0, 1.0, (repeats, 1, images))
    luck = rng.normal(0.0, 0.15, (repeats, seeds, 1))
    right = rng.normal(size=(repeats, seeds, images)) < hardness + luck
    truth = stats.norm.cdf(2.0 / math.sqrt(1 + 1.0**2 + 0.15**2))  # of a sum of normals
    found = [Mean.of(scores, images) for scores in right.mean(axis=2)]
    held = np.mean([mean.low <= truth <= mean.high for mean in found])
    assert 0.94 < held < 0.99


# --- the report ----------------------------------------------------------------------------------


def test_the_winner_is_chosen_by_validation_and_each_training_tested_once(
    store: Store, study: StudyRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested: list[Any] = []
    score = train.score

    def counted(module: Any, ref: DataRef, **options: Any) -> float:
        tested.append(options.get("part", "test"))
        return score(module, ref, **options)

    monkeypatch.setattr(train, "score", counted)
    trainings: Counter[int] = Counter()

    def tell(row: TrialRow, number: int, epoch: Epoch) -> None:
        trainings[row.number] += epoch.epoch == 4

    rows = list(store.trials(study.id))
    found = report(study, rows, DataRef(), seeds=2, top=2, tell=tell)
    assert tested == ["test"] * sum(trainings.values())
    assert set(trainings.values()) == {2}
    means = [f.validation.value for f in found.finalists]
    assert means == sorted(means, reverse=True)
    assert found.winner is found.finalists[0]
    assert found.beside == ()
    again = report(study, rows, DataRef(), seeds=2, top=2)
    assert again == found  # a seed repeats exactly


def test_the_seeds_are_not_those_of_the_search(study: StudyRow, store: Store) -> None:
    row = next(iter(store.trials(study.id, states=["finished"])))
    seeds = {finalists.again(study, row, DataRef(), n, lambda *_: None) for n in range(3)}
    assert len(seeds) == 3
    assert row.accuracy is not None


def test_random_search_costs_what_the_study_cost(store: Store, study: StudyRow) -> None:
    rows = list(store.trials(study.id))
    by_hand = 0
    for row in rows:
        if row.state == "finished":
            by_hand += 5  # 2 to the rung, and on from before its tail: epochs 2, 3 and 4
        else:
            by_hand += 2
    assert sum(map(trained_epochs, rows)) == by_hand
    plan = random_plan(study, rows, DataRef())
    assert (plan.study, plan.sampler, plan.rungs) == ("s-random", "random", ())
    assert plan.trials == round(by_hand / 4)
    assert plan.space.constraints == perceptrons().constraints
    assert plan.space.input == (1, 8, 8)


@pytest.mark.parametrize(
    ("changes", "options", "rule"),
    [
        ({"settings": {"evaluator": "a:b"}}, {}, "was run by a:b: nothing to train again"),
        ({"objectives": (("params", "min"),)}, {}, "no objective accuracy:max"),
        ({}, {}, "no finished candidate"),
        ({}, {"seeds": 0}, "seeds is 0 and top is 3"),
    ],
)
def test_what_cannot_be_reported_on(
    changes: dict[str, Any], options: dict[str, Any], rule: str
) -> None:
    study, _ = noisy(2)
    with pytest.raises(StudyError, match=rule):
        report(dataclasses.replace(study, **changes), [], DataRef(), **options)


def test_the_command_makes_a_page_of_the_record_alone(
    store: Store, study: StudyRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "fit", None)  # nothing is trained
    page = tmp_path / "report.html"
    told = ["report", "--storage", str(store.engine.url), "--study", "s", "--top", "0"]
    result = CliRunner().invoke(cli.app, [*told, "-o", str(page)])
    assert result.exit_code == 0, result.output
    assert page.read_text().startswith("<!doctype html>")
    for more, sentence in (
        (["-o", str(tmp_path / "report.md")], "--top 0: a report in Markdown"),
        (["--compare", "random", "-o", str(page)], "--top 0: --compare random"),
        (["-o", str(tmp_path / "report.pdf")], "must end in .html"),
    ):
        refused = CliRunner().invoke(cli.app, [*told, *more])
        assert sentence in str(refused.exception)


def test_the_command_prints_and_writes(store: Store, study: StudyRow, tmp_path: Path) -> None:
    told = ["--storage", str(store.engine.url), "--study", "s", "--seeds", "2", "--top", "1"]
    told += ["--compare", "random", "--workers", "0", "-o", str(tmp_path / "report.md")]
    result = CliRunner().invoke(cli.app, ["report", *told])
    assert result.exit_code == 0, result.output
    written = (tmp_path / "report.md").read_text()
    for text in (result.stdout, written):
        assert "winner" in text
        assert "random search" in text
        assert re.search(r"\d\d\.\d\d % \(\d+\.\d\d to \d+\.\d\d\)", text)
    table = [line for line in written.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "s-random" in {row.name for row in store.studies()}


def test_a_random_search_loads_the_plug_ins_that_the_command_was_given(
    store: Store, study: StudyRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers are processes of their own: what this one has loaded is not there."""
    plans: list[Plan] = []

    def searched(plan: Plan, *_: object) -> list[TrialRow]:
        plans.append(plan)
        return []

    monkeypatch.setattr("nas.cli.reports.searched", searched)
    file = tmp_path / "mine.py"
    file.write_text("MINE = 1\n")
    told = ["--storage", str(store.engine.url), "--study", "s", "--seeds", "1", "--top", "1"]
    told += ["--compare", "random", "--plugin", str(file)]
    result = CliRunner().invoke(cli.app, ["report", *told])
    assert result.exit_code == 0, result.output
    assert [plan.job.plugins for plan in plans] == [(str(file),)]
