"""A bounded latency is measured before training: a network that breaks the bound is refused.

The trainings are real. What a network takes is a law here instead of a clock, as a machine's load
would decide otherwise who keeps a bound; that a measurement does not touch a training is asked of
a real one.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from test_cli import nas_here
from test_latencies import run
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nas
from nas.driver import profiles, supply
from nas.driver.baselines import enter
from nas.driver.latencies import device_here
from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.driver.tally import Status
from nas.driver.tradeoffs import nothing_found
from nas.errors import NothingFound, SpaceError
from nas.job import DataRef, Epoch, Failure, Job, Latency, Result
from nas.job.pool import Done, Event
from nas.samplers.ehvi import EHVISampler
from nas.samplers.encoding import Encoding
from nas.samplers.evidence import finished_of
from nas.samplers.gp import fit
from nas.samplers.model import Model
from nas.samplers.problem import Problem
from nas.spaces.bounds import refuse_unmet
from nas.spaces.space import Bound, Space, read_space
from nas.store import Store, TrialRow, open_store
from nas.store.devices import Profiled, keep_profile
from nas.store.mirror import Mirror, optuna_storage
from nas.training import latency, timing
from nas.training.candidate import evaluate
from nas.training.device import available
from nas.training.latency_pieces import distinct
from nas.workers.answers import outcome
from nas.workers.in_process import InProcess

HERE = latency.fingerprint(available(), threads=1)


def law(pattern: str) -> float:
    """Milliseconds of a network here."""
    return 0.5 + nas.parse(pattern).macs / 10_000


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks that were measured."""
    seen: list[nn.Module] = []

    def measure(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> Latency:
        seen.append(module)
        channels, height, width = shape
        macs = FlopCounterMode(display=False)
        with macs, torch.no_grad():
            module.to(device).eval()(torch.zeros(1, channels, height, width, device=device))
        module.train()
        ms = 0.5 + macs.get_total_flops() / 20_000
        return Latency(ms=ms, low=0.99 * ms, high=1.01 * ms, device=HERE)

    monkeypatch.setattr(latency, "measure", measure)
    return seen


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The record that commands find in their directory."""
    return f"sqlite:///{tmp_path}/nas.db"


def space(most: float, widest: int = 24, longest: int = 2, **more: Bound) -> Space:
    told = {
        "name": "chain",
        "pattern": "INPUT -> [CONV(width=w) -> RELU]*N -> GAP -> FC",
        "where": {"w": {"int": [1, widest], "per": "N"}, "N": {"int": [1, longest]}},
        "objectives": {"accuracy": "max", "latency_ms": "min"},
    }
    made = read_space(told, "a test", (1, 8, 8), 10)
    return dataclasses.replace(made, constraints={"latency_ms": Bound(True, most), **more})


def plan(most: float = 2.0, *, asked: Space | None = None, **changes: Any) -> Plan:
    epochs = changes.pop("epochs", 1)
    told = {"study": "s", "trials": 6, "sampler": "random", "keep": "none", **changes}
    recipe = Job(pattern="").recipe
    if changes.get("rungs"):
        recipe = dataclasses.replace(recipe, schedule="rungs")
    job = Job(pattern="", recipe=recipe, data=DataRef(name="digits"), epochs=epochs)
    return Plan(space=asked or space(most), job=job, **told)


def rows(store: Store, study: str = "s") -> list[TrialRow]:
    return list(store.trials(store.find_study(study).id))


def states(found: Sequence[TrialRow]) -> dict[str, int]:
    return dict(Counter(row.state for row in found))


# --- what happens to one -------------------------------------------------------------------------


def test_what_breaks_the_bound_is_measured_and_not_trained(
    store: Store, measured: list[nn.Module]
) -> None:
    status = search(plan(), store, InProcess())
    found = rows(store)
    assert states(found) == {"finished": 6, "refused": status.refused}
    assert status.refused > 0
    assert (status.budget, status.done, status.finished) == (6, 6, 6)
    assert len(measured) == len(found)  # each once: what stands before a training is its latency
    for row in found:
        assert row.latency_ms == pytest.approx(law(row.pattern))
        assert row.latency_device == HERE
        assert (row.state == "refused") == (row.latency_ms > 2.0)
        assert (row.accuracy is None) == (row.state == "refused")
        assert len(store.curve(row.id)) == (row.state == "finished")
    assert {row.state for row in status.front} == {"finished"}
    # The same again does nothing; with more trials it goes on for so many trainings.
    search(plan(), store, InProcess())
    assert len(rows(store)) == len(found)
    search(plan(trials=8), store, InProcess())
    assert states(rows(store))["finished"] == 8
    # The dashboard has them as pruned, with what was measured.
    study = store.find_study("s")
    mirror = Mirror(store, study)
    mirror.catch_up()
    copy = optuna.load_study(study_name="s", storage=optuna_storage(store)).trials
    for trial, row in zip(copy, rows(store), strict=True):
        assert (trial.state == TrialState.PRUNED) == (row.state == "refused")
        assert trial.user_attrs["latency_ms"] == row.latency_ms


def test_a_real_measurement_before_a_training_leaves_it_as_it_is() -> None:
    told = Job(pattern="INPUT -> CONV(width=8) -> BN -> RELU -> GAP -> FC", epochs=2, seed=3)
    plain, bounded = (list[Epoch](), list[Epoch]())
    evaluate(dataclasses.replace(told, latency=False), plain.append)
    most = {"": 1e9, "another device": 0.0}
    result = evaluate(dataclasses.replace(told, most_ms=most), bounded.append)
    assert isinstance(result, Result)
    assert result.latency
    assert not result.refused
    losses = [[(point.train_loss, point.accuracy) for point in some] for some in (plain, bounded)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2
    refused = evaluate(dataclasses.replace(told, most_ms={HERE: 1e-6}), lambda _: None)
    assert isinstance(refused, Result)
    assert refused.refused
    assert refused.latency
    assert refused.latency.ms > 1e-6
    assert (refused.metrics, refused.curve) == ({}, ())


def test_what_the_record_knows_of_this_device_is_not_measured_again(
    store: Store, measured: list[nn.Module]
) -> None:
    small = space(0.75, widest=8, longest=1)  # eight networks
    search(plan(asked=small, trials=20), store, InProcess())
    first = states(rows(store))
    assert first["finished"] > 1
    assert first["refused"] > 1
    assert first["finished"] + first["refused"] == 8 == len(measured)
    # Another fidelity: all is trained anew, and nothing is measured.
    search(plan(asked=small, trials=20, study="b", epochs=2), store, InProcess())
    assert states(rows(store, "b")) == first
    assert len(measured) == 8
    # What is known of another device says nothing of this one.
    elsewhere = Latency(ms=99, low=98, high=100, device="another")
    job = Job(pattern=rows(store)[0].pattern, epochs=1, most_ms={"": 50.0})
    result = evaluate(dataclasses.replace(job, known={"another": elsewhere}), lambda _: None)
    assert isinstance(result, Result)
    assert not result.refused
    assert len(measured) == 9


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_result_that_is_reused_keeps_the_bound_or_is_refused(
    store: Store, measured: list[nn.Module], epochs: int
) -> None:
    """The first study of the record was unbounded, and trained what this one may not have; with
    other epochs nothing is reused, which has to end alike."""
    free = dataclasses.replace(space(0.75, widest=8, longest=1), constraints={})
    assert search(plan(asked=free, trials=20, study="free"), store, InProcess()).finished == 8
    bound = plan(asked=space(0.75, widest=8, longest=1), trials=20, epochs=epochs)
    status = search(bound, store, InProcess())
    found = rows(store)
    assert states(found) == {"reused" if epochs == 1 else "finished": 4, "refused": 4}
    assert (status.done, status.refused, len(measured)) == (4, 4, 8)
    for row in found:
        assert row.latency_ms == pytest.approx(law(row.pattern))
        assert (row.state == "refused") == (row.latency_ms > 0.75) == (row.accuracy is None)
    # Where nothing keeps it, nothing is of the budget, and all count to the end.
    strict = plan(asked=space(0.1, widest=8, longest=1), trials=2, study="strict", epochs=epochs)
    status = search(strict, store, InProcess())
    assert (status.done, status.refused, status.vain) == (0, 8, 8)


def test_the_best_of_a_study_is_of_what_keeps_its_constraints(
    tmp_path: Path, store: Store, measured: list[nn.Module]
) -> None:
    small = dataclasses.replace(space(2.0, widest=8, longest=1), constraints={})
    for study, least in (("free", None), ("lax", 0.0), ("strict", 1.0)):
        bounds = {} if least is None else {"accuracy": Bound(False, least)}
        asked = dataclasses.replace(small, constraints=bounds)
        search(plan(asked=asked, study=study, trials=3), store, InProcess())
    best = max(row.value("accuracy") for row in rows(store, "free"))
    listed = [line.split() for line in run(tmp_path, "status")[1].splitlines()]
    assert [line[-3:-1] for line in listed[1:3]] == [[f"{100 * best:.2f}", "%"]] * 2
    assert listed[3][-2] == "none"


def test_a_looser_bound_trains_what_a_stricter_one_refused(
    store: Store, measured: list[nn.Module]
) -> None:
    kept = {most: sum(law(f"INPUT(1,8,8) -> CONV(width={w}) -> RELU -> GAP -> FC(10)") <= most
                      for w in range(1, 9)) for most in (0.7, 0.9)}  # fmt: skip
    assert 0 < kept[0.7] < kept[0.9] < 8
    for most in (0.7, 0.9):
        told = plan(asked=space(most, widest=8, longest=1), trials=20)
        status = search(told, store, InProcess())
        assert status.finished == kept[most]
        assert status.exhausted
    assert len(measured) == 8
    # The first refusals stay what they were; those trained since are trials of their own.
    assert states(rows(store)) == {"finished": kept[0.9], "refused": 8 - kept[0.7]}
    # Back to the stricter one the study cannot go: trials of its front would be on none.
    with pytest.raises(nas.errors.StudyError, match="no longer meets the constraints"):
        search(plan(asked=space(0.7, widest=8, longest=1), trials=20), store, InProcess())


def test_a_baseline_stands_beside_the_search_whatever_it_costs(
    store: Store, measured: list[nn.Module]
) -> None:
    told = plan(asked=space(0.56, widest=2, longest=1))
    enter(told, ["linear_classifier"], store)
    status = search(told, store, InProcess())
    (baseline,) = (row for row in rows(store) if row.baseline)
    assert baseline.state == "finished"
    assert baseline.latency_ms
    assert baseline.latency_ms > 0.56
    assert (status.finished, status.refused, status.baselines_ended) == (1, 1, 1)


def test_at_rungs_it_is_refused_before_the_first_and_measured_once(
    store: Store, measured: list[nn.Module]
) -> None:
    told = plan(rungs=(1, 2), epochs=2, trials=8)
    status = search(told, store, InProcess())
    found = rows(store)
    assert status.finished + status.stopped == 8
    assert len(measured) == len(found)
    for row in found:
        assert (row.state == "refused") == (law(row.pattern) > 2.0) == (not row.rungs)


class Kills(InProcess):
    """Each job's first worker dies after it."""

    def __init__(self) -> None:
        super().__init__()
        self.killed: set[str] = set()

    def wait(self, timeout: float) -> list[Event]:
        job = next(iter(self._jobs.values()), None)
        events = super().wait(timeout)
        if job is None or job.pattern in self.killed or not events:
            return events
        self.killed.add(job.pattern)
        return [Done(events[-1].ticket, Failure(kind="worker_died", reason="killed"))]


def test_a_worker_that_dies_leaves_the_verdict_to_the_next(
    store: Store, measured: list[nn.Module]
) -> None:
    status = search(plan(), store, Kills())
    found = rows(store)
    assert status.refused > 0
    assert states(found) == {"finished": 6, "refused": status.refused}
    for row in found:
        assert [attempt.state for attempt in store.attempts(row.id)] == ["lost", "finished"]


def test_two_drivers_train_so_many_together(url: str, measured: list[nn.Module]) -> None:
    ended: list[Status] = []

    def drive() -> None:
        own = open_store(url)
        ended.append(search(plan(trials=12), own, InProcess()))
        own.close()

    open_store(url).close()
    both = [threading.Thread(target=drive) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    own = open_store(url)
    told = states(rows(own))
    own.close()
    assert len(ended) == 2
    assert told["finished"] == 12
    assert told.keys() == {"finished", "refused"}


# --- where nothing keeps it ----------------------------------------------------------------------


def test_a_bound_that_nothing_keeps_ends_the_search(
    store: Store, measured: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supply, "VAIN", 25)
    status = search(plan(0.4), store, InProcess())
    assert status.vain == supply.VAIN == status.refused
    assert (status.done, status.front) == (0, ())
    study, found = store.find_study("s"), rows(store)
    told = nothing_found(study, found)
    nearest = min(found, key=lambda row: law(row.pattern))
    assert f"{supply.VAIN} broke the latency bound before training" in str(told)
    assert f"the nearest is trial {nearest.number}, with latency_ms" in str(told)
    # Once more it tries as many again; under a looser bound it goes on with what it has.
    assert search(plan(0.4), store, InProcess()).refused > supply.VAIN
    assert search(plan(3.0), store, InProcess()).finished == 6


@pytest.mark.parametrize(
    ("name", "upper", "limit"),
    [
        ("latency_ms", True, 0.0),
        ("latency_ms@pi", True, 0.0),
        ("accuracy", False, 1.01),
        ("balanced_accuracy", True, -0.1),
        ("macs", True, -1.0),
    ],
)
def test_a_bound_that_no_value_keeps_is_refused_before_anything_is_measured(
    name: str, upper: bool, limit: float
) -> None:
    bound = Bound(upper, limit)
    asked = dataclasses.replace(space(2.0), constraints={name: bound})
    with pytest.raises(SpaceError, match=f"constraint {name} {bound}: no network can keep it"):
        plan(asked=asked)
    # The other side is kept by all, and of an evaluator's own metric nothing is known.
    refuse_unmet(name, Bound(not upper, limit), name)
    refuse_unmet("loss", bound, "loss")
    for other in ("accuracy", "params"):  # INPUT -> GAP has none
        refuse_unmet(other, Bound(True, 0.0), other)


def test_the_command_line_tells_which_latency_bound_was_broken(
    tmp_path: Path, store: Store, measured: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supply, "VAIN", 3)
    file = tmp_path / "chain.yaml"
    file.write_text(
        "name: chain\npattern: INPUT -> CONV(width=w) -> RELU -> GAP -> FC\n"
        "where: {w: {int: [1, 24]}}\nobjectives: {accuracy: max, params: min}\n"
    )
    command = ["search", "--space", str(file), "--dataset", "digits", "--trials", "3",
               "--epochs", "1", "--workers", "0", "--study", "s"]  # fmt: skip
    status, _, said = run(tmp_path, *command, "--constraint", "latency_ms<=0.51")
    assert status == 2  # as ``run`` tells every NasError
    assert "3 broke the latency bound before training" in said
    with pytest.raises(NothingFound):
        raise nothing_found(store.find_study("s"), rows(store))
    monkeypatch.undo()
    measure = latency.measure

    def lawful(module: nn.Module, *_: Any) -> Latency:
        ms = float(sum(p.numel() for p in module.parameters()))
        return Latency(ms=ms, low=ms, high=ms, device=HERE)

    monkeypatch.setattr(latency, "measure", lawful)
    assert measure is not lawful
    status, shown, said = run(tmp_path, *command, "--constraint", "latency_ms<=200")
    assert status == 0
    count = states(rows(store))["refused"] - 3
    assert f"3 evaluated, 0 reused, 0 failed, {count + 3} refused: latency over the bound" in said
    assert "3 of 3 trials" in said
    _, shown, _ = run(tmp_path, "trials", "ls", "--study", "s", "--state", "refused")
    assert len(shown.splitlines()) == 1 + count + 3
    assert "refused: latency" in shown
    number = next(row.number for row in rows(store) if row.state == "refused")
    _, shown, _ = run(tmp_path, "trials", "show", str(number), "--study", "s")
    assert "refused: latency over the bound, measured before training" in shown
    assert "not trained" in shown
    assert not {"trained on", "epochs"} & {line[:12].strip() for line in shown.splitlines()}
    _, shown, _ = run(tmp_path, "status")
    assert "refused" in shown.splitlines()[0]
    page = tmp_path / "page.html"
    assert run(tmp_path, "report", "--study", "s", "-o", str(page))[0] == 0
    assert f"{count + 3} refused" in page.read_text()
    assert page.read_text().count('"not trained":') == count + 3
    assert page.read_text().count('"trained on":') == 3


@pytest.mark.parametrize("before", [False, True])
def test_what_a_profile_promised_and_this_device_does_not_keep_is_not_trained(
    store: Store, measured: list[nn.Module], before: bool
) -> None:
    """The bound is on the prediction; its device is this one, so what is measured stands before,
    and where an unbounded study was before, so does what that measured."""
    asked = dataclasses.replace(space(2.0), constraints={"latency_ms@pc": Bound(True, 2.0)})
    here = device_here(store, "pc", "eager", 1, available())
    networks = [asked.draw(random.Random(seed))[1] for seed in range(3)]
    pieces = {piece.key: 1e-3 for piece in distinct(networks)}
    promised = {"pieces": pieces, "wholes": {}, "apart": [str(each) for each in networks]}
    keep_profile(store, Profiled(device=here, runtime="eager", batch=1, **promised))
    if before:
        free = dataclasses.replace(asked, constraints={})
        search(plan(asked=free, study="free", trials=10), store, InProcess())
    asked = dataclasses.replace(asked, objectives={"accuracy": "max", "latency_ms@pc": "min"})
    with profiles.predicting(store, ["latency_ms@pc"]):
        status = search(plan(asked=asked), store, InProcess())
        assert status.refused > 0
        assert (status.reused > 0) is before
        for row in rows(store):
            assert (row.state == "refused") == (law(row.pattern) > 2.0)
            assert row.value("latency_ms@pc") == row.latency_ms


def test_an_evaluator_cannot_say_that_it_was_refused() -> None:
    told = Result(metrics={"accuracy": 0.5}, refused=True)
    answer = outcome(told, (), 1.0)
    assert isinstance(answer, Result)
    assert not answer.refused


# --- what the sampler makes of it ----------------------------------------------------------------


def test_the_sampler_learns_from_what_was_refused(store: Store, measured: list[nn.Module]) -> None:
    """Of random networks three of four break the bound."""
    asked = space(1.6, widest=48, longest=3)
    rng = random.Random(0)
    draws = [law(str(asked.draw(rng)[1])) for _ in range(300)]
    share = np.mean([ms > 1.6 for ms in draws])
    assert share > 0.7
    status = search(plan(asked=asked, sampler="default", trials=12), store, InProcess())
    later = rows(store)[10:]  # the first ten are random
    assert status.finished == 12
    assert np.mean([row.state == "refused" for row in later]) < share / 2


def test_a_model_takes_what_was_measured_of_each_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    domain = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    encoding = Encoding.of(domain)
    finished = []
    for x in rng.uniform(size=20):
        refused = x > 0.3
        trial = optuna.trial.create_trial(
            values=[0.0 if refused else 0.5 + x, x],
            params={"x": x},
            distributions=domain,
            user_attrs={"lacking": [0]} if refused else {},
        )
        trial.set_constraint("latency_ms", x - 0.3)
        finished.append(finished_of(trial, encoding, np.array([-1.0, 1.0])))
    nobody = np.zeros((0, 1))
    told = np.zeros(2, bool)

    def learn(some: Sequence[Any]) -> Model:
        return Model.of(
            encoding, some, nobody, np.zeros((0, 2)), told, lambda name, x, s, y, _: fit(x, s, y)
        )

    model = learn(finished)
    accuracy, cost = model.surrogates
    assert accuracy
    assert cost
    assert len(accuracy.values) == sum(each.whole for each in finished) < len(cost.values) == 20
    assert np.isfinite(model.means).all()
    assert model.feasible.sum() == len(accuracy.values)
    assert [surrogate.name for surrogate, _ in model.limits] == ["constraint latency_ms"]
    # The accuracy grows with x: nothing of the refused ones says otherwise.
    grows = accuracy.warp.inverse(
        accuracy.process.mean(encoding.embed(np.array([[0.1], [0.3]]))[0])
    )
    assert grows[1] < grows[0]
    # Before any was trained, what promises most is what keeps the bound.
    before = learn([each for each in finished if not each.whole])
    scores = before.score(np.array([[0.2], [0.9]]), np.full((2, 2), np.nan), np.zeros(2))
    assert scores[0] > scores[1]


def test_whether_to_train_again_is_asked_of_what_was_trained() -> None:
    """Noisy accuracies: another training of one that was refused is never advised."""
    rng = np.random.default_rng(0)
    domain = optuna.distributions.FloatDistribution(0.0, 1.0)
    told = Problem(distributions={"x": domain, "y": domain})
    sampler = EHVISampler(0, told)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for x, y in rng.uniform(size=(40, 2)):
        refused = x > 0.5
        accuracy = 0.0 if refused else x + 0.1 * rng.standard_normal()
        trial = optuna.trial.create_trial(
            values=[accuracy, x + 0.1 * y],
            params={"x": x, "y": y},
            distributions={"x": domain, "y": domain},
            user_attrs={"lacking": [0]} if refused else {},
        )
        trial.set_constraint("latency_ms", x - 0.5)
        study.add_trial(trial)
    advice = sampler.advise(study)
    assert advice
    params, again = advice
    assert params["x"] < 0.6
    tried = {trial.params["x"] for trial in study.trials if not trial.user_attrs}
    assert (params["x"] in tried) == again


def test_the_interval_of_a_measurement_is_not_what_decides() -> None:
    """The number itself, which is what the front is judged by, too."""
    assert timing.INSTANCES > 1  # there is an interval
    job = Job(pattern="INPUT(1,8,8) -> CONV(width=4) -> GAP -> FC(10)", epochs=1)
    wide = Latency(ms=2.01, low=1.5, high=2.5, device=HERE)
    for most, refused in ((2.0, True), (2.01, False)):
        asked = dataclasses.replace(job, known={HERE: wide}, most_ms={"": most})
        result = evaluate(asked, lambda _: None)
        assert isinstance(result, Result)
        assert result.refused is refused


def test_where_all_were_refused_every_command_says_so_with_status_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = ("search", "--space", "linear", "--trials", "1", "--workers", "0", "--epochs", "1")
    told = [
        nas_here(capsys, monkeypatch, tmp_path, *command)
        for command in (
            (*searched, "--constraint", "latency_ms<=1e-6"),
            ("pareto",),
            ("report",),
            ("latency", "--name", "laptop"),
            ("latency", "pack", "-o", "pack"),
            ("latency", "pack", "-o", "pack", "--trials", "all"),
            ("distill", "--teacher", "front", "--student", "linear"),
            ("cascade",),
        )
    ]
    assert [(status, out) for status, out, _ in told] == [(3, "")] * len(told)
    last = {err.splitlines()[-1].partition("; the nearest")[0] for _, _, err in told}
    (sentence,) = last
    assert "meets the constraints" in sentence
    assert "1 broke the latency bound before training" in sentence
