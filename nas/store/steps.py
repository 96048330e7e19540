"""The steps of the record's transactions, on an open connection.

Locks are taken in this order: the study, running attempts, their trials.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Select, Table, func, insert, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite

from nas.errors import StudyError
from nas.job import Failure, Latency, Outcome, Result
from nas.job.outcome import OWN_BATCH, OWN_RUNTIME
from nas.store.columns import (
    STORED,
    clean,
    columns_of,
    domains_of,
    latency_of,
    own_domains,
    point_of,
    study_of,
    trial_of,
)
from nas.store.rows import Ask, Claim, Study, StudyRow
from nas.store.sameness import differs_only_in_goals, first_difference
from nas.store.tables import (
    AttemptState,
    TrialState,
    attempts,
    curves,
    latencies,
    now,
    studies,
    trials,
)

# A literal, not a parameter: otherwise SQLite does not use the index of running attempts.
RUNNING = attempts.c.state == literal_column("'running'")

# Joins a trial with its architecture's latency on its device.
_HERE = (
    (latencies.c.fingerprint == trials.c.fingerprint)
    & (latencies.c.device == trials.c.latency_device)
    & (latencies.c.runtime == literal_column(f"'{OWN_RUNTIME}'"))
    & (latencies.c.batch == literal_column(f"{OWN_BATCH}"))
)
_JOINED = {
    "latency_ms": func.coalesce(latencies.c.ms, trials.c.latency_ms).label("latency_ms"),
    "latency_low": latencies.c.low.label("latency_low"),
    "latency_high": latencies.c.high.label("latency_high"),
}
STUDY = tuple(studies.c[f.name] for f in fields(StudyRow))
TRIAL = (
    *(_JOINED[name] if name in _JOINED else trials.c[name] for name in STORED),
    studies.c.domains,
)


def redefinable(connection: Connection, was: StudyRow, now: Study) -> bool:
    """Whether a study with other settings may take those of ``now``: any while it has no trials;
    objectives and constraints while all its trials failed, were refused or wait. Another driver
    that has the study open notices through ``refuse_changed`` when it begins a trial."""
    query = select(trials.c.state).where(trials.c.study_id == was.id).distinct()
    states = {*connection.scalars(query)}
    if not states:
        return first_difference(was, now) is not None
    return differs_only_in_goals(was, now) and states <= {"failed", "refused", "waiting"}


def refuse_changed(connection: Connection, of: StudyRow) -> None:
    """Raises StudyError where the study's settings are no longer those of ``of``. Locks the
    study."""
    mine = select(*STUDY).where(studies.c.id == of.id).with_for_update()
    held = study_of(connection.execute(mine).one())
    if held != of and (difference := first_difference(held, of)):  # != is the cheap test
        raise StudyError(
            f"the settings of study {of.name!r} were changed meanwhile: {difference}; "
            "repeat the command with the new ones, or under another --study name"
        )


def select_trials(*more: Any) -> Select[Any]:
    """A query of ``more`` columns, then those that ``trial_of`` takes."""
    return select(*more, *TRIAL).select_from(trials.join(studies).outerjoin(latencies, _HERE))


def add_trials(
    connection: Connection,
    study: StudyRow,
    asks: Sequence[Ask],
    names: Sequence[str],
    *,
    state: TrialState,
    budget: int | None,
    once: bool = False,
    **columns: Any,
) -> list[int]:
    """Adds a trial for each of ``asks``, under its unique name, as far as the budget allows; with
    ``once`` only new ones. Returns their ids. Raises StudyError as ``refuse_changed`` does."""
    mine = studies.c.id == study.id
    held = select(studies.c.numbers, studies.c.domains).where(mine).with_for_update()
    number, text = connection.execute(held).one()
    refuse_changed(connection, study)
    domains = domains_of(text, study.id)
    if once:  # under the study's lock, as two drivers may propose the same candidate at once
        asks = [ask for ask in asks if not has(connection, study.id, ask)]
    granted = len(asks) if budget is None else max(0, min(len(asks), budget - number))
    added = []
    for place, (ask, name) in enumerate(zip(asks[:granted], names, strict=False)):
        row = {f.name: getattr(ask, f.name) for f in fields(Ask)} | {"metrics": {}} | columns
        row["distributions"] = own_domains(ask, domains)
        row |= {"study_id": study.id, "number": number + place, "ask": name}
        row |= {"state": state, "created": now()}
        added.append(connection.scalars(insert(trials).values(row).returning(trials.c.id)).one())
    counted = {"numbers": number + granted, "domains": json.dumps(domains)}
    connection.execute(update(studies).where(mine).values(counted))
    return added


def has(connection: Connection, study_id: int, ask: Ask) -> bool:
    """Whether the study has a trial of this architecture, job key and seed; of a baseline, whether
    it has that baseline, as a candidate may be the same network. Refused trials do not count: the
    bound may change."""
    # Uses the index ix_nas_trials_reuse: with the study in the condition, SQLite chooses another
    # and reads every trial of the study, 35 ms at 5,000.
    found = select(trials.c.study_id, trials.c.sampled).where(
        trials.c.fingerprint == ask.fingerprint,
        trials.c.job_key == ask.job_key,
        trials.c.seed == ask.seed,
        trials.c.state != "refused",
    )
    return any(
        study == study_id and (not ask.baseline or sampled == ask.sampled)
        for study, sampled in connection.execute(found)
    )


def start_attempt(
    connection: Connection, trial_id: int, token: str, *, driver: str, lease: float
) -> None:
    # Not their count: of rows removed by hand the number may be taken.
    last = select(func.coalesce(func.max(attempts.c.number), 0)).where(
        attempts.c.trial_id == trial_id
    )
    connection.execute(
        insert(attempts).values(
            token=token,
            trial_id=trial_id,
            number=last.scalar_subquery() + 1,
            driver=driver,
            state="running",
            started=now(),
            lease_until=now() + lease,
        )
    )


def end_attempt(
    connection: Connection, token: str, state: AttemptState, outcome: Outcome
) -> int | None:
    """Ends a running attempt; returns its trial's id, or None if it is not running."""
    columns: dict[str, Any] = {"state": state, "ended": now()}
    if isinstance(outcome, Failure):
        columns |= {"failure": outcome.kind, "reason": clean(outcome.reason)}
    ended = (
        update(attempts)
        .where(attempts.c.token == token, RUNNING)
        .values(columns)
        .returning(attempts.c.trial_id)
    )
    trial_id: int | None = connection.scalar(ended)
    return trial_id


