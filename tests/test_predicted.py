"""Predicted latency: pieces, the predictor fitted to them, and a search under a bound."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_latencies import run

import nas
from nas.driver import supply
from nas.driver.latencies import device_here
from nas.driver.profiles import in_search, predicting, predictor, profile
from nas.errors import NasError
from nas.job import Latency
from nas.language.architecture import Architecture
from nas.metrics import METRICS, of_pattern
from nas.spaces.space import load_space, read_space
from nas.store import Ask, Store, Study
from nas.store.devices import Device, Profiled, all_profiles, keep, keep_profile, measured
from nas.training.device import available
from nas.training.latency_pieces import Piece, distinct, parts
from nas.training.latency_prediction import FEWEST, LatencyPredictor

SPACES = ("resnet_like", "inception_like", "densenet_like", "mobilenet_like", "vgg_like",
          "alexnet_like", "lenet_like", "linear")  # fmt: skip


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of the record that ``run`` takes."""
    return f"sqlite:///{tmp_path}/nas.db"


def drawn(space: str, count: int, seed: int = 0) -> list[Architecture]:
    told = load_space(space, (3, 32, 32), 10)
    rng = random.Random(seed)
    found: dict[str, Architecture] = {}
    for _ in range(20 * count):
        architecture = told.draw(rng)[1]
        found[architecture.fingerprint] = architecture
    return list(found.values())[:count]


def cost(piece: Piece) -> float:
    """A device's law: work, weights, and a price for each call, in milliseconds."""
    x, params, macs = piece.x, 0, 0
    for layer in piece.layers:
        x, p, m = layer.cost(x)
        params, macs = params + p, macs + m
    return 0.002 + 2e-8 * macs + 1e-7 * params + 3e-7 * math.prod(piece.x)


def whole(architecture: Architecture) -> float:
    """The calls of all but the first are cheaper than apart, and the maps are not warm."""
    told = parts(architecture)
    maps = sum(math.prod(piece.x) for piece in told.pieces)
    return (
        0.01 + sum(cost(piece) - 0.0015 for piece in told.pieces) + 2e-7 * maps + 1e-7 * told.moved
    )


def profiled(networks: list[Architecture], name: str = "pi", **more: int) -> Profiled:
    device = Device(device=f"{name}, 1 thread, x", name=name, threads=1, about={"cpu": name})
    profile = {
        "pieces": {piece.key: cost(piece) for piece in distinct(networks)},
        "wholes": {str(network): whole(network) for network in networks},
    }
    return Profiled(device=device, runtime="onnx", batch=1, **profile)


# --- pieces --------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
def test_the_pieces_have_the_params_and_macs_of_the_network(space: str) -> None:
    for architecture in drawn(space, 5):
        params = macs = 0
        for piece in parts(architecture).pieces:
            x = piece.x
            for layer in piece.layers:
                x, p, m = layer.cost(x)
                params, macs = params + p, macs + m
        assert (params, macs) == (architecture.params, architecture.macs)


def test_a_piece_is_what_runs_in_one_go() -> None:
    text = "INPUT -> CONV(width=8) -> BN -> RELU -> DROPOUT -> POOL -> BN -> GAP"
    text += " -> FC(width=8) -> RELU -> FC"
    kinds = [piece.kind for piece in parts(nas.parse(text)).pieces]
    assert kinds == ["conv-bn-relu", "maxpool", "batchnorm", "gap", "linear-relu", "linear"]
    block = nas.parse("INPUT -> CONV(width=8) -> RESIDUAL(width=8) -> GAP -> FC")
    told = parts(block)
    assert (told.joins, told.moved) == (1, 8 * 8 * 8)


# --- what is learned -----------------------------------------------------------------------------


def test_without_networks_measured_whole_it_is_the_plain_sum() -> None:
    networks = drawn("resnet_like", 4)
    predict = LatencyPredictor.fit([(p, cost(p)) for p in distinct(networks)], [])
    for network in networks:
        expected = sum(cost(piece) for piece in parts(network).pieces)
        assert predict(network) == pytest.approx(expected)
    assert "uncorrected" in predict.trust


