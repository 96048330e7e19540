"""The report as a page, in a real browser, and the numbers computed for it."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from browser import browsing, needs_browser
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

import nas
from nas.cli.app import app
from nas.data import Images, load
from nas.driver.beliefs import Belief, Beliefs
from nas.driver.finalists import Finalist, Mean, Report
from nas.driver.tradeoffs import feasible, pareto
from nas.job import DataRef
from nas.report import html, insight, mistakes, reproduce
from nas.report.evaluations import cut
from nas.report.front import stairs
from nas.report.page_data import embedded
from nas.spaces.yaml_mapping import write_mapping
from nas.store import ENDED, StudyRow, TrialRow
from nas.training.evaluation import Evaluation

Told = tuple[StudyRow, list[TrialRow], Any]


@pytest.fixture(scope="module")
def thousand() -> Told:
    return networks.study(1_000)


@pytest.fixture(scope="module")
def trials() -> Told:
    """Enough of each kind, and drawn by a browser in a fraction of the time."""
    return networks.study(250)


# --- what is counted -----------------------------------------------------------------------------


def test_hypervolume_grows_as_by_hand() -> None:
    study, rows, _ = networks.study(40)
    study = dataclasses.replace(study, objectives=(("accuracy", "max"), ("params", "min")))
    found = insight.growth(study, rows)
    ended = [row for row in rows if not row.baseline]
    assert found.seconds == tuple(60.0 * (i + 1) for i in range(len(ended)))
    points = [
        (row.value("accuracy"), math.log10(row.params)) if feasible(study, row) else None
        for row in ended
    ]
    kept = np.array([p for p in points if p])
    (best_a, worst_a), (worst_p, best_p) = (
        (kept[:, 0].max(), kept[:, 0].min()), (kept[:, 1].max(), kept[:, 1].min())
    )  # fmt: skip
    low = worst_a - 0.1 * (best_a - worst_a)
    high = worst_p + 0.1 * (worst_p - best_p)
    for count in (1, 7, len(ended)):
        stairs, level, area = sorted((p[1], p[0]) for p in points[:count] if p), low, 0.0
        for cost, accuracy in stairs:
            if accuracy > level:
                area += (accuracy - level) * (high - cost)
                level = accuracy
        whole = (best_a - low) * (high - best_p)
        assert found.hypervolume[count - 1] == pytest.approx(area / whole)


def test_shares_are_counted_by_stage(trials: Told) -> None:
    study, rows, _ = trials
    best = pareto(study, rows)
    found = {(each.symbol, each.stage): each for each in insight.common(best, rows)}
    whole = [row for row in rows if row.state == "finished" and not row.baseline]
    has = [row for row in whole if "BLOCK[3]" in row.sampled]
    told = found["BLOCK", "3"]
    assert told.all == len(has)
    shares = {share.value: share.all for share in told.shares}
    for block in ("PLAIN", "DENSE"):
        by_hand = sum(row.sampled["BLOCK[3]"] == block for row in has) / len(has)
        assert shares[block] == pytest.approx(by_hand)
    assert sum(share.all for share in told.shares) == pytest.approx(1)


def test_what_decides_the_accuracy_is_named_first() -> None:
    study, rows, _ = networks.study(200)
    width = "w0"
    told = [
        dataclasses.replace(
            row, state="finished", metrics={"accuracy": row.sampled[width], "latency_ms": 1.0}
        )
        for row in rows
        if not row.baseline
    ]
    found = insight.importances(study, told)["accuracy"]
    assert next(iter(found)) == width
    assert sum(found.values()) == pytest.approx(1)
    assert insight.importances(study, told[: insight.ENOUGH - 1]) == {}


def test_the_command_is_the_search_again(trials: Told) -> None:
    from typer.main import get_command

    study, rows, _ = trials
    named = dataclasses.replace(study, name="s", directory="/photos of me")
    told = reproduce.search_command(named, rows)
    assert told.startswith("nas search --space mixed --study s --trials 250 --epochs 20")
    for part in (
        "--data '/photos of me' --size 32",
        "--rungs 5,20",
        "--recipe lr=0.05",
        "--constraint 'params<=600000'",
        "--baseline resnet18 --baseline hog_svm",
    ):
        assert part in told
    known = {o for p in get_command(app).commands["search"].params for o in p.opts}  # type: ignore[attr-defined]
    assert set(re.findall(r"--[a-z-]+", told)) <= known
    grouped = {**study.settings, "skip_unreadable": True, "group_by": r"(\d+)_"}
    told = reproduce.search_command(dataclasses.replace(study, settings=grouped), rows)
    assert r"--skip-unreadable --group-by '(\d+)_'" in told
    told = reproduce.report_command(study, None)
    assert told == "nas report --study 'thousand <b>&amp;' --top 0 -o report.html"
    other = dataclasses.replace(study, space_text="name: mixed")
    assert "--space mixed.yaml" in reproduce.search_command(other, rows)


def test_every_symbol_of_the_pattern_is_explained(trials: Told) -> None:
    study, rows, curves = trials
    page = html.page(study, rows, curves)
    told = dict(re.findall(r"<dt><code>(.*?)</code></dt><dd>(.*?)</dd>", page))
    assert told["STEM"] == "CONV(width=w0) -&gt; BN -&gt; RELU"
    assert told["N"] == "1 to 3 (a value for each M)"
    assert told["BLOCK"].startswith("PLAIN, INCEPTION, RESIDUAL, DENSE, MBCONV")
    assert told.keys() == nas.load_space("mixed").domains.keys()


@pytest.mark.parametrize("known", [True, False])
def test_a_long_pattern_is_shown_whole(trials: Told, tmp_path: Path, known: bool) -> None:
    """Of a plug-in that is not loaded, too; the record folds its lines."""
    study, rows, curves = trials
    body = " -> ".join(["CONV(16)" if known else "THEIRS(16)", *["BN -> RELU -> CONV(16)"] * 9])
    pattern = f"INPUT -> {body} -> [RESIDUAL(16)]*N -> GAP -> FC"
    text = write_mapping({"name": "long", "pattern": pattern, "where": {"N": {"int": [1, 2]}}})
    assert len(text.splitlines()) > 4
    page = html.page(dataclasses.replace(study, space_text=text), rows, curves)
    assert f"<pre>{escape(pattern)}</pre>" in page


def test_values_are_listed_in_order_whichever_stage_has_them_first() -> None:
    shares = [[insight.Share(value, 0.5, 0.5) for value in of] for of in (("16", "128"), ("32",))]
    stages = [insight.Common("N", f"{n}", 1, 1, tuple(of)) for n, of in enumerate(shares, 1)]
    assert re.findall(r"<tr><td>(\d+)</td>", html._block("N", stages)) == ["16", "32", "128"]


def test_no_text_ends_the_script() -> None:
    told = embedded({"a": "</script><script>alert(1)</script>&\u2028"})
    assert "<" not in told
    assert json.loads(told) == {"a": "</script><script>alert(1)</script>&\u2028"}


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(trials: Told, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(trials, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def great(thousand: Told, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(thousand, tmp_path_factory.mktemp("page") / "report.html")


def written(told: Told, path: Path) -> Path:
    study, rows, curves = told
    best = [row for row in pareto(study, rows) if not row.baseline]
    trained = tuple(
        Finalist(row, "", Mean(0.8, 0.7, 0.85), Mean(0.79, 0.7, 0.84)) for row in best[:2]
    )
    report = Report(
        study, 2, 2, 20, trained, (), front=pareto(study, rows), searched=pareto(study, rows)
    )
    by = {row.id: Belief(0.75, 0.7, 0.8) for row in rows if row.state == "finished"}
    text = html.page(study, rows, curves, report, Beliefs("accuracy", by), evaluated(12, side=96))
    path.write_text(text)
    return path


def evaluated(classes: int, count: int = 400, side: int = 32) -> Evaluation:
    """A model that is right on two images of three, and the surer of a mistake the later it is."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    taken = np.where(np.arange(count) % 3 == 0, (labels + 1) % classes, labels)
    sure = np.linspace(0.5, 0.99, count)
    probabilities = np.full((count, classes), ((1 - sure) / (classes - 1))[:, None], np.float32)
    probabilities[np.arange(count), taken] = sure
    pixels = rng.integers(0, 256, (count, 3, side, side), np.uint8)
    names = tuple(f"class {k} <b>" for k in range(classes))
    return Evaluation(names, "test", labels, probabilities, (Images.of(pixels, labels),))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browsing(tmp_path_factory.mktemp("profile"), width=1240) as opened:
        yield opened


