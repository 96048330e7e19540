"""A random search for as many epochs as a study was trained for, to compare the study with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from nas.driver import rungs
from nas.driver.plan import RANDOM, Plan, space_of
from nas.driver.tradeoffs import bounds_of
from nas.job import DataRef, Job, Recipe
from nas.metrics import on_device
from nas.plugins import module_name
from nas.sources import digest
from nas.store import StudyRow, TrialRow
from nas.store.teachers import teacher_files


def trained_epochs(row: TrialRow) -> int:
    """The epochs that a trial was trained for in all, including those repeated after rungs; 0 where
    it reused a result."""
    if row.state == "reused":
        return 0
    steps = [rung for rung, _ in row.rungs]
    if row.state == "finished":
        steps.append(row.epochs)
    return rungs.costs(steps, int(row.recipe.get("freeze", 0)))[-1] if steps else 0


def whole_seconds(row: TrialRow, epochs: int) -> float:
    """The expected seconds of a training of ``epochs``, from the trial's own; NaN: unknown."""
    trained = trained_epochs(row)
    return row.seconds / trained * epochs if row.seconds and trained else math.nan


def random_plan(
    study: StudyRow, rows: Iterable[TrialRow], data: DataRef, plugins: tuple[str, ...] = ()
) -> Plan:
    """The plan of a random search without rungs, for as many epochs in all as the study, in the
    same record under the study's name with ``-random``; its workers load ``plugins``."""
    settings = study.settings
    space = dataclasses.replace(
        space_of(study),
        objectives=dict(study.objectives),
        constraints=bounds_of(study),
    )
    spent = sum(trained_epochs(row) for row in rows if not row.baseline)
    return Plan(
        study=f"{study.name}{RANDOM}",
        space=space,
        job=Job(
            pattern="",
            recipe=Recipe.of(study.recipe),
            data=data,
            epochs=settings["epochs"],
            seed=study.seed,
            latency=bool(on_device([*dict(study.objectives), *study.constraints])),
            source=digest(*map(module_name, plugins)),
            plugins=plugins,
            teachers=teacher_files(study),
        ),
        trials=max(1, round(spent / settings["epochs"])),
        sampler="random",
        images=study.images_about,
        devices=settings.get("devices", {}),
    )
