"""The report: chosen without selection bias, retrained, compared at equal cost, tested once."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from html import escape
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
from nas.cli.reports import tell_next
from nas.driver import finalists
from nas.driver.beliefs import believed
from nas.driver.equal_cost import random_plan, trained_epochs, whole_seconds
from nas.driver.finalists import Finalist, Mean, Report, Training, choose, report
from nas.driver.halving import Prior, halve, standings
from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.driver.tradeoffs import pareto
from nas.errors import NasError, NothingFound, StudyError
from nas.job import DataRef, Epoch, Job, Recipe
from nas.report import html
from nas.report.pages import choice, report_markdown
from nas.report.progress import Left, Trainings
from nas.spaces.space import Space, read_space
from nas.store import Store, StudyRow, TrialRow, open_store
from nas.training import single, train
from nas.training.models import load_model
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


def perceptrons() -> Space:
    return read_space(SPACE, "a test", (1, 8, 8), 10)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a small search, of which each test has a copy."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
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
    file = tmp_path_factory.mktemp("searched") / "record.db"
    with contextlib.closing(open_store(f"sqlite:///{file}")) as store:
        search(plan, store, InProcess())
    return file


@pytest.fixture
def store(searched: Path, tmp_path: Path) -> Iterator[Store]:
    shutil.copy(searched, tmp_path / "record.db")
    with contextlib.closing(open_store(f"sqlite:///{tmp_path}/record.db")) as found:
        yield found


@pytest.fixture
def study(store: Store) -> StudyRow:
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


def test_a_lucky_accuracy_lies_above_the_interval_believed() -> None:
    study, rows = noisy()
    told = believed(study, rows)
    assert told.name == "accuracy"
    assert told.sure
    found = told.by
    assert set(found) == set(range(60))
    truth = {n: 0.9 - ((n - 30) / 60) ** 2 for n in range(60)}
    held = [found[n].low <= truth[n] <= found[n].high for n in truth if n != 5]
    assert np.mean(held) > 0.7
    assert found[5].mean < 0.93 - 0.05
    assert all(0.0 <= b.low <= b.mean <= b.high <= 1.0 for b in found.values())


def test_of_few_trials_nothing_is_believed_and_the_measured_are_chosen() -> None:
    study, rows = noisy()
    for count in (0, 1, 9):
        assert believed(study, rows[:count]).by == {}
    assert believed(study, rows[:12]).by
    assert choose(study, rows[:9], 1) == [rows[5]]


def test_beliefs_are_about_what_training_leaves_to_luck() -> None:
    study, rows = noisy(20)
    for objectives, name in (
        ((("params", "min"), ("latency_ms", "min")), ""),
        ((("params", "min"), ("accuracy", "max")), "accuracy"),
        ((("error", "min"), ("accuracy", "max")), "error"),
    ):
        told = [
            dataclasses.replace(row, metrics={**row.metrics, "error": 1 - (row.accuracy or 0)})
            for row in rows
        ]
        found = believed(dataclasses.replace(study, objectives=objectives), told)
        assert found.name == name
        assert bool(found.by) == bool(name)
        for row in told[6:] if name else ():
            assert abs(found.by[row.id].mean - row.value(name)) < 0.1


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


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """His example, 56 of 70 and 48 of 80: 0.0524 to 0.3339 (1998, table II, method 10)."""
    one, other = Mean.of([56 / 70], 70), Mean.of([48 / 80], 80)
    assert one.above(other) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert other.above(one) == pytest.approx((-0.3339, -0.0524), abs=5e-5)


# --- who is as good, and who is not on the front -------------------------------------------------


def finals(*told: tuple[int, float, float, int], images: int = 96) -> Report:
    """Finalists, the best first: number, searched accuracy, validation accuracy and params."""
    study, (row, *_) = noisy(1)
    found = [
        Finalist(
            dataclasses.replace(
                row,
                id=number,
                number=number,
                fingerprint=str(number),
                accuracy=searched,
                params=params,
                metrics={"accuracy": searched},
            ),
            "",
            *[Mean.of([validation], images)] * 2,
        )
        for number, searched, validation, params in told
    ]
    front = pareto(study, [f.row for f in found])
    return Report(study, 3, 3, 30, tuple(found), (), front=front, searched=front)


def test_a_smaller_finalist_within_the_luck_is_told_beside_the_winner() -> None:
    told = [(5, 0.75, 0.7396, 593_571), (8, 0.75, 0.7188, 36_915), (0, 0.7, 0.3, 5_000)]
    found = finals(*told)
    assert found.cheaper is found.finalists[1]  # the smallest is surely worse
    text = " ".join(choice(found))
    assert (
        "Trial 8 was the most accurate of the search; retrained it reached 71.88 % on "
        "validation, the winner 73.96 %"
    ) in text
    assert "Trial 8 may be as good as the winner, trial 5" in text
    assert "36,915 params instead of 593,571: 16.1 times less" in text
    assert "Not on the front as measured by the search: trial 5 (trial 8 is no worse" in text
    assert text in report_markdown(found).replace("\n", " ")
    study = dataclasses.replace(found.study, settings={"epochs": 30})
    page = html.page(study, [f.row for f in found.finalists], {}, found)
    assert all(f'<p class="lead">{escape(line)}</p>' in page for line in choice(found))
    assert finals(*told, images=20_000).cheaper is None  # of so many images two points are sure
    assert finals(told[0], (8, 0.75, 0.7188, 590_000)).cheaper is None  # saves nothing
    latency = (*found.study.objectives, ("latency_ms", "min"))
    slower = dataclasses.replace(found, study=dataclasses.replace(found.study, objectives=latency))
    times = (1.0, 2.0, 3.0)
    slower = dataclasses.replace(
        slower,
        finalists=tuple(
            dataclasses.replace(f, row=dataclasses.replace(f.row, latency_ms=ms))
            for f, ms in zip(slower.finalists, times, strict=True)
        ),
    )
    assert slower.cheaper is None


def test_the_next_steps_name_the_smaller_equal_network_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = finals((5, 0.75, 0.7396, 593_571), (8, 0.75, 0.7188, 36_915))
    models = [Training(0.7, 0.7, f"{tmp_path}/kept/{f.row.number}.st") for f in found.finalists]
    kept = [
        dataclasses.replace(f, trainings=(model,))
        for f, model in zip(found.finalists, models, strict=True)
    ]
    tell_next(dataclasses.replace(found, finalists=tuple(kept)))
    err = capsys.readouterr().err
    assert "  nas export kept/5.st -f onnx" in err
    assert "trial 8, which may be as good, with 36,915 params instead of 593,571" in err
    assert "  nas export kept/8.st -f onnx" in err
    assert str(tmp_path) not in err
    tell_next(dataclasses.replace(found, finalists=tuple(kept[:1])))
    assert "as good" not in capsys.readouterr().err


def test_where_all_finalists_are_on_the_front_and_the_winner_is_the_smallest_nothing_is_told() -> (
    None
):
    assert choice(finals((8, 0.76, 0.74, 36_915), (5, 0.7, 0.72, 30_000), images=9_000)) == []


@pytest.mark.parametrize(("counts", "told"), [((3, 2), True), ((2, 2), False), ((2, 3), False)])
def test_unequal_numbers_of_trainings_are_told(counts: tuple[int, int], told: bool) -> None:
    found = finals((5, 0.9, 0.9, 100), (8, 0.8, 0.8, 90))
    again = [
        dataclasses.replace(f, trainings=(Training(0.9, 0.9),) * count)
        for f, count in zip(found.finalists, counts, strict=True)
    ]
    text = report_markdown(dataclasses.replace(found, finalists=tuple(again)))
    assert ("then in rounds the better half so far" in text) is told
    assert "The winner was chosen by validation" in text


def test_why_the_most_accurate_of_the_search_was_not_trained_again() -> None:
    found = finals((8, 0.74, 0.74, 36_915), (5, 0.76, 0.5, 593_571))
    alone = dataclasses.replace(found, finalists=found.finalists[:1])
    (line,) = choice(alone)
    assert line == (
        "Trial 5 was the most accurate of the search; others have better estimates, so it "
        "was not retrained."
    )
    lost = ((found.finalists[1].row, "the training diverged"),)
    assert choice(dataclasses.replace(alone, lost=lost)) == []
    # A distilled network that dominates it changes nothing of what the search found.
    assert choice(dataclasses.replace(alone, front=())) == [
        "Not on the front as measured by the search: trial 8. Finalists are chosen by their "
        "estimates from all trials, without the luck of one training.",
        line,
    ]


def test_the_time_left_counts_the_pauses_between_trainings() -> None:
    left = Left([1.0, 1.0, 1.0])
    assert left.after(0, 1.0, 0.01) == pytest.approx(0.02)
    time.sleep(0.2)
    assert left.after(1, 0.5, 0.01) > 0.2  # (0.01 + 0.2) / 1.5 of the 1.5 that are left


# --- the report ----------------------------------------------------------------------------------


def test_the_winner_is_chosen_by_validation_and_each_training_tested_once(
    store: Store, study: StudyRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested: list[Any] = []
    score = train.score

    def counted(module: Any, ref: DataRef, **options: Any) -> float:
        tested.append(options.get("part", "test"))
        return score(module, ref, **options)

    monkeypatch.setattr(single, "score", counted)
    trainings: Counter[int] = Counter()

    def tell(row: TrialRow, number: int, epoch: Epoch | None) -> None:
        assert epoch
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


def test_what_was_trained_is_kept_and_not_trained_again(
    store: Store, study: StudyRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(store.trials(study.id))
    folder = str(tmp_path / "kept")
    told: list[tuple[int, int, int]] = []

    def stop(row: TrialRow, number: int, epoch: Epoch | None) -> None:
        told.append((row.number, number, epoch.epoch if epoch else 0))
        if len(told) == 6:  # within the second training
            raise KeyboardInterrupt

    given = {"seeds": 2, "top": 2, "folder": folder}
    with pytest.raises(KeyboardInterrupt):
        report(study, rows, DataRef(), tell=stop, **given)
    assert [epoch for _, _, epoch in told] == [1, 2, 3, 4, 1, 2]
    whole = report(study, rows, DataRef(), seeds=2, top=2)
    resumed: list[tuple[int, int, int]] = []

    def tell(row: TrialRow, number: int, epoch: Epoch | None) -> None:
        resumed.append((row.number, number, epoch.epoch if epoch else 0))

    found = report(study, rows, DataRef(), tell=tell, **given)
    assert resumed[0] == (*told[0][:2], 0)  # the first was there
    assert [epoch for _, _, epoch in resumed[1:]] == [1, 2, 3, 4] * 3
    for mine, other in zip(found.finalists, whole.finalists, strict=True):
        assert (mine.row, mine.validation, mine.test) == (other.row, other.validation, other.test)
        for training in mine.trainings:
            model = load_model(training.model)
            assert train.score(model.network, DataRef(), normal=model.card.normal) == training.test
    best = max(found.winner.trainings, key=lambda training: training.validation)
    assert found.winner.model == best.model
    assert not list(tmp_path.rglob("*.checkpoint*"))
    monkeypatch.setattr(single, "fit", None)  # nothing is trained
    assert report(study, rows, DataRef(), **given) == found
    other = [dataclasses.replace(row, recipe={**row.recipe, "lr": 0.01}) for row in rows]
    with pytest.raises(TypeError):  # by another recipe it would be another training
        report(study, other, DataRef(), **given)


def test_a_training_goes_on_from_its_checkpoint(
    store: Store, study: StudyRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    row = next(iter(store.trials(study.id, states=["finished"])))

    def stop(row: TrialRow, number: int, epoch: Epoch | None) -> None:
        if epoch and epoch.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finalists.train_again(study, row, DataRef(), 0, stop, str(tmp_path))
    assert list(tmp_path.glob("*.checkpoint"))
    trained: list[int] = []
    epoch_of = train.train_epoch

    def counted(*given: Any) -> Any:
        trained.append(1)
        return epoch_of(*given)

    monkeypatch.setattr(train, "train_epoch", counted)
    resumed = finalists.train_again(study, row, DataRef(), 0, folder=str(tmp_path))
    assert 0 < len(trained) < 4
    whole = finalists.train_again(study, row, DataRef(), 0)
    assert (resumed.validation, resumed.test) == (whole.validation, whole.test)


def test_a_finalist_that_diverges_is_left_out_and_named(
    store: Store, study: StudyRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(store.trials(study.id))
    first = choose(study, rows, 1)[0]
    fit = single.fit

    def diverging(module: Any, job: Job, *given: Any, **told: Any) -> Any:
        if job.pattern == first.pattern:
            raise train.Diverged("the loss is inf in epoch 3, step 1")
        return fit(module, job, *given, **told)

    monkeypatch.setattr(single, "fit", diverging)
    found = report(study, rows, DataRef(), seeds=2, top=2)
    ((row, why),) = found.lost
    assert row.number == first.number
    assert "diverged" in why
    assert first.number not in {finalist.row.number for finalist in found.finalists}
    with pytest.raises(NasError, match=f"trial {first.number}: the training diverged"):
        report(study, [first], DataRef())


# --- sequential halving --------------------------------------------------------------------------

NOTHING = Prior(0.0, math.inf)


def test_the_better_half_goes_on_until_two_share_the_rest() -> None:
    asked: list[tuple[int, int]] = []

    def evaluate(candidate: int, number: int) -> float:
        asked.append((candidate, number))
        return float(candidate)

    order, scores = halve([NOTHING] * 5, 15, math.nan, evaluate)
    assert order == [4, 3, 2, 1, 0]
    assert [len(each) for each in scores] == [1, 1, 2, 5, 5]  # 5, 3, then 2 as often as there is
    assert len(asked) == len(set(asked)) == 14
    for count, budget in ((1, 3), (2, 6), (3, 9), (3, 3), (8, 24)):
        order, scores = halve([NOTHING] * count, budget, math.nan, lambda k, n: float(k))
        assert order[0] == count - 1
        assert budget - 2 < sum(map(len, scores)) <= budget


def test_a_finalist_whose_training_fails_is_not_trained_further() -> None:
    order, scores = halve([NOTHING] * 3, 9, math.nan, lambda k, n: math.nan if k == 2 else k)
    assert order == [1, 0, 2]
    assert len(scores[2]) == 1
    order, scores = halve([NOTHING] * 2, 6, math.nan, lambda k, n: math.nan)
    assert sorted(order) == [0, 1]
    assert sum(map(len, scores)) == 2


def test_a_standing_is_the_posterior_of_a_normal_mean() -> None:
    # By hand: a variance of (2 * 0.04 + 0.02) / (2 + 1), of scores 0.8 and 1.0 about their mean.
    variance = (2 * 0.04 + 0.02) / 3
    found = standings([Prior(0.5, 0.1), NOTHING, Prior(0.7, 0.2)], [[0.8, 1.0], [0.6], []], 0.04)
    precision = 1 / 0.1**2, 2 / variance
    assert found[0] == pytest.approx((0.5 * precision[0] + 0.9 * precision[1]) / sum(precision))
    assert found[1:] == [0.6, 0.7]


def test_halving_finds_the_best_more_often_than_as_many_evaluations_of_each() -> None:
    """Of normals whose means were drawn from their priors: what the halving is made for."""
    rng = np.random.default_rng(0)
    halved, even = [], []
    for _ in range(1500):
        priors = [Prior(mean, 0.5) for mean in rng.normal(0, 0.3, 4)]
        truth = [rng.normal(prior.mean, prior.deviation) for prior in priors]
        luck = rng.normal(0, 1.0, (4, 20))
        order, _ = halve(priors, 12, 1.0, lambda k, n, t=truth, e=luck: float(t[k] + e[k, n]))
        halved.append(truth[order[0]])
        even.append(truth[int(np.argmax(np.array(truth) + luck[:, :3].mean(axis=1)))])
    assert np.mean(halved) > np.mean(even) + 0.02


def test_the_seeds_are_not_those_of_the_search(study: StudyRow, store: Store) -> None:
    row = next(iter(store.trials(study.id, states=["finished"])))
    seeds = {finalists.train_again(study, row, DataRef(), n) for n in range(3)}
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
    reused = [dataclasses.replace(row, state="reused", seconds=0.0) for row in rows]
    assert sum(map(trained_epochs, reused)) == 0  # others paid for them
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
        ({}, {}, "no candidate of study s has finished"),
        ({}, {"seeds": 0}, "seeds is 0 and top is 3"),
    ],
)
def test_a_report_is_refused_where_there_is_nothing_to_report(
    changes: dict[str, Any], options: dict[str, Any], rule: str
) -> None:
    study, _ = noisy(2)
    with pytest.raises((StudyError, NothingFound), match=rule):
        report(dataclasses.replace(study, **changes), [], DataRef(), **options)


def test_the_command_makes_a_page_of_the_record_alone(
    store: Store, study: StudyRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single, "fit", None)  # nothing is trained
    page = tmp_path / "report.html"
    told = ["report", "--storage", str(store.engine.url), "--study", "s", "--top", "0"]
    result = CliRunner().invoke(cli.app, [*told, "-o", str(page)])
    assert result.exit_code == 0, result.output
    assert page.read_text().startswith("<!doctype html>")
    for more, sentence in (
        (["-o", str(tmp_path / "report.md")], "--top 0: a report in Markdown"),
        (["--compare", "random", "-o", str(page)], "--top 0: --compare random"),
        (["--seeds", "5", "-o", str(page)], "--seeds 5: --top 0 retrains nothing"),
        (["--workers", "2", "-o", str(page)], "--workers 2: is for the search of --compare"),
        (["-o", str(tmp_path / "report.pdf")], "must end in .html"),
    ):
        refused = CliRunner().invoke(cli.app, [*told, *more])
        assert sentence in str(refused.exception)


def test_how_long_it_takes_is_told_before_and_corrected_by_what_the_epochs_took(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, (row, *_) = noisy(1)
    with Trainings(10) as progress:
        progress.begin([20.0, math.nan, 40.0])  # of the second nothing is known: as the mean
        for epoch in (1, 10):  # twice as long as planned
            progress.tell(
                row, 0, Epoch(epoch=epoch, train_loss=1.0, accuracy=0.5, seconds=4.0 * epoch)
            )
        progress.tell(row, 1, None)
        progress.tell(row, 0, Epoch(epoch=10, train_loss=1.0, accuracy=0.5, seconds=60.0))
    told = capsys.readouterr().err.splitlines()
    assert told[0] == (
        "nas: 3 trainings at most, each of 10 epochs, about 1 min 30 s, judging by the search"
    )
    assert told[1].endswith("epoch 1 of 10: 50.00 %, about 2 min 56 s left")  # 2 * 88
    assert told[2].endswith("epoch 10 of 10: 50.00 %, about 2 min 20 s left")
    assert told[3] == "nas: 2 of 3: trial 0, training 2: reused from an earlier training"
    assert told[4].startswith("nas: 3 of 3: ")
    assert told[4].endswith("50.00 %")
    Trainings(1).begin([math.nan])
    assert capsys.readouterr().err == "nas: 1 training at most, each of 1 epoch\n"


def test_as_many_trainings_as_were_planned_at_most(store: Store, study: StudyRow) -> None:
    rows = list(store.trials(study.id))
    planned: list[TrialRow] = []
    ended: list[int] = []

    def tell(row: TrialRow, number: int, epoch: Epoch | None) -> None:
        assert planned  # before the first
        assert whole_seconds(row, 4) > 0
        if epoch and epoch.epoch == 4:
            ended.append(row.number)

    report(study, rows, DataRef(), seeds=1, top=2, begin=planned.extend, tell=tell)
    assert {row.number for row in planned} == set(ended)
    assert len(planned) == len(ended) == 2


def test_a_trainings_time_is_that_of_the_epochs_it_had() -> None:
    _, (row, *_) = noisy(1)
    rungs = ((2, 0.5),)
    for state, had in (("finished", {"epochs": 4}), ("stopped", {"epochs": 2, "rungs": rungs})):
        done = dataclasses.replace(row, state=state, seconds=2.0, **had)
        trained = {"finished": 4, "stopped": 2}[state]
        assert whole_seconds(done, 10) == pytest.approx(2.0 / trained * 10)
    reused = dataclasses.replace(row, state="reused", seconds=0.0, epochs=4)
    assert math.isnan(whole_seconds(reused, 10))


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
        assert "trainings at most" not in text  # is progress, on stderr
    assert "4 trainings at most, each of 4 epochs, about " in result.stderr
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
