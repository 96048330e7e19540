"""Writing the record: each method is one transaction."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from sqlalchemy import ColumnElement, Connection, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite

from nas.errors import StudyError
from nas.failpoints import reach
from nas.job import Failure, Outcome, Result
from nas.metrics import ACCURACY
from nas.store import driver as drivers
from nas.store.columns import reused, study_of, trial_of
from nas.store.connect import connect
from nas.store.reading import Record, check, named
from nas.store.rows import Ask, Claim, Sampled, Study, StudyRow, TrialRow
from nas.store.sameness import KEPT_SETTINGS, check_same, first_difference, moved
from nas.store.steps import (
    RUNNING,
    add_trials,
    claims_of,
    end_attempt,
    ended_in,
    redefinable,
    refuse_changed,
    running_trial,
    select_trials,
    set_state,
    start_attempt,
    write_outcome,
)
from nas.store.tables import AttemptState, TrialState, attempts, now, studies, trials
from nas.store.transactions import WRITES, patiently
from nas.store.widening import widen

T = TypeVar("T")

log = logging.getLogger(__name__)


def open_store(
    url: str,
    *,
    create: bool = True,
    write: bool = True,
    lease: float = 60.0,
    patience: float = 60.0,
    study: Study | None = None,
) -> Store:
    """Opens the record at ``url``, created or migrated as needed; with ``write=False`` read-only,
    without changes.

    ``url`` is ``sqlite:///FILE`` or ``postgresql+psycopg://...``. An attempt belongs to this driver
    for ``lease`` seconds after its start or the last ``beat``; methods wait for an unavailable or
    locked database for up to ``patience`` seconds. Raises StoreError, with nothing changed, for an
    invalid URL, a file that is no SQLite database, a server that does not answer, a schema newer
    than the code and, with ``create=False``, a missing record. For a ``study`` that ``open_study``
    would refuse it raises StudyError before migrating an older schema.
    """

    def accept(held: Connection) -> None:
        if study is not None:
            check(held, study)

    return Store(
        engine=connect(url, create=create and write, write=write, accept=accept),
        driver=drivers.name(),
        lease=lease,
        patience=patience,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Store(Record):
    """The record as read and written by one driver.

    Each method is one transaction, so a crash never leaves it half done.
    """

    driver: str
    lease: float

    def open_study(self, study: Study) -> StudyRow:
        """The study of this name, created if there is none.

        Raises StudyError where it exists with other settings, naming the first that differs. All
        settings are updated while it has no trials, objectives and constraints while it has no
        results or running trials, the locations of its images and teachers always.
        """
        name = study.name
        if not 0 < len(name) <= 512 or not name.isprintable():
            raise StudyError(f"study {name[:60]!r}: a name has 1 to 512 printable characters")
        # Unique: another record with the same artifacts directory may have a study of this name.
        own = {"folder": f"{name}-{time.time_ns() // 1000 % 16**6:06x}"}
        values = asdict(study) | {"created": now(), "numbers": 0}
        values["settings"] = {**study.settings, **own}
        sql = sqlite if self.engine.dialect.name == "sqlite" else postgresql
        added = sql.insert(studies).values(values).on_conflict_do_nothing()
        query = named(name)

        def work(connection: Connection, _: bool) -> StudyRow:
            row = connection.execute(query).one_or_none()
            if row is None:
                connection.execute(added)  # no row, if another driver was faster
                row = connection.execute(query).one()
            found = study_of(row)
            if redefinable(connection, found, study):
                kept = {k: v for k, v in found.settings.items() if k in KEPT_SETTINGS}
                columns = asdict(study) | {"settings": {**kept, **study.settings}}
                connection.execute(update(studies).where(studies.c.id == found.id).values(columns))
                found = study_of(connection.execute(query).one())
            if (places := moved(found, study)) and first_difference(found, study) is None:
                connection.execute(update(studies).where(studies.c.id == found.id).values(places))
                found = study_of(connection.execute(query).one())
            return found

        found = self.write(work)
        check_same(found, study)
        return found

    def widen(self, was: StudyRow, now: Study, trials_now: Mapping[int, Sampled]) -> None:
        """Moves the study to the space and constraints of ``now``, and its trials, by ``id``, to
        their values ``trials_now``.

        Raises StudyError, with nothing changed, where the study is no longer as it ``was``, has
        other trials, or a running one, whose driver knows the old space.
        """
        self.write(lambda connection, retried: widen(connection, was, now, trials_now, retried))

    def begin(
        self,
        study: StudyRow,
        asks: Sequence[Ask],
        *,
        budget: int | None = None,
        once: bool = False,
    ) -> list[Claim]:
        """Records candidates and begins the first attempt of each.

        ``budget`` is the most trials the study may have, over all its drivers: only the first
        ``asks`` that it still allows are recorded. ``once`` leaves out those that the study
        ``has``. Raises StudyError, with nothing changed, where the recorded settings are no longer
        those of ``study``.
        """

        def write(connection: Connection, tokens: Sequence[str]) -> None:
            added = add_trials(
                connection, study, asks, tokens, state="running", budget=budget, once=once
            )
            for trial_id, token in zip(added, tokens, strict=False):
                self._start(connection, trial_id, token)

        return self._claim(write, len(asks))

    def enter(self, study: StudyRow, ask: Ask, result: Result) -> bool:
        """Records an evaluated candidate with its result; False where the study has it. Raises
        StudyError as ``begin`` does."""
        token = _token()

        def work(connection: Connection, retried: bool) -> bool:
            if retried and ended_in(connection, token, "finished"):
                return True
            added = add_trials(
                connection, study, [ask], [token], state="running", budget=None, once=True
            )
            for trial_id in added:
                self._start(connection, trial_id, token)
                end_attempt(connection, token, "finished", result)
                write_outcome(connection, trial_id, result, state="finished", finished=now())
            return bool(added)

        return self.write(work)

    def enqueue(self, study: StudyRow, asks: Sequence[Ask]) -> list[TrialRow]:
        """Records those of ``asks`` that are new to the study, for any driver to ``claim``. Raises
        StudyError as ``begin`` does."""
        return self._record(study, asks, state="waiting", once=True)

    def reuse(
        self,
        study: StudyRow,
        ask: Ask,
        source: TrialRow,
        *,
        device: str = "",
        budget: int | None = None,
        once: bool = False,
    ) -> TrialRow | None:
        """Records a candidate with the result of ``source``, an earlier trial of any study, and its
        known latency on ``device`` (``measured``). Its ``seconds`` are 0.

        None where the budget is used up, or with ``once`` if the study ``has`` the candidate.
        Raises StudyError as ``begin`` does.
        """
        rows = self._record(
            study,
            [ask],
            state="reused",
            budget=budget,
            once=once,
            finished=now(),
            seconds=0.0,
            **reused(source),
            latency_device=device or None,
        )
        return rows[0] if rows else None

    def finish(self, token: str, outcome: Outcome, source: TrialRow | None = None) -> bool:
        """Delivers an attempt's outcome; returns whether it was accepted.

        With a ``source`` the attempt only measured the latency, and the rest of the result is
        reused from that trial. False, with nothing changed, for an attempt that was requeued or
        given to another driver, and for a result that was delivered before.
        """
        state: AttemptState = "failed" if isinstance(outcome, Failure) else "finished"

        def work(connection: Connection, retried: bool) -> bool:
            trial_id = end_attempt(connection, token, state, outcome)
            if trial_id is None:
                # On a retry the first commit may have succeeded, with only its answer lost.
                return retried and ended_in(connection, token, state)
            columns: dict[str, Any] = {"state": state, "finished": now()}
            if isinstance(outcome, Result) and outcome.refused:
                columns["state"] = "refused"
            elif source and isinstance(outcome, Result):
                columns |= {"state": "reused", **reused(source)}
            write_outcome(connection, trial_id, outcome, **columns)
            return True

        return self.write(work)

    def reach(
        self, token: str, epochs: int, result: Result, then: Literal["running", "paused", "stopped"]
    ) -> bool:
        """Delivers an attempt's result at a rung, after ``epochs``, and the decision: it continues
        at once, waits for ``promote``, or is stopped. Returns whether it was accepted.

        ``result.metrics`` must hold ``accuracy``.
        """

        def work(connection: Connection, retried: bool) -> bool:
            trial_id = (
                running_trial(connection, token)
                if then == "running"
                else end_attempt(connection, token, "finished", result)
            )
            if trial_id is None:
                return retried and ended_in(connection, token, "finished")
            query = select(trials.c.rungs).where(trials.c.id == trial_id)
            rungs = connection.scalar(query) or []
            if any(rung == epochs for rung, _ in rungs):
                return True  # the first commit succeeded; only its answer was lost
            ending = {"epochs": epochs, "finished": now()} if then == "stopped" else {}
            write_outcome(
                connection,
                trial_id,
                result,
                state=then,
                rungs=[*rungs, [epochs, result.metrics[ACCURACY]]],
                **ending,
            )
            return True

        return self.write(work)

    def promote(self, study_id: int, numbers: Collection[int]) -> list[Claim]:
        """Begins a new attempt at each of these trials that is paused; each goes to one driver."""
        return self._claim_from(study_id, "paused", len(numbers), trials.c.number.in_(numbers))

    def stop(self, study_id: int, numbers: Collection[int]) -> list[TrialRow]:
        """Stops and returns those of these trials that are paused; each goes to one driver."""
        chosen = (trials.c.study_id == study_id) & trials.c.number.in_(numbers)
        names: set[int] = set()

        def work(connection: Connection, _: bool) -> list[TrialRow]:
            paused = select(trials.c.id, trials.c.rungs).where(chosen, trials.c.state == "paused")
            for trial_id, rungs in connection.execute(paused.with_for_update()).all():
                columns = {"state": "stopped", "epochs": rungs[-1][0], "finished": now()}
                connection.execute(update(trials).where(trials.c.id == trial_id).values(columns))
                names.add(trial_id)
            stopped = select_trials().where(trials.c.id.in_(names)).order_by(trials.c.number)
            return [trial_of(row) for row in connection.execute(stopped)]

        return self.write(work)

    def note_model(self, trial_id: int, file: str | None) -> None:
        """Records the file of a trial's weights; None: they are no longer kept."""
        noted = update(trials).where(trials.c.id == trial_id).values(model=file)
        self.write(lambda connection, _: connection.execute(noted))

    def requeue(self, token: str, why: Failure) -> Claim | None:
        """Ends an attempt and begins the trial's next under a new token.

        The old attempt counts as lost if a worker died, else as failed. None where the token no
        longer holds the trial.
        """

        def write(connection: Connection, tokens: Sequence[str]) -> None:
            trial_id = end_attempt(connection, token, _blame(why), why)
            if trial_id is not None:
                self._start(connection, trial_id, tokens[0])

        claims = self._claim(write, 1)
        return claims[0] if claims else None

    def release(self, token: str, why: Failure) -> bool:
        """Ends an attempt and leaves its trial for any driver to claim, as a driver does when it is
        stopped; returns whether the token held the trial."""

        def work(connection: Connection, retried: bool) -> bool:
            trial_id = end_attempt(connection, token, _blame(why), why)
            if trial_id is None:
                return retried and ended_in(connection, token, _blame(why))
            set_state(connection, [trial_id], "waiting")
            return True

        return self.write(work)

    def claim(
        self, study: StudyRow, most: int, numbers: Collection[int] | None = None
    ) -> list[Claim]:
        """Begins a new attempt at up to ``most`` waiting trials (of these ``numbers``), oldest
        first; each goes to one driver only. Raises StudyError as ``begin`` does."""
        chosen = () if numbers is None else (trials.c.number.in_(numbers),)
        return self._claim_from(study.id, "waiting", most, *chosen, of=study)

    def beat(self) -> set[str]:
        """Renews the leases of all attempts of this driver; returns their tokens. The results of
        other tokens will be refused."""
        renewed = (
            update(attempts)
            .where(RUNNING, attempts.c.driver == self.driver)
            .values(lease_until=now() + self.lease)
            .returning(attempts.c.token)
        )
        return self.write(lambda connection, _: set(connection.scalars(renewed)))

    def recover(self, study_id: int) -> list[int]:
        """Ends other drivers' attempts whose lease expired or whose process is dead; returns the
        numbers of their trials, which then wait for ``claim``. So do running trials without a
        running attempt, as rows edited by hand leave them: nobody would ever end those.

        Call it at the start and regularly; it is cheap when there is nothing to do. This driver's
        own attempts count as alive whatever the clock says, since the clock may have been set, or
        the machine have slept.
        """
        running = (
            select(attempts.c.token, attempts.c.driver, attempts.c.lease_until < now())
            .join(trials)
            .where(trials.c.study_id == study_id, RUNNING, attempts.c.driver != self.driver)
        )
        held = self.rows(running)
        gone = {name for name in {driver for _, driver, _ in held} if drivers.gone(name)}
        over = [token for token, driver, expired in held if expired or driver in gone]
        alone = (
            (trials.c.study_id == study_id)
            & (trials.c.state == "running")
            & ~exists().where(attempts.c.trial_id == trials.c.id, RUNNING)
        )
        if bare := [str(number) for (number,) in self.rows(select(trials.c.number).where(alone))]:
            log.warning(
                "the record has no attempt that runs trial %s: taken for lost", ", ".join(bare)
            )
        if not (over or bare):
            return []
        lock = select(studies.c.id).where(studies.c.id == study_id).with_for_update()
        fence = (
            update(attempts)
            .where(
                attempts.c.token.in_(over),
                RUNNING,
                # Checked again: its driver may have renewed it in between.
                (attempts.c.lease_until < now()) | attempts.c.driver.in_(gone),
            )
            .values(
                state="lost",
                ended=now(),
                failure="worker_died",
                reason="the driver died or its lease ran out",
            )
        )
        freed = update(trials).where(alone).values(state="waiting").returning(trials.c.number)

        def work(connection: Connection, _: bool) -> list[int]:
            connection.execute(lock)  # against a claim that begins between the reading and a write
            connection.execute(fence)
            return sorted(connection.scalars(freed))

        return self.write(work)

    # -- within one transaction -------------------------------------------------------------------

    def write(self, work: Callable[[Connection, bool], T]) -> T:
        """Runs ``work(connection, retried)`` in one transaction. On a retry an earlier commit may
        have succeeded with only its answer lost."""
        engine = self.engine.execution_options(**WRITES)

        def once(retried: bool) -> T:
            with engine.begin() as connection:
                answer = work(connection, retried)
                reach("writing")
            reach("written")
            return answer

        return patiently(once, self.patience, self.engine.url)

    def _claim(self, write: Callable[[Connection, Sequence[str]], None], most: int) -> list[Claim]:
        """Runs ``write(connection, tokens)``, which begins up to ``most`` attempts, exactly once;
        returns their claims.

        The tokens are drawn before the transaction: if a commit's answer is lost, they show whether
        it succeeded.
        """
        tokens = [_token() for _ in range(most)]

        def work(connection: Connection, retried: bool) -> list[Claim]:
            if retried and (claims := claims_of(connection, tokens)):
                return claims
            write(connection, tokens)
            return claims_of(connection, tokens)

        return self.write(work)

    def _claim_from(
        self,
        study_id: int,
        state: TrialState,
        most: int,
        *which: ColumnElement[bool],
        of: StudyRow | None = None,
    ) -> list[Claim]:
        """Begins a new attempt at up to ``most`` trials in ``state``."""
        query = (
            select(trials.c.id)
            .where(trials.c.study_id == study_id, trials.c.state == state, *which)
            .order_by(trials.c.number)
            .limit(most)
            .with_for_update(skip_locked=True)
        )

        def write(connection: Connection, tokens: Sequence[str]) -> None:
            if of is not None:
                refuse_changed(connection, of)
            found = connection.scalars(query).all()
            for trial_id, token in zip(found, tokens, strict=False):
                self._start(connection, trial_id, token)
            set_state(connection, found, "running")

        return self._claim(write, most)

    def _record(
        self,
        study: StudyRow,
        asks: Sequence[Ask],
        *,
        state: TrialState,
        budget: int | None = None,
        once: bool = False,
        **columns: Any,
    ) -> list[TrialRow]:
        """Records trials without an attempt, exactly once, as ``_claim`` does."""
        names = [_token() for _ in asks]
        query = select_trials().where(trials.c.ask.in_(names)).order_by(trials.c.number)

        def work(connection: Connection, retried: bool) -> list[TrialRow]:
            if retried and (rows := connection.execute(query).all()):
                return [trial_of(row) for row in rows]
            add_trials(
                connection, study, asks, names, state=state, budget=budget, once=once, **columns
            )
            return [trial_of(row) for row in connection.execute(query)]

        return self.write(work)

    def _start(self, connection: Connection, trial_id: int, token: str) -> None:
        start_attempt(connection, trial_id, token, driver=self.driver, lease=self.lease)


def _token() -> str:
    return uuid.uuid4().hex


def _blame(why: Failure) -> AttemptState:
    return "lost" if why.ours else "failed"
