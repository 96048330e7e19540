"""How a search stands: what came of its trials, the budget, the front. Pure: it asks nobody.

A trial is taken once, by its number, whoever ran it; so the loop may hear of it as often as it
likes.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nas.driver.time_budget import TimeBudget
from nas.driver.tradeoffs import network, pareto
from nas.job import Epoch
from nas.store import ENDED, EVALUATED, StudyRow, TrialRow


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A trial that is being trained, up to ``epochs``; ``first`` and ``last`` are what it told."""

    number: int
    baseline: str
    epochs: int
    first: Epoch | None = None
    last: Epoch | None = None

    def told(self, epoch: Epoch) -> UnderWay:
        return dataclasses.replace(self, first=self.first or epoch, last=epoch)

    def seconds(self) -> float | None:
        """What all its epochs are expected to take, at the pace of those after the first; None
        before the second. A process's first takes longer: 1.1 to 1.6 times on a CPU, twice and more
        on a GPU."""
        if not self.first or not self.last or self.last.epoch == self.first.epoch:
            return None
        pace = (self.last.seconds - self.first.seconds) / (self.last.epoch - self.first.epoch)
        return self.last.seconds + (self.epochs - self.last.epoch) * pace


@dataclass(frozen=True, slots=True)
class Forecast:
    """How many seconds a search will still take, judged by so many trials that ended on this device
    (0: by the epochs of those under way)."""

    seconds: float
    trials: int


@dataclass(frozen=True, slots=True)
class Status:
    """How a search stands. Trials are candidates; baselines are counted beside them."""

    budget: int | None  # trials asked for; None: without a limit
    finished: int
    stopped: int  # at a rung, for good
    failed: int
    reused: int
    refused: int  # latency over its bound, measured before training: neither done nor budgeted
    paused: int  # at a rung
    rejected: int  # proposals that arithmetic refused, at no cost
    repeated: int  # proposals that were evaluated before, at no cost
    front: tuple[TrialRow, ...]
    latest: TrialRow | None
    ended: int  # trials, in this run
    seconds: float  # of this run
    exhausted: bool
    failures: Mapping[str, int]  # failed trials by reason, the commonest first
    under_way: tuple[UnderWay, ...]
    forecast: Forecast | None
    time: float | None = None  # seconds allowed; None: without a limit
    time_left: float | None = None
    out_of_time: bool = False  # something was not begun for want of time
    vain: int = 0  # refused trials in a row, where the search ended by that
    baselines: int = 0
    baselines_ended: int = 0
    baselines_failed: int = 0  # of those that ended

    @property
    def running(self) -> int:
        return len(self.under_way)

    @property
    def done(self) -> int:
        return self.finished + self.stopped + self.failed + self.reused


