"""Parses the texts of options: objectives, constraints, settings of a recipe."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nas.errors import NasError, RecipeError, brief, nearest
from nas.job import Recipe
from nas.job.recipe import OPTIMIZERS, RECIPES
from nas.metrics import METRICS, NAME, Direction, check, metric
from nas.spaces.bounds import Bound, read_bound, read_direction, refuse_unmet
from nas.spaces.space import Space
from nas.store import Store, StudyRow

T = TypeVar("T")

MOST_SEED = (1 << 32) - 1


def within(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise NasError(f"{name} {brief(str(value), 40)}: must be 1 or more, up to {most}")


def seed_within(seed: int, most: int = MOST_SEED) -> int:
    if not 0 <= seed <= most:
        raise NasError(f"--seed {brief(str(seed), 40)}: must be from 0 to {most}")
    return seed


def split(texts: Sequence[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def objective(text: str) -> tuple[str, Direction]:
    name, colon, direction = text.partition(":")
    if not name:
        raise NasError(f"--objective {text!r}: must be NAME, NAME:max or NAME:min")
    if not (colon or name.partition("@")[0] in METRICS):
        raise NasError(
            f"--objective {text}: there is no such metric; {nearest(name, METRICS)} (one of an "
            "evaluator's own needs its direction, NAME:max or NAME:min)"
        )
    return name, read_direction(direction if colon else metric(name).direction,
                                f"--objective {text}")  # fmt: skip


def constraint(text: str) -> tuple[str, Bound]:
    match = re.fullmatch(rf"\s*({NAME})\s*([<>]=.*)", text)
    if not match:
        raise NasError(f"--constraint {text!r}: must be like 'params<=1e6' or 'accuracy>=0.9'")
    name, bound = match[1], read_bound(match[2], f"--constraint {text!r}")
    refuse_unmet(name, bound, f"--constraint {text!r}")
    return name, bound


def once(option: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    found: dict[str, T] = {}
    for name, value in pairs:
        if name in found:
            raise NasError(f"{option} {name}: given twice; each metric once")
        found[name] = value
    return found


def bounds(own: Mapping[str, Bound], further: Iterable[tuple[str, Bound]]) -> dict[str, Bound]:
    """The space's own constraints and further ones, which replace the space's own bound on the same
    metric. Raises NasError where the two bound different sides."""
    given = once("--constraint", further)
    for name, bound in given.items():
        if name in own and own[name].upper != bound.upper:
            raise NasError(
                f"--constraint {name} {bound}: the space has {name} {own[name]}, and a metric has "
                "one bound"
            )
    return {**own, **given}


def asked_of(
    store: Store, study: StudyRow, objectives: Sequence[str], constraints: Sequence[str]
) -> StudyRow:
    """A study with other ``objectives``, if any, and further ``constraints``. Raises NasError for a
    metric that is neither known nor the study's own: its objectives, its constraints and whatever
    its evaluator returned for its trials."""
    own = {*dict(study.objectives), *study.constraints}
    if objectives or constraints:
        own |= {name for row in store.trials(study.id) for name in row.metrics}
    asked = once("--objective", map(objective, split(objectives)))
    further = once("--constraint", map(constraint, split(constraints)))
    check(asked, "--objective", own)
    check(further, "--constraint", own)
    return dataclasses.replace(
        study,
        objectives=tuple(asked.items()) or study.objectives,
        constraints={**study.constraints, **{name: str(bound) for name, bound in further.items()}},
    )


def read_recipe(settings: Sequence[str], base: Recipe | None = None) -> Recipe:
    """Parses --recipe: optionally a recipe's name (default: ``base``), then changed settings."""
    named, values = _parsed(settings)
    return Recipe.of(values, named or base)


def beside(space: Space, settings: Sequence[str], base: Recipe | None = None) -> Space:
    """The space, reconciled with --recipe. Raises RecipeError for a setting that the space fixes
    otherwise or searches.

    A given learning rate is kept whichever optimizer the space uses: where it is another
    optimizer's default, which ``Recipe.but`` would replace, the space fixes it."""
    named, values = _parsed(settings)
    for name, value in values.items():
        if name in space.recipe and space.fixed.get(name) != value:
            has = f"fixes it at {space.fixed[name]}" if name in space.fixed else "searches it"
            raise RecipeError(
                f"--recipe {name}={value}: the space {space.name} {has}, under recipe.{name}; tell "
                "it in one place"
            )
    lr, usual = values.get("lr"), OPTIMIZERS[Recipe.of(values, named or base).optimizer]
    if lr == usual and "optimizer" in space.recipe and "lr" not in space.recipe:
        return space.fixing("lr", lr)
    return space


def recipe_in(space: Space, settings: Sequence[str], base: Recipe | None = None) -> Recipe:
    """The recipe of --recipe and the space's fixed settings. Raises RecipeError, as ``beside``."""
    return Recipe.of(beside(space, settings, base).fixed, read_recipe(settings, base))


def _parsed(settings: Sequence[str]) -> tuple[Recipe | None, dict[str, Any]]:
    """The named recipe (None: none), and the settings."""
    base: Recipe | None = None
    kinds: dict[str, Any] = {f.name: type(f.default) for f in dataclasses.fields(Recipe)}
    values: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals and (base or values):
            raise RecipeError(f"--recipe {text}: one recipe's name at most, before any setting")
        if not equals:
            if text not in RECIPES:
                known = nearest(text, RECIPES)
                raise RecipeError(f"--recipe {text!r}: no setting NAME=VALUE, no recipe; {known}")
            base = RECIPES[text]
            continue
        if name not in kinds:
            raise RecipeError(f"--recipe {text}: unknown setting; {nearest(name, kinds)}")
        read = _setting(name, value, kinds[name])
        if repr(values.setdefault(name, read)) != repr(read):  # NaN is no other than NaN
            raise RecipeError(f"--recipe {name}: is given twice, {values[name]} and {read}")
    return base, values


def starting(recipe: Sequence[str], init: str | Path, freeze: int) -> list[str]:
    """``recipe`` with the settings that --init and --freeze add."""
    own = {"init": init, "freeze": freeze}
    return [*recipe, *(f"{name}={value}" for name, value in own.items() if value)]


def _setting(name: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return {"yes": True, "no": False, "true": True, "false": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        rule = "yes or no" if kind is bool else f"of type {kind.__name__}"
        raise RecipeError(f"--recipe {name}={brief(text, 60)}: must be {rule}") from None
