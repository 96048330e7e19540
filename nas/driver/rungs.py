"""Early stopping with several objectives: what to make of scores at rungs.

What a candidate costs (params, MACs, a latency) is known when it comes to a rung; only its final
accuracy is not. So one number tells what it promises: by how much its accuracy may come to lie
above the ``bar``, the best that the front has at this cost or less. Who promises nothing is
stopped; the others wait, and whenever there is room the one goes on that is expected to add most to
the front's hypervolume: that is what the sampler proposes for, too. MO-ASHA (Schmucker et al. 2021)
ranks the vectors of a rung instead, and promotes the best third of those that are there, whether or
not the front has better already.

A rung is a number of epochs; the last is a whole training. The functions are pure;
``nas.driver.ladder`` keeps who stands on which rung, and asks them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.errors import NasError
from nas.job.schedule import shared

# "auto" scores a candidate after one in so many of its epochs. With a third of a search's epochs,
# after 2, 4 and 7 epochs of 20, .85, .91 and .97 of its hypervolume was found on CIFAR-10 (1 seed),
# and all of it on digits: an early score costs less, and tells less.
ETA = 3
LEAST = 2  # epochs of a first rung: after one alone, the rate has hardly risen and fallen
LEARNERS = 5  # of the first candidates one in two goes on, up to so many: to learn gains from
FLOOR = 1e-3  # added to errors, so that none is 0: of 1,000 images one

Floats = NDArray[np.float64]
Scores = Mapping[int, float]  # accuracy at each rung, in epochs, that a candidate came to


def auto(epochs: int) -> tuple[int, ...]:
    """The last rung of ``geometric``, and a whole training. Rungs before it cost more than they
    saved: each has candidates that go on to be learned from."""
    return geometric(epochs)[-2:]


def geometric(epochs: int) -> tuple[int, ...]:
    """Rungs each ``ETA`` times the one before, the last a whole training of ``epochs``; empty where
    there is no room for a rung below it."""
    below = (round(epochs / ETA**n) for n in range(1, 64))
    rungs = sorted({rung for rung in below if LEAST <= rung < epochs})
    return (*rungs, epochs) if rungs else ()


def read(text: str, epochs: int, auto: Callable[[int], tuple[int, ...]] = auto) -> tuple[int, ...]:
    """The rungs that ``off``, ``auto`` or ``3,7,20`` mean for ``epochs``.

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
    """The epochs trained up to each of ``rungs``: on from one begins before its tail."""
    begun = [0, *(shared("rungs", freeze, rung) for rung in rungs)]
    return list(accumulate(rung - start for start, rung in zip(begun, rungs, strict=False)))


def shrinkage(trained: Iterable[Scores], rung: int) -> Floats:
    """By what the error at ``rung`` was multiplied up to the end, of each of those ``trained`` to
    the end that came by it."""
    errors = np.array([(s[rung], s[max(s)]) for s in trained if rung in s]).reshape(-1, 2)
    before, after = (1 + FLOOR - errors).T
    shrunk: Floats = after / before
    return shrunk


def finals(shrunk: Floats, accuracy: ArrayLike) -> Floats:
    """The accuracies at the end that each ``accuracy`` at a rung may grow to, if its error shrinks
    as others did from there; of the shape (..., len(shrunk))."""
    possible: Floats = 1 + FLOOR - np.multiply.outer(1 + FLOOR - np.asarray(accuracy), shrunk)
    return possible


def promise(shrunk: Floats, accuracy: ArrayLike, bar: ArrayLike) -> Floats:
    """By how much the accuracy at the end is expected to lie above ``bar``, where below counts as
    0: so 0 if it does not come to lie above with any gain that was seen. Infinite before anything
    was trained to the end. Of the shape of ``accuracy`` and ``bar``."""
    if not len(shrunk):
        return np.full(np.shape(accuracy), np.inf)
    above = finals(shrunk, accuracy) - np.asarray(bar)[..., None]
    mean: Floats = np.asarray(np.maximum(above, 0).mean(axis=-1))
    return mean


def room(reached: Counter[int], rungs: Sequence[int], rung: int) -> bool:
    """Whether one more may go on from ``rung``: besides those to learn from, so few that every rung
    costs as many epochs as the first, which all come to. ``reached`` counts the candidates by the
    epochs that they have come to or are on their way to."""
    share = after(rungs, rung) / rungs[0]
    went = sum(count for epochs, count in reached.items() if epochs > rung)
    count = reached.total()
    return went < min(LEARNERS, count / 2) + max(0, count - LEARNERS) / share
