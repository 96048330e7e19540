"""Cascades: chosen exactly and without bias, saved, predicted with, exported, drawn."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import resource
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from typed import command

import nas
from nas import data
from nas.cli import fronts
from nas.driver.tradeoffs import pareto
from nas.errors import NasError, StudyError
from nas.job import DataRef, Job
from nas.report import front
from nas.report.smaller import Cascaded, cost_sentence
from nas.training import cascade, classical
from nas.training.cascade import Cascade, Member, load_cascade, save_cascade
from nas.training.cascade_choice import (
    Candidate,
    Choice,
    CrossValidation,
    Demand,
    choose,
    cross_validate,
    decide,
    tried,
)
from nas.training.cascade_export import to_onnx_graph
from nas.training.linear import as_model
from nas.training.models import load_model, save_model
from nas.training.single import train

pytestmark = pytest.mark.usefixtures("operators")

SMALL = "INPUT -> CONV(4) -> BN -> RELU -> POOL(2) -> FLATTEN -> FC"
LARGE = "INPUT -> CONV(24) -> BN -> RELU -> CONV(32) -> BN -> RELU -> POOL(2) -> FLATTEN -> FC"
DIGITS = DataRef()


def drawn(rng: np.random.Generator, labels: np.ndarray, skill: float, cost: float, grain=0):
    logits = rng.normal(0, 1, (len(labels), 4))
    logits[np.arange(len(labels)), labels] += skill
    return Candidate(np.round(logits * grain) / grain if grain else logits, cost)


def by_trying(candidates, labels: np.ndarray, demand: Demand, size: int):
    """The merit of the best cascade, by trying each image after image."""
    best, images = None, len(labels)
    for members in itertools.permutations(range(len(candidates)), size):
        if sorted(members, key=lambda i: candidates[i].cost) != list(members):
            continue
        sure = [softmax(candidates[i].logits, axis=1).max(1) for i in members]
        for least in itertools.product(*(np.unique(s)[1:] for s in sure[:-1])):
            right, cost = 0, 0.0
            for image in range(images):
                for i, s, t in zip(members, sure, [*least, 0.0], strict=True):
                    cost += candidates[i].cost
                    if s[image] >= t:
                        right += candidates[i].logits[image].argmax() == labels[image]
                        break
            cost, right = round(cost / images, 9), int(right)
            if demand.accuracy is not None:
                merit = (-cost, right) if right >= demand.accuracy * images - 1e-9 else None
            else:
                merit = (right, -cost) if cost <= demand.budget else None
            if merit is not None and (best is None or merit > best):
                best = merit
    return best


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("demand", [Demand(accuracy=0.75), Demand(accuracy=0.6), Demand(budget=4)])
def test_the_choice_is_the_best_there_is(seed: int, demand: Demand) -> None:
    """Over all members and thresholds, also where many images are equally sure."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 14)
    ways = [(0.6, 1.0), (1.3, 2.7), (2.2, 7.1)]
    candidates = [drawn(rng, labels, s, c, grain=seed % 2 * 2) for s, c in ways]
    for size in (1, 2, 3):
        found = choose(candidates, labels, demand, size)
        right = None if found is None else round(found.accuracy * len(labels))
        cost = None if found is None else round(found.cost, 9)
        expected = by_trying(candidates, labels, demand, size)
        told = (-cost, right) if demand.accuracy and found else (right, -cost) if found else None
        assert told == expected
        if found:
            assert sum(found.shares) == pytest.approx(1)


