"""The state of a search: results of its trials, the budget, the front. No I/O.

Each trial counts once, by its number, however often the loop reports it and whoever ran it.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from nas.driver.time_budget import TimeBudget
from nas.driver.tradeoffs import network, pareto
from nas.job import Epoch, Failure
from nas.store import ENDED, EVALUATED, StudyRow, TrialRow

# Trials with unusable results, or that failed alike, and none with a usable one, before the search
# ends: a metric that is mistyped, an evaluator's error or a library that does not load would fail
# all of them; what one network causes fails it alone.
NUMBER = re.compile(r"0x[0-9a-f]+|[-+]?\d+(\.\d+)?(e[-+]?\d+)?")
VAIN = 3


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A trial being trained for ``epochs``; ``first`` and ``last`` are the epochs reported."""

    number: int
    baseline: str
    epochs: int
    first: Epoch | None = None
    last: Epoch | None = None

    def told(self, epoch: Epoch) -> UnderWay:
        return dataclasses.replace(self, first=self.first or epoch, last=epoch)

    def seconds(self) -> float | None:
        """The expected seconds of all its epochs, at the pace of those after the first; None before
        the second. A process's first epoch is slower: 1.1 to 1.6 times on a CPU, twice or more on
        a GPU."""
        if not self.first or not self.last or self.last.epoch == self.first.epoch:
            return None
        pace = (self.last.seconds - self.first.seconds) / (self.last.epoch - self.first.epoch)
        return self.last.seconds + (self.epochs - self.last.epoch) * pace


