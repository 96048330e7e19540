"""The loop: ask, run, tell. Knows neither torch nor ray; the driver alone speaks to the record.

The sampler works on an Optuna study in memory, rebuilt from the record on start. A result is
committed to the record first and told to the sampler second, so a crash between the two loses
nothing: the next start reads it from the record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from optuna.trial import Trial

from nas import artifacts
from nas.driver import rungs
from nas.driver.asking import Asker
from nas.driver.plan import Plan
from nas.driver.tradeoffs import pareto
from nas.errors import StoreError, StudyError
from nas.failpoints import reach
from nas.job import Epoch, Failure, Job, Outcome, Recipe, Result
from nas.job.pool import Done, Pool
from nas.metrics import ACCURACY, METRICS, on_device
from nas.samplers import SAMPLERS
from nas.store import Ask, Claim, Store, StudyRow, TrialRow
from nas.store.mirror import Mirror

LOST = 20  # workers that may die under one trial before the trial is what kills them
POLL = 2.0  # seconds between two looks at what other drivers of the study have finished


@dataclass(frozen=True, slots=True)
class Status:
    """How a search stands. ``seconds`` and ``ended`` count this run only; ``refused`` are proposals
    that arithmetic rejected and ``repeated`` those that were evaluated before: neither costs.
    ``stopped`` and ``paused`` trials came to a rung, not to the end."""

    budget: int
    finished: int
    stopped: int
    failed: int
    reused: int
    running: int
    paused: int
    refused: int
    repeated: int
    front: tuple[TrialRow, ...]
    latest: TrialRow | None
    ended: int
    seconds: float
    exhausted: bool

    @property
    def done(self) -> int:
        return self.finished + self.stopped + self.failed + self.reused

    @property
    def seconds_left(self) -> float | None:
        """A forecast from the pace of this run."""
        if not self.ended:
            return None
        return (self.budget - self.done) * self.seconds / self.ended


Watch = Callable[[Status], None]


def search(plan: Plan, store: Store, pool: Pool, watch: Watch = lambda _: None) -> Status:
    """Runs or resumes a study until it has ``plan.trials`` trials, or its space is exhausted.

    ``watch`` is told after everything that happens. Raises StudyError where the study exists with
    other settings, and NothingFound where nothing meets the constraints. Interrupted, it leaves the
    trials under way to be claimed by the next run.
    """
    if plan.trials < 1:
        raise StudyError(f"trials is {plan.trials}: must be 1 or more")
    if plan.sampler not in SAMPLERS:
        raise StudyError(f"unknown sampler {plan.sampler}; known: {', '.join(SAMPLERS)}")
    driver = _Driver(plan, store, pool, watch)
    try:
        driver.resume()
        return driver.run()
    finally:
        driver.close()


@dataclass(slots=True)
class _Running:
    """A job under way, up to ``epochs``. ``trial`` is the sampler's; None where that was told
    already, or an earlier driver had asked it. ``source`` is an earlier evaluation that stands for
    this one, of which no more than the latency is measured."""

    claim: Claim
    trial: Trial | None
    epochs: int
    source: TrialRow | None = None
    curve: list[Epoch] = field(default_factory=list)


class _Driver:
    def __init__(self, plan: Plan, store: Store, pool: Pool, watch: Watch) -> None:
        self.plan, self.store, self.pool, self.watch = plan, store, pool, watch
        self.space = plan.space
        self.objectives = tuple(self.space.objectives)
        self.row: StudyRow = store.open_study(plan.row())
        begun = sum(store.counts(self.row.id).values())
        self.ladder = rungs.Ladder(self.row, plan.rungs)
        self.asker = Asker(plan, self.row, begun, self.ladder.hoped)
        self.mirror = Mirror(store, self.row)
        self.news: Iterator[list[TrialRow]] = store.endings(self.row.id)
        self.running: dict[int, _Running] = {}
        self.tickets = 0
        self.devices: set[str] = set()  # those that measured a latency in this run
        self.told: set[int] = set()  # numbers of the trials that the sampler knows
        self.untold: dict[int, Trial] = {}  # by number: of paused ones the sampler's, if not told
        self.counts = {"finished": 0, "stopped": 0, "failed": 0, "reused": 0}
        self.budget = plan.trials  # and a baseline each
        self.ended = 0
        self.front: tuple[TrialRow, ...] = ()
        self.latest: TrialRow | None = None
        self.exhausted = False
        self.begun = self.beaten = self.looked = time.monotonic()

    # -- start and end ----------------------------------------------------------------------------

    def resume(self) -> None:
        """Reads what the record has, and takes over what a dead driver left."""
        self.store.recover(self.row.id)
        reach("recovered")
        self.hear()
        self.adopt()
        left = self.budget - self.count()
        for claim in self.store.claim(self.row.id, max(left, 0)):
            reach("claimed")
            self.submit(claim, None)

    def run(self) -> Status:
        self.tell_watch()
        self.fill()
        self.mirror.start()  # only now: to compare 10,000 trials it takes 2 s of the interpreter
        while True:
            self.fill()
            if not self.running:
                if self.exhausted or self.count() >= self.budget:
                    self.settle(last=True)
                    if not (self.running or self.ladder.waiting):
                        return self.tell_watch()
                if not self.running:
                    time.sleep(POLL)  # the rest of the budget is with another driver,
                    self.adopt()  # or paused by one that died
            for event in self.pool.wait(1.0):
                if isinstance(event, Done):
                    self.done(event.ticket, event.outcome)
                elif event.ticket in self.running:
                    self.running[event.ticket].curve.append(event.epoch)
            self.keep()

    def close(self) -> None:
        """Leaves nothing running in the record, whatever ended the search."""
        stop = Failure(kind="worker_died", reason="the driver was stopped")
        with contextlib.suppress(StoreError):  # its leases run out then
            # As the record has them: an interrupt may come between a commit and its answer.
            for token in self.store.beat():
                self.store.release(token, stop)
        self.mirror.close()

    def keep(self) -> None:
        """What has to be done every now and then: leases, and the results of other drivers."""
        now = time.monotonic()
        if now - self.beaten > self.store.lease / 4:
            self.beaten = now
            held = self.store.beat()
            for ticket, run in self.running.items():
                if run.claim.token not in held:  # fenced: its result would be refused
                    self.pool.cancel(ticket)
        if now - self.looked > POLL:
            self.looked = now
            self.store.recover(self.row.id)
            if room := self.room():  # also for what others released, or there was no room for then
                for claim in self.store.claim(self.row.id, room):
                    self.submit(claim, None)
            self.hear()

    def hear(self) -> None:
        """Takes in what the record has and the sampler has not: on start all, later other drivers'
        trials."""
        rows = [row for row in next(self.news) if row.number not in self.told]
        self.take(*rows)
        for row in rows:  # by now it is known what to expect of those that were stopped
            self.asker.learn(row)

    # -- ask --------------------------------------------------------------------------------------

    def count(self) -> int:
        return sum(self.counts.values()) + len(self.running) + len(self.ladder.waiting)

    def room(self) -> int:
        return max(0, self.pool.slots - len(self.running))

    def fill(self) -> None:
        """Gives every free slot a candidate, while the budget lasts: first those that wait."""
        self.settle()
        while self.room() and self.count() < self.budget and not self.exhausted:
            asked = self.asker.ask()
            if asked is None:
                self.exhausted = True
                return
            trial, ask = asked
            reach("asked")
            source, device = self.known(ask)
            study, budget = self.row.id, self.budget
            if source is not None and device is not None:
                row = self.store.reuse(study, ask, source, device=device, budget=budget, once=True)
                if row:
                    reach("reused")
                    self.tell(trial, row)
                    self.tell_watch()
                    continue
            elif claims := self.store.begin(study, [ask], budget=budget, once=True):
                reach("begun")
                self.submit(claims[0], trial, source)
                continue
            self.asker.drop(trial)
            if not self.store.has(study, ask):
                return  # the budget is spent
            self.asker.repeated += 1  # another driver was faster
            self.asker.seen.setdefault((ask.fingerprint, ask.job_key), None)

    def known(self, ask: Ask) -> tuple[TrialRow | None, str | None]:
        """An earlier evaluation that may stand for this one, in whatever study; and the device that
        its latency is taken from (empty: it needs none), None where that is to be measured here."""
        measured, evaluator = self.plan.measured, self.plan.job.evaluator
        devices = [] if evaluator else on_device(measured)
        source = self.store.find_result(ask, [n for n in measured if n not in devices])
        if source is None or not devices:
            return source, (source.latency_device or "") if source and evaluator else ""
        return source, self.store.measured(ask.fingerprint, self.devices) or None

    # -- run --------------------------------------------------------------------------------------

    def submit(self, claim: Claim, trial: Trial | None, source: TrialRow | None = None) -> None:
        """Runs a claimed trial. With a ``source`` its latency alone is measured."""
        row, job = claim.trial, self.job(claim.trial)
        if source:
            job = dataclasses.replace(job, epochs=0, latency=True, checkpoint="")
        self.tickets += 1
        self.running[self.tickets] = _Running(claim, trial, job.epochs, source)
        if not row.baseline:
            self.ladder.reached[row.number] = job.epochs
        self.asker.seen[row.fingerprint, row.job_key] = None
        self.pool.submit(self.tickets, job)
        reach("dispatched")

    def job(self, row: TrialRow) -> Job:
        """The training that a trial needs next: up to its next rung, or to the end."""
        shared = self.plan.job
        reached = row.rungs[-1][0] if row.rungs else 0
        whole = row.baseline or not self.plan.rungs
        epochs = shared.epochs if whole else rungs.after(self.plan.rungs, reached)
        # A verdict needs what the objectives and constraints are about; anything else can wait.
        asked = bool(on_device(self.plan.measured))
        return dataclasses.replace(
            shared,
            pattern=row.pattern,
            recipe=Recipe.of(row.recipe),
            seed=row.seed,
            epochs=epochs,
            latency=shared.latency and (asked or epochs == shared.epochs),
            checkpoint=self.checkpoint(row),
        )

    def checkpoint(self, row: TrialRow) -> str:
        """The file for a trial's checkpoint, named after all that its training depends on."""
        if not self.plan.artifacts or self.plan.job.evaluator:
            return ""
        name = f"{row.fingerprint}-{row.job_key}-{row.seed}.checkpoint"
        return "/".join([self.plan.artifacts.rstrip("/"), artifacts.part(self.plan.study), name])

    # -- rungs ------------------------------------------------------------------------------------

    def at_rung(self, run: _Running, result: Result) -> None:
        """Sends a candidate on if it is next, stops it if it promises nothing, or lets it wait for
        its turn."""
        asked = run.claim.trial
        scores = (*asked.rungs, (run.epochs, result.metrics[ACCURACY]))
        scored = dataclasses.replace(asked, metrics=result.metrics, rungs=scores)
        then: Literal["running", "paused", "stopped"] = "paused"
        if self.next_up(run.epochs, scored) is scored:
            then = "running"
        elif not self.ladder.promise(scored, self.front):
            then = "stopped"
        if not self.store.reach(run.claim.token, run.epochs, result, then):
            return  # another driver has the trial now
        reach("recorded")
        row = self.store.trial(self.row.id, asked.number)
        if then == "running":
            self.submit(dataclasses.replace(run.claim, trial=row), run.trial)
        elif then == "stopped":
            self.conclude(row, run.trial)
        else:
            self.pause(row, run.trial)

    def pause(self, row: TrialRow, trial: Trial | None) -> None:
        """Lets a candidate wait. The sampler is told what to expect of it, where that is known; and
        what came of it, if it is promoted, as of another trial."""
        if self.ladder.estimate(row) is not None:
            self.asker.seen[row.fingerprint, row.job_key] = row
            if trial is not None:
                self.asker.tell(trial, row)
                trial = None
        self.ladder.waiting[row.number] = row
        if trial is not None:
            self.untold[row.number] = trial
        self.tell_watch()

    def settle(self, last: bool = False) -> None:
        """Sends on who waits and is next, where there is room; stops who promises nothing any more,
        or too little to wait, and, if this is the last and nobody is next, all who wait."""
        below = self.plan.rungs[-2::-1]
        for rung in below:
            for row in self.ladder.at(rung):
                if not self.ladder.promise(row, self.front):
                    self.stop(row)
            while self.room() and (following := self.next_up(rung)):
                self.promote(following)
        over = last and not self.running and not any(map(self.next_up, below))
        for rung in below:
            ranked = sorted(self.ladder.at(rung), key=lambda r: -self.ladder.promise(r, self.front))
            for row in ranked[0 if over else rungs.WAITING :]:
                self.stop(row)

    def next_up(self, rung: int, *arriving: TrialRow) -> TrialRow | None:
        running = [run.claim.trial for run in self.running.values()]
        return self.ladder.next_up(rung, self.front, running, arriving)

    def promote(self, row: TrialRow) -> None:
        trial = self.leave(row)
        for claim in self.store.promote(self.row.id, [row.number]):
            reach("claimed")
            self.submit(claim, trial)

    def stop(self, row: TrialRow) -> None:
        trial = self.leave(row)
        for stopped in self.store.stop(self.row.id, [row.number]):
            reach("recorded")
            self.conclude(stopped, trial)

    def leave(self, row: TrialRow) -> Trial | None:
        """Ends a candidate's wait; its trial, where the sampler was told nothing yet."""
        del self.ladder.waiting[row.number]
        return self.untold.pop(row.number, None)

    def adopt(self) -> None:
        """Takes in paused trials of drivers that are gone."""
        for row in self.store.trials(self.row.id, states=["paused"]):
            if row.number not in self.ladder.waiting:
                self.ladder.waiting[row.number] = row
                self.ladder.reached[row.number] = row.rungs[-1][0]
                self.asker.seen[row.fingerprint, row.job_key] = row

    # -- tell -------------------------------------------------------------------------------------

    def done(self, ticket: int, outcome: Outcome) -> None:
        run = self.running.pop(ticket, None)
        if run is None:
            return
        reach("received")
        missing = self.missing(outcome, run.source)
        outcome = self.judged(outcome, missing)
        claim = run.claim
        again = isinstance(outcome, Failure) and (
            (outcome.ours and claim.attempt < LOST)
            or (outcome.kind == "error" and claim.faults < 1 and not missing)
        )
        if again and isinstance(outcome, Failure):
            reach("failed")
            if retry := self.store.requeue(claim.token, outcome):
                reach("requeued")
                self.submit(retry, run.trial, run.source)
            else:
                self.forget(run)
            return
        if isinstance(outcome, Result) and outcome.latency:
            self.devices.add(outcome.latency.device)
        if isinstance(outcome, Result) and not run.source and run.epochs < self.plan.job.epochs:
            self.at_rung(run, outcome)
            return
        if isinstance(outcome, Failure) and not outcome.curve:
            outcome = dataclasses.replace(outcome, curve=tuple(run.curve))
        if not self.store.finish(claim.token, outcome, run.source):
            self.forget(run)
            return
        reach("recorded")
        self.conclude(self.store.trial(self.row.id, claim.trial.number), run.trial)
        if missing and not (self.counts["finished"] or self.counts["reused"]):
            assert isinstance(outcome, Failure)
            raise StudyError(f"the search cannot go on: {outcome.reason}")

    def forget(self, run: _Running) -> None:
        """Another driver has the trial now: its result will be heard, as of another's trial."""
        if run.trial is not None:
            self.asker.drop(run.trial)

    def conclude(self, row: TrialRow, trial: Trial | None) -> None:
        """A trial of this driver ended, and the record has it."""
        if trial is None:
            self.take(row)
            self.asker.learn(row)
        else:
            self.tell(trial, row)
        reach("told")
        if file := self.checkpoint(row):
            artifacts.remove(file)
        self.ended += 1
        self.tell_watch()

    def missing(self, outcome: Outcome, source: TrialRow | None) -> list[str]:
        """What a result lacks of the metrics that objectives and constraints need."""
        if isinstance(outcome, Failure):
            return []
        given = {*outcome.metrics, *(on_device(METRICS) if outcome.latency else ())}
        given |= {*source.metrics} if source else set()
        return [name for name in self.plan.measured if name not in given]

    def judged(self, outcome: Outcome, missing: Sequence[str]) -> Outcome:
        """A result without a number that the search needs is a failure of the evaluator."""
        if isinstance(outcome, Failure):
            return outcome
        reason = ""
        if missing:
            gave = ", ".join(sorted(outcome.metrics)) or "nothing"
            who = self.plan.job.evaluator or "the training"
            reason = f"{who} gave no {', '.join(missing)}: it gave {gave}"
        elif self.plan.rungs and ACCURACY in outcome.metrics:
            accuracy = outcome.metrics[ACCURACY]
            if not 0 <= accuracy <= 1:
                reason = f"accuracy is {accuracy}: with rungs it must be a fraction from 0 to 1"
        return Failure(kind="error", reason=reason, seconds=outcome.seconds) if reason else outcome

    def tell(self, trial: Trial, row: TrialRow) -> None:
        self.take(row)
        self.asker.tell(trial, row)

    def take(self, *rows: TrialRow) -> None:
        """Counts ended trials, remembers them and sees to the front."""
        for row in rows:
            self.told.add(row.number)
            self.asker.seen[row.fingerprint, row.job_key] = row
            self.counts[row.state] += 1
            self.latest = row
            self.budget += bool(row.baseline)
            self.ladder.take(row)
        self.front = pareto(self.row, [*self.front, *rows])
        self.mirror.poke()

    def tell_watch(self) -> Status:
        status = Status(
            budget=self.budget,
            **self.counts,
            running=len(self.running),
            paused=len(self.ladder.waiting),
            refused=self.asker.refused,
            repeated=self.asker.repeated,
            front=self.front,
            latest=self.latest,
            ended=self.ended,
            seconds=time.monotonic() - self.begun,
            exhausted=self.exhausted,
        )
        self.watch(status)
        return status
