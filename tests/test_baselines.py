"""Zoo networks beside a search's candidates: on the record, outside the budget and the sampler."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import networks
import optuna
import pytest
from typed import command

import nas
from nas.driver import baselines
from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.driver.tally import Tally
from nas.driver.tradeoffs import pareto
from nas.errors import NasError
from nas.job import Failure, Job, Recipe
from nas.job.pool import Done, Event
from nas.report import dashboard, html
from nas.spaces.space import read_space
from nas.spaces.yaml_mapping import parse_mapping
from nas.store import open_store
from nas.text import markdown
from nas.workers import open_pool
from nas.workers.in_process import InProcess


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
        assert status.done == status.budget == trials
        assert (status.baselines, status.baselines_ended, status.baselines_failed) == (2, 2, 0)
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


def test_a_baseline_is_trained_by_what_the_space_fixes(tmp_path: Path) -> None:
    store, asked = open_store(f"sqlite:///{tmp_path}/s.db"), plan(1)
    text = f"{asked.space.text}recipe: {{lr: 0.5, batch: {{choice: [8, 16]}}}}\n"
    space = read_space(parse_mapping(text, "a test"), "a test", (1, 8, 8), 10)
    asked = dataclasses.replace(asked, space=space)
    baselines.enter(asked, ["linear_classifier"], store)
    (row,) = store.trials(store.find_study("s").id)
    assert (row.recipe["lr"], row.recipe["batch"]) == (0.5, 64)
    assert asked.recipe == Recipe(lr=0.5)


def test_one_network_by_two_names_is_refused(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.db")
    names = ["linear_classifier", "linear"]
    with pytest.raises(NasError, match="linear_classifier and linear are the same network here"):
        baselines.enter(plan(1), names, store)
    baselines.enter(plan(1), names[:1], store)
    with pytest.raises(NasError, match="linear is the network of trial 0, linear_classifier"):
        baselines.enter(plan(1), names[1:], store)
    assert len(list(store.trials(store.find_study("s").id))) == 1


def test_a_classical_method_is_fitted_on_the_study_s_images(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.db")
    told: list[str] = []
    for _ in range(2):
        baselines.enter(plan(1), ["logistic", "hog_svm"], store, told.append)
    assert told == ["logistic", "hog_svm"]  # once: the second time there is nothing to fit
    rows = {row.baseline: row for row in store.trials(store.find_study("s").id)}
    assert list(rows) == ["logistic", "hog_svm"]
    assert rows["logistic"].params == 64 * 10 + 10
    assert all(0.9 < (row.accuracy or 0) < 1 for row in rows.values())


def test_the_search_s_own_best_network_is_shown_where_a_baseline_beats_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By accuracy alone a classical method is the front; the search's best keeps its weights."""
    record = ["--storage", f"sqlite:///{tmp_path}/s.db"]
    search = ["search", "--space", "lenet_like", "--workers", 0, "--epochs", 1, *record]
    line = [*search, "--study", "s", "--baseline", "hog_svm", "--objective", "accuracy"]
    assert command(*line, "--trials", 3) == 0
    told = capsys.readouterr()
    remark = "hog_svm: params and MACs are those of the classifier alone"
    assert told.out.count(remark) == 1
    for shown in (["pareto"], ["trials", "ls"], ["trials", "show", 0]):
        assert command(*shown, *record) == 0
        assert remark in capsys.readouterr().out
    assert command("trials", "show", 1, *record) == 0
    assert remark not in capsys.readouterr().out
    with contextlib.closing(open_store(record[1])) as store:
        baseline, *trials = store.trials(store.find_study("s").id)
    best = max(trials, key=lambda row: row.accuracy or 0)
    assert (baseline.accuracy or 0) > (best.accuracy or 0)
    front, own = told.out.split("\nno network of the search is on the front; its best:\n")
    assert [line.split()[0] for line in front.splitlines()[:2]] == ["trial", "0"]
    assert own.splitlines()[1].split()[0] == str(best.number)
    assert {row.number for row in trials if row.model} == {best.number}
    export = [*f"export --trial {best.number} --study s".split(), *record, "-f", "onnx", "-o"]
    assert f"\n  nas {' '.join(export)} model.onnx\n" in told.err
    assert command(*export, tmp_path / "model.onnx") == 0


