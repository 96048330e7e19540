"""Early stopping with several objectives: what to make of scores at rungs.

What a candidate costs (params, MACs, a latency) is known when it comes to a rung; only its final
accuracy is not. So one number tells what it promises: by how much its accuracy may come to lie
above the ``bar``, the best that the front has at this cost or less. Who promises nothing is
stopped; the others wait, and whenever there is room the one goes on that is expected to add most to
the front's hypervolume: that is what the sampler proposes for, too. MO-ASHA (Schmucker et al. 2021)
ranks the vectors of a rung instead, and promotes the best third of those that are there, whether or
not the front has better already.

A rung is a number of epochs; the last is a whole training. The functions are pure; a ``Ladder``
keeps who stands on which rung, and asks them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from nas.driver.tradeoffs import bar, gains
from nas.errors import NasError
from nas.job.schedule import shared
from nas.metrics import ACCURACY
from nas.store import StudyRow, TrialRow

# "auto" scores a candidate after one in so many of its epochs. With a third of a search's epochs,
# after 2, 4 and 7 epochs of 20, .85, .91 and .97 of its hypervolume was found on CIFAR-10 (1 seed),
# and all of it on digits: an early score costs less, and tells less.
ETA = 3
LEAST = 2  # epochs of a first rung: after one alone, the rate has hardly risen and fallen
LEARNERS = 5  # of the first candidates one in two goes on, up to so many: to learn gains from
SAMPLES = 8  # gains that are weighed of those that were seen
WAITING = 50  # candidates that may wait at a rung; each keeps a checkpoint
FLOOR = 1e-3  # added to errors, so that none is 0: of 1,000 images one

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


def finals(trained: Iterable[Scores], rung: int, accuracy: float) -> NDArray[np.float64]:
    """The accuracies at the end that ``accuracy`` at ``rung`` may grow to: one for each of those
    ``trained`` to the end, if the error shrinks as its error did from there."""
    errors = np.array([(s[rung], s[max(s)]) for s in trained if rung in s]).reshape(-1, 2)
    before, after = (1 + FLOOR - errors).T
    possible: NDArray[np.float64] = 1 + FLOOR - (1 + FLOOR - accuracy) * after / before
    return possible


def expected(trained: Iterable[Scores], rung: int, accuracy: float) -> float | None:
    """The accuracy at the end to expect from ``accuracy`` at ``rung``; None before anything was
    trained to the end."""
    possible = finals(trained, rung, accuracy)
    return float(np.median(possible)) if len(possible) else None


def promise(trained: Iterable[Scores], rung: int, accuracy: float, bar: float) -> float:
    """By how much the accuracy at the end is expected to lie above ``bar``, where below counts as
    0: so 0 if it does not come to lie above with any gain that was seen. Infinite before anything
    was trained to the end."""
    possible = finals(trained, rung, accuracy)
    return float(np.maximum(possible - bar, 0).mean()) if len(possible) else np.inf


def room(reached: Collection[int], rungs: Sequence[int], rung: int) -> bool:
    """Whether one more may go on from ``rung``: besides those to learn from, so few that every rung
    costs as many epochs as the first, which all come to. ``reached`` are the epochs that each
    candidate has come to or is on its way to."""
    share = after(rungs, rung) / rungs[0]
    went, count = sum(epochs > rung for epochs in reached), len(reached)
    return went < min(LEARNERS, count / 2) + max(0, count - LEARNERS) / share


@dataclass(frozen=True, slots=True)
class Ladder:
    """Who of a study stands on which of its ``rungs``, and what is to be thought of them.

    ``trained`` are the scores of those that came to the end, ``reached`` the epochs that each
    candidate, by its number, has come to or is on its way to, ``waiting`` those that are paused.
    """

    study: StudyRow
    rungs: Sequence[int]
    trained: list[Scores] = field(default_factory=list)
    reached: dict[int, int] = field(default_factory=dict)
    waiting: dict[int, TrialRow] = field(default_factory=dict)

    def take(self, row: TrialRow) -> None:
        """Notes a trial that ended."""
        if not row.rungs:
            return
        if row.state in ("finished", "reused") and row.accuracy is not None:
            self.trained.append({**dict(row.rungs), row.epochs: row.accuracy})
        if row.state != "reused":
            self.reached[row.number] = row.epochs if row.state == "finished" else row.rungs[-1][0]

    def at(self, rung: int) -> list[TrialRow]:
        """Those that wait there."""
        return [row for row in self.waiting.values() if row.rungs[-1][0] == rung]

    def estimate(self, row: TrialRow) -> float | None:
        """The accuracy that a candidate at a rung would be expected to end with."""
        return expected(self.trained, *row.rungs[-1])

    def hoped(self, row: TrialRow) -> TrialRow:
        """A candidate at a rung as it is expected to end, where that is known."""
        accuracy = self.estimate(row)
        if accuracy is None:
            return row
        return dataclasses.replace(row, metrics={**row.metrics, ACCURACY: accuracy})

    def promise(self, row: TrialRow, front: Sequence[TrialRow]) -> float:
        """By how much a candidate at a rung may come to lie above the front."""
        return promise(self.trained, *row.rungs[-1], bar(self.study, front, row))

    def ends(self, row: TrialRow) -> NDArray[np.float64]:
        """Accuracies that a candidate at a rung may end with, each as likely; as long as nothing
        was trained to the end, its score."""
        possible = finals(self.trained, *row.rungs[-1])
        if not len(possible):
            return np.array([row.rungs[-1][1]])
        levels = (np.arange(SAMPLES) + 0.5) / SAMPLES
        return possible if len(possible) <= SAMPLES else np.quantile(possible, levels)

    def next_up(
        self,
        rung: int,
        front: Sequence[TrialRow],
        running: Iterable[TrialRow],
        arriving: Iterable[TrialRow] = (),
    ) -> TrialRow | None:
        """Who is to go on from a rung, of those that wait there or are just ``arriving``: who is
        expected to add most hypervolume to the front and to those that are past the rung,
        ``running`` or waiting, each taken for what is expected of it. None where the rung has sent
        on as many as it may, or nobody promises anything."""
        if not room(self.reached.values(), self.rungs, rung):
            return None
        past = [*running, *self.waiting.values()]
        ahead = [self.hoped(row) for row in past if row.rungs and self.reached[row.number] > rung]
        ahead = [*front, *ahead]
        hopeful = [row for row in [*self.at(rung), *arriving] if self.promise(row, ahead)]
        if not hopeful:
            return None
        added = gains(self.study, ahead, [(row, self.ends(row)) for row in hopeful])
        return hopeful[int(np.argmax(added))]
