"""A search keeps the weights of its front, and no others."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

import nas
from nas.cli.record import weights_of
from nas.data import load
from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.errors import StudyError
from nas.job import DataRef, Job
from nas.spaces.space import read_space
from nas.store import Store, TrialRow, open_store
from nas.training.train import score
from nas.workers.in_process import InProcess

DIGITS = DataRef(identity="digits as they are")
SPACE = {
    "name": "line",
    "pattern": "INPUT -> CONV(w, stride=2) -> RELU -> GAP -> FC",
    "where": {"w": {"choice": [2, 4, 8, 16]}},
}


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.training.candidate.check_images", lambda ref: None)


def run(store: Store, folder: Path, **told: Any) -> tuple[list[TrialRow], set[int]]:
    """The study's trials, and the numbers of its front."""
    plan = Plan(**{
        "study": "s", "space": read_space(SPACE, "here"), "trials": 4, "sampler": "random",
        "job": Job(pattern="", data=DIGITS, epochs=1), "artifacts": str(folder / "artifacts"),
        **told,
    })  # fmt: skip
    front = search(plan, store, InProcess()).front
    return list(store.trials(store.find_study(plan.study).id)), {row.number for row in front}


def files(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*.safetensors*")}


def test_the_fronts_weights_are_kept_and_no_others(store: Store, tmp_path: Path) -> None:
    rows, front = run(store, tmp_path)
    assert {row.number for row in rows if row.model} == front
    assert files(tmp_path) == {row.model for row in rows if row.model}
    best = next(row for row in rows if row.number in front)
    model = nas.load_model(best.model)
    assert str(model.architecture) == best.pattern
    assert model.classes == tuple("0123456789")
    images = load(DIGITS, "validation")
    pixels = images.pixels[images.rows]
    right = [
        p.label == str(y)
        for p, y in zip(model.predict(pixels), images.labels[images.rows], strict=True)
    ]
    assert sum(right) / len(right) == pytest.approx(best.accuracy, abs=2e-3)
    again = score(model.network, DIGITS, part="validation", normal=model.card.normal)
    assert again == best.accuracy


def test_records_in_one_directory_have_their_own_files(store: Store, tmp_path: Path) -> None:
    first, _ = run(store, tmp_path)
    held = {row.model: Path(row.model).read_bytes() for row in first if row.model}
    url = f"sqlite:///{tmp_path}/other.db"
    with contextlib.closing(open_store(url)) as other:
        second, _ = run(other, tmp_path)  # the same study, by its name and by its trials
        study = other.find_study("s")
        theirs = [row for row in second if row.model]
        assert {file: Path(file).read_bytes() for file in held} == held
        assert not {row.model for row in theirs} & held.keys()
        assert [weights_of(other, study, row) for row in theirs] == [r.model for r in theirs]
        # What took the place of a trial's file is never taken for it.
        a, b = theirs[:2]
        shutil.copy(a.model, b.model)
        with pytest.raises(StudyError, match=f"trial {b.number} of study s, now holds another"):
            weights_of(other, study, b)


def test_the_weights_of_a_trial_that_leaves_the_front_are_removed(
    store: Store, tmp_path: Path
) -> None:
    before, _ = run(store, tmp_path, trials=1)
    assert [bool(row.model) for row in before] == [True]  # alone it is the front
    rows, front = run(store, tmp_path)
    assert files(tmp_path) == {row.model for row in rows if row.model}
    assert {row.number for row in rows if row.model} == front


@pytest.mark.parametrize(("keep", "count"), [("all", 4), ("none", 0)])
def test_all_or_none_are_kept_where_that_is_asked_for(
    store: Store, tmp_path: Path, keep: str, count: int
) -> None:
    rows, _ = run(store, tmp_path, keep=keep)
    assert len(files(tmp_path)) == sum(bool(row.model) for row in rows) == count


def test_a_reused_result_has_the_weights_of_its_source(store: Store, tmp_path: Path) -> None:
    first, _ = run(store, tmp_path)
    again, _ = run(store, tmp_path, study="again")
    assert {row.state for row in again} == {"reused"}
    sources = {row.id: row for row in first}
    for row in again:
        assert store.model(row) == (sources[row.reused_from].model or "")  # type: ignore[index]
    assert files(tmp_path) == {row.model for row in first if row.model}


def test_an_evaluator_names_no_file_that_is_not_the_searchs(tmp_path: Path) -> None:
    from nas.job import Result
    from nas.workers import answers

    told = Result(metrics={"accuracy": 1.0}, model="/etc/passwd")
    assert answers.outcome(told, [], 0.0, "kept.safetensors").model == ""  # type: ignore[union-attr]
    mine = dataclasses.replace(told, model="kept.safetensors")
    assert answers.outcome(mine, [], 0.0, "kept.safetensors").model == "kept.safetensors"  # type: ignore[union-attr]
