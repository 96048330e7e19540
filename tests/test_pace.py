"""The predicted duration of a search, before it begins."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import networks
import numpy as np
import pytest
import torch

from nas.cli.dry_run import busy, expected_time
from nas.driver.plan import Plan
from nas.job import DataRef, Job, Recipe
from nas.language.architecture import Architecture, parse
from nas.spaces.space import load_space
from nas.training import footprint, pace
from nas.training.device import machine

JOB = Job(pattern="INPUT -> CONV(4) -> FC", epochs=3, data=DataRef())


@pytest.mark.parametrize("batch", [64, 100])
def test_an_epoch_is_its_steps_and_the_validation(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digits: 1,797 images, a fifth of them to test, and of the rest as many to validate with."""
    clock = itertools.count()
    monkeypatch.setattr(pace, "_now", lambda device: next(clock) * 0.05)  # 0.05 s a step
    told = pace.epoch_seconds(replace(JOB, recipe=Recipe(batch=batch)), threads=1)
    train, validation = 1797 - 2 * 359, 359
    assert told == pytest.approx(0.05 * (train // batch) + 0.05 / batch * validation / 3)


def test_a_slow_training_is_timed_by_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(pace, "_now", lambda device: next(clock) * 7.0)
    assert pace.epoch_seconds(JOB, threads=1) == pytest.approx(7 * 16 + 7 / 64 * 359 / 3)
    assert next(clock) == 2  # one step: a clock before it, and one after


def test_large_networks_are_timed_on_a_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its second step, as the first is mostly what comes once; 9 images, not 64, each."""
    clock = iter([0.0, 3.5, 12.5])
    monkeypatch.setattr(pace, "_now", lambda device: next(clock))
    macs = parse(JOB.pattern, input=(1, 8, 8), classes=10).macs
    monkeypatch.setattr(pace, "WORK", 9.5 * macs)
    told = pace.epoch_seconds(JOB, threads=1)
    assert told == pytest.approx(64 * 16 + 359 / 3)  # a second an image


def test_a_training_on_large_images_is_timed_by_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(pace, "_now", lambda device: next(clock) * 6.0)
    monkeypatch.setattr(pace, "WORK", 0.0)
    told = pace.epoch_seconds(JOB, threads=1)  # 2 images a step, the fewest
    assert told == pytest.approx(3.0 * (64 * 16 + 359 / 3))
    assert next(clock) == 2


def test_timing_ends_and_macs_tell_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = pace.spread(list(footprint.feasible(load_space("vgg_like"), Recipe(), 50_000)))
    monkeypatch.setattr(pace, "IN_ALL", -1.0)
    asked: list[int] = []

    def seconds(network: Architecture, recipe: Recipe) -> float:
        asked.append(network.macs)
        return 2e-9 * network.macs

    told = pace.timed(draws, seconds)
    assert asked == [draws[2][0].macs]  # the middle one only
    assert told == pytest.approx([2e-9 * network.macs for network, _ in draws])
    monkeypatch.setattr(pace, "IN_ALL", 1e9)
    assert pace.timed(draws[::-1], lambda network, recipe: network.params) == [
        network.params for network, _ in draws[::-1]
    ]


def test_timing_leaves_the_threads_and_random_state_of_the_process_alone() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    pace.epoch_seconds(JOB, threads=threads + 1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_a_few_networks_stand_for_all() -> None:
    draws = list(footprint.feasible(load_space("vgg_like"), Recipe(), 50_000))
    chosen = [network.macs for network, _ in pace.spread(draws)]
    shares = np.array_split(sorted(network.macs for network, _ in draws), pace.NETWORKS)
    assert all(share[0] < macs < share[-1] for share, macs in zip(shares, chosen, strict=True))
    assert pace.spread(draws[:2]) == sorted(draws[:2], key=lambda draw: draw[0].macs)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"trials": 7}, "about 4 min 07 s: 1 min 00 s to 1 min 00 s per training, 2 at once"),
        ({"trials": None, "seconds": 600.0}, "about 20 trainings after a start-up of about 5 s"),
        ({"trials": None}, "1 min 00 s to 1 min 00 s per training, 2 at once"),
        ({"trials": 7, "job": replace(JOB, evaluator="m:f")}, "unknown before the first"),
    ],
)
def test_a_plan_says_how_long_it_will_take(
    told: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "epoch_seconds", lambda job, threads: 20.0)
    plan = Plan(**{"study": "s", "space": load_space("lenet_like"), "job": JOB, **told})
    found = expected_time(plan, workers=2, memory=0, left=plan.trials, baselines=[])
    assert found.startswith(words)


def test_a_busy_machine_is_told_with_the_time() -> None:
    left = ", on a machine as busy as now, which left {} % of a core to the timing"
    assert busy(4.0, 1.0) == left.format(25)
    assert busy(4.0, 3.9) == busy(0.1, 0.0) == ""


def test_trials_of_the_study_tell_before_steps_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four on this machine the median, 9 s for three epochs, and none of another's."""
    monkeypatch.setattr(pace, "epoch_seconds", lambda job, threads: 1e6)
    plan = Plan(study="s", space=load_space("lenet_like"), job=JOB, trials=7)
    _, (row, *_), _ = networks.study(1)
    took = [(8.0, machine()), (9.0, machine()), (9.0, machine()), (500.0, machine()), (1.0, "x")]
    rows = [
        replace(row, number=n, epochs=3, rungs=(), seconds=seconds, device=f"{name} AVX2, 1 thread")
        for n, (seconds, name) in enumerate(took)
    ]
    found = expected_time(plan, workers=2, memory=0, left=7, baselines=[], rows=rows)
    # The start, and four times one of two at once with what lies between.
    assert found.startswith(
        "about 43 s: 9 s to 9 s per training, 2 at once, based on the study's trials"
    )
    alone = expected_time(plan, workers=2, memory=0, left=7, baselines=[], rows=rows[-1:])
    assert "trials" not in alone