@dataclass(frozen=True, slots=True)
class Forecast:
    """The expected remaining seconds of a search, from ``trials`` that ended on this device (0:
    from the epochs of running ones)."""

    seconds: float
    trials: int


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a search. Trials are candidates; baselines are counted apart, and so are
    networks that were made of others."""

    budget: int | None  # trials asked for; None: no limit
    finished: int
    stopped: int  # at a rung, for good
    failed: int
    reused: int
    refused: int  # latency over its bound, measured before training; not counted as done
    paused: int  # at a rung
    rejected: int  # proposals that broke a constraint by arithmetic
    repeated: int  # proposals that were evaluated before
    front: tuple[TrialRow, ...]
    latest: TrialRow | None
    ended: int  # trials, in this run
    seconds: float  # of this run
    exhausted: bool
    failures: Mapping[str, int]  # failed trials by reason, the commonest first
    under_way: tuple[UnderWay, ...]
    forecast: Forecast | None
    time: float | None = None  # seconds allowed; None: no limit
    time_left: float | None = None
    out_of_time: bool = False  # a trial was not started for lack of time
    vain: int = 0  # consecutive refused trials, if they ended the search
    baselines: int = 0
    baselines_ended: int = 0
    baselines_failed: int = 0  # of those that ended
    made: Mapping[str, int] = field(default_factory=dict)  # "distilled", "pruned": how many
    own: tuple[TrialRow, ...] = ()  # the front of the candidates alone
    retried: int = 0  # attempts of this run that failed and were made again
    retried_for: str = ""  # the reason of the last
    left: int | None = None  # networks of the space without a trial that ended; None: many

    @property
    def running(self) -> int:
        return len(self.under_way)

    @property
    def done(self) -> int:
        return self.finished + self.stopped + self.failed + self.reused


class Tally:
    """Counts the ended trials of ``study``, of the ``trials`` asked for (None: no limit), and its
    baselines. ``networks`` are the fingerprints of its space, None where there are many."""

    def __init__(
        self, study: StudyRow, trials: int | None, networks: Collection[str] | None = None
    ) -> None:
        self._study = study
        self._left = None if networks is None else {*networks}
        self.front: tuple[TrialRow, ...] = ()
        self.own: tuple[TrialRow, ...] = ()  # the front of the candidates alone
        self._trials = trials
        self._latest: TrialRow | None = None
        self._taken: set[int] = set()
        self._results: list[TrialRow] = []
        self._networks: set[tuple[str, str]] = set()
        self._baselines: set[int] = set()
        self._counts: Counter[str] = Counter()
        self._beside: Counter[str] = Counter()  # of them the baselines
        self._made: dict[int, str] = {}  # of the baselines, by number: all have ended
        self._failures: Counter[str] = Counter()
        self._ended = 0
        self._first = 0.0  # when the first of them did
        self._retried, self._retried_for = 0, ""
        self._vain: Counter[str] = Counter()
        # Trials that were trained, and their seconds, by device.
        self._took: defaultdict[str | None, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
        self._begun = time.monotonic()

    def __contains__(self, row: TrialRow) -> bool:
        return row.number in self._taken

    @property
    def done(self) -> int:
        return self._counts.total()

    @property
    def kept(self) -> set[int]:
        """The numbers of the trials whose weights are kept: those of the front, also where
        baselines displace candidates from it, or distilled and pruned networks what they were made
        from."""
        fronts = [self.front, self.own]
        if any(row.made for row in self.front):
            trained = [row for row in self._results if not row.made]
            fronts.append(pareto(self._study, trained))
        return {row.number for front in fronts for row in front}

    def vain(self, failure: Failure, wrong: bool) -> int:
        """Counts a trial of this run that failed. Returns how many did for this reason, or had a
        ``wrong`` result, where the search should end: none has a result, and those to come would
        have none. Else 0."""
        shared = wrong or failure.ours or failure.kind == "error"
        if not shared or any(self._counts[state] for state in EVALUATED):
            return 0
        # Reasons may name an address, a file's number, a trial or a value.
        reason = "wrong" if wrong else NUMBER.sub("#", failure.reason)
        self._vain[reason] += 1
        enough = self._vain[reason] >= min(VAIN, self._trials or VAIN)
        return self._vain[reason] if enough and (wrong or self.room(self.done)) else 0

    @property
    def budget(self) -> int | None:
        """The number of trials the study may have, counting known baselines and refused trials in
        addition to the candidates asked for."""
        beside = len(self._baselines) + self._counts["refused"]
        return None if self._trials is None else self._trials + beside

    def room(self, count: int) -> float:
        """How many trials the study may have beyond ``count``."""
        return math.inf if self.budget is None else max(0, self.budget - count)

    def take(self, rows: Iterable[TrialRow]) -> list[TrialRow]:
        """Counts trials; returns those that are new and ended."""
        rows = list(rows)
        self._baselines.update(row.number for row in rows if row.baseline)
        self._made |= {row.number: row.made for row in rows if row.made}
        new = {row.number: row for row in rows if row.state in ENDED and row not in self}
        for row in new.values():
            self._taken.add(row.number)
            self._counts[row.state] += 1
            self._beside[row.state] += bool(row.baseline)
            self._latest = row
            if self._left:
                self._left.discard(row.fingerprint)
            if row.seconds and not (row.baseline or row.state == "refused"):
                number, seconds = self._took[row.device]
                self._took[row.device] = number + 1, seconds + row.seconds
            if row.state == "failed":
                self._failures[row.reason or row.failure or ""] += 1
        if new:
            results = [row for row in new.values() if row.evaluated]
            candidates = [row for row in results if not row.baseline]
            names = {network(row) for row in candidates}
            # A repeated training may take its network off the front, and bring others back.
            again = not self._networks.isdisjoint(names)
            self._networks |= names
            self._results += results
            front = pareto(self._study, self._results if again else [*self.front, *results])
            now, was = ([(row.number, row.trainings) for row in f] for f in (front, self.front))
            if now != was:
                self.front = front  # else the same tuple: Ladder compares identity
            if not self._baselines:
                self.own = self.front
            elif candidates:
                searched = (row for row in self._results if not row.baseline)
                self.own = pareto(self._study, searched if again else [*self.own, *candidates])
        return list(new.values())

    def end(self) -> None:
        """Counts a trial that this run ended."""
        self._ended += 1
        self._first = self._first or time.monotonic()

    def retry(self, reason: str) -> None:
        """Counts an attempt that failed for this reason and is made again."""
        self._retried += 1
        self._retried_for = reason

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
            own=self.own,
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
            baselines=len(self._baselines) - len(self._made),
            baselines_ended=self._beside.total() - len(self._made),
            baselines_failed=self._beside["failed"],
            made=Counter(sorted(self._made.values())),
            retried=self._retried,
            retried_for=self._retried_for,
            left=None if self._left is None else len(self._left),
        )

    def _forecast(self, under_way: Iterable[UnderWay], slots: int) -> Forecast | None:
        """From the pace of this run once every slot is on its third trial; before that from the
        duration of a trial, as the pace would include the start-up, half a minute on a busy
        machine. None without a limit of trials."""
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
        ahead = self.budget - self.done
        if self._left is not None:
            ahead = min(ahead, len(self._left))
        return Forecast(ahead * each, ended)
