"""The front as a picture: positions of its parts, and that PNG and SVG agree."""

from __future__ import annotations

import dataclasses
import io
import math
import random
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import networks
import pytest
import test_search
from PIL import Image
from typer.testing import CliRunner

from nas.cli import app as cli
from nas.driver.loop import search
from nas.driver.tradeoffs import pareto
from nas.errors import NasError, StudyError
from nas.report import front
from nas.report.plot import Axis, steps, tidy
from nas.store import open_store
from nas.workers.in_process import InProcess

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawn() -> ElementTree.Element:
    study, rows, _ = networks.study(60)
    return ElementTree.fromstring(front.svg(study, rows))


def test_a_place_is_the_value_where_it_is_weighed_by_its_logarithm() -> None:
    params, accuracy = Axis.of("params", [100, 10_000]), Axis.of("accuracy", [0.5, 0.9])
    assert params.at(1000) == pytest.approx(0.5)
    assert accuracy.at(0.7) == pytest.approx(0.5)
    assert 0 < params.at(100) < 0.05
    assert Axis.of("params", [7.0]).at(7) == pytest.approx(0.5)  # one point stands in the middle


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", ["params", "accuracy", "latency_ms", "f1"])
def test_ticks_are_round_values_within_the_axis_each_told_once(name: str, seed: int) -> None:
    rng = random.Random(seed)
    scale = 1.0 if name == "accuracy" else 10 ** rng.uniform(0, 7)
    axis = Axis.of(name, [scale * rng.random() + 1e-3, scale * rng.random() + 1e-3])
    ticks = axis.ticks
    assert 2 <= len(ticks) <= 16
    assert all(0 <= at <= 1 for at, _ in ticks)
    assert len({text for _, text in ticks}) == len(ticks)


@pytest.mark.parametrize(
    "values",
    [[1.0], [0.9], [0.5], [0.0], [0.36, 1.0], [0.98, 1.0], [0.0, 0.03], [0.0, 1.0], [0.9999, 1.0]],
)
@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy"])
def test_no_tick_tells_more_than_a_metric_can_be(name: str, values: list[float]) -> None:
    axis = Axis.of(name, values)
    told = [float(text.removesuffix(" %")) for _, text in axis.ticks]
    assert all(0 <= percent <= 100 for percent in told)
    assert len(told) >= 2
    # Points at the metric's ends lie within the frame, close to it.
    assert all(0 < axis.at(value) < 1 for value in values)
    assert axis.at(-0.05) <= 0 or axis.at(0.0) <= 0.05
    assert axis.at(1.05) >= 1 or axis.at(1.0) >= 0.95


def test_a_value_from_before_its_metric_was_bounded_is_still_drawn() -> None:
    axis = Axis.of("accuracy", [1.4, 1.5])
    assert 0 < axis.at(1.4) < axis.at(1.5) < 1
    assert len(axis.ticks) >= 2


def test_ticks_are_at_round_values() -> None:
    assert steps(0, 30) == [0, 5, 10, 15, 20, 25, 30]
    assert steps(0.36, 1.01) == [0.4, 0.6, 0.8, 1.0]


@pytest.mark.parametrize(
    ("told", "shorter"),
    [("92.00 %", "92 %"), ("1.50M", "1.5M"), ("10,000", "10,000"), ("100 %", "100 %"),
     ("0.500 ms", "0.5 ms"), ("1.00M", "1M"), ("1.05", "1.05")],
)  # fmt: skip
def test_trailing_zeros_of_labels_are_dropped(told: str, shorter: str) -> None:
    assert tidy(told) == shorter


def test_every_finished_trial_is_a_point_and_those_of_the_front_are_coloured(
    drawn: ElementTree.Element,
) -> None:
    study, rows, _ = networks.study(60)
    finished = [row for row in rows if row.state == "finished"]
    told = [point.findtext(f"{SVG}title", "") for point in drawn.iter(f"{SVG}circle")]
    numbers = [int(text.split()[1].rstrip(":")) for text in told if text]
    assert sorted(numbers) == [row.number for row in finished if not row.baseline]
    coloured = {
        int(point.findtext(f"{SVG}title", "").split()[1].rstrip(":"))
        for point in drawn.iter(f"{SVG}circle")
        if point.get("class") == "f-front" and point.find(f"{SVG}title") is not None
    }
    assert coloured == {row.number for row in pareto(study, rows) if not row.baseline}


def test_places_grow_with_the_logarithm_of_the_cost(drawn: ElementTree.Element) -> None:
    _, rows, _ = networks.study(60)
    params = {row.number: row.params for row in rows}
    places = {}
    for point in drawn.iter(f"{SVG}circle"):
        if told := point.findtext(f"{SVG}title"):
            places[int(told.split()[1].rstrip(":"))] = float(point.get("cx", ""))
    (a, b, *others) = sorted(places, key=lambda n: params[n])
    scale = (places[others[-1]] - places[a]) / math.log(params[others[-1]] / params[a])
    for number in (b, *others):
        expected = places[a] + scale * math.log(params[number] / params[a])
        assert places[number] == pytest.approx(expected, abs=0.2)


