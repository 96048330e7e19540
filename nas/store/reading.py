"""Reading the record; ``nas.store.record`` writes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Row, Select, func, select

from nas.errors import StudyError, nearest
from nas.job import Epoch, Latency
from nas.job.outcome import OWN_BATCH, OWN_RUNTIME
from nas.store.columns import attempt_of, curve_of, study_of, trial_of
from nas.store.rows import Ask, AttemptRow, Study, StudyRow, TrialRow
from nas.store.sameness import check_same, widens
from nas.store.steps import STUDY, has, redefinable, select_trials
from nas.store.tables import TrialState, attempts, curves, latencies, studies, trials
from nas.store.transactions import patiently
from nas.store.values import checked

T = TypeVar("T")

PAGE = 1000  # trials per query, so that transactions are short and a lost connection repeats little

PENDING: tuple[TrialState, ...] = ("running", "waiting", "paused")

_COUNTED = {"id": studies.c.id, "numbers": studies.c.numbers}
_check_counted = checked(_COUNTED, "id")


def named(name: str) -> Select[Any]:
    """The row of the study of this name, for ``study_of``."""
    return select(*STUDY).where(studies.c.name == name)


def check(connection: Connection, study: Study) -> None:
    """Raises StudyError where the study exists with other settings and is not ``redefinable``: they
    may have been mistyped. A changed space passes: ``nas.driver.widening`` checks that it is
    wider."""
    row = connection.execute(named(study.name)).one_or_none()
    if row is not None:
        found = study_of(row)
        if widens(found, study):
            return  # the driver looks at the trials
        if not redefinable(connection, found, study):
            check_same(found, study)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The record in one database. Threads may share it, processes may not.

    Every method raises StoreError when the database is unavailable for longer than ``patience``
    seconds.
    """

    engine: Engine
    patience: float

    def close(self) -> None:
        self.engine.dispose()

    def find_study(self, name: str) -> StudyRow:
        """The study of this name. Raises StudyError, with the nearest name, where there is none."""
        if found := self.study_named(name):
            return found
        known = [study.name for study in self.studies()]
        hint = nearest(name, known) if known else "this database has no study yet"
        raise StudyError(f"there is no study {name!r}: {hint}")

    def study_named(self, name: str) -> StudyRow | None:
        """The study of this name; None where there is none."""
        return next(map(study_of, self.rows(named(name))), None)

    def studies(self) -> list[StudyRow]:
        """All studies, oldest first."""
        query = select(*STUDY).order_by(studies.c.id)
        return [study_of(row) for row in self.rows(query)]

    def check(self, study: Study) -> None:
        """Raises StudyError where ``open_study`` would refuse it."""
        self.read(lambda held: check(held, study))

    def trials(
        self,
        study_id: int,
        *,
        since: int = 0,
        states: Collection[TrialState] = (),
        numbers: Collection[int] | None = None,
        fingerprint: str = "",
    ) -> Iterator[TrialRow]:
        """The study's trials in order of their numbers, from ``since`` on: those in ``states``
        (empty: all), of ``numbers`` (None: all) and of the architecture ``fingerprint`` (empty:
        any)."""
        query = select_trials().where(trials.c.study_id == study_id)
        if states:
            query = query.where(trials.c.state.in_(states))
        if numbers is not None:
            query = query.where(trials.c.number.in_(numbers))
        if fingerprint:
            query = query.where(trials.c.fingerprint == fingerprint)
        query = query.order_by(trials.c.number).limit(PAGE)
        while True:
            rows = self.rows(query.where(trials.c.number >= since))
            yield from map(trial_of, rows)
            if len(rows) < PAGE:
                return
            since = rows[-1].number + 1

    def changes(self, study_id: int) -> Iterator[list[TrialRow]]:
        """An endless iterator: each ``next`` yields the trials, of all drivers, that are new or
        ended since the last, each ended trial once; the first yields all.

        Of running trials only the numbers are read, from an index: 1,000 full rows took 65 ms.
        """
        under_way = select(trials.c.number).where(
            trials.c.study_id == study_id, trials.c.state.in_(PENDING)
        )
        upcoming, pending = 0, set[int]()
        while True:
            # Ended trials first, then new ones: otherwise a change in between would be missed.
            ended = pending - {number for (number,) in self.rows(under_way)}
            known = self.trials(study_id, numbers=ended) if ended else ()
            rows = [*known, *self.trials(study_id, since=upcoming)]
            pending -= ended
            pending |= {row.number for row in rows if row.state in PENDING}
            upcoming = max([upcoming, *(row.number + 1 for row in rows)])
            yield rows

    def begun(self, study_id: int) -> int:
        """How many trials the study has, over all its drivers, as ``Store.begin`` counts them."""
        (row,) = self.rows(select(*_COUNTED.values()).where(studies.c.id == study_id))
        _check_counted(row._asdict())
        return int(row.numbers)

    def check_numbers(self, study_id: int) -> None:
        """Raises StudyError where the study counts other trials than the record has: a search would
        wait for those that are missing."""
        there = select(func.count()).where(trials.c.study_id == study_id).scalar_subquery()
        (row,) = self.rows(select(studies.c.name, studies.c.numbers, there.label("there")).where(
            studies.c.id == study_id))  # fmt: skip
        if row.numbers != row.there:
            how = "removed" if row.numbers > row.there else "added"
            raise StudyError(
                f"study {row.name!r} counts {row.numbers:,} trials, and the record has "
                f"{row.there:,}, as where rows were {how} by hand: it cannot go on; another "
                "study may begin with --from it"
            )

    def trial(self, study_id: int, number: int) -> TrialRow:
        """The trial of this number. Raises StudyError if the study has none."""
        query = select_trials().where(trials.c.study_id == study_id, trials.c.number == number)
        rows = self.rows(query)
        if not rows:
            raise StudyError(f"the study has no trial {number}")
        return trial_of(rows[0])

    def curve(self, trial_id: int) -> tuple[Epoch, ...]:
        """The training curve of a trial; empty where it has none. Values not finite are NaN."""
        query = select(curves.c.epochs).where(curves.c.trial_id == trial_id)
        found = self.rows(query)
        return curve_of(trial_id, found[0][0]) if found else ()

    def curves(self, study_id: int) -> dict[int, tuple[Epoch, ...]]:
        """The training curves of a study, by the ``id`` of the trials that have one."""
        query = select(curves.c.trial_id, curves.c.epochs).join(trials)
        rows = self.rows(query.where(trials.c.study_id == study_id))
        return {trial_id: curve_of(trial_id, points) for trial_id, points in rows}

    def attempts(self, trial_id: int) -> list[AttemptRow]:
        """The attempts at a trial, first to last."""
        query = select(attempts).where(attempts.c.trial_id == trial_id).order_by(attempts.c.number)
        return [attempt_of(row) for row in self.rows(query)]

    def counts(self, study_id: int) -> dict[TrialState, int]:
        """How many trials of the study are in each state; states without one are absent."""
        query = (
            select(trials.c.state, func.count())
            .where(trials.c.study_id == study_id)
            .group_by(trials.c.state)
        )
        return {state: count for state, count in self.rows(query)}  # noqa: C416

    def has(self, study_id: int, ask: Ask) -> bool:
        """Whether the study has a trial of this architecture, job key and seed, of any driver."""
        return self.read(lambda connection: has(connection, study_id, ask))

    def find_result(self, ask: Ask, needed: Collection[str] = ()) -> TrialRow | None:
        """The first finished evaluation of this architecture, ``nas.job.Job.key`` and seed, in any
        study, that has all ``needed`` metrics."""
        query = (
            select_trials()
            .where(
                trials.c.fingerprint == ask.fingerprint,
                trials.c.job_key == ask.job_key,
                trials.c.seed == ask.seed,
                trials.c.state == "finished",
            )
            .order_by(trials.c.id)
        )
        rows = map(trial_of, self.rows(query))
        whole = (row for row in rows if all(math.isfinite(row.value(name)) for name in needed))
        return next(whole, None)

    def model(self, row: TrialRow) -> str:
        """The file of a trial's weights, or of the trial whose result it reused; empty where none
        are kept."""
        if row.model or row.reused_from is None:
            return row.model or ""
        query = select(trials.c.model).where(trials.c.id == row.reused_from)
        return self.read(lambda connection: connection.scalar(query)) or ""

    def measured(self, fingerprint: str) -> dict[str, Latency]:
        """The latencies of an architecture as a search measures them (eager, one image), by
        device."""
        query = select(*(latencies.c[f.name] for f in fields(Latency))).where(
            latencies.c.fingerprint == fingerprint,
            latencies.c.runtime == OWN_RUNTIME,
            latencies.c.batch == OWN_BATCH,
        )
        return {row.device: Latency(**row._asdict()) for row in self.rows(query)}

    def read(self, work: Callable[[Connection], T]) -> T:
        """Returns ``work(connection)``, which may be called more than once."""

        def once(_: bool) -> T:
            with self.engine.connect() as connection:
                return work(connection)

        return patiently(once, self.patience, self.engine.url)

    def rows(self, query: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        """All rows of a query."""
        return self.read(lambda connection: connection.execute(query).all())
