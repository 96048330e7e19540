"""Where a search's next trials come from: what waits in the record, else what the sampler asks."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence

from nas.driver.asking import Asker
from nas.driver.jobs import epochs_ahead, evaluation_key, most_ms, predicted_metrics
from nas.driver.plan import Plan
from nas.driver.tally import Tally
from nas.driver.time_budget import TimeBudget
from nas.failpoints import reach
from nas.job.job import allowed
from nas.metrics import on_device
from nas.store import Ask, Claim, Store, StudyRow, TrialRow

# Candidates are asked for ahead of need, one for every so many slots, and one where there are fewer
# but more than one: an ask takes 160 ms, and 64 slots with trainings of 10 s need one every 156.
# While half of those are ready, one is asked for at a time; below that several at once, of which
# the last knows no more than the first.
AHEAD = 8
LATE = 0.25  # of a budget, its end, where a network may be trained again to know it better
LEARNED = 50  # trials, before which there is more to find than to know
VAIN = 100  # candidates in a row that were refused, before no more are asked for
UNFIT = 8  # candidates in a row that there is no time for, before no more are asked for


class Supply:
    """Begins the trials of a study. ``submit`` is called with each claim, and with the earlier
    evaluation that stands for it where only its latency is still to be measured; ``reused`` with
    each ask that took over the whole result of an earlier trial."""

    def __init__(
        self,
        *,
        plan: Plan,
        study: StudyRow,
        store: Store,
        asker: Asker,
        tally: Tally,
        time_budget: TimeBudget,
        submit: Callable[[Claim, TrialRow | None], None],
        reused: Callable[[int, TrialRow], None],
    ) -> None:
        self.plan, self.study, self.store = plan, study, store
        self.asker, self.tally, self.time_budget = asker, tally, time_budget
        self.submit, self.reused = submit, reused
        self.devices: set[str] = set()  # those that measured a latency in this run
        self.ready: deque[tuple[int, Ask]] = deque()  # asked ahead of need
        self.waits = True  # whether the record may have trials that wait for a driver
        self.exhausted = False
        self.vain = 0  # candidates in a row, of this run, that their latency refused
        self.unfit = 0  # candidates in a row that there was no time for

    @property
    def ended(self) -> bool:
        """Whether no more is asked for: the space is exhausted, or nothing keeps its bound."""
        return self.exhausted or self.vain >= VAIN

    def heard(self, row: TrialRow) -> None:
        """A trial of this driver ended. What was refused is none of the budget's, so the search
        needs an end where nothing else is found."""
        self.vain = self.vain + 1 if row.state == "refused" else 0

    def fill(self, room: int, count: int, slots: int) -> bool:
        """Takes up what waits in the record, or begins what was asked ahead of need, or asks for
        one more candidate, as far as the budget goes; whether there may be more to do. It asks for
        one at a time: an ask may take a second, and what happens meanwhile must not wait for many.
        Of the pool's ``slots``, ``room`` are free; ``count`` trials are known to count towards the
        budget."""
        needed = int(min(room, self.tally.room(count)))
        if needed and self.waits:
            claims = self.claim(needed)
            self.waits = len(claims) == needed
            for claim in claims:
                reach("claimed")
                self.submit(claim, None)
            if claims:
                return True
        if needed and self.ready:
            self.begin([self.ready.popleft() for _ in range(min(needed, len(self.ready)))])
            return True
        ahead = max(needed, slots // AHEAD, min(slots - 1, 1))
        return len(self.ready) < ahead and self.ask(ahead, count)

    def claim(self, most: int) -> list[Claim]:
        """Takes up to so many of those that wait, of those that there is time for."""
        if self.time_budget.left is None:
            return self.store.claim(self.study.id, most, of=self.study)
        waiting = self.store.trials(self.study.id, states=["waiting"])
        # What a baseline takes is told by candidates: it may be many times as large as they are.
        known = self.tally.done > 0
        rows = [row for row in waiting if (known or not row.baseline) and self.timely(row)]
        numbers = [row.number for row in rows]
        return self.store.claim(self.study.id, most, numbers, self.study) if numbers else []

    def timely(self, row: Ask) -> bool:
        """Whether there is time for a trial's next training: always for the first of a study."""
        return self.time_budget.fits(
            row.macs, epochs_ahead(self.plan, row), first=not self.tally.done
        )

    def ask(self, ahead: int, count: int) -> bool:
        """Asks for one candidate, where fewer than ``ahead`` are ready; whether there was one. What
        other drivers have begun counts too: nothing is asked for only to be thrown away."""
        ready = len(self.ready)
        begun = max(count, self.store.begun(self.study.id))
        if self.ended or not self.tally.room(begun + ready):
            return False
        # What takes no time is begun until it is over.
        if self.unfit >= UNFIT or not self.time_budget.fits(0, 0, first=not self.tally.done):
            return False
        short = ahead - ready if ready < ahead / 2 else 1
        wanted = int(min(short, self.tally.room(count + ready)))
        asked = self.asker.ask(wanted, late=self.late(begun + ready))
        if asked is None:
            self.exhausted = True
            return False
        reach("asked")
        self.ready.append(asked)
        return True

    def late(self, begun: int) -> bool:
        """Whether a budget of trials or of time is nearly used up after so many trials. At rungs no
        network is trained twice: what one of them says is of another training than the last."""
        if begun < LEARNED or self.plan.rungs:
            return False
        trials, seconds, left = self.tally.budget, self.time_budget.seconds, self.time_budget.left
        few = trials is not None and self.tally.room(begun) <= LATE * trials
        return few or (seconds is not None and left is not None and left <= LATE * seconds)

    def begin(self, asked: Sequence[tuple[int, Ask]]) -> None:
        """Begins what was asked, in one transaction, or takes over the result of an earlier
        evaluation. Nothing comes of what there is no time for."""
        study, budget = self.study.id, self.tally.budget
        sources: dict[str, TrialRow | None] = {}
        for trial, ask in asked:
            source, device = self.reusable(ask)
            if source is None and not self.timely(ask):
                self.asker.drop(trial)
                self.unfit += 1
            elif source is None or device is None:
                sources[evaluation_key(ask)] = source
                self.unfit = 0
            elif row := self.store.reuse(
                study, ask, source, device=device, budget=budget, once=True, of=self.study
            ):
                reach("reused")
                self.reused(trial, row)
            else:
                self.give_up(trial, ask)
        new = [(trial, ask) for trial, ask in asked if evaluation_key(ask) in sources]
        if not new:
            return
        asks = [ask for _, ask in new]
        claims = self.store.begin(study, asks, budget=budget, once=True, of=self.study)
        reach("begun")
        mine = {evaluation_key(claim.trial): claim for claim in claims}
        for trial, ask in new:
            if claim := mine.get(evaluation_key(ask)):
                self.asker.begin(trial, claim.trial)
                self.submit(claim, sources[evaluation_key(ask)])
            else:
                self.give_up(trial, ask)

    def give_up(self, trial: int, ask: Ask) -> None:
        """The record did not take what was asked: another driver was faster with it, or with the
        rest of the budget."""
        if self.store.has(self.study.id, ask):
            self.asker.miss(trial)
        else:
            self.asker.drop(trial)

    def reusable(self, ask: Ask) -> tuple[TrialRow | None, str | None]:
        """An earlier evaluation, of any study, that may stand for this one, and the device whose
        latency it takes: empty where none is known, None where a job must be run, to measure it
        here or to refuse it, as what is known breaks a bound."""
        measured, evaluator = self.plan.measured, self.plan.job.evaluator
        devices = [] if evaluator else on_device(measured)
        source = self.store.find_result(ask, [n for n in measured if n not in devices])
        if source is None:
            return None, None
        bounds = most_ms(self.plan) if self.plan.job.latency and not evaluator else {}
        latencies = self.store.measured(ask.fingerprint) if devices or bounds else {}
        here = min(self.devices & latencies.keys(), default=None)
        latency = latencies[here] if here else None
        if more := predicted_metrics(self.plan, ask.pattern, latency):
            source = dataclasses.replace(source, metrics={**source.metrics, **more})
        if not (devices or bounds):
            return source, source.latency_device or ""  # shown, though nothing asks for it
        if latency and latency.ms > allowed(bounds, latency.device):
            return source, None
        return source, here