def test_baselines_and_metrics_are_named(drawn: ElementTree.Element) -> None:
    told = " ".join(text.text or "" for text in drawn.iter(f"{SVG}text"))
    for word in ("resnet18", "hog_svm", "accuracy", "params, logarithmic", "breaks a constraint",
                 "hog_svm: params and MACs are those of the classifier alone"):  # fmt: skip
        assert word in told
    lowest = max(float(text.get("y", 0)) for text in drawn.iter(f"{SVG}text"))
    assert lowest < float(drawn.get("height", 0))


def test_labels_do_not_cover_each_other(drawn: ElementTree.Element) -> None:
    boxes = [
        (float(text.get("x", "")), float(text.get("y", "")), front.LETTER * len(text.text or ""))
        for text in drawn.iter(f"{SVG}text")
        if text.get("font-size") == "11"
    ]
    assert len(boxes) > 3
    for i, (x, y, wide) in enumerate(boxes):
        for other_x, other_y, other_wide in boxes[:i]:
            apart = x + wide <= other_x or other_x + other_wide <= x
            assert apart or abs(y - other_y) >= 12


def test_a_label_stands_on_the_line_only_where_no_other_place_is_free() -> None:
    right_below, everywhere = (305.0, 302.0, 360.0, 320.0), (0.0, 0.0, 999.0, 999.0)
    wanted = [front.Mark((300.0, 300.0), "", "7: 98 %", "ink")]
    (plain,) = front.labels(wanted, [], [])
    (aside,) = front.labels(wanted, [], [right_below])
    (across,) = front.labels(wanted, [], [everywhere])
    assert plain == across != aside
    assert front.labels(wanted, [everywhere], []) == []


def test_the_line_of_steps_is_the_front_in_two_metrics() -> None:
    study, rows, _ = networks.study(60)
    kept = front.stairs(study, rows, "params", "accuracy")
    ok = [row for row in rows if row.state == "finished" and row.params <= 600_000]
    by_hand = [
        row
        for row in sorted(ok, key=lambda row: row.params)
        if all(row.value("accuracy") > other.value("accuracy")
               for other in ok if other.params < row.params)
    ]  # fmt: skip
    assert [row.number for row in kept] == [row.number for row in by_hand]


def test_the_same_trials_give_the_same_picture_which_asks_for_nothing() -> None:
    study, rows, _ = networks.study(30)
    text = front.svg(study, rows)
    assert text == front.svg(study, rows)
    assert "prefers-color-scheme:dark" in text
    assert set(re.findall(r"https?://[^\"' <]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "<b>" not in text  # of the study's name


def test_a_png_has_the_points_and_the_text() -> None:
    study, rows, _ = networks.study(30)
    drawn = front.svg(study, rows)
    height = float(ElementTree.fromstring(drawn).get("height", 0))
    picture = Image.open(io.BytesIO(front.png(drawn))).convert("RGB")
    assert picture.size == (2 * front.WIDTH, 2 * height)
    colours = picture.getcolors(1 << 20) or []
    assert (0xC2, 0x41, 0x0C) in {colour for _, colour in colours}
    title = picture.crop((140, 24, 900, 60))
    assert len(title.getcolors(1 << 20) or []) > 2


def test_without_its_package_a_png_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(NasError, match=r"pip install 'nas-patterns\[plot\]'"):
        front.png("<svg/>")


def test_a_study_without_a_result_has_no_picture() -> None:
    study, rows, _ = networks.study(3)
    with pytest.raises(StudyError, match="no finished trial with params and accuracy"):
        front.svg(study, [dataclasses.replace(row, state="failed") for row in rows])


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("front")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(test_search.LOG, str(where / "evaluated"))
        store = open_store(f"sqlite:///{where}/nas.db")
        search(test_search.plan(trials=6), store, InProcess())
        store.close()
    return where


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        (["-o", "a.svg"], b"<svg"),
        (["-o", "a.png"], b"\x89PNG"),
        (["-f", "png", "-o", "picture"], b"\x89PNG"),
        (["-o", "a.csv"], b"study,trial"),
        (["-o", "a.json"], b"["),
        (["-o", "a"], b"trial"),
    ],
)
def test_a_file_has_what_its_name_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], begins: bytes
) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(cli.app, ["pareto", *options])
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert Path(options[-1]).read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-o", "a.pdf"], "must end in .json, .csv, .svg or .png"),
        (["-f", "svg", "-o", "a.png"], "does not have the ending of --format svg"),
        (["-f", "csv", "-o", "nas.db"], "nas.db: is there, and no .csv: it would be written over"),
        (["-o", "nas.db/a.svg"], "nas.db is not a directory"),
        (["-o", "."], "is a directory"),
    ],
)
def test_a_file_that_cannot_be_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], sentence: str
) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(cli.app, ["pareto", *options])
    assert isinstance(done.exception, NasError)
    assert sentence in str(done.exception)


def test_the_picture_goes_to_stdout(folder: Path) -> None:
    for form, begins in (("svg", b"<svg"), ("png", b"\x89PNG")):
        command = [sys.executable, "-m", "nas.cli", "pareto", "-f", form]
        done = subprocess.run(command, cwd=folder, capture_output=True)
        assert done.stdout.startswith(begins), done.stderr
