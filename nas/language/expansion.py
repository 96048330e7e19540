"""Walks a pattern's tree, chooses values for open symbols, and turns it into steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn, Protocol

from nas.errors import PatternError, ShapeError, nearest
from nas.language.elements import (
    CLASSES,
    Args,
    Parameter,
    Scalar,
    Step,
    parameters,
    realise,
    recipe,
    unknown,
)
from nas.language.expression import Node, Shape, show
from nas.language.pattern import Call, Chain, Maybe, Repeat, Symbol, Tree, Value, place, write

MAX_ELEMENTS = 4_096
Scope = Mapping[str, int]  # each repetition's current iteration, from 1, by its count's symbol


class Chooser(Protocol):
    """Chooses the values of a pattern's open parts; see ``nas.spaces.draws``."""

    def symbol(self, name: str, scope: Scope) -> Scalar: ...
    def argument(
        self, argument: Argument, known: Args, x: Shape, scope: Scope
    ) -> Scalar | None: ...
    def present(self, name: str, scope: Scope) -> bool: ...
    def element(self, name: str, scope: Scope) -> Tree | None: ...


class StillOpen(PatternError):
    """A pattern has open parts where a closed one was expected."""


class _Closed:
    """The chooser of a pattern that must be closed."""

    def symbol(self, name: str, scope: Scope) -> NoReturn:
        raise StillOpen(f"{name} is open: an architecture needs a number there")

    def argument(self, argument: Argument, known: Args, x: Shape, scope: Scope) -> None:
        return None

    def present(self, name: str, scope: Scope) -> NoReturn:
        raise StillOpen(f"{name} is open: an architecture has the element or has it not")

    def element(self, name: str, scope: Scope) -> None:
        return None


CLOSED = _Closed()


def expand(
    items: Sequence[Tree], chooser: Chooser, x: Shape, classes: int, head: Call | None, text: str
) -> list[Step]:
    """The elements after INPUT, each with its output shape and cost; ``x`` is the first input
    shape. ``chooser`` chooses values for open symbols, in pattern order; an open width of ``head``,
    the last FC, is ``classes``. Raises PatternError and ShapeError, which name the place in
    ``text``, where that is known."""
    expansion = _Expansion(chooser, x, classes, head, text)
    for item in items:
        expansion.add(item, {})
    return expansion.steps


