"""The training that a trial needs next, the file that it goes on from, and that of its weights."""

from __future__ import annotations

import dataclasses

from nas import artifacts
from nas.driver import rungs
from nas.driver.plan import Plan
from nas.job import Job, Recipe
from nas.metrics import on_device
from nas.store import TrialRow


def job(plan: Plan, row: TrialRow) -> Job:
    """The training that a trial needs next: up to its next rung, or to the end."""
    shared = plan.job
    reached = row.rungs[-1][0] if row.rungs else 0
    whole = row.baseline or not plan.rungs
    epochs = shared.epochs if whole else rungs.after(plan.rungs, reached)
    # A verdict needs what the objectives and constraints are about; anything else can wait.
    asked = bool(on_device(plan.measured))
    return dataclasses.replace(
        shared,
        pattern=row.pattern,
        recipe=Recipe.of(row.recipe),
        seed=row.seed,
        epochs=epochs,
        latency=shared.latency and (asked or epochs == shared.epochs),
        checkpoint=checkpoint(plan, row),
        model=model(plan, row) if epochs == shared.epochs else "",
    )


def model(plan: Plan, row: TrialRow) -> str:
    """The file for a trial's weights."""
    if plan.keep == "none" or not plan.artifacts or plan.job.evaluator:
        return ""
    return _file(plan, f"trial-{row.number}.safetensors")


def checkpoint(plan: Plan, row: TrialRow) -> str:
    """The file for a trial's checkpoint, named after all that its training depends on."""
    if not plan.artifacts or plan.job.evaluator:
        return ""
    return _file(plan, f"{row.fingerprint}-{row.job_key}-{row.seed}.checkpoint")


def _file(plan: Plan, name: str) -> str:
    return "/".join([plan.artifacts.rstrip("/"), artifacts.part(plan.study), name])
