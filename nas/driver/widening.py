"""Resumes a study whose space was widened, keeping its trials.

A trial is recorded with its domains, and Optuna accepts only one domain of a categorical parameter
in a study: so the old trials get the domains of the new space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nas.driver.plan import Plan, space_of
from nas.driver.tradeoffs import feasible
from nas.errors import NasError, StudyError
from nas.job import Recipe
from nas.language.domains import PRESENCE, Choice, Domain, Floats, Ints, Progression, Values
from nas.language.elements import Scalar
from nas.spaces.preflight import refuse_empty
from nas.spaces.space import Space
from nas.store import Sampled, Store, StudyRow, TrialRow, check_same, first_difference, widens
from nas.text import counted


def open_study(plan: Plan, store: Store) -> tuple[StudyRow, str]:
    """The plan's study, created if there is none; and a sentence if its settings changed, else an
    empty string.

    Raises StudyError where it exists with other settings, including a space that is narrower or
    does not contain all of its trials; and NothingFound, with nothing created, where nothing meets
    the constraints.
    """
    study, sentence = plan.row(), ""
    before = store.study_named(study.name)
    if before is None:
        refuse_empty(plan.space)
    elif widens(before, study):
        store.recover(before.id)
        placed = rehearsed(plan, store)
        if placed:
            store.widen(before, study, placed)
            sentence = (
                f"study {study.name} resumes with its {counted(len(placed), 'trial')} "
                "in the changed space"
            )
    opened = store.open_study(study)
    if before and not sentence and (difference := first_difference(before, study)):
        sentence = f"study {study.name} had no results, and takes the new settings: {difference}"
    return opened, sentence


def rehearsed(plan: Plan, store: Store) -> Mapping[int, Sampled]:
    """The study's trials in the plan's wider space, by ``id``; empty where nothing is to be done.
    Raises as ``open_study``, and writes nothing."""
    study = plan.row()
    was = store.study_named(study.name)
    if was is None or not widens(was, study):
        return {}
    rows = [row for row in store.trials(was.id) if not row.baseline]
    if not rows:
        return {}  # as ``Store.open_study`` says
    try:
        return _placed(plan, was, rows)
    except NasError as error:
        try:
            check_same(was, study)
        except StudyError as refusal:
            raise StudyError(f"{refusal} ({error})") from None
        raise


def _placed(plan: Plan, was: StudyRow, rows: Sequence[TrialRow]) -> dict[int, Sampled]:
    before = space_of(was)
    _refuse_narrower(before, plan.space)
    now = replace(was, constraints=plan.row().constraints)
    for row in rows:
        if feasible(was, row) and not feasible(now, row):
            raise StudyError(f"trial {row.number} no longer meets the constraints")
    return {row.id: _placed_one(plan, before, row) for row in rows}


def _refuse_narrower(before: Space, now: Space) -> None:
    new = _domains(now)
    for key, domain in _domains(before).items():
        if not _holds(new.get(key), domain):
            raise StudyError(f"{key} allows less than it did")


def _domains(space: Space) -> dict[str, Domain]:
    """All domains by name, the recipe's and those of optional elements not in the file included."""
    optional = dict.fromkeys(filter(lambda key: key.endswith("?"), space.open_keys()), PRESENCE)
    recipe = {f"recipe.{key}": domain for key, domain in space.recipe.items()}
    return {**optional, **space.domains, **recipe}


def _holds(new: Domain | None, old: Domain) -> bool:
    """Whether the new domain contains the old one. A domain of a single value may be gone: whether
    networks and recipes stay the same is checked per trial."""
    if new is None:
        return _single(old.values) is not None
    if (new.per, new.first) != (old.per, old.first) and _single(old.values) is None:
        return False
    match new.values, old.values:
        case Progression(start, times, most), Progression(first, factors, at_most):
            return {*first} <= {*start} and {*factors} <= {*times} and at_most <= most
        case Floats(low, high), Floats(least, greatest):
            return low <= least and greatest <= high
        case (Choice() | Ints(), Choice() | Ints()):
            return _all(old.values) <= _all(new.values)
    return _single(old.values) is not None


def _all(values: Values) -> set[Scalar]:
    if isinstance(values, Ints):
        return {*range(values.low, values.high + 1, values.step)}
    return {*values.some()}


def _single(values: Values) -> Scalar | None:
    some = {*values.some()}
    return some.pop() if len(some) == 1 and not isinstance(values, Progression) else None


def _placed_one(plan: Plan, before: Space, row: TrialRow) -> Sampled:
    space, trial = plan.space, _Replay(row, before)
    try:
        architecture = space.suggest(trial)
        recipe = space.suggest_recipe(trial, plan.job.recipe)
    except NasError as error:
        raise StudyError(f"trial {row.number} is not in the space: {error}") from None
    if architecture.fingerprint != row.fingerprint:
        raise StudyError(f"trial {row.number} would be another network")
    own = Recipe.of(row.recipe)
    for key in [*before.recipe, *space.recipe]:
        had, has = getattr(own, key), getattr(recipe, key)
        if had != has:
            raise StudyError(
                f"trial {row.number} has recipe.{key} {had!r}, and would have {has!r} now"
            )
    return Sampled(trial.params, trial.distributions())


class _Replay:
    """A trial that replays the values of an earlier one; a parameter that had a single value, and
    so was not sampled, gets that value."""

    def __init__(self, row: TrialRow, before: Space) -> None:
        self._sampled, self._before = row.sampled, before
        self.params: dict[str, Any] = {}
        self._asked: dict[str, tuple[str, dict[str, Any]]] = {}

    def distributions(self) -> dict[str, str]:
        from optuna import distributions as optuna  # only here: it takes a third of a second

        kinds = {
            "choice": optuna.CategoricalDistribution,
            "int": optuna.IntDistribution,
            "float": optuna.FloatDistribution,
        }
        return {
            name: optuna.distribution_to_json(kinds[kind](**arguments))
            for name, (kind, arguments) in self._asked.items()
        }

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        own = self._value(name)
        found = [c for c in choices if type(c) is type(own) and c == own]
        return self._answer(name, found, "choice", choices=choices)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        value = self._value(name)
        found = [value] if type(value) is int and value in range(low, high + 1, step) else []
        return int(self._answer(name, found, "int", low=low, high=high, step=step, log=log))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        value = self._value(name)
        found = [value] if isinstance(value, float) and low <= value <= high else []
        return float(self._answer(name, found, "float", low=low, high=high, log=log))

    def _value(self, name: str) -> Any:
        if name in self._sampled:
            return self._sampled[name]
        key = name.partition("[")[0]
        domains = self._before.recipe if key.startswith("recipe.") else self._before.domains
        domain = domains.get(key.removeprefix("recipe."))
        return _single(domain.values) if domain else None

    def _answer(self, name: str, found: Sequence[Any], kind: str, **arguments: Any) -> Any:
        if not found:
            value = self._value(name)
            has = "no value" if value is None else repr(value)
            raise StudyError(f"it has {has} for {name}")
        self.params[name] = found[0]
        self._asked[name] = kind, arguments
        return found[0]
