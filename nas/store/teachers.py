"""Who taught: a digest in a recipe is a model's, and a person knows it by its trial or its file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sqlalchemy import Connection, select, update

from nas.errors import StudyError
from nas.store.reading import Record
from nas.store.record import Store
from nas.store.rows import StudyRow, TrialRow
from nas.store.tables import studies, trials


def teacher_names(record: Record, files: Sequence[str]) -> list[str]:
    """Each model by the trial of this record whose weights it is, else by its file."""
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
    """The models that the candidates of a study learn by. Raises StudyError where one is gone."""
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
    """Keeps in a study whose digest it is."""
    mine = studies.c.id == study_id

    def work(connection: Connection, _: bool) -> None:
        query = select(studies.c.settings).where(mine).with_for_update()
        settings = connection.execute(query).scalar_one()
        taught = {**settings.get("taught", {}), digest: list(names)}
        connection.execute(
            update(studies).where(mine).values(settings={**settings, "taught": taught})
        )

    store.write(work)


def teacher_of(study: StudyRow, row: TrialRow) -> str:
    """The teacher of a trial, in words; empty where it had none. The digest alone where an older
    nas stored no more."""
    digest = str(row.recipe.get("teacher", ""))
    names = study.settings.get("taught", {}).get(digest)
    if not names and digest == study.recipe.get("teacher"):
        names = study.settings.get("teachers")
    return ", ".join(names or [digest]) if digest else ""