def test_no_cascade_of_networks_that_know_nothing_is_told_as_a_gain() -> None:
    """Networks that know nothing: the choice is better than chance on the images that chose it, and
    not on others; a cascade of them is never told as a gain."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 4, 150)
        candidates = [drawn(rng, labels, 0.0, c) for c in (1.0, 2.0, 3.0, 4.0)]
        found.append(cross_validate(candidates, labels, Demand(budget=10.0), 2))
    assert np.mean([each.chosen for each in found]) > 0.3
    assert abs(np.mean([each.held_out for each in found]) - 0.25) < 0.02  # a deviation of 0.008


def test_an_accuracy_is_kept_within_what_images_tell_apart() -> None:
    better, half = np.ones(100, bool), np.arange(100) < 50
    worse = better.copy()
    worse[0] = False  # one image of 100: the difference has a standard error of 0.01
    first, second, third = (CrossValidation(1.0, 1.0, right) for right in (better, worse, half))
    assert second.keeps(first)
    assert not third.keeps(first)
    assert first.keeps(third)
    assert third.keeps(0.54)  # the standard error of 50 of 100 is 0.05
    assert not third.keeps(0.56)


def test_a_cascade_of_what_pays_pays_on_other_images() -> None:
    """A cheap network that knows when it is right, and a dear one: on images that chose nothing the
    accuracy demanded is kept, at less than half of the cost."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 4_000)
    hard = rng.random(4_000) < 0.3
    cheap, dear = (drawn(rng, labels, 0, c) for c in (1.0, 10.0))
    rows = np.arange(4_000)
    cheap.logits[rows, labels] += np.where(hard, 0.0, 6.0)
    dear.logits[rows, labels] += np.where(hard, 3.0, 6.0)
    own, others = rows[:2_000], rows[2_000:]
    verdict = decide(
        [cheap.on(own), dear.on(own)], labels[own], Demand(accuracy=0.93), best_single=False
    )
    assert verdict.single is not None
    assert verdict.cascade is not None
    assert verdict.single.members == (1,)
    there = [dataclasses.replace(c, temperature=f.temperature).on(others)
             for c, f in zip((cheap, dear), verdict.candidates, strict=True)]  # fmt: skip
    found = tried(there, verdict.cascade.members, verdict.cascade.thresholds, labels[others])
    assert found.accuracy > 0.92
    assert found.cost < 5


def test_calibration_is_the_temperature_of_the_least_loss() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 4, 2_000)
    logits = 3 * log_softmax(rng.normal(0, 2, (2_000, 4)), axis=1)
    drawn_labels = np.array([rng.choice(4, p=p) for p in softmax(logits / 3, axis=1)])
    found = Candidate(logits, 1.0).calibrated(drawn_labels)
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert len(labels) == 2_000


# --- networks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    ref = dataclasses.replace(DIGITS, identity=data.identity(DIGITS))
    made = []
    for name, pattern, epochs in (("small", SMALL, 3), ("large", LARGE, 5)):
        made.append(folder / f"{name}.safetensors")
        train(Job(pattern=pattern, data=ref, epochs=epochs), lambda _: None, file=made[-1])
    return made


@pytest.fixture
def made(files: list[Path]) -> Cascade:
    small, large = map(load_model, files)
    return Cascade([Member(small, 1.3, 0.9), Member(large, 0.8, -math.inf)], {"cost": "macs"})


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    images = data.load(DIGITS, "test")
    return torch.from_numpy(images.pixels[images.rows])


def test_each_image_is_answered_by_the_first_that_is_sure(made, pixels) -> None:
    found, by = made.answers(pixels)
    small, large = (m.model.network.eval() for m in made.members)
    for row, pixel in enumerate(pixels[:60]):
        x = (pixel[None].float() - made.members[0].model.mean) / made.members[0].model.std
        with torch.no_grad():
            soft = (small(x) / 1.3).softmax(1)
            answered = 0
            if soft.max() < 0.9:
                soft, answered = (large(x) / 0.8).softmax(1), 1
        assert by[row] == answered
        assert np.allclose(found[row], soft[0], atol=1e-5)
    assert 0 < by.mean() < 1
    made.probabilities(pixels)
    made.probabilities(pixels)
    assert made.stopped == [2 * (by == 0).sum(), 2 * (by == 1).sum()]


def test_a_file_holds_a_cascade_whole(made, pixels, tmp_path: Path) -> None:
    file = tmp_path / "here" / "c.json"
    save_cascade(file, made)
    moved = tmp_path / "there"
    file.parent.rename(moved)
    again = load_cascade(moved / "c.json")
    assert np.array_equal(again.answers(pixels)[0], made.answers(pixels)[0])
    assert again.about == {"cost": "macs"}


