"""The search loop: ask, run, tell. Imports neither torch nor ray; only the driver writes records.

The sampler works on an Optuna study in memory, rebuilt from the record on start. A result is
committed to the record first and told to the sampler second, so a crash between the two loses
nothing: the next start reads it from the record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nas import artifacts
from nas.driver.asking import Asker
from nas.driver.jobs import checkpoint_file, fault, next_job, predicted_metrics
from nas.driver.ladder import Ladder
from nas.driver.leases import Leases
from nas.driver.older import older_studies
from nas.driver.plan import Plan
from nas.driver.supply import Supply
from nas.driver.tally import Status, Tally, UnderWay
from nas.driver.time_budget import TimeBudget
from nas.driver.widening import open_study
from nas.errors import StoreError, StudyError
from nas.failpoints import reach
from nas.job import Epoch, Failure, Outcome, Result
from nas.job.pool import Done, Pool
from nas.metrics import ACCURACY
from nas.samplers import SAMPLERS
from nas.samplers.related import Older
from nas.spaces.preflight import few
from nas.store import Claim, Store, TrialRow
from nas.store.mirror import Mirror

LOST = 20  # workers that may die under a trial before the trial counts as their cause
POLL = 2.0  # seconds between two polls of what other drivers of the study did

Watch = Callable[[Status], None]


def search(
    plan: Plan,
    store: Store,
    pool: Pool,
    watch: Watch = lambda _: None,
    since: float | None = None,
    older: tuple[Older, ...] | None = None,
) -> Status:
    """Runs or resumes a study until it has ``plan.trials`` trials, its space is exhausted, or no
    time is left for another trial: ``plan.seconds`` from ``since``, by time.monotonic() (None:
    now). Running trials then finish, or run to their next rung. ``older`` is ``older_studies`` of
    the plan, if already read.

    ``watch`` is called with the status after every event. Raises StudyError where the study exists
    with other settings, and NothingFound where nothing meets the constraints. Interrupted, it
    leaves its running trials for the next run to claim.
    """
    if plan.trials is None and plan.seconds is None:
        raise StudyError("neither trials nor seconds is given: the search would never end")
    if plan.trials is not None and plan.trials < 1:
        raise StudyError(f"trials is {plan.trials}: must be 1 or more")
    if plan.seconds is not None and not plan.seconds > 0:
        raise StudyError(f"seconds is {plan.seconds:g}: must be more than 0")
    begun = time.monotonic() if since is None else since
    time_budget = TimeBudget(plan.seconds, begun, time.monotonic)
    if plan.sampler not in SAMPLERS:
        raise StudyError(f"unknown sampler {plan.sampler}; known: {', '.join(SAMPLERS)}")
    with Leases(store) as leases:
        driver = _Driver(plan, store, pool, leases, watch, time_budget, older)
        try:
            driver.resume()
            return driver.run()
        finally:
            driver.close()


@dataclass(slots=True)
class _Running:
    """A running job, claimed by this driver at ``since``, by time.monotonic(). With a ``source``,
    an earlier evaluation that is reused, the job only measures the latency. ``shown`` is the job as
    ``watch`` sees it."""

    claim: Claim
    since: float
    shown: UnderWay
    source: TrialRow | None = None
    curve: list[Epoch] = field(default_factory=list)

    def report(self, epoch: Epoch) -> None:
        self.curve.append(epoch)
        self.shown = self.shown.told(epoch)


class _Driver:
    """One driver of a study: the only one to write to the record and submit jobs to the pool.
    ``Supply`` decides what starts next, ``Asker`` proposes candidates, ``Ladder`` decides at rungs,
    ``Tally`` counts."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        pool: Pool,
        leases: Leases,
        watch: Watch,
        time_budget: TimeBudget,
        older: tuple[Older, ...] | None,
    ) -> None:
        self.store, self.pool, self.leases = store, pool, leases
        self.watch, self.time_budget = watch, time_budget
        # Missing studies are refused before this one is created.
        older = older_studies(plan, store) if older is None else older
        self.study, _ = open_study(plan, store)
        if plan.artifacts:
            plan = dataclasses.replace(
                plan, folder=artifacts.study_folder(plan.artifacts, self.study.folder)
            )
        self.plan = plan
        self.tally = Tally(self.study, plan.trials, few(plan.space))
        self.ladder = Ladder(self.study, plan.rungs)
        begun = store.begun(self.study.id)
        paid = time_budget.seconds is not None
        expected = functools.partial(time_budget.expected, epochs=1) if paid else None
        self.asker = Asker(
            plan, self.study, begun, self.ladder.hoped, store.driver, older, expected
        )
        self.mirror = Mirror(store, self.study)
        self.news = store.changes(self.study.id)
        self.running: dict[int, _Running] = {}  # by ticket
        self.tickets = 0
        self.with_weights: dict[int, TrialRow] = {}  # trials whose weights are kept
        self.supply = Supply(
            plan=plan,
            study=self.study,
            store=store,
            asker=self.asker,
            tally=self.tally,
            time_budget=time_budget,
            submit=self.submit,
            reused=self.reused,
        )
        self.looked = time.monotonic()

    # -- start and end ----------------------------------------------------------------------------

    def resume(self) -> None:
        """Reads the record, and takes over the trials of dead drivers."""
        self.store.check_numbers(self.study.id)
        self.store.recover(self.study.id)
        reach("recovered")
        rows = next(self.news)
        self.hear(rows)
        if any(row.state == "running" for row in rows):
            self.asker.diverge()
        self.adopt()

    def run(self) -> Status:
        self.tell_watch()
        self.settle()
        for _ in range(self.pool.slots):
            if not self.fill():
                break
            self.listen(0.0)
        self.mirror.start()  # only now: comparing 10,000 trials takes 2 s of processor time
        while True:
            self.settle()
            more = self.fill()
            if not (more or self.running):
                over = self.time_budget.over
                ended = self.supply.ended and not self.others()
                if over or ended or not self.tally.room(self.count()):
                    self.settle(last=True)
                    if not self.running and (over or not self.ladder.waiting):
                        self.hear(next(self.news))
                        return self.tell_watch()
                if not self.running:
                    time.sleep(POLL)  # other drivers run the rest of the budget,
                    self.adopt()  # or it is paused by one that died
            self.listen(0.0 if more else 1.0)
            self.look_around()

    def close(self) -> None:
        """Releases all running trials, whatever ended the search."""
        stop = Failure(kind="worker_died", reason="the driver was stopped")
        with contextlib.suppress(StoreError):  # then the leases expire
            # As recorded: an interrupt may come between a commit and its answer.
            for token in self.store.beat():
                self.store.release(token, stop)
        self.mirror.close()

    def listen(self, timeout: float) -> None:
        reported = False
        for event in self.pool.wait(timeout):
            if isinstance(event, Done):
                self.done(event.ticket, event.outcome)
            elif event.ticket in self.running:
                self.running[event.ticket].report(event.epoch)
                reported = True
        if reported:
            self.tell_watch()

    def look_around(self) -> None:
        """Every ``POLL`` seconds: reads what other drivers did, and cancels trials they took."""
        if time.monotonic() - self.looked < POLL:
            return
        self.looked = time.monotonic()
        for ticket, run in self.running.items():
            if self.leases.lost(run.claim.token, run.since):  # its result would be refused
                self.pool.cancel(ticket)
        self.store.recover(self.study.id)
        self.supply.waits = True  # for trials just recovered, or released by others
        rows = next(self.news)
        if any(row not in self.asker and not row.baseline for row in rows):
            self.asker.diverge()
        self.hear(rows)

    def hear(self, rows: list[TrialRow]) -> None:
        """Processes trials that are new to this driver: at the start all, later those of others."""
        rows = [row for row in rows if row not in self.tally]
        self.take(rows)
        for row in rows:  # only now, as extrapolating stopped trials needs the others
            self.asker.tell(row)

    # -- ask --------------------------------------------------------------------------------------

    def count(self) -> int:
        """The trials known to count towards the budget."""
        return self.tally.done + len(self.running) + len(self.ladder.waiting)

    def room(self) -> int:
        return max(0, self.pool.slots - len(self.running))

    def fill(self) -> bool:
        """Starts trials within the budget; returns whether there may be more to start."""
        return self.supply.fill(self.room(), self.count(), self.pool.slots)

    def reused(self, trial: int, row: TrialRow) -> None:
        """The proposal ``trial`` reused an earlier result, as ``row``."""
        self.asker.begin(trial, row)
        self.take([row])
        self.asker.tell(row)
        self.supply.heard(row)
        self.tell_watch()

    # -- run --------------------------------------------------------------------------------------

    def submit(self, claim: Claim, source: TrialRow | None = None) -> None:
        """Runs a claimed trial; with a ``source`` only its latency is measured."""
        since = time.monotonic()
        asked = next_job(self.plan, claim.trial)
        if asked.latency and not asked.evaluator:
            known = self.store.measured(claim.trial.fingerprint)
            asked = dataclasses.replace(asked, known=known)
        if source:
            asked = dataclasses.replace(asked, epochs=0, latency=True, checkpoint="", model="")
        self.tickets += 1
        shown = UnderWay(claim.trial.number, claim.trial.baseline, asked.epochs)
        self.running[self.tickets] = _Running(claim, since, shown, source)
        self.tally.take([claim.trial])
        self.asker.tell(claim.trial)
        if not (claim.trial.baseline or source):
            self.ladder.send(claim.trial, asked.epochs)
        self.pool.submit(self.tickets, asked)
        reach("dispatched")
        self.tell_watch()

    # -- rungs ------------------------------------------------------------------------------------

    def at_rung(self, run: _Running, result: Result) -> None:
        """Continues, stops or pauses a candidate, as the ladder decides. The sampler is told the
        extrapolated result of one that is paused."""
        asked = run.claim.trial
        epochs = run.shown.epochs
        scores = (*asked.rungs, (epochs, result.metrics[ACCURACY]))
        scored = dataclasses.replace(asked, metrics=result.metrics, rungs=scores)
        if result.latency:
            ms, device = result.latency.ms, result.latency.device
            scored = dataclasses.replace(scored, latency_ms=ms, latency_device=device)
        then = self.ladder.verdict(scored, self.tally.front)
        if then == "running" and not self.supply.timely(scored):
            then = "paused"
        if not self.store.reach(run.claim.token, epochs, result, then):
            self.ladder.leave(asked)  # another driver has the trial now
            return
        reach("recorded")
        row = self.store.trial(self.study.id, asked.number)
        if then == "running":
            self.submit(dataclasses.replace(run.claim, trial=row))
        elif then == "stopped":
            self.conclude(row)
        else:
            self.ladder.pause(row)
            self.asker.tell(row)
            self.tell_watch()

    def settle(self, last: bool = False) -> None:
        """Of the candidates paused at rungs, stops those without promise and those beyond the limit
        per rung, and promotes the next ones while slots are free. The ``last`` time it stops all,
        if none can continue."""
        ladder = self.ladder
        if not ladder.waiting:
            return
        for row in ladder.hopeless(self.tally.front):
            self.stop(row)
        while self.room() and (following := self.following()):
            self.promote(following)
        over = last and not (self.running or self.following() or self.accompanied())
        for row in [*ladder.waiting.values()] if over else ladder.surplus(self.tally.front):
            self.stop(row)

    def following(self) -> TrialRow | None:
        """The candidate to promote next, if there is time."""
        row = self.ladder.following(self.tally.front)
        return row if row and self.supply.timely(row) else None

    def accompanied(self) -> bool:
        """Whether this driver is out of time while others run trials: they then take over the
        paused candidates."""
        return self.time_budget.over and self.others()

    def others(self) -> bool:
        """Whether other drivers run trials; asked where this one runs none."""
        return any(self.store.trials(self.study.id, states=["running"]))

    def promote(self, row: TrialRow) -> None:
        self.ladder.leave(row)
        for claim in self.store.promote(self.study.id, [row.number]):
            reach("claimed")
            self.submit(claim)

    def stop(self, row: TrialRow) -> None:
        self.ladder.leave(row)
        for stopped in self.store.stop(self.study.id, [row.number]):
            reach("recorded")
            self.conclude(stopped)

    def adopt(self) -> None:
        """Takes over the paused trials of drivers that are gone."""
        for row in self.store.trials(self.study.id, states=["paused"]):
            if row.number not in self.ladder.waiting:
                self.ladder.pause(row)
                self.asker.tell(row)

    # -- tell -------------------------------------------------------------------------------------

    def done(self, ticket: int, outcome: Outcome) -> None:
        """A job ended: retries its trial, decides at its rung, or concludes it."""
        run = self.running.pop(ticket, None)
        if run is None:
            return
        reach("received")
        claim, source = run.claim, run.source
        if wrong := fault(self.plan, claim.trial, outcome, source):
            outcome = Failure(kind="error", reason=wrong, seconds=outcome.seconds)
        if isinstance(outcome, Failure):
            if not wrong and _retries(claim, outcome):
                self.retry(run, outcome)
                return
            outcome = dataclasses.replace(outcome, curve=outcome.curve or tuple(run.curve))
        else:
            more = predicted_metrics(self.plan, claim.trial.pattern, outcome.latency)
            outcome = dataclasses.replace(outcome, metrics={**outcome.metrics, **more})
            if source:
                source = dataclasses.replace(source, metrics={**source.metrics, **more})
            if outcome.latency:
                self.supply.devices.add(outcome.latency.device)
            if not (source or outcome.refused or run.shown.epochs == self.plan.job.epochs):
                self.at_rung(run, outcome)
                return
        if not self.store.finish(claim.token, outcome, source):
            self.ladder.leave(claim.trial)
            return
        reach("recorded")
        self.conclude(self.store.trial(self.study.id, claim.trial.number))
        if isinstance(outcome, Result) or claim.trial.baseline:
            return
        if vain := self.tally.vain(outcome, bool(wrong)):
            of = "trial" if vain == 1 else f"{vain} trials"
            why = f"no result from its first {of}: {outcome.reason}"
            raise StudyError(f"the search cannot go on: {why}")

    def retry(self, run: _Running, failure: Failure) -> None:
        """Retries a trial; without time for it, leaves it to the next run."""
        claim = run.claim
        reach("failed")
        if not self.supply.timely(claim.trial):
            self.store.release(claim.token, failure)
            self.ladder.leave(claim.trial)
        elif again := self.store.requeue(claim.token, failure):
            reach("requeued")
            self.tally.retry(failure.reason)
            self.submit(again, run.source)
        else:
            self.ladder.leave(claim.trial)  # another driver has the trial now

    def conclude(self, row: TrialRow) -> None:
        """A trial of this driver ended, and is recorded."""
        self.take([row], own=True)
        self.asker.tell(row)
        reach("told")
        if file := checkpoint_file(self.plan, row):
            artifacts.remove(file)
        self.supply.heard(row)
        if row.state != "refused":
            self.tally.end()
        self.tell_watch()

    def take(self, rows: list[TrialRow], own: bool = False) -> None:
        ended = self.tally.take(rows)
        self.time_budget.take(ended, own)
        for row in ended:
            self.ladder.take(row)
        self.with_weights |= {row.number: row for row in ended if row.model and not row.made}
        if self.plan.keep == "front":
            for number in self.with_weights.keys() - self.tally.kept:
                left = self.with_weights.pop(number)
                artifacts.remove(left.model or "")
                self.store.note_model(left.id, None)
        if ended:
            self.mirror.poke()

    def tell_watch(self) -> Status:
        status = self.tally.status(
            under_way=[run.shown for run in self.running.values()],
            slots=self.pool.slots,
            paused=len(self.ladder.waiting),
            rejected=self.asker.rejected,
            repeated=self.asker.repeated,
            exhausted=self.supply.exhausted,
            vain=self.supply.vain if self.supply.ended else 0,
            time_budget=self.time_budget,
        )
        self.watch(status)
        return status


def _retries(claim: Claim, failure: Failure) -> bool:
    """Whether a trial is retried: a dead worker is not its fault, and its first error may be
    chance."""
    if failure.ours:
        return claim.attempt < LOST
    return failure.kind == "error" and claim.faults < 1
