"""Learning-rate schedules: a factor of ``recipe.lr``, from the step (counted from 0), the steps of
an epoch, the epochs of the cycle, and ``recipe.warmup``. Pure functions; no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping


def one_cycle(step: int, steps: int, epochs: int, warmup: float) -> float:
    """Smith and Topin 2018: from 1/25 up to 1 in the first part, ``warmup``, of the steps, then
    down to 1/250,000, both along half a cosine; torch's OneCycleLR without its momentum's cycle."""
    last = steps * epochs - 1
    peak = warmup * steps * epochs - 1
    low, end = 1 / 25, 1 / 250_000
    if step <= peak:
        return cosine(low, 1.0, step / peak if peak > 0 else 1.0)
    return cosine(1.0, end, (step - peak) / (last - peak) if last > peak else 1.0)


def cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def rungs(step: int, steps: int, epochs: int, warmup: float) -> float:
    """Up over the first epoch, constant, then linearly to 0 over the ``tail``: what Hägele et al.
    2024 ("Scaling laws and compute-optimal training beyond fixed training durations") found to
    equal a schedule made for that length.

    Before the tail the rate does not depend on ``epochs``: a candidate that is promoted goes on
    from the checkpoint before the tail, and every rung's scores come from trained-out networks.
    """
    rising = (step + 1) / steps
    falling = (steps * epochs - step) / (steps * tail(epochs) + 1)
    return min(1.0, rising, falling)


def tail(epochs: int) -> int:
    """The epochs over which ``rungs`` falls: a quarter, rounded up."""
    return math.ceil(epochs / 4)


SCHEDULES: Mapping[str, Callable[[int, int, int, float], float]] = {
    "one_cycle": one_cycle,
    "rungs": rungs,
}


def cycle(epoch: int, freeze: int, epochs: int) -> tuple[int, int]:
    """First and past-the-last epoch of the cycle that ``epoch`` is in; the frozen epochs have their
    own."""
    return (0, freeze) if epoch < freeze else (freeze, epochs)


def shared(schedule: str, freeze: int, epochs: int) -> int:
    """The epochs after which a training may go on: all, but under "rungs" those before the tail."""
    return epochs - tail(epochs - freeze) if schedule == "rungs" else epochs
