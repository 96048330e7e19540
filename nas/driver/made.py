"""Distilled and pruned networks as points of a study.

Like a baseline, such a network is a trial that the sampler neither proposed nor learns from, and
that counts towards no budget; it can be on the front.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Literal

from nas.driver.jobs import ask_of
from nas.job import Job, Result
from nas.store import BASELINE, Store, StudyRow, TrialRow
from nas.store.teachers import note, teacher_names
from nas.training.single import Trained
from nas.training.train import scores

Made = Literal["distilled", "pruned"]


def enter(
    store: Store, study: StudyRow, job: Job, trained: Trained, made: Made, of: str
) -> TrialRow:
    """Adds a training by ``job``, whose network was ``made`` from ``of`` (empty: from a pattern),
    to a study, unless it is there; returns its trial. Raises StoreError."""
    # The key has the file's name, which has a digest, not its folder.
    start = job.recipe.but({"init": os.path.basename(job.recipe.init)})
    key = dataclasses.replace(job, recipe=start).key
    name = _name(store, study, (trained.architecture.fingerprint, key, job.seed), made, of)
    ask = ask_of(job, trained.architecture, {BASELINE: name})
    ask = dataclasses.replace(ask, seed=job.seed, job_key=key)
    if job.teachers:
        note(store, study.id, job.recipe.teacher, teacher_names(store, job.teachers))
    result = Result(
        metrics=scores(trained.curve),
        curve=trained.curve,
        latency=trained.latency,
        seconds=trained.curve[-1].seconds,
        device=trained.device,
        model=os.path.abspath(trained.file) if trained.file else "",
    )
    store.enter(study, ask, result)
    row = next(
        row
        for row in store.trials(study.id, fingerprint=ask.fingerprint)
        if (row.sampled, row.job_key, row.seed) == (ask.sampled, ask.job_key, ask.seed)
    )
    if os.path.exists(row.model or ""):
        return row
    store.note_model(row.id, result.model or None)
    return dataclasses.replace(row, model=result.model)


def _name(store: Store, study: StudyRow, mine: tuple[str, str, int], made: Made, of: str) -> str:
    """A name unique in the study: what it was made from (a pattern by its fingerprint), with a
    number where the name is taken. Its own, if it is there already."""
    names = {
        (row.fingerprint, row.job_key, row.seed): row.baseline
        for row in store.trials(study.id)
        if row.made == made
    }
    if mine in names:
        return names[mine]
    of = of or mine[0][:6]
    wanted = [f"{of} {made}", *(f"{of} ({n}) {made}" for n in range(2, len(names) + 2))]
    return next(name for name in wanted if name not in names.values())
