"""Domains of open symbols: their possible values, how they are sampled, in which repetitions."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nas.errors import SpaceError, nearest
from nas.language.elements import Scalar


class Trial(Protocol):
    """The interface of a trial, Optuna's or ours."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...
    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...


@dataclass(frozen=True, slots=True)
class Choice:
    values: tuple[Scalar, ...]

    def ask(self, trial: Trial, name: str) -> Scalar:
        if len(self.values) == 1:
            return self.values[0]
        value: Scalar = trial.suggest_categorical(name, self.values)
        return value

    def some(self) -> tuple[Scalar, ...]:
        return self.values


@dataclass(frozen=True, slots=True)
class Ints:
    low: int
    high: int
    step: int = 1
    log: bool = False

    def ask(self, trial: Trial, name: str) -> Scalar:
        if self.low == self.high:
            return self.low
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)

    def some(self) -> tuple[Scalar, ...]:
        values = range(self.low, self.high + 1, self.step)
        return tuple(values) if len(values) <= 16 else (values[0], values[1], values[-1])


@dataclass(frozen=True, slots=True)
class Floats:
    low: float
    high: float
    log: bool = False

    def ask(self, trial: Trial, name: str) -> Scalar:
        if self.low == self.high:
            return self.low
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def some(self) -> tuple[Scalar, ...]:
        return self.low, self.high


@dataclass(frozen=True, slots=True)
class Progression:
    """A start value, then each value the previous one times a factor, rounded, at most ``most``."""

    start: tuple[int, ...]
    times: tuple[float, ...]
    most: int

    def ask(self, trial: Trial, name: str, before: int | None = None) -> int:
        if before is None:
            return int(Choice(self.start).ask(trial, name))
        nexts = {self.next(before, factor) for factor in self.times}
        if len(nexts) == 1:
            return nexts.pop()
        key, _, index = name.partition("[")
        factor = Choice(self.times).ask(trial, f"{key}.times{'[' * bool(index)}{index}")
        return self.next(before, float(factor))

    def next(self, before: int, factor: float) -> int:
        return min(self.most, max(1, math.floor(before * factor + 0.5)))

    def some(self) -> tuple[Scalar, ...]:
        return (*self.start, self.most)


Values = Choice | Ints | Floats | Progression


@dataclass(frozen=True, slots=True)
class Domain:
    """The values of an open symbol. ``per`` names the repetitions (by the symbol of their count)
    in which each iteration has a value of its own; with ``first``, only the first iteration of that
    repetition samples one, and the others keep the default."""

    values: Values
    per: tuple[str, ...] = ()
    first: str = ""


# The default domain of optional elements.
PRESENCE = Domain(Choice(("present", "absent")))


# --- from a space file ---------------------------------------------------------------------------

_TEXT = "is text to YAML, not a number: write it out, or as 2.0e+6"
MOST = 10**12  # of any number in a domain; arguments have smaller bounds of their own


def _number(value: Any, where: str, kind: type = float) -> Any:
    _numeric(value, where)
    if type(value) is int or (kind is float and type(value) is float and math.isfinite(value)):
        if abs(value) > MOST:
            raise SpaceError(f"{where}: {str(value)[:24]}: must be at most {MOST:.0e}")
        return value
    raise SpaceError(f"{where}: {value!r}: must be a {'whole ' * (kind is int)}number")