@pytest.fixture
def page(browser: Chrome, file: Path) -> Chrome:
    browser.get(file.as_uri())
    return browser


def lines(page: Chrome) -> list[str]:
    script = "return [...document.querySelectorAll('#trials tbody tr')].map(r => r.innerText)"
    found: list[str] = page.execute_script(script)
    return found


def numbers(page: Chrome) -> list[int]:
    return [int(text.split()[0]) for text in lines(page)]


def test_a_thousand_trials_are_a_small_file(great: Path) -> None:
    assert great.stat().st_size < 5_000_000


@needs_browser
def test_the_page_loads_nothing_else_and_logs_no_error(page: Chrome, file: Path) -> None:
    asked = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [told["params"] for told in asked if told["method"] == "Network.requestWillBeSent"]
    urls = [told["request"]["url"] for told in sent]
    ours = {url for url in urls if not url.startswith(("data:", "chrome:"))}  # its empty first page
    assert ours == {file.as_uri()}
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert page.get_log("browser") == []
    assert "</script><b>NaN</b>" in page.execute_script(
        "return data.trials.find(t => t.more.failure).more.failure"
    )
    assert page.find_element(By.TAG_NAME, "h1").text.startswith("thousand <b>&amp;")


@needs_browser
def test_a_page_of_a_thousand_trials_is_drawn_within_seconds(
    browser: Chrome, great: Path, thousand: Told
) -> None:
    """The browser's own work, in its own time: no test of how busy the machine is."""
    browser.execute_cdp_cmd("Performance.enable", {})
    browser.get(great.as_uri())
    told = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    count = sum(row.state in ENDED and not row.baseline for row in thousand[1])
    assert count >= 1000
    assert browser.find_element(By.CSS_SELECTOR, ".tile").text == f"{count:,}\ntrials ended"
    assert next(m["value"] for m in told if m["name"] == "TaskDuration") < 10


