"""How a search space's open symbols get their values: uniform draws, and the rules by which a
parameter without effect is not sampled."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

from nas.errors import ShapeError
from nas.language.domains import PRESENCE, Domain, Progression, Trial
from nas.language.elements import Args, Scalar, expression, recipe
from nas.language.expansion import Argument, Scope, StillOpen
from nas.language.expression import Cost, Node, Shape, acting
from nas.language.pattern import Tree


class Draw:
    """A trial that draws uniformly with ``rng``, except for given parameters. ``params`` records
    the sampled values; ``odds`` is one over the probability of drawing all of them in turn,
    infinite where a float was drawn."""

    def __init__(self, rng: random.Random, given: Mapping[str, Scalar] | None = None) -> None:
        self.rng = rng
        self.given = given or {}
        self.params: dict[str, Any] = {}
        self.odds = 1.0

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        given = self.given.get(name)
        # The choice itself, not an equal value: 1.0 and True equal 1.
        known = given in choices
        at = choices.index(given) if known else self.rng.randrange(len(choices))
        return self._told(name, choices[at], len(choices))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        given = self.given.get(name)
        values = range(low, high + 1, step)
        if type(given) is int and given in values:
            value = given
        elif log:
            value = min(high, int(low * ((high + 1) / low) ** self.rng.random()))
        else:
            value = values[self.rng.randrange(len(values))]
        odds = math.log((high + 1) / low) / math.log((value + 1) / value) if log else len(values)
        return int(self._told(name, value, odds))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        given = self.given.get(name)
        u = self.rng.random()
        value = low * (high / low) ** u if log else low + (high - low) * u
        if isinstance(given, float) and low <= given <= high:
            value = given
        return float(self._told(name, value, math.inf))

    def _told(self, name: str, value: Any, odds: float) -> Any:
        self.params[name] = value
        self.odds *= odds
        return value


class Chosen:
    """The chooser of one draw: gets each open symbol's value from the trial, once. ``used`` are the
    domains that were sampled."""

    def __init__(
        self,
        domains: Mapping[str, Domain],
        elements: Mapping[str, Mapping[str, Tree]],
        trial: Trial,
    ) -> None:
        self.domains = domains
        self.elements = elements
        self.trial = trial
        self.values: dict[tuple[str, tuple[int, ...]], Scalar] = {}
        self.last: dict[str, int] = {}
        self.used: set[str] = set()

    def value(self, key: str, domain: Domain, scope: Scope) -> Scalar:
        self.used.add(key)
        index = tuple([scope[name] for name in domain.per])
        known = self.values.get((key, index))
        if known is not None:
            return known
        name = f"{key}[{','.join(map(str, index))}]" if index else key
        value: Scalar
        if isinstance(domain.values, Progression):
            value = self.last[key] = domain.values.ask(self.trial, name, self.last.get(key))
        else:
            value = domain.values.ask(self.trial, name)
        self.values[key, index] = value
        return value

    def symbol(self, name: str, scope: Scope) -> Scalar:
        domain = self.domains.get(name)
        if domain is None:
            raise StillOpen(f"{name} is open and has no domain under where")
        return self.value(name, domain, scope)

    def argument(self, argument: Argument, known: Args, x: Shape, scope: Scope) -> Scalar | None:
        key = next((name for name in argument.names if name in self.domains), None)
        if key is None:
            return None
        domain = self.domains[key]
        if scope.get(domain.first, 1) != 1:
            return None
        p = argument.parameter
        if p.required:
            return self.value(key, domain, scope)
        # Converted to the argument's type: to a cache, 0 and 0.0 are equal.
        values = tuple(p.check(value) for value in domain.values.some())
        make = recipe(argument.owner)
        assert make is not None
        match _offered(make, p.name, values, known, x):
            case "domain":
                return self.value(key, domain, scope)
            case "first":
                return values[0]
            case "default":
                return None

    def present(self, name: str, scope: Scope) -> bool:
        domain = self.domains.get(name, PRESENCE)
        return self.value(name, domain, scope) == "present"

    def element(self, name: str, scope: Scope) -> Tree | None:
        domain = self.domains.get(name)
        alternatives = self.elements.get(name)
        if domain is None or alternatives is None:
            return None
        return alternatives[str(self.value(name, domain, scope))]


@lru_cache(maxsize=65_536)
def _offered(
    make: Callable[..., Node], name: str, values: tuple[Scalar, ...], known: Args, x: Shape
) -> Literal["domain", "first", "default"]:
    """The source of an optional argument's value: its domain, if all values fit the map and they
    differ in effect, or there is only one value. Without a difference, as for the expansion of a
    block without a bottleneck, the argument is not sampled: it takes its default where that has the
    same effect, else the first value."""

    def effect(args: Args) -> tuple[Node, Cost] | None:
        """None where the element does not fit the map."""
        try:
            node, cost = expression(make, args, x)
            return acting(node, x), cost
        except ShapeError:
            return None

    effects = [effect((*known, (name, value))) for value in values]
    if None in effects:
        return "default"
    if len({*values}) == 1 or any(each != effects[0] for each in effects):
        return "domain"
    return "default" if effect(known) == effects[0] else "first"
