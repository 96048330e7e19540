"""Teachers of distillation: recipes hold a model's digest, people know its trial or file. And what
a distilled or pruned network gained over its control, which is no trial."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select, update

from nas.errors import StudyError
from nas.store.reading import Record
from nas.store.record import Store
from nas.store.rows import StudyRow, TrialRow
from nas.store.tables import studies, trials


def teacher_names(record: Record, files: Sequence[str]) -> list[str]:
    """A name for each model: the trial of this record that has these weights, else the file."""
    if not files:
        return []
    query = select(studies.c.name, trials.c.number, trials.c.model).join(
        trials, trials.c.study_id == studies.c.id
    )
    rows = record.rows(query.where(trials.c.model.is_not(None)).order_by(trials.c.id))
    known = {_real(file): f"trial {number} of study {study}" for study, number, file in rows}
    return [known.get(_real(file), file) for file in files]


def _real(file: str) -> str:
    return file if "://" in file else os.path.realpath(file)


def teacher_files(study: StudyRow) -> tuple[str, ...]:
    """The files of a study's teachers. Raises StudyError where one is missing."""
    files = tuple(study.settings.get("teachers", ()))
    for file in files:
        if "://" not in file and not os.path.isfile(file):
            raise StudyError(
                f"{file}, by which study {study.name} learns, is gone: put it back, or go on with "
                "the study by the same model elsewhere (`nas search --teacher FILE`, as few trials "
                "as it has), which notes where that is"
            )
    return files


def note(store: Store, study_id: int, digest: str, names: Sequence[str]) -> None:
    """Records in a study the names of the teachers behind a digest."""
    _add(store, study_id, "taught", {digest: list(names)})


def note_verdict(store: Store, study_id: int, number: int, verdict: str) -> None:
    """Records in a study what its trial of this number gained over its control."""
    _add(store, study_id, "verdicts", {str(number): verdict})


def _add(store: Store, study_id: int, key: str, more: Mapping[str, object]) -> None:
    """Adds to a mapping among a study's settings."""
    mine = studies.c.id == study_id

    def work(connection: Connection, _: bool) -> None:
        query = select(studies.c.settings).where(mine).with_for_update()
        settings = connection.execute(query).scalar_one()
        changed = {**settings, key: {**settings.get(key, {}), **more}}
        connection.execute(update(studies).where(mine).values(settings=changed))

    store.write(work)


def teacher_of(study: StudyRow, row: TrialRow) -> str:
    """The names of a trial's teachers; empty without any. Only the digest where an older nas
    recorded no names."""
    digest = str(row.recipe.get("teacher", ""))
    names = study.settings.get("taught", {}).get(digest)
    if not names and digest == study.recipe.get("teacher"):
        names = study.settings.get("teachers")
    return ", ".join(names or [digest]) if digest else ""