def test_what_is_no_cascade_is_refused(made, files, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    save_cascade(file, made)
    held = json.loads(file.read_text())

    def refused(change, told: str) -> None:
        other = json.loads(json.dumps(held))
        change(other)
        file.write_text(json.dumps(other))
        with pytest.raises(NasError, match=told):
            load_cascade(file)

    refused(lambda h: h.pop("nas_cascade"), "nas_cascade is missing: must be 1, the format")
    refused(lambda h: h.update(nas_cascade=9), "nas_cascade is 9: must be 1, the format")
    refused(lambda h: h.update(members=[]), "without members")
    refused(lambda h: h.update(members=3), "members is 3: must be a list of members")
    refused(lambda h: h.update(about=[]), r"about is \[\]: must be an object")
    refused(lambda h: h["members"][0].pop("digest"), r"members\[0\].digest is missing")
    for number in (None, "0.5", True, math.nan, math.inf, 10**400, 2):
        told = re.escape(json.dumps(number)[:9])
        refused(
            lambda h, n=number: h["members"][0].update(threshold=n),
            rf"members\[0\].threshold is {told}.*: must be a number from 0 to 1",
        )
    for number in (None, "0.5", True, math.nan, math.inf, 10**400, 0):
        told = re.escape(json.dumps(number)[:9])
        refused(
            lambda h, n=number: h["members"][1].update(temperature=n),
            rf"members\[1\].temperature is {told}.*: must be a number above 0",
        )
    for number in (math.nan, math.inf, -math.inf, 10**400, 0.5):
        refused(
            lambda h, n=number: h["members"][1].update(threshold=n),
            "threshold is .*: must be null: the last member answers whatever is left",
        )
    refused(lambda h: h["members"][0].update(file="../n.safetensors"), "name of a file beside it")
    refused(lambda h: h["members"][0].update(file="none.safetensors"), "No such file")
    other = load_model(files[0])
    name = held["members"][0]["file"]
    save_model(tmp_path / name, nas.build(other.architecture, seed=3), other.card)
    refused(lambda h: None, f"its member {name} was changed since it was chosen")
    file.write_text("[")
    with pytest.raises(NasError, match="is no JSON from line 1, column 2 on: must be a cascade"):
        load_cascade(file)


def test_files_of_the_user_are_never_written_over(files, made, tmp_path: Path, capsys) -> None:
    for number, file in enumerate(files, 1):
        (tmp_path / f"m-{number}.safetensors").write_bytes(file.read_bytes())
    mine = sorted(tmp_path.glob("m-*"))
    before = [file.read_bytes() for file in mine]
    output = tmp_path / "m.json"
    told = ("cascade", *mine, "--cost", "macs", "--accuracy", 0.975, "--baseline", "logistic")
    assert command(*told, "-o", output) == 0
    assert command(*told, "-o", output) == 0  # again, to the same
    assert [file.read_bytes() for file in mine] == before
    taken = tmp_path / f"n-{made.members[1].model.digest[:8]}.safetensors"
    taken.write_bytes(b"mine")
    capsys.readouterr()
    assert command(*told, "-o", tmp_path / "n.json") == 2
    out, err = capsys.readouterr()
    assert out == ""  # before the work
    assert f"{taken} exists and is a different one" in err
    assert taken.read_bytes() == b"mine"
    assert command("cascade", mine[0], f"{tmp_path}/./{mine[0].name}", "--cost", "macs") == 3
    assert "is the same network as" in capsys.readouterr().err


def test_the_source_reads_the_files_that_the_cascade_names(made, pixels, tmp_path: Path) -> None:
    file, source = tmp_path / "c.json", tmp_path / "c.py"
    save_cascade(file, made)
    moved = file.rename(tmp_path / "other.json")
    assert command("export", moved, "-f", "python", "-o", source) == 0
    names: dict = {"__file__": str(source), "__name__": "exported"}
    exec(source.read_text(), names)
    found, by = names["predict"](names["load"](), pixels[:50])
    expected, expected_by = made.answers(pixels[:50])
    assert np.allclose(found, expected, atol=1e-4)
    assert by.tolist() == expected_by.tolist()
    held = json.loads(moved.read_text())["members"]
    (tmp_path / held[0]["file"]).write_bytes((tmp_path / held[1]["file"]).read_bytes())
    with pytest.raises(ValueError, match="was changed since this was exported"):
        names["load"]()
    before = moved.read_bytes()
    assert command("export", moved, "-f", "python", "-o", moved) == 2
    assert moved.read_bytes() == before


def test_a_cascade_is_written_whole_or_not_at_all(
    made: Cascade, files: list[Path], tmp_path: Path
) -> None:
    """As by a full disk or a quota, which the first member still fits: it stayed behind."""
    small, large = (file.stat().st_size for file in files)
    assert small < large - 2_000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (large - 1_000, before[1]))
    try:
        with pytest.raises(NasError, match="cannot be written"):
            save_cascade(tmp_path / "c.json", made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
    save_cascade(tmp_path / "c.json", made)
    own = {path.name for path in tmp_path.iterdir()}
    (tmp_path / "d.json").mkdir()
    with pytest.raises(NasError, match="cannot be written"):
        save_cascade(tmp_path / "d.json", made)
    assert {path.name for path in tmp_path.iterdir()} == own | {"d.json"}


def test_a_picture_has_the_params_that_a_cascade_holds(made, tmp_path: Path) -> None:
    told = Cascade(made.members, {"expected": {"accuracy": 0.9, "params": 7.0, "macs": 5.0}})
    save_cascade(tmp_path / "c.json", told)
    held = sum(load_model(f).architecture.params for f in tmp_path.glob("c-*.safetensors"))
    file = tmp_path / "c.json"
    found = fronts.expected(file, load_cascade(file))
    assert found == {"accuracy": 0.9, "params": held, "macs": 5.0}
    save_cascade(tmp_path / "c.json", Cascade(made.members, {"expected": {"macs": math.nan}}))
    with pytest.raises(NasError, match=r"about.expected.macs is NaN: must be a number"):
        fronts.expected(file, load_cascade(file))


def test_logistic_regression_is_a_network_with_the_same_probabilities(pixels) -> None:
    fitted = classical.fit("logistic", DIGITS)
    found = as_model(fitted, DIGITS).probabilities(pixels)
    features = classical.METHODS["logistic"].features(pixels.numpy())
    assert np.allclose(found, fitted.classifier.predict_proba(features), atol=1e-5)


def test_onnx_runs_the_branch_that_is_needed(made, pixels) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    both = [*made.members[:1], Member(made.members[1].model, 0.7, 0.97), made.members[1]]
    longer = Cascade(both, {})
    session = onnxruntime.InferenceSession(to_onnx_graph(longer))
    expected, by = longer.answers(pixels[:80])
    assert {*by} == {0, 1, 2}
    for row, pixel in enumerate(pixels[:80]):
        logits, member = session.run(None, {"pixels": pixel[None].numpy()})
        assert member.tolist() == [by[row]]
        assert np.allclose(softmax(logits[0]), expected[row], atol=1e-4)


def test_from_models_to_predictions_on_the_command_line(files, tmp_path: Path, capsys) -> None:
    file, images = tmp_path / "out" / "c.json", tmp_path / "images"
    assert command("cascade", *files, "--cost", "macs", "--accuracy", 0.975, "--baseline",
                   "logistic", "-o", file) == 0  # fmt: skip
    told = capsys.readouterr()
    # Which of the two is faster, a machine's load decides; one that is slower is not recommended.
    slower = "slower here than" in told.out
    assert slower or "of the single network" in told.out
    assert slower == ("next:" not in told.err) == ("alone is as good" in told.err)
    assert "logistic" in told.out
    rate = r"\d+\.\d\d %"
    told_luck = (
        rf"{rate} on the four folds that chose it, {rate} on the fifth; the best single network"
    )
    assert re.search(rf"{told_luck} {rate} and {rate}", told.out)
    about = load_cascade(file).about
    single, own = load_model(files[1]).architecture.macs, about["expected"]["macs"]
    assert own < single
    test = nas.evaluate(file)
    assert test.accuracy == about["test"]["accuracy"] > 0.85
    assert command("evaluate", file, files[1]) == 0
    told = capsys.readouterr()
    assert "stopped at each member" in told.err
    assert "ms per image, one at a time" in told.err
    assert "McNemar" in told.out
    images.mkdir()
    shown = data.load(DIGITS, "test")
    from PIL import Image

    for number, row in enumerate(shown.rows[:5]):
        Image.fromarray(shown.pixels[row][0]).save(images / f"{number}.png")
    assert command("predict", file, images, "-f", "csv") == 0
    told = capsys.readouterr()
    expected, _ = load_cascade(file).answers(torch.from_numpy(shown.pixels[shown.rows[:5]]))
    lines = [line.split(",")[1:] for line in told.out.splitlines()[1:]]
    assert [float(p) for _, p in lines] == pytest.approx(expected.max(1).tolist(), abs=1e-5)
    for form, made in (("python", "c.py"), ("onnx", "c.onnx")):
        assert command("export", file, "-f", form, "-o", tmp_path / "out" / made) == 0
        assert re.search(r"differ by at most \d\.\de-\d\d", capsys.readouterr().err)
    assert command("predict", tmp_path / "out" / "c.onnx", images, "-f", "csv") == 0
    again = [line.split(",")[1:] for line in capsys.readouterr().out.splitlines()[1:]]
    assert [name for name, _ in again] == [name for name, _ in lines]
    assert command("export", file, "-f", "pt2") == 2
    assert "a cascade is exported as python or onnx" in capsys.readouterr().err


def test_one_network_twice_is_said_to_be_one(files, tmp_path, capsys) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(files[0].read_bytes())
    for given in ([files[0]] * 2, [files[0], copy]):
        assert command("cascade", *given, "-o", tmp_path / "c.json") == 3
        assert "two networks with weights, and the 2 given are one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("told", "reason", "status"),
    [
        (["--cost", "watts"], "--cost watts: must be one of", 2),
        (["--accuracy", "90"], "--accuracy 90: must be best, or a fraction", 2),
        (["--accuracy", "0.9", "--budget", "5"], "give one of the two", 2),
        (["--budget", "nan"], "--budget nan: must be a number above 0", 2),
        (["--budget", "0"], "--budget 0: must be a number above 0", 2),
        (["--budget", "-1"], "--budget -1: must be a number above 0", 2),
        (["-o", "c.txt"], "must end in .json", 2),
        (["--baseline", "hog"], "must be logistic", 2),
        # Of the cheap one's accuracy nothing is cheaper.
        (["--accuracy", "0.3", "--cost", "macs"], "no cascade of these networks", 3),
        (["--accuracy", "0.3", "--cost", "macs"], "has accuracy 30.00 % on validation", 3),
        (["--accuracy", "0.3", "--cost", "macs"], "; use that network alone, or train more", 3),
        (["--accuracy", "90"], "up to 1: for 90 % give 0.9", 2),
        (["--budget", "1", "--cost", "macs"], "no cascade of these networks", 3),
    ],
)
def test_what_allows_no_cascade_is_said(files, tmp_path, capsys, told, reason, status) -> None:
    if "-o" not in told:
        told = [*told, "-o", str(tmp_path / "c.json")]
    assert command("cascade", *files, *told) == status
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()