def test_what_is_not_counted_is_told_of_no_other_row() -> None:
    study, rows, _ = networks.study(9)
    remark = "hog_svm: params and MACs are those of the classifier alone"
    assert [row.baseline for row in rows[:2]] == ["resnet18", "hog_svm"]
    for shown, said in ((rows, 1), ([rows[0], *rows[2:]], 0)):
        assert html.page(study, shown, {}).count(remark) == said
        assert dashboard.note(study, tuple(shown)).count(markdown(remark)) == said


def test_the_front_of_the_candidates_alone_is_theirs_in_whichever_order_they_end() -> None:
    study, rows, _ = networks.study(40)
    first = pareto(study, rows)[0]
    again = dataclasses.replace(first, id=1, number=99, seed=1, accuracy=0.1, metrics={
        **first.metrics, "accuracy": 0.1})  # fmt: skip
    best = dataclasses.replace(rows[0], params=1, macs=1, latency_ms=0.01, accuracy=1.0, metrics={
        "accuracy": 1.0, "latency_ms": 0.01})  # fmt: skip
    ended = [*rows[1:21], best, *rows[21:], again]
    candidates = [row for row in ended if not row.baseline]
    tally = Tally(study, 40)
    for row in ended:
        tally.take([row])
    assert [row.number for row in tally.front] == [best.number]
    assert tally.own == pareto(study, candidates) != pareto(study, candidates[:-1])
    assert tally.kept == {best.number, *(row.number for row in tally.own)}


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


def test_a_baseline_whose_worker_dies_is_tried_again_like_a_candidate(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.db")

    class Mortal(InProcess):
        """The worker of the first job dies."""

        died = 0

        def wait(self, timeout: float) -> list[Event]:
            events = super().wait(timeout)
            if events and not self.died:
                self.died = events[-1].ticket
                return [Done(self.died, Failure(kind="worker_died", reason="the node went away"))]
            return events

    baselines.enter(plan(2), ["linear_classifier"], store)
    pool = Mortal()
    status = search(plan(2), store, pool)
    (row,) = (row for row in store.trials(store.find_study("s").id) if row.baseline)
    assert (row.state, row.number, pool.died) == ("finished", 0, 1)
    assert [attempt.state for attempt in store.attempts(row.id)] == ["lost", "finished"]
    assert (status.finished, status.failed, status.budget, status.baselines_ended) == (2, 0, 2, 1)
    store.close()


def test_a_baseline_of_a_study_that_is_done_is_trained(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.db")
    search(plan(3), store, InProcess())
    baselines.enter(plan(3), ["linear_classifier"], store)
    status = search(plan(3), store, InProcess())
    assert (status.done, status.baselines_ended, status.ended) == (3, 1, 1)
    store.close()


def test_two_drivers_that_start_together_have_each_baseline_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one does it all between what the first reads and what it writes."""
    url = f"sqlite:///{tmp_path}/s.db"
    names = ["linear_classifier", "logistic"]
    store, other = open_store(url), open_store(url)
    real = baselines.architectures

    def rival(*told: Any) -> Any:
        monkeypatch.setattr(baselines, "architectures", real)
        baselines.enter(plan(2), names, other)
        return real(*told)

    monkeypatch.setattr(baselines, "architectures", rival)
    baselines.enter(plan(2), names, store)
    search(plan(2), store, InProcess())
    rows = list(store.trials(store.find_study("s").id))
    assert sorted(row.baseline for row in rows) == ["", "", *names]
    assert {row.state for row in rows} == {"finished"}
    store.close()
    other.close()


def test_a_baseline_that_is_a_candidate_too_is_there_as_both(tmp_path: Path) -> None:
    """The front is measured against it by its name, whoever else proposed it."""
    store = open_store(f"sqlite:///{tmp_path}/s.db")
    closed = dataclasses.replace(plan(1), space=nas.load_space("linear_classifier", (1, 8, 8), 10))
    search(closed, store, InProcess())
    baselines.enter(closed, ["linear_classifier"], store)
    baselines.enter(closed, ["linear_classifier"], store)
    rows = list(store.trials(store.find_study("s").id))
    assert [row.baseline for row in rows] == ["", "linear_classifier"]
    assert rows[0].fingerprint == rows[1].fingerprint
    store.close()
