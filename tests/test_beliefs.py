"""Estimates are shown beside measurements; an infeasible study says what it lacks."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import networks
import pytest
import test_search
from rich.console import Console
from typer.testing import CliRunner

from nas.cli import app as cli
from nas.driver.beliefs import Belief, Beliefs, believed
from nas.driver.loop import search
from nas.driver.tradeoffs import nothing_found, pareto
from nas.errors import NothingFound
from nas.report import believed as shown
from nas.report import trials
from nas.report.html import headline
from nas.spaces.bounds import Bound
from nas.store import StudyRow, TrialRow, open_store
from nas.workers.in_process import InProcess

COLUMNS = ("accuracy_believed", "accuracy_believed_low", "accuracy_believed_high")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two studies: one of 14 trials, and one of which no trial meets the constraint."""
    where = tmp_path_factory.mktemp("beliefs")
    told = f"sqlite:///{where}/nas.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(test_search.LOG, str(where / "evaluated"))
        store = open_store(told)
        search(test_search.plan(trials=14, study="many"), store, InProcess())
        space = test_search.small_space(constraints={"accuracy": ">= 0.999"})
        search(test_search.plan(space=space, trials=5, study="none"), store, InProcess())
        store.close()
    return told


def of(url: str, name: str) -> tuple[StudyRow, list[TrialRow]]:
    store = open_store(url, write=False)
    study = store.find_study(name)
    rows = list(store.trials(study.id))
    store.close()
    return study, rows


def ran(url: str, *told: str) -> Any:
    return CliRunner().invoke(cli.app, [told[0], "--storage", url, *told[1:]])


def test_the_front_is_told_with_what_is_believed_where_it_is_asked_for(url: str) -> None:
    study, rows = of(url, "many")
    beliefs = believed(study, rows)
    assert beliefs.by.keys() == {row.id for row in rows}
    before = Path(url.removeprefix("sqlite:///")).read_bytes()
    told = ran(url, "pareto", "--study", "many", "--believed", "-f", "json")
    assert told.exit_code == 0, told.output
    listed = {entry["trial"]: entry for entry in json.loads(told.stdout)}
    front = pareto(study, rows)
    assert listed.keys() == {row.number for row in front}
    for row in front:
        belief = beliefs.by[row.id]
        found = tuple(listed[row.number][name] for name in COLUMNS)
        assert found == pytest.approx((belief.mean, belief.low, belief.high))
        assert 0 <= belief.low <= belief.mean <= belief.high <= 1
        # What is left out lies on the worse side, most of it, unless an end is that of accuracies.
        if belief.low > 0:
            assert belief.mean - belief.low <= 0.9543 * belief.deviation
        assert listed[row.number]["accuracy"] == row.accuracy
    told = ran(url, "pareto", "--study", "many", "--believed", "-f", "csv")
    lines = list(csv.DictReader(io.StringIO(told.stdout)))
    assert set(COLUMNS) <= set(lines[0])
    table = ran(url, "pareto", "--study", "many", "--believed").stdout
    assert "believed" in table.splitlines()[0]
    assert "an 80 % interval, wider on the better side " in table.replace("\n", " ")
    plain = ran(url, "pareto", "--study", "many").stdout
    assert "believed" not in plain.splitlines()[0]
    luck = "includes the luck of one evaluation; --believed adds estimates without it"
    assert plain.endswith(f"{luck}\n")
    assert Path(url.removeprefix("sqlite:///")).read_bytes() == before  # it only reads
    refused = ran(url, "pareto", "--study", "many", "--believed", "-f", "svg")
    assert "--believed: a front as svg has no room" in str(refused.exception)


