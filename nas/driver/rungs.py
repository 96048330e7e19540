"""Early stopping with several objectives: decisions from scores at rungs.

A candidate's cost (params, MACs, a latency) is known at a rung; only its final accuracy is not. So
its promise is one number: the expected amount by which its final accuracy exceeds the ``bar``, the
best accuracy of the front at this cost or less. Candidates without promise are stopped; the others
are paused, and whenever there is room the one with the highest expected hypervolume improvement
continues, which is also the sampler's criterion. MO-ASHA (Schmucker et al. 2021) ranks the vectors
at a rung instead, and promotes the best third of them, whether or not the front is better already.

A rung is a number of epochs; the last is a full training. The functions are pure;
``nas.driver.ladder`` keeps the state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.errors import NasError
from nas.job.schedule import shared

# The ratio of rungs. With a third of a search's epochs, a rung after 2, 4 and 7 epochs of 20 found
# .85, .91 and .97 of its hypervolume on CIFAR-10 (1 seed), and all of it on digits: an early score
# costs less, and says less.
ETA = 3
LEAST = 2  # epochs of the first rung: within one, the learning rate hardly rises and falls
LEARNERS = 5  # early promotions, one of two candidates, to learn gains from
FLOOR = 1e-3  # added to errors so that none is 0: one image in 1,000

Floats = NDArray[np.float64]
Scores = Mapping[int, float]  # accuracy by rung, in epochs


def auto(epochs: int) -> tuple[int, ...]:
    """The last rung of ``geometric``, and a full training. Earlier rungs cost more than they saved:
    each needs promotions to learn from."""
    return geometric(epochs)[-2:]


def geometric(epochs: int) -> tuple[int, ...]:
    """Rungs each ``ETA`` times the one before, up to a full training of ``epochs``; empty where no
    rung fits below it."""
    below = (round(epochs / ETA**n) for n in range(1, 64))
    rungs = sorted({rung for rung in below if LEAST <= rung < epochs})
    return (*rungs, epochs) if rungs else ()


def read(text: str, epochs: int, auto: Callable[[int], tuple[int, ...]] = auto) -> tuple[int, ...]:
    """Parses ``off``, ``auto`` or rungs such as ``3,7,20`` for a training of ``epochs``.

    Raises NasError unless they increase from 1 or more to ``epochs``.
    """
    if text == "off":
        return ()
    if text == "auto":
        return auto(epochs)
    example = ",".join(map(str, auto(epochs) or (1, epochs)))
    rule = f"must be off, auto, or epochs that increase up to --epochs {epochs}, such as {example}"
    try:
        rungs = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise NasError(f"--rungs {text!r}: {rule}") from None
    if list(rungs) != sorted(set(rungs)) or rungs[0] < 1 or rungs[-1] != epochs:
        raise NasError(f"--rungs {text}: {rule}")
    return rungs if len(rungs) > 1 else ()


def after(rungs: Sequence[int], reached: int) -> int:
    """The first of ``rungs`` beyond ``reached``."""
    return next(rung for rung in rungs if rung > reached)


def costs(rungs: Sequence[int], freeze: int = 0) -> list[int]:
    """The epochs trained up to each of ``rungs``, in all: training resumes from a rung before its
    tail of falling learning rates."""
    begun = [0, *(shared("rungs", freeze, rung) for rung in rungs)]
    return list(accumulate(rung - start for start, rung in zip(begun, rungs, strict=False)))


def shrinkage(trained: Iterable[Scores], rung: int) -> Floats:
    """The ratio of final error to error at ``rung`` of each full training that has both, (n,)."""
    errors = np.array([(s[rung], s[max(s)]) for s in trained if rung in s]).reshape(-1, 2)
    before, after = (1 + FLOOR - errors).T
    shrunk: Floats = after / before
    return shrunk


def finals(shrunk: Floats, accuracy: ArrayLike) -> Floats:
    """The possible final accuracies of each ``accuracy`` at a rung, one per observed ratio
    ``shrunk``: (..., len(shrunk))."""
    possible: Floats = 1 + FLOOR - np.multiply.outer(1 + FLOOR - np.asarray(accuracy), shrunk)
    return possible


def promise(shrunk: Floats, accuracy: ArrayLike, bar: ArrayLike) -> Floats:
    """E[max(final accuracy - ``bar``, 0)]: 0 if no observed ratio lifts it above the bar, infinite
    before any full training. Of the shape of ``accuracy`` and ``bar``."""
    if not len(shrunk):
        return np.full(np.shape(accuracy), np.inf)
    above = finals(shrunk, accuracy) - np.asarray(bar)[..., None]
    mean: Floats = np.asarray(np.maximum(above, 0).mean(axis=-1))
    return mean


def room(reached: Counter[int], rungs: Sequence[int], rung: int) -> bool:
    """Whether one more candidate may continue from ``rung``. Beyond those to learn from, so few
    continue that each rung costs as many epochs in all as the first. ``reached`` counts candidates
    by the epochs they reached or are on the way to."""
    share = after(rungs, rung) / rungs[0]
    went = sum(count for epochs, count in reached.items() if epochs > rung)
    count = reached.total()
    return went < min(LEARNERS, count / 2) + max(0, count - LEARNERS) / share