@pytest.mark.parametrize("space", ["resnet_like", "inception_like", "lenet_like"])
def test_networks_that_were_not_measured_are_predicted(space: str) -> None:
    some, others = drawn(space, 30), drawn(space, 30, seed=1)
    predict = LatencyPredictor.fit(
        [(p, cost(p)) for p in distinct(some)], [(network, whole(network)) for network in some]
    )
    errors = [abs(predict(network) / whole(network) - 1) for network in others]
    assert np.quantile(errors, 0.9) < 0.1
    plain = LatencyPredictor.fit([(p, cost(p)) for p in distinct(some)], [])
    uncorrected = [abs(plain(network) / whole(network) - 1) for network in others]
    assert np.mean(errors) < np.mean(uncorrected) / 2


def test_the_error_that_is_told_is_that_of_networks_to_come() -> None:
    rng = np.random.default_rng(0)
    some, others = drawn("resnet_like", 40), drawn("resnet_like", 80, seed=1)
    noisy = {
        n.fingerprint: whole(n) * math.exp(0.08 * rng.standard_normal()) for n in some + others
    }
    predict = LatencyPredictor.fit(
        [(p, cost(p)) for p in distinct(some)], [(n, noisy[n.fingerprint]) for n in some]
    )
    came = [abs(predict(n) / noisy[n.fingerprint] - 1) for n in others]
    assert np.mean(predict.errors) == pytest.approx(np.mean(came), rel=0.4)


def blocked(piece: Piece) -> float:
    """What a piece takes alone where a runtime turns its maps into blocks and back."""
    return cost(piece) + 0.006 + 4e-7 * (math.prod(piece.x) + math.prod(piece.total[0]))


@pytest.mark.parametrize("space", ["resnet_like", "mobilenet_like", "vgg_like"])
def test_the_cost_that_pieces_have_only_alone_is_learned_from_whole_networks(space: str) -> None:
    """By kind too, where a layer is slower or faster beside others."""

    def whole(architecture: Architecture) -> float:
        slow = {"maxpool": 1.4, "conv-bn-relu": 0.8, "linear": 0.6}
        return sum(cost(p) * slow.get(p.kind, 1.0) for p in parts(architecture).pieces)

    some, others = drawn(space, 60), drawn(space, 60, seed=1)
    wholes = [(network, whole(network)) for network in some]
    predict = LatencyPredictor.fit([(p, blocked(p)) for p in distinct(some)], wholes)
    plain = [sum(blocked(p) for p in parts(n).pieces) / whole(n) - 1 for n in others]
    errors = [abs(predict(network) / whole(network) - 1) for network in others]
    assert np.median(plain) > 0.3
    assert np.mean([error <= 0.1 for error in errors]) >= 0.95


def test_a_network_that_was_disturbed_does_not_bend_the_others() -> None:
    some, others = drawn("resnet_like", 40), drawn("resnet_like", 20, seed=1)
    pieces = [(p, cost(p)) for p in distinct(some)]
    wholes = [(n, whole(n) * (3 if k in (5, 17) else 1)) for k, n in enumerate(some)]
    predict = LatencyPredictor.fit(pieces, wholes)
    assert np.quantile([abs(predict(n) / whole(n) - 1) for n in others], 0.9) < 0.1
    assert sum(error > 0.5 for error in predict.errors) == 2  # told all the same


def test_an_error_is_told_as_of_a_network_whose_pieces_are_new() -> None:
    """The piece that one network alone has is not in the table when that is left out, unless
    another one was taken apart for it."""
    rng = np.random.default_rng(0)
    some = drawn("vgg_like", 30)
    law = {p.key: cost(p) * math.exp(0.3 * rng.standard_normal()) for p in distinct(some)}
    wholes = [(n, sum(law[p.key] for p in parts(n).pieces)) for n in some]
    pieces = [(p, law[p.key]) for p in distinct(some)]
    told = LatencyPredictor.fit(pieces, wholes).errors
    assert np.mean(told) > 2 * np.mean(LatencyPredictor.fit(pieces, wholes, some).errors)


def test_few_networks_teach_nothing_of_wholes() -> None:
    networks = drawn("lenet_like", FEWEST - 1)
    predict = LatencyPredictor.fit(
        [(p, cost(p)) for p in distinct(networks)], [(n, whole(n)) for n in networks]
    )
    assert predict.errors == ()


# --- as a metric ---------------------------------------------------------------------------------


