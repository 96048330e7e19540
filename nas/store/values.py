"""Validates values read from the record. SQLite accepts any value in any column, and a JSON column
any JSON, so edits by hand, disk errors or other tools may have left invalid ones.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, get_args

from sqlalchemy import Column, Double, Integer

from nas.errors import NasError, StoreError, StudyError, brief
from nas.job import Recipe
from nas.metrics import ACCURACY, LARGEST, METRICS, impossible
from nas.spaces.bounds import read_bound
from nas.store.tables import AttemptState, TrialState

Check = tuple[Callable[[Any], object], str]  # whether a value is valid, and the rule in words

LEAST, MOST = -(1 << 63), (1 << 63) - 1  # of a whole number in SQL


@dataclass(frozen=True, slots=True)
class Broken:
    """The text of a JSON column that is not JSON."""

    text: str


class Settings(dict[str, Any]):
    """A study's settings. Raises StudyError for one that a command needs and the record lacks."""

    def __missing__(self, key: str) -> NoReturn:
        raise StudyError(f"table nas_studies, column settings: a study's has no {key}")


def read_json(text: Any) -> Any:
    """Parses a JSON column; Broken where it is not JSON, or holds NaN or infinity. SQLite returns a
    lone number as a number, not text."""
    try:
        return _DECODER.decode(text.decode() if isinstance(text, bytes) else str(text))
    except (ValueError, RecursionError):
        return Broken(str(text))


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_no_number)  # NaN and Infinity are not JSON


def checked(
    columns: Mapping[str, Column[Any]], key: str, joined: Collection[str] = ()
) -> Callable[[Mapping[str, Any]], None]:
    """A check of rows with these columns; ``joined`` ones may be NULL. It raises StoreError naming
    the table, the row (by its ``key``), the column and the rule."""
    checks = [
        (name, column, *_check(column, column.nullable or name in joined))
        for name, column in columns.items()
    ]

    def check(row: Mapping[str, Any]) -> None:
        for name, column, holds, rule in checks:
            if not holds(row[name]):
                refuse(column.table.name, f"{key} {row[key]}", name, row[name], rule)

    return check


def refuse(table: str, row: str, column: str, value: object, rule: str) -> NoReturn:
    shown = brief(repr(value.text if isinstance(value, Broken) else value), 90)
    no_json = ", no JSON" * isinstance(value, Broken)
    raise StoreError(
        f"table {table}, row {brief(row, 60)}, column {column}: {shown}{no_json}: must be "
        f"{brief(rule, 200)}"
    )


def _check(column: Column[Any], nullable: bool | None) -> Check:
    holds, rule = CHECKS.get(f"{column.table.name}.{column.name}") or _plain(column)
    if not nullable:
        return holds, rule
    return lambda value: value is None or holds(value), f"{rule}, or NULL"


def _plain(column: Column[Any]) -> Check:
    if column.name in METRICS:
        known = METRICS[column.name]
        bounded = "" if known.most < LARGEST else f", at most {LARGEST:g}"
        return _possible(column.name), f"{known.range}{bounded}"
    if isinstance(column.type, Double):
        return number, f"a number of at most {LARGEST:g}"
    if isinstance(column.type, Integer):
        return lambda v: type(v) is int and LEAST <= v <= MOST, "a whole number"
    return lambda v: type(v) is str, "text"


def number(value: Any) -> bool:
    """Whether this is a number (not a bool) of at most ``LARGEST``."""
    return type(value) in (int, float) and abs(value) <= LARGEST


def scalar(value: Any) -> bool:
    return type(value) in (str, bool) or number(value)


def texts(value: Any) -> bool:
    return isinstance(value, dict) and all(type(v) is str for v in value.values())


def mapping(of: Callable[[Any], object]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(of, value.values()))


def listed(of: Callable[[Any], object]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(of, value))


def _bounds(value: Any) -> bool:
    try:
        return texts(value) and all(read_bound(text, name) for name, text in value.items())
    except NasError:
        return False


def _objectives(value: Any) -> bool:
    if not value or not listed(lambda pair: isinstance(pair, list) and len(pair) == 2)(value):
        return False
    names, directions = zip(*value, strict=True)
    if not all(type(name) is str for name in names) or len({*names}) < len(names):
        return False
    return all(direction in ("max", "min") for direction in directions)


def _recipe(value: Any) -> bool:
    return mapping(scalar)(value) and _known_recipe(tuple(value), *value.values())


@functools.lru_cache(maxsize=1024, typed=True)  # 16.0 and True equal 16 and 1
def _known_recipe(names: tuple[str, ...], *values: Any) -> bool:
    try:
        Recipe.of(dict(zip(names, values, strict=True)))
    except NasError:
        return False
    return True


SETTINGS: Mapping[str, Callable[[Any], object]] = {
    "epochs": lambda v: type(v) is int and v >= 0,
    "evaluator": lambda v: type(v) is str,
    "source": lambda v: type(v) is str,
    "input": lambda v: _whole(1)(v) and len(v) == 3,
    "classes": lambda v: type(v) is int and v >= 1,
    "split_seed": lambda v: type(v) is int and 0 <= v < 1 << 32,
    "skip_unreadable": lambda v: type(v) is bool,
    "group_by": lambda v: type(v) is str,
    "teachers": listed(lambda v: type(v) is str),
    "rungs": lambda v: _whole(1)(v),
    "from": listed(lambda v: type(v) is str),
    "devices": mapping(lambda v: type(v) is str),
    "taught": mapping(listed(lambda v: type(v) is str)),
    "verdicts": mapping(lambda v: type(v) is str),
}


