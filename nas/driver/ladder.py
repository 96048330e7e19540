"""Decides which candidates continue, pause or stop at the rungs.

It keeps state and decides; the loop writes to the record and runs jobs. What decisions depend on is
cached until it changes, so that 600 paused candidates cost little.
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

SAMPLES = 8  # quantiles that represent the observed gains
WAITING = 50  # candidates that may be paused at a rung; each keeps a checkpoint

Verdict = Literal["running", "paused", "stopped"]
Front = tuple[TrialRow, ...]


@dataclass(frozen=True, slots=True)
class _Gains:
    """Ratios of final errors to errors at a rung: ``every`` observed one, their ``median``, and
    ``some`` quantiles that represent them."""

    every: Floats
    median: Floats
    some: Floats

    @classmethod
    def of(cls, every: Floats) -> _Gains:
        levels = (np.arange(SAMPLES) + 0.5) / SAMPLES
        some = every if len(every) <= SAMPLES else np.quantile(every, levels)
        return cls(every, np.median(every, keepdims=True) if len(every) else every, some)


class Ladder:
    """The candidates of ``study`` on its ``rungs``, the last a full training; without rungs, none
    is ever paused or stopped.

    The ``front`` that methods take is a new tuple whenever it changed.
    """

    def __init__(self, study: StudyRow, rungs: Sequence[int]) -> None:
        self._study = study
        self._rungs = tuple(rungs)
        self._below = self._rungs[-2::-1]  # those below a full training, the highest first
        self._trained: list[Scores] = []  # scores of those trained in full
        self._reached: dict[int, int] = {}  # by number: epochs reached, or on the way to
        self._counts: Counter[int] = Counter()  # of the values of _reached
        self._running: dict[int, TrialRow] = {}
        self._waiting: dict[int, TrialRow] = {}
        # Caches of functions of _trained, by rung, and by number and rung; the last also of the
        # front.
        self._seen: dict[int, _Gains] = {}
        self._hoped: dict[tuple[int, int], TrialRow] = {}
        self._promises: dict[tuple[int, int], float] = {}
        self._front: Front = ()

    @property
    def waiting(self) -> Mapping[int, TrialRow]:
        """The paused candidates by number."""
        return MappingProxyType(self._waiting)

    # -- events -----------------------------------------------------------------------------------

    def send(self, row: TrialRow, epochs: int) -> None:
        """A candidate is being trained up to ``epochs``."""
        self._waiting.pop(row.number, None)
        self._running[row.number] = row
        self._reach(row.number, epochs)

    def pause(self, row: TrialRow) -> None:
        """A candidate is paused at the rung it reached."""
        self._running.pop(row.number, None)
        self._waiting[row.number] = row
        self._reach(row.number, row.rungs[-1][0])

    def leave(self, row: TrialRow) -> None:
        """A candidate is no longer running or paused here: it ended, or another driver has it."""
        self._running.pop(row.number, None)
        self._waiting.pop(row.number, None)

    def take(self, row: TrialRow) -> None:
        """A trial of any driver ended."""
        self.leave(row)
        if row.state == "refused" and row.number in self._reached:
            self._counts[self._reached.pop(row.number)] -= 1  # it was never trained
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

    # -- decisions --------------------------------------------------------------------------------

    def verdict(self, row: TrialRow, front: Front) -> Verdict:
        """Decides on a candidate that just reached a rung: it continues if it is next, stops if it
        has no promise, or else is paused."""
        if self.next_up(row.rungs[-1][0], front, row) is row:
            return "running"
        return "paused" if self.promise(row, front) else "stopped"

    def hopeless(self, front: Front) -> list[TrialRow]:
        """The paused candidates without promise."""
        waiting = list(self._waiting.values())
        kept = zip(waiting, self._promised(waiting, front), strict=True)
        return [row for row, promise in kept if not promise]

    def surplus(self, front: Front, most: int = WAITING) -> list[TrialRow]:
        """The least promising paused candidates, beyond ``most`` per rung."""
        over: list[TrialRow] = []
        for rung in self._below:
            if len(here := self.at(rung)) > most:
                order = np.argsort([-p for p in self._promised(here, front)], kind="stable")
                over += [here[place] for place in order[most:]]
        return over

    def following(self, front: Front) -> TrialRow | None:
        """The paused candidate to continue, from the highest rung that may promote one."""
        found = (self.next_up(rung, front) for rung in self._below if self.at(rung))
        return next((row for row in found if row is not None), None)

    def next_up(self, rung: int, front: Front, *arriving: TrialRow) -> TrialRow | None:
        """The candidate to continue from a rung, of those paused there or just ``arriving``: that
        with the highest expected hypervolume improvement over the front and over all candidates
        past the rung, extrapolated. None where the rung has promoted its share, or none has
        promise."""
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

    # -- predictions ------------------------------------------------------------------------------

    def at(self, rung: int) -> list[TrialRow]:
        """The candidates paused at a rung."""
        return [row for row in self._waiting.values() if row.rungs[-1][0] == rung]

    def hoped(self, row: TrialRow) -> TrialRow | None:
        """A candidate at a rung, extrapolated to its end; None before any full training."""
        rung, score = row.rungs[-1]
        if (row.number, rung) not in self._hoped:
            if not len(median := self._gains(rung).median):
                return None
            accuracy = float(rungs.finals(median, score)[0])
            metrics = {**row.metrics, ACCURACY: accuracy}
            self._hoped[row.number, rung] = dataclasses.replace(row, metrics=metrics)
        return self._hoped[row.number, rung]

    def promise(self, row: TrialRow, front: Front) -> float:
        """The expected amount by which a candidate's final accuracy exceeds the front."""
        return self._promised([row], front)[0]

    def ends(self, row: TrialRow) -> Floats:
        """Equally likely final accuracies of a candidate at a rung; before any full training, its
        score."""
        rung, score = row.rungs[-1]
        some = self._gains(rung).some
        return rungs.finals(some, score) if len(some) else np.array([score])

    def _gains(self, rung: int) -> _Gains:
        if rung not in self._seen:
            self._seen[rung] = _Gains.of(rungs.shrinkage(self._trained, rung))
        return self._seen[rung]

    def _promised(self, rows: Sequence[TrialRow], front: Front) -> list[float]:
        """The promise of each row, cached for the front and the full trainings."""
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