def test_a_metric_of_a_device_is_arithmetic_while_a_search_runs(store: Store) -> None:
    networks = drawn("resnet_like", 20)
    keep_profile(store, profiled(networks))
    before, name = dict(METRICS), "latency_ms@pi"
    other = drawn("resnet_like", 1, seed=9)[0]
    with predicting(store, ["accuracy", name]) as told:
        assert "20 networks left out" in told[name]
        assert of_pattern(name, str(other)) == pytest.approx(whole(other), rel=0.2)
        with pytest.raises(NasError, match="one after the other"), predicting(store, [name]):
            pass
        assert name in METRICS, "the search that goes on has lost its own"
    assert before == METRICS
    assert math.isnan(of_pattern(name, str(other)))
    # What is measured stands before what is predicted, and corrects the rest.
    where = profiled(networks).device.device
    found = Latency(ms=77.0, low=76, high=78, device=where, runtime="onnx")
    keep(store, None, [(other.fingerprint, found)])
    with predicting(store, [name]) as told:
        assert of_pattern(name, str(other)) == 77.0
        assert "20 networks left out in turn 1" in told[name]
    # Of a trial's network it is known what it consists of: it is one more, and none of the profile.
    study = store.open_study(Study(name="s", space="s", objectives=(("accuracy", "max"),)))
    store.begin(study, [Ask(pattern=str(other), fingerprint=other.fingerprint, params=1, macs=1)])
    with predicting(store, [name]) as told:
        assert "21 networks left out in turn (1 of them measured besides it) " in told[name]


def test_a_device_that_no_profile_predicts_is_refused(store: Store) -> None:
    keep_profile(store, profiled(drawn("lenet_like", 3)))
    for name, why in {
        "latency_ms@ip": "no profile predicts it; did you mean latency_ms@pi/onnx/t1?",
        "latency_ms@pi/eager": "no profile predicts it",
        "latency_ms@pi/b64": "no profile predicts it",
    }.items():
        with pytest.raises(NasError, match=why.replace("?", r"\?")), predicting(store, [name]):
            pass
    with (
        pytest.raises(NasError, match="there is no profile yet"),
        predicting(None, ["latency_ms@pi"]),
    ):
        pass


def test_a_profile_of_another_space_says_what_it_lacks(store: Store) -> None:
    space = load_space("resnet_like", (3, 32, 32), 10)
    name = "latency_ms@pi"
    keep_profile(store, profiled(drawn("resnet_like", 60)))
    with predicting(store, [name], space) as told:
        share = re.search(r"it has (\d+) % of the pieces of a network of resnet_like", told[name])
        assert share
        assert int(share[1]) > 50
        assert "adds what is missing" not in told[name]
    # The same kinds on other maps: each piece is interpolated, and that is said.
    other = load_space("resnet_like", (1, 10, 10), 7)
    lacks = r"that it lacks within 10 % in \d+ of 100: `nas latency profile"
    with predicting(store, [name], other) as told:
        share = re.search(r"it has (\d+) % of the pieces of a network of resnet_like", told[name])
        assert share
        assert int(share[1]) < 50
        assert re.search(lacks, told[name])
    # Kinds that it has nothing of have no price of their own: refused, with what is missing.
    alien = load_space("mobilenet_like", (3, 32, 32), 10)
    kinds = {piece.kind for each in drawn("mobilenet_like", 10) for piece in parts(each).pieces}
    with pytest.raises(NasError) as why, predicting(store, [name], alien):
        pass
    said = str(why.value)
    assert "does not cover the networks of mobilenet_like" in said
    assert any(kind in said for kind in kinds)
    assert "`nas latency profile --space mobilenet_like --name pi` adds what is missing" in said
    assert name not in METRICS


def test_the_latency_at_here_is_the_one_that_the_search_measures() -> None:
    space = read_space(
        {"name": "s", "pattern": "INPUT -> CONV(width=8) -> GAP -> FC",
         "objectives": {"accuracy": "max", "latency_ms@here": "min"}}, "s.yaml")  # fmt: skip
    assert dict(in_search(space).objectives) == {"accuracy": "max", "latency_ms": "min"}
    other = read_space(
        {"name": "s", "pattern": "INPUT -> CONV(width=8) -> GAP -> FC",
         "objectives": {"accuracy": "max", "latency_ms@here/onnx": "min"}}, "s.yaml")  # fmt: skip
    with pytest.raises(NasError, match="a search measures eager PyTorch"):
        in_search(other)