def write_outcome(connection: Connection, trial_id: int, outcome: Outcome, **others: Any) -> None:
    """Writes an outcome and ``others`` to its trial. Seconds add up over rungs; the curve, which
    starts with the first epoch, replaces the earlier one."""
    columns = columns_of(outcome)
    columns["seconds"] = func.coalesce(trials.c.seconds, 0.0) + (columns["seconds"] or 0.0)
    changed = update(trials).where(trials.c.id == trial_id).values(columns | others)
    fingerprint = connection.scalar(changed.returning(trials.c.fingerprint))
    if isinstance(outcome, Result) and outcome.latency:
        add_latency(connection, str(fingerprint), outcome.latency)
    if outcome.curve:
        points = [point_of(epoch) for epoch in outcome.curve]
        drawn = update(curves).where(curves.c.trial_id == trial_id).values(epochs=points)
        if not connection.execute(drawn).rowcount:
            connection.execute(insert(curves).values(trial_id=trial_id, epochs=points))


def add_latency(
    connection: Connection, fingerprint: str, latency: Latency, *, replace: bool = False
) -> None:
    """Records a latency, unless the architecture has one on the device and not ``replace``."""
    row = latency_of(fingerprint, latency) | {"measured": now()}
    put(connection, latencies, row, replace=replace)


def put(connection: Connection, table: Table, row: dict[str, Any], *, replace: bool) -> None:
    """Inserts a row, unless its key exists and not ``replace``."""
    sql = sqlite if connection.dialect.name == "sqlite" else postgresql
    added = sql.insert(table).values(row)
    keys = [column.name for column in table.primary_key]
    if replace:
        changed = {name: added.excluded[name] for name in row if name not in keys}
        connection.execute(added.on_conflict_do_update(index_elements=keys, set_=changed))
    else:
        connection.execute(added.on_conflict_do_nothing())


def running_trial(connection: Connection, token: str) -> int | None:
    """The id of a running attempt's trial, locked; None if it is not running."""
    query = select(attempts.c.trial_id).where(attempts.c.token == token, RUNNING)
    return connection.scalar(query.with_for_update())


def ended_in(connection: Connection, token: str, state: AttemptState) -> bool:
    query = select(attempts.c.state).where(attempts.c.token == token)
    return bool(connection.scalar(query) == state)


def set_state(connection: Connection, trial_ids: Sequence[int], state: TrialState) -> None:
    if trial_ids:
        connection.execute(update(trials).where(trials.c.id.in_(trial_ids)).values(state=state))


def claims_of(connection: Connection, tokens: Sequence[str]) -> list[Claim]:
    """The claims of ``tokens``, by trial number; unknown tokens have none."""
    earlier = attempts.alias()
    faults = (
        select(func.count())
        .where(earlier.c.trial_id == attempts.c.trial_id, earlier.c.state == "failed")
        .scalar_subquery()
    )
    query = (
        select_trials(attempts.c.token, attempts.c.number, faults)
        .join(attempts, attempts.c.trial_id == trials.c.id)
        .where(attempts.c.token.in_(tokens))
        .order_by(trials.c.number)
    )
    return [
        Claim(token, trial_of(trial), attempt, failed)
        for token, attempt, failed, *trial in connection.execute(query)
    ]