def test_a_cascade_is_a_point_of_the_picture(tmp_path: Path) -> None:
    study, rows, _ = networks.study(40)
    assert pareto(study, rows)
    x, y = front.axes(study)
    inside = {x: rows[5].value(x), y: rows[5].value(y)}
    drawn = front.svg(study, rows, [inside])
    # Itself, and in the legend.
    assert drawn.count("<rect") == front.svg(study, rows).count("<rect") + 2
    assert "cascade: " in drawn
    with pytest.raises(StudyError, match=f"a cascade has no {x}"):
        front.svg(study, rows, [{y: 0.5}])


def test_a_cascade_is_drawn_by_what_it_was_chosen_by(made, capsys) -> None:
    """And the front beneath it is that of the same two metrics."""
    study, rows, _ = networks.study(40)
    study = dataclasses.replace(study, objectives=(("accuracy", "max"), ("params", "min")))
    by_macs = Cascade(made.members, {"cost": "macs"})
    drawn = fronts.by_cost(study, rows, {Path("c.json"): by_macs})
    assert drawn.objectives == (("accuracy", "max"), ("macs", "min"))
    assert "use --objective accuracy:max,params:min" in capsys.readouterr().err
    three = dataclasses.replace(study, objectives=(*study.objectives, ("macs", "min")))
    drawn = fronts.by_cost(three, rows, {Path("c.json"): by_macs})
    assert front.axes(drawn) == ("macs", "accuracy")
    assert {*drawn.objectives} == {*three.objectives}  # the same front
    by_time = Cascade(made.members, {"cost": "latency_ms"})
    with pytest.raises(
        NasError, match=r"c.json by macs, d.json by latency_ms: pick one with --objective"
    ):
        fronts.by_cost(study, rows, {Path("c.json"): by_macs, Path("d.json"): by_time})
    for about, told in (
        ({}, "is missing"),
        ({"cost": "accuracy"}, 'is "accuracy"'),
        ({"cost": "ms"}, 'is "ms"'),
        ({"cost": None}, "is null"),
        ({"cost": ["macs"]}, r'is \["macs"\]'),
    ):
        lost = Cascade(made.members, about)
        rule = "must be one of latency_ms, macs, params"
        with pytest.raises(NasError, match=f"--cascade c.json: about.cost {told}: {rule}"):
            fronts.by_cost(study, rows, {Path("d.json"): by_time, Path("c.json"): lost})
    untimed = [dataclasses.replace(row, latency_ms=None, metrics={}) for row in rows]
    assert fronts.by_cost(study, untimed, {Path("d.json"): by_time}) == study
    assert "chosen by latency_ms, which no trial has" in capsys.readouterr().err