def test_the_page_names_who_is_believed_to_be_the_best_where_it_is_another(url: str) -> None:
    study, rows = of(url, "many")
    best = pareto(study, rows)
    top, other = best[0], best[1]
    by = {top.id: Belief(0.8, 0.79, 0.82), other.id: Belief(0.7, 0.69, 0.72)}
    told = headline(study, best, Beliefs("accuracy", by))
    assert "without the luck of one evaluation: 80.00 % (79.00 to 82.00)" in told
    assert "by such estimates" not in told
    by[other.id] = Belief(0.81, 0.8, 0.83)
    told = headline(study, best, Beliefs("accuracy", by))
    named = f"The best by such estimates is trial {other.number}: 81.00 % (80.00 to 83.00) at "
    assert told.startswith(f"The most accurate of the search is trial {top.number}: ")
    assert named in told


def test_of_few_trials_nothing_is_shown(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    study, rows = of(url, "many")
    few = rows[:5]
    trials.rows_out(study, few, "table", beliefs=believed(study, few))
    assert "believed" not in capsys.readouterr().out
    trials.rows_out(study, few, "csv", beliefs=believed(study, few))
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {line[name] for line in lines for name in COLUMNS} == {""}  # the columns stay the same


def test_intervals_that_held_too_few_of_the_trials_are_noted(url: str) -> None:
    study, _ = of(url, "many")
    by = {1: Belief(0.9, 0.88, 0.92)}
    assert "only" not in shown.note(study, Beliefs("accuracy", by, 0.82, True))
    assert "held only 40.00 %" in shown.note(study, Beliefs("accuracy", by, 0.4, False))
    assert shown.note(study, Beliefs("accuracy")) == ""
    assert shown.cell("accuracy", by[1]) == "90.00 % (88.00 to 92.00)"
    assert shown.cell("accuracy", by[1], short=True) == "88.00 to 92.00"


def test_on_a_narrow_terminal_the_interval_stands_for_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, rows = of(url, "many")
    beliefs = believed(study, rows)
    monkeypatch.setattr("sys.stdout", _Terminal())
    for width, wide in ((80, False), (140, True)):
        monkeypatch.setenv("COLUMNS", str(width))
        console = Console(file=io.StringIO(), width=width)
        console.print(trials.trials_table(study, pareto(study, rows), beliefs))
        found = console.file.getvalue()  # type: ignore[attr-defined]
        assert " to " in found
        assert ("(" in found.split("believed")[1].splitlines()[1].split(" to ")[0]) == wide


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_study_without_a_feasible_trial_says_why_and_what_comes_nearest(url: str) -> None:
    _, rows = of(url, "none")
    best = max(rows, key=lambda row: row.accuracy or 0.0)
    for told in (("pareto",), ("pareto", "-f", "csv"), ("pareto", "-f", "svg")):
        found = ran(url, *told, "--study", "none")
        assert isinstance(found.exception, NothingFound)  # exit status 3
        assert found.stdout == ""
        assert "meets the constraints (accuracy >= 0.999)" in str(found.exception)
        assert f"the nearest is trial {best.number}, with accuracy {best.accuracy:.4g}" in str(
            found.exception
        )


def test_the_nearest_infeasible_trial_is_by_the_excess_relative_to_each_bound() -> None:
    study, rows, _ = networks.study(12)
    bounded = {"params": str(Bound(True, 1000.0)), "accuracy": str(Bound(False, 0.99))}
    study = dataclasses.replace(study, constraints=bounded)
    rows = [row for row in rows if row.state == "finished"]
    nearest = min(
        rows,
        key=lambda row: max(0, row.params - 1000) / 1000 + max(0, 0.99 - row.accuracy) / 0.99,
    )
    assert f"trial {nearest.number}, with" in str(nothing_found(study, rows)) or nearest.baseline
    assert f"params {nearest.params:,}" in str(nothing_found(study, rows))
    failed = [dataclasses.replace(row, state="failed", failure="diverged") for row in rows]
    assert f"{len(rows)} of {len(rows)} by diverged" in str(nothing_found(study, failed))
    assert "has finished yet" in str(nothing_found(study, []))


def test_the_view_has_what_came_to_its_end(url: str) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    states = connection.execute("SELECT DISTINCT state FROM tradeoffs").fetchall()
    connection.close()
    assert states == [("finished",)]
    assert not math.isnan(believed(*of(url, "many")).noise)