# --- from the command line -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_bound_refuses_before_it_is_evaluated(tmp_path: Path, store: Store) -> None:
    told = load_space("resnet_like")
    rng = random.Random(0)
    networks = list({(a := told.draw(rng)[1]).fingerprint: a for _ in range(40)}.values())
    keep_profile(store, profiled(networks))
    bound = float(np.median([whole(network) for network in networks]))
    command = ["search", "--space", "resnet_like", "--trials", "8", "--workers", "0",
               "--sampler", "random", "--evaluator", "evaluators:ok", "--epochs", "5",
               "--study", "s"]  # fmt: skip
    asked = [
        "--objective",
        "accuracy:max,latency_ms@pi:min",
        "--constraint",
        f"latency_ms@pi<={bound}",
    ]
    status, _, said = run(tmp_path, *command, *asked)
    assert status == 0, said
    assert "latency_ms@pi: predicted by" in said
    rows = list(store.trials(store.find_study("s").id))
    assert len(rows) == 8
    values = {row.number: row.value("latency_ms@pi") for row in rows}
    assert all(value <= bound for value in values.values())
    for row in rows:
        assert values[row.number] == pytest.approx(whole(nas.parse(row.pattern)), rel=0.3)
    _, _, said = run(tmp_path, "pareto", "--study", "s", "-f", "csv")
    assert "8 of 8 trials, all of them predicted" in said
    # Another runtime of the device, measured or with a profile, changes nothing of the study.
    other = dataclasses.replace(profiled(networks).device, device="pi, 1 thread, torch")
    found = [(row.fingerprint, Latency(ms=9, low=9, high=9, device=other.device)) for row in rows]
    keep(store, other, found)
    keep_profile(store, dataclasses.replace(profiled(networks), device=other, runtime="eager"))
    _, shown, said = run(tmp_path, "pareto", "--study", "s", "-f", "json")
    assert "8 of 8 trials, all of them predicted" in said
    best = {row["trial"]: row["latency_ms@pi"] for row in json.loads(shown)}
    assert best == {number: pytest.approx(values[number]) for number in best}
    # It goes on, and another device is refused before anything begins.
    assert run(tmp_path, *command[:4], "9", *command[5:], *asked)[0] == 0
    assert store.find_study("s").settings["devices"] == {"latency_ms@pi": "latency_ms@pi/onnx/t1"}
    assert list(store.trials(store.find_study("s").id))[-1].value("latency_ms@pi") < 9
    status, _, said = run(tmp_path, *command[:-1], "another", *asked)
    assert (status, "there are several profiles: latency_ms@pi/eager/t1, lat" in said) == (2, True)
    status, _, said = run(tmp_path, *command, "--objective", "accuracy:max,latency_ms@pj:min")
    assert (status, "no profile predicts it; did you mean latency_ms@pi/onnx/t1" in said) == (
        2,
        True,
    )


def test_where_nothing_keeps_a_predicted_bound_the_nearest_draw_is_told(
    tmp_path: Path, store: Store
) -> None:
    told = load_space("lenet_like", (1, 8, 8), 10)
    rng = random.Random(0)
    networks = list({(a := told.draw(rng)[1]).fingerprint: a for _ in range(40)}.values())
    kept = profiled(networks)
    keep_profile(store, kept)
    rng = random.Random(0)
    by = predictor(store, kept)
    least = min(by(told.draw(rng)[1]) for _ in range(2_000))
    command = ["search", "--space", "lenet_like", "--trials", "2", "--workers", "0",
               "--objective", "accuracy:max,latency_ms@pi:min",
               "--constraint", f"latency_ms@pi<={least / 2}"]  # fmt: skip
    status, _, said = run(tmp_path, *command)
    assert status == 2  # as ``run`` tells every NasError
    assert "none of 2000 draws of lenet_like meets the constraints" in said
    assert said.rstrip().endswith(f"the nearest has latency_ms@pi {least:.4g}")
    # What arithmetic knows without a profile has its own page.
    status, _, said = run(tmp_path, *command[:-1], "params<=10")
    assert re.search(r"the nearest has params \d[\d,]+; `nas space check` of it shows", said)