def test_measured_time_decides_what_is_said_of_a_cascade() -> None:
    single = Choice((2,), (), 0.81, 0.639, (1.0,))
    choice = Choice((0, 1), (0.6,), 0.81, 0.4, (0.7, 0.3))
    told = Cascaded(
        names=["trial 7", "trial 2", "trial 5"], cost="latency_ms", choice=choice, single=single,
        validated=None, single_validated=None, test=None, shares=(0.5, 0.5),
        costs=[0.2, 0.458, 0.639], ms=1.249, single_test=None, single_ms=1.022,
    )  # fmt: skip
    assert told.slower_than == "trial 5"
    assert cost_sentence(told, single, 1.022) == (
        "the cascade is slower here than trial 5 alone, 1.249 ms an image to 1.022, though its "
        "members take 67 % of that network's latency"
    )
    faster = dataclasses.replace(told, ms=0.5)
    assert faster.slower_than == ""
    assert cost_sentence(faster, single, 1.022) == (
        "the cascade costs 67 % of the latency of the single network, 0.49 times its time in all"
    )


def test_a_cascade_is_timed_in_milliseconds_per_image(made, pixels) -> None:
    assert 0 < cascade.timed(made, pixels[:20]) < 1_000


def test_the_front_of_a_study_and_its_baseline_are_the_candidates(tmp_path: Path, capsys) -> None:
    storage = f"sqlite:///{tmp_path}/nas.db"
    assert command("search", "--space", "lenet_like", "--trials", 3, "--epochs", 2, "--workers", 0,
                   "--objective", "accuracy:max,macs:min", "--baseline", "logistic", "--storage",
                   storage, "--keep", "all") == 0  # fmt: skip
    study = nas.api.Study("lenet_like-digits", storage)
    capsys.readouterr()
    status = command("cascade", "--storage", storage, "--cost", "macs", "--budget", 1e9, "-o",
                     tmp_path / "c.json")  # fmt: skip
    told = capsys.readouterr()
    listed = {line.split("  ")[0] for line in told.out.splitlines()[1:]}
    wanted = {f"trial {row.number}" for row in study.front if not row.baseline}
    if wanted:  # else the baseline is better than all three
        assert {*wanted, "logistic"} <= listed
    assert status in (0, 3)
    assert (tmp_path / "c.json").exists() == (status == 0)