class _Expansion:
    """Walks a tree, closing it with a chooser."""

    def __init__(
        self, chooser: Chooser, x: Shape, classes: int, head: Call | None, text: str
    ) -> None:
        self.chooser = chooser
        self.x = x
        self.classes = classes
        self.head = head
        self.text = text
        self.steps: list[Step] = []
        self.rounds = 0

    def add(self, tree: Tree, scope: Scope) -> None:
        match tree:
            case Chain(items):
                for item in items:
                    self.add(item, scope)
            case Repeat(body, count):
                name = count.name if isinstance(count, Symbol) else ""
                n = self.chooser.symbol(name, scope) if isinstance(count, Symbol) else count
                if type(n) is not int or not 0 <= n <= MAX_ELEMENTS:
                    rule = f"must be a whole number from 0 to {MAX_ELEMENTS}"
                    raise PatternError(f"{write(tree)}: {n} repeats: {rule}")
                for i in range(1, n + 1):
                    self.rounds += 1
                    if self.rounds > MAX_ELEMENTS:
                        raise ShapeError(f"more than {MAX_ELEMENTS} elements after INPUT")
                    self.add(body, {**scope, name: i} if name else scope)
            case Maybe(body):
                if self.fits(body) and self.chooser.present(write(tree), scope):
                    self.add(body, scope)
            case Call():
                self.call(tree, scope)

    def fits(self, body: Tree) -> bool:
        """Whether an optional element can be present, as far as is known before its open parts are
        chosen; if not, its presence is not sampled."""
        trial = _Expansion(CLOSED, self.x, self.classes, None, self.text)
        try:
            trial.add(body, {})
        except ShapeError:
            return False
        except PatternError:
            return True
        return True

    def call(self, call: Call, scope: Scope, alias: str = "") -> None:
        """Adds one element; ``alias`` is the element symbol that it replaces."""
        if recipe(call.name) is None:
            self.substitute(call, scope)
            return
        if len(self.steps) >= MAX_ELEMENTS:
            raise ShapeError(f"more than {MAX_ELEMENTS} elements after INPUT")
        try:
            steps = realise(call.name, self.arguments(call, scope, alias), self.x)
        except ShapeError as error:
            where = self.where(call, scope)
            raise ShapeError(f"{where}: {error}; {show(self.x)} reaches it") from None
        except PatternError as error:
            raise type(error)(f"{self.where(call, scope)}: {error}") from None
        self.steps += steps
        self.x = steps[-1].cost.shape if steps else self.x

    def substitute(self, call: Call, scope: Scope) -> None:
        """Expands an element symbol to its chosen element, with the arguments written here."""
        chosen = self.chooser.element(call.name, scope)
        if chosen is None:
            raise PatternError(f"{self.where(call, scope)}: {unknown(call.name)}")
        element = filled(chosen, call)
        if isinstance(element, Call):
            self.call(element, scope, call.name)
        else:
            self.add(element, scope)

    def arguments(self, call: Call, scope: Scope, alias: str) -> Args:
        args: dict[str, Scalar] = {}
        for argument in arguments(call, alias):
            p = argument.parameter
            value: object = argument.value
            if p.name == CLASSES or (value is None and call is self.head and p.name == "width"):
                value = self.classes
            elif value is None:
                value = self.chooser.argument(argument, tuple(args.items()), self.x, scope)
                if value is None and p.required:
                    raise PatternError(f"{call.name} needs {p.name}, {p.rule}")
            elif isinstance(value, Symbol) and value.name not in p.words:
                value = self.symbol(value, p, scope)
            # A default is left out: a plug-in's may be of another type, such as 2 for 2.0, and give
            # one text two fingerprints.
            if value is not None and (checked := p.check(value)) != p.default:
                args[p.name] = checked
        return tuple((p.name, args[p.name]) for p in parameters(call.name) if p.name in args)

    def symbol(self, symbol: Symbol, p: Parameter, scope: Scope) -> Scalar:
        try:
            return self.chooser.symbol(symbol.name, scope)
        except StillOpen:
            if p.words:
                raise PatternError(f"{p.name} is {symbol.name}: must be {p.rule}") from None
            raise

    def where(self, call: Call, scope: Scope) -> str:
        at = f" at {place(self.text, call.at)}" if self.text else ""
        turn = ", ".join(f"{name} {i}" for name, i in scope.items())
        return f"{write(call)}{at}{f' (repetition {turn})' if turn else ''}"


def filled(chosen: Tree, symbol: Call) -> Tree:
    """An element symbol's replacement: the chosen element, plus the arguments written at the symbol
    that it accepts and does not have."""
    if not isinstance(chosen, Call) or not symbol.args:
        return chosen
    takes = parameters(chosen.name)
    written = {key or p.name for p, (key, _) in zip(takes, chosen.args, strict=False)}
    known = {p.name for p in takes} - written
    more = tuple(arg for arg in symbol.args if arg[0] in known)
    return Call(chosen.name, chosen.args + more, symbol.at)


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a call: its written value, or None, and the possible names of its domain."""

    owner: str
    parameter: Parameter
    value: Value | None
    names: tuple[str, ...]


def arguments(call: Call, alias: str = "") -> tuple[Argument, ...]:
    """The arguments of a layer or block; ``alias`` is the element symbol that it replaces.

    Required and written ones come first: whether an optional one matters, and fits, depends on
    them. Raises PatternError.
    """
    keys = tuple(key for key, _ in call.args)
    return _arguments(recipe(call.name), call.name, alias, keys, *(value for _, value in call.args))


# ``typed``, and values as separate arguments: otherwise 16.0 would hit the entry of 16.
@lru_cache(maxsize=1_024, typed=True)
def _arguments(
    make: Callable[..., Node] | None,
    name: str,
    alias: str,
    keys: tuple[str | None, ...],
    *values: Value,
) -> tuple[Argument, ...]:
    takes = parameters(name)
    known = [p.name for p in takes if p.name != CLASSES]
    if len(values) > len(known):
        raise PatternError(f"{len(values)} arguments, but it takes {len(known)}")
    written: dict[str, Value] = {}
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        argument = known[i] if key is None else key
        if argument not in known:
            raise PatternError(f"unknown argument {argument}; {nearest(argument, known)}")
        if argument in written:
            raise PatternError(f"{argument} is given twice")
        written[argument] = value
    owners = (alias, name) if alias else (name,)
    return tuple(
        Argument(name, p, written.get(p.name), tuple(f"{o}.{p.name}" for o in owners))
        for p in sorted(takes, key=lambda p: (not p.required, p.name not in written))
    )