def test_what_a_search_measures_stands_before_what_was_predicted(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile that promises a ten-thousandth of what this machine takes: the bound is kept by
    every prediction, and by none of the networks."""
    monkeypatch.setattr(supply, "VAIN", 2)
    told = load_space("lenet_like", (1, 8, 8), 10)
    networks = [told.draw(random.Random(seed))[1] for seed in range(20)]
    here = device_here(store, "pc", "eager", 1, available())
    pieces = {piece.key: 1e-4 * cost(piece) for piece in distinct(networks)}
    apart = [str(network) for network in networks]
    promised = {"pieces": pieces, "wholes": {}, "apart": apart}
    keep_profile(store, Profiled(device=here, runtime="eager", batch=1, **promised))
    status, _, said = run(
        tmp_path, "search", "--space", "lenet_like", "--trials", "2", "--epochs", "1",
        "--workers", "0", "--study", "s", "--keep", "none",
        "--objective", "accuracy:max,latency_ms@pc:min", "--constraint", "latency_ms@pc<=0.001",
    )  # fmt: skip
    assert status == 2
    assert "no finished candidate of study s meets the constraints" in said
    for row in store.trials(store.find_study("s").id):
        assert row.state == "refused"
        assert row.value("latency_ms@pc") == row.latency_ms > 0.001
    # Who bounds what has to be measured is told of what is known without.
    command = ["search", "--space", "lenet_like", "--dry-run", "--constraint", "latency_ms<=1"]
    _, _, said = run(tmp_path, *command)
    assert "latency_ms@pc/eager/t1 is predicted, at no cost" in said
    _, _, said = run(tmp_path, *command, "--evaluator", "evaluators:ok")
    assert "is predicted" not in said


def test_a_profile_is_measured_once_and_of_several_spaces(tmp_path: Path, store: Store) -> None:
    command = ["latency", "profile", "--name", "pc", "--networks", "3"]
    status, shown, _ = run(tmp_path, *command, "--space", "lenet_like")
    assert status == 0
    assert "3 measured whole, 3 of them just now" in shown
    (first,) = all_profiles(store)
    # More networks are taken apart than are measured whole, and their pieces are predicted by.
    wholes = [nas.parse(text) for text in first.wholes]
    assert len(first.apart) == 6
    assert len(first.pieces) > len(list(distinct(wholes)))
    assert len(predictor(store, first).table) == len(first.pieces)
    assert len(measured(store)) == 3
    _, shown, said = run(tmp_path, *command, "--space", "lenet_like")
    assert "measured" not in said
    assert "3 measured whole, 0 of them just now" in shown
    assert all_profiles(store) == [first]
    run(tmp_path, *command, "--space", "linear")
    (both,) = all_profiles(store)
    assert first.pieces.items() < both.pieces.items()
    assert all(ms > 0 for ms in both.pieces.values())


def test_an_interrupted_profile_keeps_its_pieces_and_again_measures_them_anew(
    store: Store,
) -> None:
    space = load_space("lenet_like", (1, 8, 8), 10)
    asked: dict[str, Any] = {
        "name": "", "runtime": "eager", "threads": 1, "batch": 1, "networks": 1, "seed": 0,
    }  # fmt: skip

    def interrupted(what: str, done: int, of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(store, space, **asked, on_progress=interrupted)
    [kept] = all_profiles(store)
    assert len(kept.pieces) == 3
    measured: list[tuple[str, int]] = []
    made, _ = profile(
        store, space, **{**asked, "name": "pi"},
        on_progress=lambda what, done, of: measured.append((what, of)),
    )  # fmt: skip
    pieces = len(made.pieces)
    assert measured[0] == ("pieces", pieces - 3)
    measured.clear()
    made, _ = profile(
        store, space, **asked, again=True,
        on_progress=lambda what, done, of: measured.append((what, of)),
    )  # fmt: skip
    assert measured[0] == ("pieces", pieces)
    assert made.device.name == "pi"  # the name that it was given
    with pytest.raises(NasError, match="4096 threads: this machine has"):
        profile(store, space, **{**asked, "threads": 4096}, on_progress=lambda *_: None)
