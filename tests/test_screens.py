"""The terminal's output during a search, and the tables of a record."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from typing import get_args

import networks
import pytest
from rich.console import Console

from nas.cli.trial_commands import STATES
from nas.driver.tally import Forecast, Status, UnderWay
from nas.driver.tradeoffs import pareto
from nas.errors import NasError
from nas.job import Epoch
from nas.report import trials
from nas.report.progress import Progress
from nas.store import TrialState

RUNNING = tuple(
    UnderWay(n, "", 20).told(Epoch(epoch=n % 20, train_loss=1.0, accuracy=0.5, seconds=1.0))
    for n in range(1, 31)
)


def status(**changes: object) -> Status:
    study, rows, _ = networks.study(200)
    told = Status(
        budget=24,
        finished=7,
        stopped=0,
        failed=0,
        reused=0,
        paused=0,
        refused=0,
        rejected=0,
        repeated=0,
        front=pareto(study, rows),
        latest=None,
        ended=7,
        seconds=100.0,
        exhausted=False,
        failures={},
        under_way=RUNNING[:2],
        forecast=Forecast(17 * 100 / 7, 7),
    )
    return dataclasses.replace(told, **changes)  # type: ignore[arg-type]


def shown(width: int, height: int, since: float = 0.0, study: str = "s", **changes: object) -> str:
    screen = Console(width=width, height=height, file=io.StringIO(), force_terminal=False)
    progress = Progress(study, ("accuracy", "params", "latency_ms"))
    progress.console = screen
    with screen.capture() as caught:
        screen.print(progress.page(status(**changes), since))
    return caught.get()


@pytest.mark.parametrize(("width", "height"), [(80, 20), (60, 20), (100, 24), (40, 10), (200, 60)])
@pytest.mark.parametrize("running", [0, 2, 30])
def test_it_fits_the_terminal_and_its_last_line_is_free(
    width: int, height: int, running: int
) -> None:
    page = shown(width, height, study="a study with a long name" * 3, under_way=RUNNING[:running])
    lines = page.removesuffix("\n").split("\n")
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert lines[-1].strip() == ""  # where a terminal writes ^C
    if running > 2:
        assert f"and {running - max(1, height // 3 - 2)} more" in page


def test_each_running_trial_has_its_epoch_and_accuracy() -> None:
    page = shown(80, 24, under_way=(RUNNING[4], UnderWay(9, "lenet5", 20)))
    assert "trial 5: epoch 5 of 20, 50.00 %" in page
    assert "lenet5: begun" in page
    assert "2 running" in page


def test_counts_of_zero_are_left_out_of_the_progress() -> None:
    for told in (
        shown(80, 24, under_way=()),
        Progress("s", ("accuracy",)).line(status(under_way=())),
    ):
        assert not re.search(r"\b0 (running|paused|stopped|failed|reused|refused|rejected)", told)
        assert "7 of 24" in told
    told = Progress("s", ("accuracy",)).line(status(stopped=3, failed=1, refused=2, rejected=5))
    assert "11 of 24 trials, 2 running, 3 stopped, 1 failed, 2 refused, 5 rejected" in told


def test_more_than_was_asked_for_is_no_share() -> None:
    for told in (shown(80, 24, finished=14, budget=5), Progress("s", ("accuracy",)).line(
        status(finished=14, budget=5)
    )):  # fmt: skip
        assert "14 (of 5 asked for)" in told
        assert "14 of 5" not in told
        assert "left" not in told


def test_baselines_are_told_beside_the_trials_and_awaited() -> None:
    line = Progress("s", ("accuracy",)).line
    more = {"finished": 24, "under_way": (), "baselines": 3, "baselines_ended": 2}
    assert "24 of 24 trials, 2 of 3 baselines, front" in line(status(**more))
    assert "left" in line(status(**more))
    told = line(status(**more | {"baselines_ended": 3, "baselines_failed": 1}))
    assert "24 of 24 trials, 3 baselines (1 failed), front" in told
    assert "left" not in told


def test_networks_that_were_made_are_told_as_what_they_are() -> None:
    line = Progress("s", ("accuracy",)).line
    made = {"distilled": 2, "pruned": 1}
    told = line(status(finished=24, under_way=(), made=made))
    assert "24 of 24 trials, 2 distilled, 1 pruned, front" in told
    assert "baseline" not in told
    assert "1 baseline, 2 distilled, 1 pruned" in line(
        status(baselines=1, baselines_ended=1, made=made)
    )


def test_the_clock_ticks_between_two_things_that_happen() -> None:
    assert "1 min 40 s so far" in shown(80, 24)
    later = shown(80, 24, since=30)
    assert "2 min 10 s so far" in later
    assert (
        "about 3 min 33 s left (by the first 7 trials)" in later
    )  # 17 trials at 100 / 7 seconds, less 30


def test_without_a_number_of_trials_it_is_time_that_is_left() -> None:
    by_time = {"budget": None, "forecast": None, "time": 7200.0, "time_left": 5400.0}
    told = Progress("s", ("accuracy",)).line(status(**by_time))
    assert told.startswith("7 trials, 2 running")
    assert "1 h 30 min of 2 h left" in told
    assert " of 24" not in told
    page = shown(80, 24, since=60.0, **by_time)
    assert "1 h 29 min of 2 h left" in page
    bars = [shown(80, 24, **by_time | {"time_left": left}).count("━") for left in (7000.0, 200.0)]
    assert bars[0] < bars[1]
    assert "the 2 h are over" in shown(80, 24, since=9999.0, **by_time)


def test_of_trials_and_time_it_tells_what_is_expected_to_end_first() -> None:
    both = {"time": 7200.0, "forecast": Forecast(300.0, 9)}
    line = Progress("s", ("accuracy",)).line
    assert "7 of 24 trials" in line(status(**both, time_left=5400.0))
    assert "about 5 min 00 s left" in line(status(**both, time_left=5400.0))
    assert "2 min 00 s of 2 h left" in line(status(**both, time_left=120.0))


# --- tables --------------------------------------------------------------------------------------


def test_trials_by_a_metric_have_the_best_first_and_those_without_last() -> None:
    study, rows, _ = networks.study(100)
    for name, best in (("accuracy", max), ("params", min), ("latency_ms", min)):
        found = [row.value(name) for row in trials.ordered(study, rows, name)]
        known = [value for value in found if not math.isnan(value)]
        assert known == sorted(known, reverse=best is max)
        assert all(map(math.isnan, found[len(known) :]))
        assert len(found) == len(rows)
    upwards = dataclasses.replace(study, objectives=(("params", "max"),))
    assert trials.ordered(upwards, rows, "params")[0].params == max(row.params for row in rows)
    assert [row.number for row in trials.ordered(study, rows, "trial")] == list(range(102))
    assert trials.ordered(study, rows, "MACs") == trials.ordered(study, rows, "macs")
    with pytest.raises(NasError, match="--sort parms: no trial has it; did you mean params"):
        trials.ordered(study, rows, "parms")


def test_states_are_those_that_there_are() -> None:
    assert set(STATES.split("|")) == set(get_args(TrialState))
    _, rows, _ = networks.study(100)
    assert {row.state for row in trials.in_states(rows, ["failed"])} == {"failed"}
    with pytest.raises(NasError, match="--state done: must be one of"):
        trials.in_states(rows, ["done"])