@needs_browser
def test_the_front_is_drawn_and_the_axes_can_be_chosen(page: Chrome, trials: Told) -> None:
    study, rows, _ = trials
    finished = [row for row in rows if row.state == "finished"]
    script = (
        "return [...document.querySelectorAll('#plane [data-number]')].map(m => +m.dataset.number)"
    )
    assert sorted(page.execute_script(script)) == [row.number for row in finished]
    line = "return document.querySelector('#plane polyline.s-front').points.numberOfItems"
    for across in ("params", "latency"):
        Select(page.find_element(By.ID, "across")).select_by_visible_text(across)
        name = {"params": "params", "latency": "latency_ms"}[across]
        kept = stairs(study, rows, name, "accuracy")
        assert page.execute_script(line) == 2 * len(kept)
        assert across in page.find_element(By.ID, "plane").text


@needs_browser
def test_names_of_neighbours_on_the_front_stand_apart(browser: Chrome, tmp_path: Path) -> None:
    study, rows, _ = networks.study(30)
    rows = [dataclasses.replace(row, accuracy=1.0, metrics={"accuracy": 1.0}) for row in rows]
    (tmp_path / "page.html").write_text(html.page(study, rows, {}))
    browser.get((tmp_path / "page.html").as_uri())
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('#plane text.f-beside')].map(text => {"
        "const b = text.getBBox(); return [b.x, b.y, b.x + b.width, b.y + b.height]})"
    )
    assert len(boxes) == 2
    (a, b) = boxes
    apart = a[2] + 4 <= b[0] or b[2] + 4 <= a[0]  # their halos have 2 pixels each
    assert apart or a[3] <= b[1] or b[3] <= a[1]


@needs_browser
def test_hovering_tells_and_a_click_keeps(page: Chrome, trials: Told) -> None:
    study, rows, _ = trials
    wanted = pareto(study, rows)[-1]
    mark = page.find_element(By.CSS_SELECTOR, f"#plane [data-number='{wanted.number}']")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(page).move_to_element(mark).perform()
    told = page.find_element(By.ID, "tip").text
    assert re.search(r"(trial \d+|a baseline)", told)
    ActionChains(page).click().perform()
    chosen = page.find_element(By.ID, "chosen").text
    assert told.splitlines()[0] in chosen
    number = int(re.search(r"trial (\d+)", chosen)[1])  # type: ignore[index]
    assert page.find_element(By.CSS_SELECTOR, "#network pre").text == rows[number].pattern


@needs_browser
def test_the_table_sorts_and_filters(page: Chrome, trials: Told) -> None:
    study, rows, _ = trials
    assert len(lines(page)) == len(rows)
    heads = {h.text: h for h in page.find_elements(By.CSS_SELECTOR, "#trials th button")}
    heads["params"].click()
    assert numbers(page)[0] == min(rows, key=lambda row: (row.params, row.number)).number
    heads["params"].click()
    assert rows[numbers(page)[0]].params == max(row.params for row in rows)
    heads["accuracy"].click()
    last = rows[numbers(page)[-1]]
    assert last.state == "failed"  # what has no accuracy comes last
    page.find_element(By.ID, "search").send_keys("mbconv dense")
    wanted = {r.number for r in rows if "MBCONV" in r.pattern and "DENSE" in r.pattern}
    assert set(numbers(page)) == {n for n in wanted if not rows[n].baseline}
    page.find_element(By.ID, "search").clear()
    page.find_element(By.ID, "only").click()
    assert set(numbers(page)) <= {row.number for row in pareto(study, rows)}


@needs_browser
def test_finalists_have_error_bars(page: Chrome, trials: Told) -> None:
    study, rows, _ = trials
    ranges = page.execute_script(
        "return data.trials.filter(t => t.range).map(t => [t.number, t.range])"
    )
    best = [row for row in pareto(study, rows) if not row.baseline][:2]
    assert {number for number, _ in ranges} == {row.number for row in best}
    for _, told in ranges:
        ((low, middle, high),) = told.values()
        assert 0 < low < middle < high < 1


@needs_browser
def test_what_the_winner_gets_wrong_is_shown(page: Chrome) -> None:
    told = evaluated(12, side=96)
    cells = page.execute_script(
        "return [...document.querySelectorAll('.matrix tr')].slice(1)"
        ".map(r => [...r.querySelectorAll('td:not(.number)')].map(c => +c.innerText))"
    )
    assert cells == told.confusion.tolist()
    captions = [c.text for c in page.find_elements(By.CSS_SELECTOR, ".worst figcaption")]
    assert len(captions) == mistakes.SHOWN
    worst = max(np.flatnonzero(~told.right))  # the latest is the surest
    truth, taken = told.labels[worst], told.predicted[worst]
    own, most = (100 * told.probabilities[worst, k] for k in (truth, taken))
    assert captions[0].splitlines() == [
        f"class {truth} <b>, {own:.0f} %",
        f"taken for class {taken} <b>, {most:.0f} %",
        f"image {worst}",
    ]
    sizes = page.execute_script(
        "return [...document.querySelectorAll('.worst img')].map(i => i.naturalWidth)"
    )
    assert set(sizes) == {96}  # all are there


@needs_browser
def test_what_is_believed_stands_beside_what_was_measured(page: Chrome, trials: Told) -> None:
    _, rows, _ = trials
    heads = [h.text for h in page.find_elements(By.CSS_SELECTOR, "#trials th")]
    assert heads[heads.index("accuracy") + 1] == "believed"
    assert sum("75.00 % (70.00 to 80.00)" in line for line in lines(page)) == sum(
        row.state == "finished" for row in rows
    )
    assert "75.00 % (70.00 to 80.00)" in page.find_element(By.ID, "chosen").text
    assert (
        "Estimated from all trials, without the luck"
        in page.find_element(By.CLASS_NAME, "lead").text
    )


@needs_browser
@pytest.mark.parametrize("width", [700, 1280])
def test_no_table_runs_off_the_screen(page: Chrome, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.refresh()
        over = page.execute_script(
            "return [...document.querySelectorAll('.scroll, #trials')]"
            ".filter(e => !e.querySelector('.matrix') && e.scrollWidth > e.clientWidth)"
            ".map(e => e.innerText.slice(0, 80) + e.scrollWidth)"
        )
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert over == []


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_all_of_the_winner_is_on_the_screen(page: Chrome, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.refresh()
        seen = page.execute_script(
            "return [...document.querySelectorAll('tr.winner td')].map(e => {"
            "const b = e.getBoundingClientRect();"
            "return [e.dataset.title, b.left, b.right, b.height]})"
        )
        (title,) = page.execute_script(
            "return [...document.querySelectorAll('.finalists')].map(e =>"
            "getComputedStyle(e.querySelector('td[data-title=test]'), '::before').content)"
        )
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert {"searched", "validation", "test", "pattern"} <= {name for name, *_ in seen}
    for name, left, right, height in seen:
        assert 0 <= left < right <= width, name
        if name == "pattern":  # below the rest where that is narrow, not squeezed beside it
            assert right - left > 0.2 * width
            continue
        assert height < (60 if width < 640 else 400), name
    assert title == ('"test"' if width < 640 else "none")


@needs_browser
def test_the_summary_is_of_the_new_trainings_and_counts_all_trials(
    page: Chrome, trials: Told
) -> None:
    _, rows, _ = trials
    text = page.find_element(By.TAG_NAME, "main").text
    assert "80.00 % (70.00 to 85.00) on validation, 79.00 % (70.00 to 84.00) on the test" in text
    tile = page.find_element(By.CSS_SELECTOR, ".tile:nth-child(3)").text
    assert tile == "79.00 %\nthe winner's accuracy, test"
    ended = [row for row in rows if row.state in ENDED]
    count = sum(not row.baseline for row in ended)
    beside = len(ended) - count
    assert page.find_element(By.CSS_SELECTOR, ".tile").text == f"{count:,}\ntrials ended"
    assert f"All {count:,} trials, {beside} baseline{'s' * (beside > 1)}\n" in text


@needs_browser
def test_axes_points_and_differences_say_what_they_are(page: Chrome) -> None:
    page_text = page.find_element(By.TAG_NAME, "main").text
    assert "A bar with a hollow point: the mean validation accuracy of new trainings" in page_text
    for chart in page.find_elements(By.CSS_SELECTOR, "svg[aria-label^=hypervolume]"):
        assert "hypervolume" in chart.text


@needs_browser
@pytest.mark.parametrize("width", [400, 1280])
def test_no_line_crosses_a_text_of_a_plot(page: Chrome, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.refresh()
        crossed = page.execute_script(
            "const box = e => e.getBoundingClientRect();"
            "return [...document.querySelectorAll('.chart')].flatMap(chart =>"
            " [...chart.querySelectorAll('text')].filter(text => {"
            "  const a = box(text);"
            "  return [...chart.querySelectorAll('polyline')].some(line => { const b = box(line);"
            "   return a.left < b.right && b.left < a.right"
            "    && a.top < b.bottom && b.top < a.bottom;"
            "  })}).map(text => text.textContent))"
        )
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert crossed == []


@needs_browser
@pytest.mark.parametrize("width", [390, 768, 1240])
def test_no_width_needs_scrolling_sideways(page: Chrome, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.refresh()
        wide = page.execute_script("return document.documentElement.scrollWidth")
        inner = page.execute_script(
            "const box = window.trials; return box.scrollWidth - box.clientWidth"
        )
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= width
    if width < 640:  # there each trial is a block of its own, with nothing beside the screen
        assert inner == 0


@needs_browser
def test_dark_is_dark_and_paper_is_white(page: Chrome) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme, media in (("light", ""), ("dark", ""), ("dark", "print")):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        seen[scheme, media] = page.execute_script(ground)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert seen["light", ""] == seen["dark", "print"] == "rgb(255, 255, 255)"
    assert max(map(int, re.findall(r"\d+", seen["dark", ""]))) < 60


def test_small_images_are_as_the_network_saw_them() -> None:
    told = evaluated(3, count=30, side=8)
    section = mistakes.section(told)
    found = re.findall(r"data:image/png;base64,([^\"]+)", section)
    assert len(found) == 10
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[0]))))
    assert (first == told.pixels(27).transpose(1, 2, 0)).all()
    assert "All mistakes" in section
    assert "class 0 &lt;b&gt;" in section


def test_of_many_classes_the_pairs_that_are_confused_most_are_told() -> None:
    told = evaluated(60)
    section = mistakes.section(told)
    assert '<table class="matrix">' not in section
    counts = told.confusion - np.diag(told.confusion.diagonal())
    assert section.count("<tr><td>") == min(20, (counts > 0).sum())
    assert f'<td class="number">{counts.max()}</td>' in section


def test_a_model_without_mistakes_has_none_to_show() -> None:
    told = evaluated(3, count=30)
    right = dataclasses.replace(told, labels=told.predicted)
    assert "No mistakes." in mistakes.section(right)


def test_a_caption_keeps_its_probability_whatever_the_class_is_called() -> None:
    assert cut("taken for a long name", ", 55 %", lambda text: len(text) <= 18) == (
        "taken for a…, 55 %"
    )
    assert cut("taken for it", ", 55 %", lambda text: len(text) <= 18) == "taken for it, 55 %"


def test_mistakes_have_the_names_of_their_files(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n in range(20):
            shade = 20 * (name == "dog") + n
            Image.new("L", (9, 9), shade).save(tmp_path / "photos" / name / f"{n:02}.png")
    ref = DataRef(name="imagefolder", dir=str(tmp_path / "photos"))
    images = load(ref, "test")
    labels = images.labels[images.rows]
    probabilities = np.eye(2, dtype=np.float32)[1 - labels]  # all wrong
    told = Evaluation(("cat", "dog"), "test", labels, probabilities, (images,), ref)
    for number in range(len(told)):
        shade = int(told.pixels(number)[0, 0, 0])
        name, n = ("dog", shade - 20) if told.labels[number] else ("cat", shade)
        assert told.name(number) == f"{name}/{n:02}.png"
        assert f"<code>{name}/{n:02}.png</code>" in mistakes.section(told)


def test_a_page_is_made_in_seconds(thousand: Told) -> None:
    study, rows, curves = thousand
    begun = time.process_time()
    html.page(study, rows, curves)
    assert time.process_time() - begun < 20