def _numeric(value: Any, where: str) -> None:
    """Refuses text that was probably meant as a number."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            float(value)
            raise SpaceError(f"{where}: {value!r} {_TEXT}")


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise SpaceError(f"{where}: {value!r}: must be yes or no")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise SpaceError(f"{where}: {value!r}: must be a list such as [1, 2]")
    if not value:
        raise SpaceError(f"{where}: empty: must have at least one value")
    return value


def _bounds(value: Any, where: str, kind: type) -> tuple[Any, Any]:
    if not isinstance(value, list) or len(value) != 2:
        raise SpaceError(f"{where}: {value!r}: must be [low, high]")
    low, high = (_number(v, where, kind) for v in value)
    if low > high:
        raise SpaceError(f"{where}: [{low}, {high}] is reversed: the low end comes first")
    return low, high


def _choice(spec: Mapping[str, Any], where: str) -> Choice:
    values = _list(spec["choice"], f"{where}.choice")
    for value in values:
        _numeric(value, f"{where}.choice")
        if not isinstance(value, (str, int, float)):
            raise SpaceError(f"{where}.choice: {value!r}: must be numbers or words")
    if len(set(values)) < len(values):
        raise SpaceError(f"{where}.choice: {values}: each value once")
    return Choice(tuple(values))


def _ints(spec: Mapping[str, Any], where: str) -> Ints:
    low, high = _bounds(spec["int"], f"{where}.int", int)
    step = _number(spec.get("step", 1), f"{where}.step", int)
    log = _flag(spec.get("log", False), f"{where}.log")
    if step < 1:
        raise SpaceError(f"{where}.step: {step}: must be 1 or more")
    if log and (low < 1 or step != 1):
        raise SpaceError(f"{where}.log: a logarithmic domain begins at 1 or more, with step 1")
    return Ints(low, low + (high - low) // step * step, step, log)


def _floats(spec: Mapping[str, Any], where: str) -> Floats:
    low, high = _bounds(spec["float"], f"{where}.float", float)
    log = _flag(spec.get("log", False), f"{where}.log")
    if log and low <= 0:
        raise SpaceError(f"{where}.log: a logarithmic domain begins above 0")
    return Floats(float(low), float(high), log)


def _progression(spec: Mapping[str, Any], where: str) -> Progression:
    if "times" not in spec:
        raise SpaceError(f"{where}: a progression with start also needs times, its factors")
    start = [_number(v, f"{where}.start", int) for v in _list(spec["start"], f"{where}.start")]
    times = [_number(v, f"{where}.times") for v in _list(spec["times"], f"{where}.times")]
    most = _number(spec.get("most", 65_536), f"{where}.most", int)
    if min(start) < 1:
        raise SpaceError(f"{where}.start: {min(start)}: must be 1 or more")
    if min(times) <= 0:
        raise SpaceError(f"{where}.times: {min(times)}: must be above 0")
    if most < max(start):
        raise SpaceError(f"{where}.most: {most}: must be at least the largest start, {max(start)}")
    return Progression(tuple(start), tuple(map(float, times)), most)


KINDS: Mapping[str, tuple[Callable[[Mapping[str, Any], str], Values], frozenset[str]]] = {
    "choice": (_choice, frozenset()),
    "int": (_ints, frozenset({"step", "log"})),
    "float": (_floats, frozenset({"log"})),
    "start": (_progression, frozenset({"times", "most"})),
}


def read_domain(spec: Any, where: str) -> Domain:
    """The domain at ``where`` of a space file; a bare list is a choice, a bare value a choice of
    one."""
    if not isinstance(spec, dict):
        return Domain(_choice({"choice": spec if isinstance(spec, list) else [spec]}, where))
    kinds = [kind for kind in KINDS if kind in spec]
    if set(spec) <= {"per"} and where.endswith("?"):
        return Domain(PRESENCE.values, *_scope(spec, where))
    if len(kinds) != 1:
        it_has = ", ".join(map(str, kinds or spec)) or "none"
        near = nearest(str(next(iter(spec), "")), KINDS) if not kinds else ""
        raise SpaceError(
            f"{where}: needs one of {', '.join(KINDS)}; it has {it_has}{f'; {near}' * bool(near)}"
        )
    read, more = KINDS[kinds[0]]
    known = more | {kinds[0], "per", "first"}
    for key in spec:
        if key not in known:
            raise SpaceError(f"{where}.{key}: unknown key; {nearest(key, known)}")
    return Domain(read(spec, where), *_scope(spec, where))


def _scope(spec: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], str]:
    per, first = spec.get("per", []), spec.get("first", "")
    per = [per] if isinstance(per, str) else per
    if not isinstance(per, list) or not all(isinstance(p, str) for p in per):
        raise SpaceError(f"{where}.per: {per!r}: must name a repetition, such as M")
    if len(set(per)) < len(per):
        raise SpaceError(f"{where}.per: {per!r}: each repetition once")
    if not isinstance(first, str):
        raise SpaceError(f"{where}.first: {first!r}: must name a repetition, such as N")
    return tuple(per), first
