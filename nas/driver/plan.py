"""The plan of a search. Needs no optuna, so that wrong input is refused at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nas.errors import StudyError
from nas.job import Job, Recipe
from nas.metrics import ACCURACY, check, metric
from nas.spaces.bounds import refuse_unmet
from nas.spaces.space import Space, read_space
from nas.spaces.yaml_mapping import parse_mapping
from nas.store import Study, StudyRow

Keep = Literal["front", "all", "none"]

RANDOM = "-random"  # suffix of a study's name: the random search it is compared with


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A search.

    Raises StudyError for rungs that contradict the rest, and for an objective or constraint that
    nothing measures (a training measures those of ``nas.metrics``, an evaluator may return any);
    SpaceError for a bound that no network can meet.
    """

    study: str
    space: Space  # bound to the data, with objectives and constraints
    job: Job  # what all candidates share: recipe, data, epochs, evaluator; its seed is the search's
    trials: int | None  # None: no limit
    seconds: float | None = None  # None: no limit
    sampler: str = "default"
    rungs: tuple[int, ...] = ()  # epochs at which candidates may be stopped; the last: job.epochs
    artifacts: str = ""  # directory or URL; empty: rungs retrain, and no weights are kept
    folder: str = ""  # the study's folder in ``artifacts``, known once the study is open
    images: str = ""  # a description of the images, for people
    keep: Keep = "front"  # networks whose weights are kept
    older: tuple[str, ...] = ()  # names of studies to transfer from: ``nas.driver.older``
    devices: Mapping[str, str] = field(default_factory=dict)  # full names of latency metrics
    taught: tuple[str, ...] = ()  # names of the teachers, for people

    def __post_init__(self) -> None:
        if not self.job.evaluator:
            check(self.space.objectives, "objective")
            check(self.space.constraints, "constraint on")
        for name, bound in self.space.constraints.items():
            refuse_unmet(name, bound, f"constraint {name} {bound}")
        if not self.rungs:
            return
        recipe = self.job.recipe
        if self.space.objectives.get(ACCURACY) != "max":
            raise StudyError(f"rungs judge by accuracy: they need the objective {ACCURACY}:max")
        if self.rungs[-1] != self.job.epochs:
            raise StudyError(f"the last rung is {self.rungs[-1]}: must be {self.job.epochs} epochs")
        if not self.job.evaluator and (
            recipe.schedule != "rungs" or "schedule" in self.space.recipe
        ):
            raise StudyError(
                f"recipe.schedule is {recipe.schedule!r}: with rungs it must be 'rungs', under "
                "which a longer training continues a shorter one"
            )
        if recipe.freeze >= self.rungs[0]:
            raise StudyError(
                f"recipe.freeze is {recipe.freeze}: must be below the first rung, {self.rungs[0]}"
            )

    @property
    def recipe(self) -> Recipe:
        """The recipe of all candidates, except for the settings that the space searches."""
        return recipe_of(self.space, self.job.recipe)

    @property
    def asked(self) -> list[str]:
        """The metrics of objectives and constraints."""
        return [*dict.fromkeys([*self.space.objectives, *self.space.constraints])]

    @property
    def measured(self) -> list[str]:
        """The metrics of objectives and constraints that an evaluation must return."""
        return [name for name in self.asked if not metric(name).arithmetic]

    def row(self) -> Study:
        """The study as the record keeps it; a resumed study must have the same values."""
        space, job = self.space, self.job
        return Study(
            name=self.study,
            space=space.name,
            space_text=space.text,
            objectives=tuple(space.objectives.items()),
            constraints={metric: str(bound) for metric, bound in space.constraints.items()},
            recipe=job.recipe.plain(),
            dataset=job.data.name,
            images=job.data.identity,
            images_about=self.images,
            directory=job.data.dir,
            sampler=self.sampler,
            seed=job.seed,
            settings={
                "epochs": job.epochs,
                "evaluator": job.evaluator,
                **({"source": job.source} if job.source else {}),
                "input": list(space.input),
                "classes": space.classes,
                "split_seed": job.data.split_seed,
                **({"skip_unreadable": True} if job.data.skip_unreadable else {}),
                **({"group_by": job.data.group_by} if job.data.group_by else {}),
                # Their places; their identity is ``recipe.teacher``.
                **({"teachers": list(job.teachers)} if job.teachers else {}),
                **({"taught": {job.recipe.teacher: list(self.taught)}} if self.taught else {}),
                **({"rungs": list(self.rungs)} if self.rungs else {}),
                **({"from": list(self.older)} if self.older else {}),
                **({"devices": dict(self.devices)} if self.devices else {}),
            },
        )


def recipe_of(space: Space, base: Recipe) -> Recipe:
    """``base`` with the settings that the space fixes."""
    return Recipe.of(space.fixed, base)


def space_of(study: StudyRow) -> Space:
    """The space of a recorded study on its images, with the objectives and constraints of its file.
    Raises SpaceError."""
    source = f"the space of study {study.name}"
    channels, height, width = study.settings["input"]
    data = parse_mapping(study.space_text, source)
    return read_space(data, source, (channels, height, width), study.settings["classes"])
