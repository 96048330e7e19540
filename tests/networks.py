"""A study of many trials without any training: networks drawn from a space, their accuracies a
formula of their parameters."""

from __future__ import annotations

import math
import random

import optuna
from optuna.distributions import distribution_to_json

from nas.errors import ShapeError
from nas.job import Epoch
from nas.spaces.space import load_space
from nas.store import StudyRow, TrialRow

EPOCHS = 20
DEVICE = "a test"


def study(count: int) -> tuple[StudyRow, list[TrialRow], dict[int, tuple[Epoch, ...]]]:
    """A study of ``mixed`` with so many trials, two baselines before them, and all curves. Every
    tenth trial was stopped at a rung, every fiftieth failed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = load_space("mixed", (3, 32, 32), 10)
    sampled = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    rng = random.Random(0)
    rows, curves = [], {}
    while len(rows) < count + 2:
        trial = sampled.ask()
        try:
            architecture = space.suggest(trial)
        except ShapeError:
            continue
        number = len(rows)
        accuracy = 1 - 0.9 / (1 + 0.4 * math.log(architecture.params)) + rng.gauss(0, 0.02)
        state = "failed" if number % 50 == 49 else "stopped" if number % 10 == 9 else "finished"
        baseline = {0: "resnet18", 1: "hog_svm"}.get(number)
        epochs = 5 if state == "stopped" else EPOCHS
        known = {} if state == "failed" else {"accuracy": accuracy, "latency_ms": 1 + rng.random()}
        distributions = {k: distribution_to_json(d) for k, d in trial.distributions.items()}
        rows.append(
            TrialRow(
                id=100 + number,
                study_id=1,
                number=number,
                state=state,
                sampled={"baseline": baseline} if baseline else trial.params,
                distributions={} if baseline else distributions,
                pattern=str(architecture),
                fingerprint=architecture.fingerprint,
                params=architecture.params,
                macs=architecture.macs,
                epochs=epochs,
                rungs=((5, accuracy),),
                metrics=known,
                failure="diverged" if state == "failed" else None,
                reason="the loss is </script><b>NaN</b>" if state == "failed" else None,
                seconds=60.0,
                device=DEVICE,
                latency_device=DEVICE,
                created=float(number),
                finished=60.0 * number,
                **known,
            )
        )
        curves[100 + number] = tuple(
            Epoch(epoch=e, train_loss=1.0, accuracy=accuracy * e / epochs, seconds=3.0)
            for e in range(1, epochs + 1)
        )
    about = StudyRow(
        id=1,
        created=0.0,
        name="thousand <b>&amp;",
        space="mixed",
        space_text=space.text,
        objectives=(("accuracy", "max"), ("params", "min"), ("latency_ms", "min")),
        constraints={"params": "<= 600000"},
        recipe={"batch": 64, "lr": 0.05},
        dataset="cifar10",
        sampler="default",
        seed=3,
        settings={"epochs": EPOCHS, "rungs": [5, 20], "input": [3, 32, 32], "classes": 10},
    )
    return about, rows, curves
