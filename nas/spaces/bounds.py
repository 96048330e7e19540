"""Constraints and objectives as written in space files: bounds on metrics, and directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from nas.errors import SpaceError
from nas.metrics import LARGEST, Direction, metric


@dataclass(frozen=True, slots=True)
class Bound:
    """A constraint on a metric: ``<= 1_000_000`` or ``>= 0.9``."""

    upper: bool
    limit: float

    def excess(self, value: float) -> float:
        """By how much the value breaks the constraint; at most 0 where it holds."""
        return value - self.limit if self.upper else self.limit - value

    def __str__(self) -> str:
        exact = (
            int(self.limit) if self.limit.is_integer() and abs(self.limit) < 2**53 else self.limit
        )
        return f"{'<=' if self.upper else '>='} {exact!r}"


def read_bound(text: object, where: str) -> Bound:
    match = re.fullmatch(r"\s*(<=|>=)\s*(-?[\d_.]+(?:[eE][+-]?\d+)?)\s*", str(text))
    try:
        if match and abs(limit := float(match[2])) <= LARGEST:
            return Bound(match[1] == "<=", limit)
    except ValueError:
        pass
    rule = f"must be a bound such as '<= 1_000_000' or '>= 0.9', of at most {LARGEST:g}"
    raise SpaceError(f"{where}: {text!r}: {rule}")


def far(over: Mapping[str, float], bounds: Mapping[str, Bound]) -> float:
    """The total distance from the bounds: the sum of the excesses ``over``, each relative to its
    bound."""
    return sum(max(0.0, by) / (abs(bounds[name].limit) or 1.0) for name, by in over.items())


def refuse_unmet(name: str, bound: Bound, where: str) -> None:
    """Raises SpaceError for a bound that no value of the metric can meet."""
    known = metric(name)
    over = bound.excess(known.least if bound.upper else known.most)
    if over < 0 or (over == 0 and not (bound.upper and known.positive)):
        return
    rule = "more than 0" if known.positive else f"{known.least:g} or more"
    if known.most < LARGEST:
        rule = f"a fraction from {known.least:g} to {known.most:g}"
    raise SpaceError(f"{where}: no network can keep it: {name} is {rule}")


def read_direction(text: object, where: str) -> Direction:
    if text == "max" or text == "min":
        return text
    raise SpaceError(f"{where}: {text!r}: must be max or min")