class Tally:
    """The ended trials of ``study``, which is to have so many ``trials`` (None: any number) and its
    baselines."""

    def __init__(self, study: StudyRow, trials: int | None) -> None:
        self._study = study
        self.front: tuple[TrialRow, ...] = ()
        self._trials = trials
        self._latest: TrialRow | None = None
        self._taken: set[int] = set()
        self._results: list[TrialRow] = []
        self._networks: set[tuple[str, str]] = set()
        self._baselines: set[int] = set()
        self._counts: Counter[str] = Counter()
        self._beside: Counter[str] = Counter()  # of them the baselines
        self._failures: Counter[str] = Counter()
        self._ended = 0
        self._first = 0.0  # when the first of them did
        # Trials that were trained, and their seconds, by device.
        self._took: defaultdict[str | None, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
        self._begun = time.monotonic()

    def __contains__(self, row: TrialRow) -> bool:
        return row.number in self._taken

    @property
    def done(self) -> int:
        return self._counts.total()

    @property
    def trained_front(self) -> tuple[TrialRow, ...]:
        """The front as it were without networks made from others, whose weights these came from:
        they must be kept even where the front has left them behind."""
        if not any(row.made for row in self.front):
            return self.front
        return pareto(self._study, [row for row in self._results if not row.made])

    @property
    def results(self) -> int:
        """How many trials have a result."""
        return sum(self._counts[state] for state in EVALUATED)

    @property
    def budget(self) -> int | None:
        """The trials that the study may have: a baseline counts beside those that are searched,
        from when it is known of, and so does what was refused: nothing was trained."""
        beside = len(self._baselines) + self._counts["refused"]
        return None if self._trials is None else self._trials + beside

    def room(self, count: int) -> float:
        """How many trials the study may have besides so many."""
        return math.inf if self.budget is None else max(0, self.budget - count)

    def take(self, rows: Iterable[TrialRow]) -> list[TrialRow]:
        """Notes trials; those that ended and were not taken before."""
        rows = list(rows)
        self._baselines.update(row.number for row in rows if row.baseline)
        new = {row.number: row for row in rows if row.state in ENDED and row not in self}
        for row in new.values():
            self._taken.add(row.number)
            self._counts[row.state] += 1
            self._beside[row.state] += bool(row.baseline)
            self._latest = row
            if row.seconds and not (row.baseline or row.state == "refused"):
                number, seconds = self._took[row.device]
                self._took[row.device] = number + 1, seconds + row.seconds
            if row.state == "failed":
                self._failures[row.reason or row.failure or ""] += 1
        if new:
            results = [row for row in new.values() if row.evaluated]
            names = {network(row) for row in results if not row.baseline}
            # What is trained again may leave the front, and what it has beaten come back.
            again = not self._networks.isdisjoint(names)
            self._networks |= names
            self._results += results
            front = pareto(self._study, self._results if again else [*self.front, *results])
            now, was = ([(row.number, row.trainings) for row in f] for f in (front, self.front))
            if now != was:
                self.front = front  # the same tuple as long as it is the same front: see Ladder
        return list(new.values())

    def end(self) -> None:
        """Counts a trial that ended by this run."""
        self._ended += 1
        self._first = self._first or time.monotonic()

    def status(
        self,
        *,
        under_way: Iterable[UnderWay],
        slots: int,
        paused: int,
        rejected: int,
        repeated: int,
        exhausted: bool,
        vain: int = 0,
        time_budget: TimeBudget | None = None,
    ) -> Status:
        under_way = tuple(under_way)
        states = {state: self._counts[state] - self._beside[state] for state in ENDED}
        return Status(
            budget=self._trials,
            **states,
            paused=paused,
            rejected=rejected,
            repeated=repeated,
            front=self.front,
            latest=self._latest,
            ended=self._ended,
            seconds=time.monotonic() - self._begun,
            exhausted=exhausted,
            vain=vain,
            failures=dict(self._failures.most_common()),
            under_way=under_way,
            forecast=self._forecast(under_way, slots),
            time=time_budget.seconds if time_budget else None,
            time_left=time_budget.left if time_budget else None,
            out_of_time=time_budget is not None and time_budget.over,
            baselines=len(self._baselines),
            baselines_ended=self._beside.total(),
            baselines_failed=self._beside["failed"],
        )

    def _forecast(self, under_way: Iterable[UnderWay], slots: int) -> Forecast | None:
        """By the pace of this run once every slot is on its third trial; before, by what a trial
        took: the pace would count the start, half a minute on a busy machine, to the first. None,
        too, where the trials have no limit."""
        if self.budget is None:
            return None
        ended, seconds = self._took[self._latest.device] if self._latest else (0, 0.0)
        begun = [] if ended else [r.seconds() for r in under_way if not r.baseline]
        expected = [seconds for seconds in begun if seconds is not None]
        if self._ended > 2 * slots:
            each = (time.monotonic() - self._first) / (self._ended - 1)
        elif ended:
            each = seconds / ended / max(1, slots)
        elif expected:
            each = sum(expected) / len(expected) / max(1, slots)
        else:
            return None
        return Forecast((self.budget - self.done) * each, ended)