def _whole(least: int) -> Callable[[Any], bool]:
    return listed(lambda v: type(v) is int and v >= least)


def _settings(value: Any) -> bool:
    return isinstance(value, dict) and all(
        SETTINGS[name](setting) for name, setting in value.items() if name in SETTINGS
    )


def _rungs(value: Any) -> bool:
    """Of ascending epochs."""
    pairs = listed(
        lambda v: isinstance(v, list) and len(v) == 2 and type(v[0]) is int and _accuracy(v[1])
    )
    return value is None or (pairs(value) and [*value] == sorted(value, key=lambda rung: rung[0]))


def _points(value: Any) -> bool:
    def point(value: Any) -> bool:
        if not isinstance(value, list) or len(value) != 4 or type(value[0]) is not int:
            return False
        fits = all(each is None or number(each) for each in value[1:])
        return fits and (value[2] is None or _accuracy(value[2]))

    return listed(point)(value)


def _possible(name: str) -> Callable[[Any], bool]:
    """Whether a value is one that the metric can have."""
    return lambda v: number(v) and not impossible(name, v)


_accuracy = _possible(ACCURACY)


def _metrics(value: Any) -> bool:
    return mapping(lambda v: v is None or number(v))(value) and not any(
        impossible(name, v) for name, v in value.items() if name in METRICS and v is not None
    )


def _network(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and type(value.get("trial")) is int
        and all(type(value.get(name)) is str for name in ("fingerprint", "file", "sha256"))
    )


def _profile(value: Any) -> bool:
    """Milliseconds of pieces and of whole networks, and the networks measured only in pieces."""
    return (
        isinstance(value, dict)
        and all(mapping(_positive)(value.get(name)) for name in ("pieces", "wholes"))
        and bool(value["pieces"])
        and listed(lambda v: type(v) is str)(value.get("apart", []))
    )


def _positive(value: Any) -> bool:
    return number(value) and value > 0


def _one_of(words: object) -> Check:
    known = get_args(words)
    return lambda v: type(v) is str and v in known, f"one of {', '.join(known)}"


_RANGE = METRICS[ACCURACY].range
YEAR_9999 = 253_402_300_800.0
TIME: Check = (lambda v: number(v) and 0 <= v < YEAR_9999, "seconds since 1970")
COUNT: Check = (lambda v: type(v) is int and 0 <= v <= MOST, "a whole number from 0")
MS: Check = (_positive, "milliseconds, more than 0")
RECIPE: Check = (_recipe, "the settings of a recipe, each of its type and in its domain")

CHECKS: Mapping[str, Check] = {
    "nas_studies.objectives": (_objectives, 'a list of names with "max" or "min"'),
    "nas_studies.constraints": (_bounds, "names with bounds such as '<= 1_000_000'"),
    "nas_studies.recipe": RECIPE,
    "nas_studies.settings": (_settings, "the settings of a study, each of its type"),
    "nas_studies.created": TIME,
    "nas_studies.numbers": COUNT,
    "nas_trials.number": COUNT,
    "nas_trials.state": _one_of(TrialState),
    "nas_trials.sampled": (mapping(scalar), "names with numbers or words"),
    "nas_trials.distributions": (texts, "names with distributions as text"),
    "nas_trials.params": COUNT,
    "nas_trials.macs": COUNT,
    "nas_trials.recipe": RECIPE,
    "nas_trials.epochs": COUNT,
    "nas_trials.rungs": (_rungs, f"pairs of epochs, ascending, and an accuracy, {_RANGE}"),
    "nas_trials.metrics": (
        _metrics,
        f"names with numbers of at most {LARGEST:g}, or null; {ACCURACY}: {_RANGE}",
    ),
    "nas_trials.created": TIME,
    "nas_trials.finished": TIME,
    "nas_attempts.state": _one_of(AttemptState),
    "nas_attempts.started": TIME,
    "nas_attempts.ended": TIME,
    "nas_latencies.ms": MS,
    "nas_latencies.low": MS,
    "nas_latencies.high": MS,
    "nas_devices.about": (texts, "names with texts"),
    "nas_packs.networks": (listed(_network), "networks with fingerprint, trial, file and sha256"),
    "nas_profiles.profile": (_profile, "pieces and wholes, each names with milliseconds"),
    "nas_curves.epochs": (
        _points,
        f"points of an epoch, a loss, an accuracy ({_RANGE}) and seconds",
    ),
}


# --- where parameters are drawn from -------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def domain(text: str) -> Callable[[Any], bool] | None:
    """A check of values against a distribution in Optuna's JSON; None for an unsupported one."""
    content = read_json(text)
    if not isinstance(content, dict) or not isinstance(held := content.get("attributes"), dict):
        return None
    if content.get("name") == "CategoricalDistribution" and held.keys() == {"choices"}:
        choices = held["choices"]
        if not choices or not listed(scalar)(choices):
            return None
        return lambda v: any(type(v) is type(choice) and v == choice for choice in choices)
    if held.keys() != {"low", "high", "step", "log"} or type(held["log"]) is not bool:
        return None
    low, high, step = held["low"], held["high"], held["step"]
    if not (number(low) and number(high) and low <= high) or (held["log"] and low <= 0):
        return None
    if content.get("name") == "FloatDistribution" and step is None:
        return lambda v: number(v) and low <= v <= high
    whole = all(type(v) is int for v in (low, high, step))
    if content.get("name") == "IntDistribution" and whole and step >= 1:
        return lambda v: type(v) is int and low <= v <= high and (v - low) % step == 0
    return None
