"""Networks that were made from others, a student that a teacher taught or a network with fewer
channels, as points of a study.

Like a baseline such a network is a trial that nobody sampled: the sampler is not told of it and no
budget counts it, and where no other is better in everything it is on the front.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Literal

from nas.driver.jobs import ask_of
from nas.job import Job, Result
from nas.store import BASELINE, Store, StudyRow, TrialRow
from nas.training.single import Trained
from nas.training.train import scores

Made = Literal["distilled", "pruned"]


def enter(
    store: Store, study: StudyRow, job: Job, trained: Trained, made: Made, of: str
) -> TrialRow:
    """Puts a training by ``job``, whose network was ``made`` from ``of``, into a study; the trial
    that it is, or was already. Raises StoreError."""
    told = ask_of(job, trained.architecture, {BASELINE: f"{of} {made}".strip()})
    # What it begins with is known by its name, which has a digest, wherever it lies.
    start = job.recipe.but({"init": os.path.basename(job.recipe.init)})
    key = dataclasses.replace(job, recipe=start).key
    ask = dataclasses.replace(told, seed=job.seed, job_key=key)
    result = Result(
        metrics=scores(trained.curve),
        curve=trained.curve,
        latency=trained.latency,
        seconds=trained.curve[-1].seconds,
        device=trained.device,
        model=os.path.abspath(trained.file) if trained.file else "",
    )
    store.enter(study.id, ask, result)  # or it is there already
    row = next(
        row
        for row in store.trials(study.id)
        if (row.sampled, row.fingerprint) == (ask.sampled, ask.fingerprint)
        and (row.job_key, row.seed) == (ask.job_key, ask.seed)
    )
    if os.path.exists(row.model or ""):
        return row
    store.note_model(row.id, result.model or None)
    return dataclasses.replace(row, model=result.model)
