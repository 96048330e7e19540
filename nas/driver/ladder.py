"""Who of a study stands on which rung, and who is to go on, to wait or to stop.

It decides and remembers; the loop writes to the record and runs jobs. What a decision rests on is
worked out again only where it changed: a look at 600 candidates at rungs is one at a few numbers.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from nas.driver import rungs
from nas.driver.rungs import Floats, Scores
from nas.driver.tradeoffs import bars, gains
from nas.metrics import ACCURACY
from nas.store import StudyRow, TrialRow

SAMPLES = 8  # gains that are weighed of those that were seen
WAITING = 50  # candidates that may wait at a rung; each keeps a checkpoint

Verdict = Literal["running", "paused", "stopped"]
Front = tuple[TrialRow, ...]


@dataclass(frozen=True, slots=True)
class _Gains:
    """What errors at a rung were multiplied by up to the end: ``every`` one that was seen, their
    ``median``, and ``some`` that are as likely each."""

    every: Floats
    median: Floats
    some: Floats

    @classmethod
    def of(cls, every: Floats) -> _Gains:
        levels = (np.arange(SAMPLES) + 0.5) / SAMPLES
        some = every if len(every) <= SAMPLES else np.quantile(every, levels)
        return cls(every, np.median(every, keepdims=True) if len(every) else every, some)


class Ladder:
    """The candidates of ``study`` on its ``rungs``, the last a whole training; without rungs, none
    is ever told to wait or to stop.

    ``front`` is what the study has found, a new tuple where it changed.
    """

    def __init__(self, study: StudyRow, rungs: Sequence[int]) -> None:
        self._study = study
        self._rungs = tuple(rungs)
        self._below = self._rungs[-2::-1]  # those that are no whole training, the highest first
        self._trained: list[Scores] = []  # scores of those that came to the end
        self._reached: dict[int, int] = {}  # by number: epochs come to or on the way to
        self._counts: Counter[int] = Counter()  # of the values of _reached
        self._running: dict[int, TrialRow] = {}
        self._waiting: dict[int, TrialRow] = {}
        # What follows from _trained alone, by rung and by number and rung; and from the front, too.
        self._seen: dict[int, _Gains] = {}
        self._hoped: dict[tuple[int, int], TrialRow] = {}
        self._promises: dict[tuple[int, int], float] = {}
        self._front: Front = ()

    @property
    def waiting(self) -> Mapping[int, TrialRow]:
        """Those that are paused, by their numbers."""
        return MappingProxyType(self._waiting)

    # -- what happens -----------------------------------------------------------------------------

    def send(self, row: TrialRow, epochs: int) -> None:
        """A candidate is on its way up to ``epochs``."""
        self._waiting.pop(row.number, None)
        self._running[row.number] = row
        self._reach(row.number, epochs)

    def pause(self, row: TrialRow) -> None:
        """A candidate waits at the rung that it came to."""
        self._running.pop(row.number, None)
        self._waiting[row.number] = row
        self._reach(row.number, row.rungs[-1][0])

    def leave(self, row: TrialRow) -> None:
        """A candidate runs or waits no more: another driver has it, or it ended."""
        self._running.pop(row.number, None)
        self._waiting.pop(row.number, None)

    def take(self, row: TrialRow) -> None:
        """A trial ended, whoever ran it."""
        self.leave(row)
        if row.state == "refused" and row.number in self._reached:
            self._counts[self._reached.pop(row.number)] -= 1  # it was never on its way
        if not row.rungs:
            return
        if row.evaluated and row.accuracy is not None:
            self._trained.append({**dict(row.rungs), row.epochs: row.accuracy})
            for cache in (self._seen, self._hoped, self._promises):
                cache.clear()
        if row.state != "reused":
            ended = row.epochs if row.state == "finished" else row.rungs[-1][0]
            self._reach(row.number, ended)

    def _reach(self, number: int, epochs: int) -> None:
        if number in self._reached:
            self._counts[self._reached[number]] -= 1
        self._reached[number] = epochs
        self._counts[epochs] += 1

    # -- what is decided --------------------------------------------------------------------------

    def verdict(self, row: TrialRow, front: Front) -> Verdict:
        """What becomes of a candidate that just came to a rung: it goes on if it is next, stops if
        it promises nothing, or waits for its turn."""
        if self.next_up(row.rungs[-1][0], front, row) is row:
            return "running"
        return "paused" if self.promise(row, front) else "stopped"

    def hopeless(self, front: Front) -> list[TrialRow]:
        """Those of who wait that promise nothing any more."""
        waiting = list(self._waiting.values())
        kept = zip(waiting, self._promised(waiting, front), strict=True)
        return [row for row, promise in kept if not promise]

    def surplus(self, front: Front, most: int = WAITING) -> list[TrialRow]:
        """Those of who wait that promise least, where more than ``most`` wait at one rung."""
        over: list[TrialRow] = []
        for rung in self._below:
            if len(here := self.at(rung)) > most:
                order = np.argsort([-p for p in self._promised(here, front)], kind="stable")
                over += [here[place] for place in order[most:]]
        return over

    def following(self, front: Front) -> TrialRow | None:
        """Who of those that wait goes on next, from the highest rung that may send one on."""
        found = (self.next_up(rung, front) for rung in self._below if self.at(rung))
        return next((row for row in found if row is not None), None)

    def next_up(self, rung: int, front: Front, *arriving: TrialRow) -> TrialRow | None:
        """Who is to go on from a rung, of those that wait there or are just ``arriving``: who is
        expected to add most hypervolume to the front and to those that are past the rung, running
        or waiting, each taken for what is expected of it. None where the rung has sent on as many
        as it may, or nobody promises anything."""
        if not rungs.room(self._counts, self._rungs, rung):
            return None
        past = [*self._running.values(), *self._waiting.values()]
        past = [row for row in past if row.rungs and self._reached[row.number] > rung]
        ahead = [*front, *(self.hoped(row) or row for row in past)]
        here = [*self.at(rung), *arriving]
        promises = self._promise_at(rung, here, ahead)
        hopeful = [row for row, promise in zip(here, promises, strict=True) if promise]
        if not hopeful:
            return None
        added = gains(self._study, ahead, [(row, self.ends(row)) for row in hopeful])
        return hopeful[int(np.argmax(added))]

    # -- what is thought of one -------------------------------------------------------------------

    def at(self, rung: int) -> list[TrialRow]:
        """Those that wait there."""
        return [row for row in self._waiting.values() if row.rungs[-1][0] == rung]

    def hoped(self, row: TrialRow) -> TrialRow | None:
        """A candidate at a rung as it is expected to end; None before anything was trained to the
        end."""
        rung, score = row.rungs[-1]
        if (row.number, rung) not in self._hoped:
            if not len(median := self._gains(rung).median):
                return None
            accuracy = float(rungs.finals(median, score)[0])
            metrics = {**row.metrics, ACCURACY: accuracy}
            self._hoped[row.number, rung] = dataclasses.replace(row, metrics=metrics)
        return self._hoped[row.number, rung]

    def promise(self, row: TrialRow, front: Front) -> float:
        """By how much a candidate at a rung may come to lie above the front."""
        return self._promised([row], front)[0]

    def ends(self, row: TrialRow) -> Floats:
        """Accuracies that a candidate at a rung may end with, each as likely; as long as nothing
        was trained to the end, its score."""
        rung, score = row.rungs[-1]
        some = self._gains(rung).some
        return rungs.finals(some, score) if len(some) else np.array([score])

    def _gains(self, rung: int) -> _Gains:
        if rung not in self._seen:
            self._seen[rung] = _Gains.of(rungs.shrinkage(self._trained, rung))
        return self._seen[rung]

    def _promised(self, rows: Sequence[TrialRow], front: Front) -> list[float]:
        """Each one's promise; worked out once for a front and those trained to the end."""
        if front is not self._front:
            self._front = front
            self._promises.clear()
        keys = [(row.number, row.rungs[-1][0]) for row in rows]
        new = [row for row, key in zip(rows, keys, strict=True) if key not in self._promises]
        for rung in {row.rungs[-1][0] for row in new}:
            some = [row for row in new if row.rungs[-1][0] == rung]
            for row, promise in zip(some, self._promise_at(rung, some, front), strict=True):
                self._promises[row.number, rung] = float(promise)
        return [self._promises[key] for key in keys]

    def _promise_at(
        self, rung: int, rows: Sequence[TrialRow], front: Sequence[TrialRow]
    ) -> Sequence[float]:
        scores = [row.rungs[-1][1] for row in rows]
        return list(rungs.promise(self._gains(rung).every, scores, bars(self._study, front, rows)))
