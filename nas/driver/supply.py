"""Supplies a search with trials: those waiting in the record, or else the sampler's proposals."""

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

# Slots per candidate proposed in advance (one candidate with 2 to 8 slots): an ask takes 160 ms,
# and 64 slots with trainings of 10 s need one every 156 ms. While at least half of them are ready,
# candidates are asked for one at a time; below that several at once, without each other's results.
AHEAD = 8
LATE = 0.25  # the final fraction of a budget, in which a network may be trained again
LEARNED = 50  # trials before that is considered
VAIN = 100  # consecutive refused candidates after which the search stops asking
UNFIT = 8  # consecutive candidates without time for them after which the search stops asking


class Supply:
    """Begins the trials of a study. Calls ``submit`` with each claim, and with the earlier
    evaluation that it reuses if only its latency must be measured; and ``reused`` with each
    proposal that reused a result as a whole."""

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
        self.ready: deque[tuple[int, Ask]] = deque()  # proposed ahead of need
        self.waits = True  # whether the record may have waiting trials
        self.exhausted = False
        self.vain = 0  # consecutive candidates refused for their latency, in this run
        self.unfit = 0  # consecutive candidates without time for them

    @property
    def ended(self) -> bool:
        """Whether to stop asking: the space is exhausted, or nothing meets the latency bound."""
        return self.exhausted or self.vain >= VAIN

    def heard(self, row: TrialRow) -> None:
        """A trial of this driver ended. Refused ones do not count towards the budget, so they are
        bounded separately, by ``VAIN``."""
        self.vain = self.vain + 1 if row.state == "refused" else 0

    def fill(self, room: int, count: int, slots: int) -> bool:
        """Within the budget, claims waiting trials, or begins candidates that are ready, or asks
        for one more; whether there may be more to do. One at a time: an ask may take a second, and
        events must not wait for several. ``room`` of the pool's ``slots`` are free, and ``count``
        trials count towards the budget so far."""
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
        """Claims up to ``most`` of the waiting trials, those that there is time for."""
        if self.time_budget.left is None:
            return self.store.claim(self.study, most)
        waiting = self.store.trials(self.study.id, states=["waiting"])
        # A baseline's time is estimated from candidates': it may be many times as large.
        known = self.tally.done > 0
        rows = [row for row in waiting if (known or not row.baseline) and self.timely(row)]
        numbers = [row.number for row in rows]
        return self.store.claim(self.study, most, numbers) if numbers else []

    def timely(self, row: Ask) -> bool:
        """Whether there is time for a trial's next training; always for a study's first."""
        return self.time_budget.fits(
            row.macs, epochs_ahead(self.plan, row), first=not self.tally.done
        )

    def ask(self, ahead: int, count: int) -> bool:
        """Asks for a candidate if fewer than ``ahead`` are ready; returns whether there was one.
        Trials of other drivers count towards the budget, so that no proposal is wasted."""
        ready = len(self.ready)
        begun = max(count, self.store.begun(self.study.id))
        if self.ended or not self.tally.room(begun + ready):
            return False
        # Instant evaluations always fit, until the time is over.
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
        """Whether a budget of trials or time is nearly used up, with ``begun`` trials. With rungs
        no network is trained twice: scores at a rung and at the end differ."""
        if begun < LEARNED or self.plan.rungs:
            return False
        trials, seconds, left = self.tally.budget, self.time_budget.seconds, self.time_budget.left
        few = trials is not None and self.tally.room(begun) <= LATE * trials
        return few or (seconds is not None and left is not None and left <= LATE * seconds)

    def begin(self, asked: Sequence[tuple[int, Ask]]) -> None:
        """Records and submits proposals, in one transaction, or reuses earlier results for them.
        Drops those that there is no time for."""
        budget = self.tally.budget
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
                self.study, ask, source, device=device, budget=budget, once=True
            ):
                reach("reused")
                self.reused(trial, row)
            else:
                self.give_up(trial, ask)
        new = [(trial, ask) for trial, ask in asked if evaluation_key(ask) in sources]
        if not new:
            return
        asks = [ask for _, ask in new]
        claims = self.store.begin(self.study, asks, budget=budget, once=True)
        reach("begun")
        mine = {evaluation_key(claim.trial): claim for claim in claims}
        for trial, ask in new:
            if claim := mine.get(evaluation_key(ask)):
                self.asker.begin(trial, claim.trial)
                self.submit(claim, sources[evaluation_key(ask)])
            else:
                self.give_up(trial, ask)

    def give_up(self, trial: int, ask: Ask) -> None:
        """The record rejected a proposal: another driver has it, or took the rest of the budget."""
        if self.store.has(self.study.id, ask):
            self.asker.miss(trial)
        else:
            self.asker.drop(trial)

    def reusable(self, ask: Ask) -> tuple[TrialRow | None, str | None]:
        """An earlier evaluation, in any study, to reuse, and the device whose known latency to
        use: "" if none is known; None if a job must still run, to measure it here or because the
        known one breaks a bound."""
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
            return source, source.latency_device or ""  # shown, though no objective needs it
        if latency and latency.ms > allowed(bounds, latency.device):
            return source, None
        return source, here
