"""The Optuna dashboard on the record, in a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import test_search
from browser import browsing, needs_browser
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from waiting import PATIENCE, eventually, free_ports

from nas.driver.loop import search
from nas.language.architecture import parse
from nas.store import TrialRow, open_store
from nas.workers.in_process import InProcess

pytestmark = needs_browser


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a nas.db: a study of 12 trials and one of a single trial."""
    folder = tmp_path_factory.mktemp("record")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(test_search.LOG, str(folder / "evaluated"))
        store = open_store(f"sqlite:///{folder}/nas.db")
        for study, trials in (("twelve", 12), ("one of them", 1)):
            search(test_search.plan(study=study, trials=trials), store, InProcess())
        store.close()
    return folder


@pytest.fixture(scope="module")
def rows(record: Path) -> list[TrialRow]:
    store = open_store(f"sqlite:///{record}/nas.db")
    found = list(store.trials(store.find_study("twelve").id))
    store.close()
    return found


@contextlib.contextmanager
def served(record: Path, *command: str) -> Iterator[str]:
    """The address of a dashboard that is served by a process of its own."""
    (port,) = free_ports(1)
    path = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    server = subprocess.Popen(
        [sys.executable, *command, "sqlite:///nas.db", "--port", str(port)],
        cwd=record,
        env={**os.environ, **path},
        stderr=subprocess.DEVNULL,
    )
    try:
        assert eventually(lambda: listens(port))
        yield f"http://127.0.0.1:{port}/dashboard"
    finally:
        server.terminate()
        server.wait(PATIENCE)


@pytest.fixture(scope="module")
def ours(record: Path) -> Iterator[str]:
    with served(record, "-m", "nas.cli", "dashboard", "--storage") as address:
        yield address


@pytest.fixture(scope="module")
def plain(record: Path, ours: str) -> Iterator[str]:
    """Optuna's own, after ours: the note that ours writes is in the database, for both."""
    with served(record, "-m", "optuna_dashboard._cli") as address:
        yield address


@pytest.fixture(scope="module", params=["ours", "plain"])
def site(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(request.param)
    return address


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def text_with(browser: Chrome, part: str) -> str:
    """The page's text, once it has ``part``."""
    body = lambda found: found.find_element(By.TAG_NAME, "body").text  # noqa: E731
    WebDriverWait(browser, PATIENCE).until(
        lambda found: part in body(found), f"{part!r} is not there"
    )
    return str(body(browser))


def plots(browser: Chrome) -> list[list[tuple[float, float]]]:
    """The points of each plot that the page has drawn."""
    drawn: list[list[list[float]]] = browser.execute_script(
        """
        return [...document.querySelectorAll(".js-plotly-plot")].map(plot =>
            (plot.data || []).flatMap(
                trace => [...(trace.x || [])].map((x, i) => [x, trace.y[i]])));
        """
    )
    return [[(x, y) for x, y in points] for points in drawn]


def test_the_studies_are_listed(browser: Chrome, site: str) -> None:
    browser.get(f"{site}/")
    page = text_with(browser, "twelve")
    assert "one of them" in page


def test_the_front_is_drawn(browser: Chrome, site: str, rows: list[TrialRow]) -> None:
    browser.get(f"{site}/studies/1")
    text_with(browser, "Pareto")
    expected = {(row.accuracy, float(row.params)) for row in rows}

    WebDriverWait(browser, PATIENCE).until(
        lambda found: any(expected <= set(points) for points in plots(found)),
        "no plot of accuracy and params",
    )


def test_a_trial_shows_pattern_params_and_macs(
    browser: Chrome, site: str, rows: list[TrialRow]
) -> None:
    for row in (rows[0], rows[-1]):
        browser.get(f"{site}/studies/1/trials?numbers={row.number}")
        told = re.split(r"\s+", text_with(browser, row.pattern))
        assert {str(row.params), str(row.macs), row.fingerprint} <= set(told)


def test_the_studys_note_shows_the_front(browser: Chrome, site: str, rows: list[TrialRow]) -> None:
    browser.get(f"{site}/studies/1/note")
    page = text_with(browser, "The front of twelve")
    best = max(rows, key=lambda row: row.accuracy or 0.0)
    assert best.pattern in page


def test_what_is_believed_of_the_front_comes_to_the_note(ours: str, record: Path) -> None:
    def told() -> str:
        with urllib.request.urlopen(f"{ours.removesuffix('/dashboard')}/api/studies/1") as answer:
            return str(json.load(answer)["note"]["body"])

    assert eventually(lambda: "| accuracy | believed |" in told())
    line = next(line for line in told().splitlines() if line.startswith("| ") and "INPUT" in line)
    assert re.match(r"\| \d+ \| [\d.]+ % \| [\d.]+ % \([\d.]+ to [\d.]+\) \|", line)
    assert "without the luck of one evaluation" in told()


def test_a_trial_of_the_front_shows_its_drawing(
    browser: Chrome, ours: str, rows: list[TrialRow], record: Path
) -> None:
    best = max(rows, key=lambda row: row.accuracy or 0.0)
    browser.get(f"{ours}/studies/1/trials?numbers={best.number}")
    drawn = parse(best.pattern).svg(f"trial {best.number}")
    drawings = (record / "artifacts" / "dashboard").iterdir()
    assert drawn.encode() in {path.read_bytes() for path in drawings}
    wide = float(re.search(r'width="([\d.]+)"', drawn)[1])  # type: ignore[index]

    def shown(found: Chrome) -> bool:
        script = "return [...document.images].map(image => image.naturalWidth)"
        return any(abs(width - wide) <= 1 for width in found.execute_script(script))

    WebDriverWait(browser, PATIENCE).until(shown, "the drawing is not there")
