"""Early stopping with several objectives: pure functions of what candidates scored at their rungs.

What a candidate costs (params, MACs, a latency) is known when it comes to a rung; only its final
accuracy is not. So the question at a rung is one of one number: can the accuracy at the end be
better than what the front has at this cost? Rankings of whole vectors, as in MO-ASHA (Schmucker et
al. 2021), have to stop a fixed share of the candidates; this stops as many as have no hope.

A rung is a number of epochs; the last is a whole training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nas.errors import NasError

ETA = 3  # each rung of "auto" trains three times as long as the one before
LEAST = 2  # epochs of its first rung: after one alone, the rate has hardly risen and fallen
ENOUGH = 5  # candidates trained to the end, before any is stopped
HOPEFUL = 0.1  # the share of them that gained more than what a candidate is expected to gain
FLOOR = 1e-3  # added to errors, so that none is 0: of 1,000 images one

Scores = Mapping[int, float]  # accuracy at each rung, in epochs, that a candidate came to
Verdict = Literal["go", "wait", "stop"]


def auto(epochs: int) -> tuple[int, ...]:
    """The rungs of a training of ``epochs``: geometric, the last a whole training. Empty where
    there is no room for a rung below it."""
    below = (round(epochs / ETA**n) for n in range(1, 64))
    rungs = sorted({rung for rung in below if LEAST <= rung < epochs})
    return (*rungs, epochs) if rungs else ()


def read(text: str, epochs: int) -> tuple[int, ...]:
    """The rungs that ``off``, ``auto`` or ``3,7,20`` mean for a training of ``epochs``.

    Raises NasError unless they increase from 1 or more to ``epochs``.
    """
    if text == "off":
        return ()
    if text == "auto":
        return auto(epochs)
    rule = f"must be off, auto, or epochs that increase up to --epochs {epochs}, such as "
    example = ",".join(map(str, auto(epochs) or (1, epochs)))
    try:
        rungs = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise NasError(f"--rungs {text!r}: {rule}{example}") from None
    if list(rungs) != sorted(set(rungs)) or rungs[0] < 1 or rungs[-1] != epochs:
        raise NasError(f"--rungs {text}: {rule}{example}")
    return rungs if len(rungs) > 1 else ()


@dataclass(frozen=True, slots=True)
class Gain:
    """By which factor errors shrink from a rung to the end: usually, for the ``HOPEFUL`` share that
    gains most, and beyond what was ever seen."""

    usual: float
    hopeful: float
    boldest: float

    @staticmethod
    def final(accuracy: float, factor: float) -> float:
        """The accuracy at the end of what has ``accuracy`` at the rung."""
        return 1 + FLOOR - (1 + FLOOR - accuracy) * factor


def gain(trained: Iterable[Scores], rung: int) -> Gain | None:
    """What training on from ``rung`` brought to those ``trained`` to the end; None without any."""
    logs = [
        math.log((1 + FLOOR - scores[max(scores)]) / (1 + FLOOR - scores[rung]))
        for scores in trained
        if rung in scores
    ]
    if not logs:
        return None
    usual, hopeful = np.quantile(logs, [0.5, HOPEFUL])
    boldest = min(logs) - np.std(logs)
    return Gain(*(math.exp(log) for log in (usual, hopeful, boldest)))


def expected(trained: Sequence[Scores], rung: int, accuracy: float) -> float | None:
    """The accuracy at the end that is to be expected of what has ``accuracy`` at ``rung``; None
    before anything was trained to the end."""
    seen = gain(trained, rung)
    return Gain.final(accuracy, seen.usual) if seen else None


def decide(
    trained: Sequence[Scores],
    learning: int,
    rung: int,
    accuracy: float,
    reaches: Callable[[float], bool],
) -> Verdict:
    """Whether a candidate with ``accuracy`` at ``rung`` goes on, waits or is stopped.

    ``reaches`` tells whether an accuracy at the end would make the candidate part of the front. It
    goes on if it would with a hopeful gain, and is stopped if it would not with the boldest; in
    between it waits, for what others gain may raise the hope. Until ``ENOUGH`` are ``trained`` or
    ``learning`` (under way to the end) a candidate goes on; until ``ENOUGH`` are trained it waits.
    """
    known = [scores for scores in trained if rung in scores]
    seen = gain(known, rung)
    if seen is None or len(known) < ENOUGH:
        return "go" if len(known) + learning < ENOUGH else "wait"
    if reaches(Gain.final(accuracy, seen.hopeful)):
        return "go"
    return "wait" if reaches(Gain.final(accuracy, seen.boldest)) else "stop"


def after(rungs: Sequence[int], reached: int) -> int:
    """The first of ``rungs`` beyond ``reached``."""
    return next(rung for rung in rungs if rung > reached)
