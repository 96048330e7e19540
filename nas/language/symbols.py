"""The open symbols of a pattern: their places, and the requirements on their domains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from nas.errors import PatternError, SpaceError, nearest
from nas.language.domains import PRESENCE, Choice, Domain, Ints
from nas.language.elements import CLASSES, Parameter, parameters, recipe, unknown
from nas.language.expansion import MAX_ELEMENTS, arguments, filled
from nas.language.pattern import Call, Chain, Maybe, Repeat, Symbol, Tree, read, write

# The values of each element symbol: the pattern of each.
Elements = Mapping[str, Mapping[str, Tree]]


@dataclass(frozen=True, slots=True)
class OpenSymbol:
    """An occurrence of an open symbol: the possible names of its domain, of which the first with a
    domain counts, the requirement on its values, and the repetitions around it."""

    names: tuple[str, ...]
    kind: Literal["count", "present", "element", "value", "argument"]
    scope: tuple[str, ...]
    parameter: Parameter | None = None

    @property
    def needed(self) -> bool:
        """Whether it must have a domain, as it has no default."""
        required = self.parameter is not None and self.parameter.required
        return self.kind in ("count", "value") or (self.kind == "argument" and required)


def alternatives(tree: Chain, domains: Mapping[str, Domain]) -> Elements:
    """The values of each element symbol. Raises SpaceError or PatternError."""
    found: dict[str, Mapping[str, Tree]] = {}
    for call in _calls(tree):
        if call.name == "INPUT" or recipe(call.name) is not None:
            continue
        if call.name not in domains:
            raise PatternError(f"{write(call)}: {unknown(call.name)}, or a domain under where")
        values = domains[call.name].values
        if not isinstance(values, Choice) or not all(isinstance(v, str) for v in values.values):
            raise SpaceError(f"where.{call.name}: must be a choice of elements, such as [PLAIN]")
        trees = {str(v): _alternative(str(v), call.name) for v in values.values}
        takes = {p.name for t in trees.values() if isinstance(t, Call) for p in parameters(t.name)}
        for name, _ in call.args:
            if name is None:
                raise PatternError(f"{write(call)}: arguments of an element symbol are named")
            if name not in takes:
                raise PatternError(
                    f"{write(call)}: unknown argument {name}; {nearest(name, takes)}"
                )
        found[call.name] = trees
    return found


def _alternative(text: str, symbol: str) -> Tree:
    try:
        tree = read(text)
    except PatternError as error:
        raise SpaceError(f"where.{symbol}: {text!r}: {error}") from None
    for call in _calls(tree):
        if recipe(call.name) is None:
            raise SpaceError(f"where.{symbol}: {text!r}: {unknown(call.name)}")
    only = tree.items[0]
    return only if len(tree.items) == 1 else tree


def _calls(tree: Tree) -> Iterator[Call]:
    match tree:
        case Call():
            yield tree
        case Repeat(body, _) | Maybe(body):
            yield from _calls(body)
        case Chain(items):
            for item in items:
                yield from _calls(item)


def symbols(tree: Chain, elements: Elements) -> Iterator[OpenSymbol]:
    """Every open symbol of a pattern, including arguments left at their defaults."""
    last = tree.items[-1]
    head = last if isinstance(last, Call) and last.name == "FC" else None
    for item in tree.items:
        for found in _symbols(item, elements, ()):
            if not (item is head and found.names == ("FC.width",)):
                yield found


def _symbols(
    tree: Tree, elements: Elements, scope: tuple[str, ...], alias: str = ""
) -> Iterator[OpenSymbol]:
    match tree:
        case Chain(items):
            for item in items:
                yield from _symbols(item, elements, scope)
        case Repeat(body, count):
            if isinstance(count, Symbol):
                yield OpenSymbol((count.name,), "count", scope)
                scope = (*scope, count.name)
            yield from _symbols(body, elements, scope)
        case Maybe(body):
            yield OpenSymbol((write(tree),), "present", scope)
            yield from _symbols(body, elements, scope)
        case Call("INPUT"):
            pass
        case Call(name) if name in elements:
            yield OpenSymbol((name,), "element", scope)
            for alternative in elements[name].values():
                yield from _symbols(filled(alternative, tree), elements, scope, name)
        case Call():
            for argument in arguments(tree, alias):
                p, value = argument.parameter, argument.value
                if isinstance(value, Symbol) and value.name not in p.words:
                    yield OpenSymbol((value.name,), "value", scope, p)
                elif value is None and p.name != CLASSES:
                    yield OpenSymbol(argument.names, "argument", scope, p)


def check(tree: Chain, elements: Elements, domains: Mapping[str, Domain]) -> None:
    """Checks that every domain belongs to an open symbol and has valid values, and that every
    symbol without a default has a domain. Raises SpaceError or PatternError, with the place."""
    _check_written(Chain(tree.items[1:]))
    for trees in elements.values():
        for alternative in trees.values():
            _check_written(alternative)
    found = list(symbols(tree, elements))
    known = {name for symbol in found for name in symbol.names}
    for name in domains:
        if name not in known:
            near = nearest(name, known)
            raise SpaceError(f"where.{name}: nothing in the pattern has that name; {near}")
    for symbol in found:
        named = [name for name in symbol.names if name in domains]
        for name in named:
            _check_values(symbol, domains[name], f"where.{name}")
            _check_scope(symbol, domains[name], f"where.{name}")
        if not named and symbol.needed:
            name = symbol.names[-1]
            rule = f", {symbol.parameter.rule}" if symbol.parameter else ""
            raise SpaceError(f"{name} is open: it needs a domain under where{rule}")


def _check_written(tree: Tree) -> None:
    """Checks written arguments, whether or not a draw reaches them."""
    match tree:
        case Chain(items):
            for item in items:
                _check_written(item)
        case Maybe(body):
            _check_written(body)
        case Repeat(body, count):
            if isinstance(count, int) and not 0 <= count <= MAX_ELEMENTS:
                rule = f"must be a whole number from 0 to {MAX_ELEMENTS}"
                raise PatternError(f"{write(tree)}: {count} repeats: {rule}")
            _check_written(body)
        case Call("INPUT"):
            raise PatternError(f"{write(tree)}: {unknown('INPUT')}")
        case Call(name) if recipe(name) is not None:
            try:
                for argument in arguments(tree):
                    p, value = argument.parameter, argument.value
                    if value is not None and not isinstance(value, Symbol):
                        p.check(value)
            except PatternError as error:
                raise PatternError(f"{write(tree)}: {error}") from None


def _check_scope(symbol: OpenSymbol, domain: Domain, where: str) -> None:
    for key, names in (("per", domain.per), ("first", (domain.first,) if domain.first else ())):
        for name in names:
            if name not in symbol.scope:
                around = f"inside {', '.join(symbol.scope)}" if symbol.scope else "in no repetition"
                raise SpaceError(
                    f"{where}.{key}: {name}: must be a repetition around every place that it "
                    f"fills; one is {around} (a value in the pattern leaves a place out)"
                )
    optional = symbol.parameter is not None and not symbol.parameter.required
    if domain.first and not (symbol.kind == "argument" and optional):
        raise SpaceError(f"{where}.first: only an argument with a default takes it")


def _check_values(symbol: OpenSymbol, domain: Domain, where: str) -> None:
    values = domain.values
    if symbol.kind == "count":
        if not isinstance(values, (Choice, Ints)):
            raise SpaceError(f"{where}: must be int or choice: it counts repetitions")
        for value in values.some():
            if type(value) is not int or not 0 <= value <= MAX_ELEMENTS:
                raise SpaceError(f"{where}: {value!r}: must be from 0 to {MAX_ELEMENTS} repeats")
    elif symbol.kind == "present":
        if not isinstance(values, Choice) or not {*values.values} <= {*PRESENCE.values.some()}:
            raise SpaceError(f"{where}: must be a choice of present and absent")
    elif symbol.parameter is not None:
        for value in values.some():
            try:
                symbol.parameter.check(value)
            except PatternError as error:
                raise SpaceError(f"{where}: {error}") from None
