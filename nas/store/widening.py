"""Moves a study and its trials to a wider space, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from nas.errors import StudyError
from nas.store.columns import own_domains
from nas.store.rows import BASELINE, Sampled, Study, StudyRow
from nas.store.tables import studies, trials


def widen(
    connection: Connection,
    was: StudyRow,
    now: Study,
    trials_now: Mapping[int, Sampled],
    retried: bool,
) -> None:
    """See ``Store.widen``. ``retried``: an earlier commit may have arrived."""
    mine = studies.c.id == was.id
    query = select(studies.c.space_text, studies.c.constraints).where(mine).with_for_update()
    held = tuple(connection.execute(query).one())
    if retried and held == (now.space_text, now.constraints):
        return
    known = select(trials.c.id, trials.c.state, trials.c.sampled)
    rows = connection.execute(known.where(trials.c.study_id == was.id)).all()
    states = {key: state for key, state, sampled in rows if {*sampled} != {BASELINE}}
    if "running" in states.values():
        raise StudyError(
            f"study {was.name!r} is being searched: its space can be changed when that has ended"
        )
    if held != (was.space_text, was.constraints) or states.keys() != trials_now.keys():
        raise StudyError(f"study {was.name!r} was changed meanwhile: try again")
    domains: dict[str, str] = {}
    placed = [
        {"key": key, "values": trial.sampled, "domains": own_domains(trial, domains)}
        for key, trial in trials_now.items()
    ]
    columns = {"space_text": now.space_text, "constraints": dict(now.constraints)}
    connection.execute(update(studies).where(mine).values(**columns, domains=json.dumps(domains)))
    changed = update(trials).where(trials.c.id == bindparam("key"))
    values: dict[str, Any] = {"sampled": bindparam("values"), "distributions": bindparam("domains")}
    if placed:
        connection.execute(changed.values(values), placed)
