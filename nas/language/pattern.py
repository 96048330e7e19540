"""The pattern language: text <-> tree.

    pattern  = element { "->" element }
    element  = primary [ "*" count ] [ "?" ]           ? = may be absent
    primary  = NAME [ "(" argument { "," argument } ")" ]  |  "[" pattern "]"
    argument = [ NAME "=" ] ( number | NAME )
    count    = integer | NAME

``read`` and ``write`` are inverse: ``read(write(tree)) == tree``. Names (layers, blocks, symbols of
a space) are resolved elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from nas.errors import PatternError, brief

MAX_TEXT = 100_000
MAX_NESTING = 32


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name in place of a value: a word such as ``max``, or an open symbol."""

    name: str
    at: int = field(default=0, compare=False)


Value = int | float | Symbol


@dataclass(frozen=True, slots=True)
class Call:
    """A layer, a block or an element symbol, with its written arguments (unnamed ones first)."""

    name: str
    args: tuple[tuple[str | None, Value], ...] = ()
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Repeat:
    body: Chain | Call
    count: int | Symbol


@dataclass(frozen=True, slots=True)
class Maybe:
    """An element that may be absent."""

    body: Chain | Call | Repeat


@dataclass(frozen=True, slots=True)
class Chain:
    items: tuple[Call | Repeat | Maybe, ...]


Tree = Call | Repeat | Maybe | Chain


# --- text -> tree --------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<arrow>->)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<number>\d+(?:_\d+)*(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])|(?P<mark>[\[\](),=*?])",
    re.ASCII,
)


def place(text: str, at: int) -> str:
    """``column 12``, or ``line 2, column 12`` where the text has several lines."""
    line, column = text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1
    return f"line {line}, column {column}" if "\n" in text.strip() else f"column {column}"


def _number(text: str) -> int | float:
    """A number; infinite beyond a float's range, where Python may refuse to parse an integer."""
    value = float(text)
    whole = re.fullmatch(r"[\d_]+", text) and math.isfinite(value)
    return int(text) if whole else value


class _Reader:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise PatternError(f"a pattern is text, not {brief(repr(text), 60)}")
        if len(text) > MAX_TEXT:
            raise PatternError(
                f"the pattern has {len(text)} characters: must be at most {MAX_TEXT}"
            )
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        self.i = self.depth = 0
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                self.fail("a layer, '->', '[', ']', '*', '?' or an argument", at, repr(text[at]))
            kind = str(match.lastgroup)
            if kind != "space":
                self.tokens.append((kind, match[0], at))
            at = match.end()
        self.tokens.append(("end", "the end", len(text)))

    def fail(self, expected: str, at: int, found: str) -> NoReturn:
        raise PatternError(f"{place(self.text, at)}: expected {expected}, found {found}")

    def expected(self, what: str) -> NoReturn:
        kind, found, at = self.tokens[self.i]
        self.fail(what, at, found if kind == "end" else repr(found))

    def take(self, *wanted: str) -> str | None:
        """The next token's text, where its kind or text is one of ``wanted``; else None."""
        kind, text, _ = self.tokens[self.i]
        if kind in wanted or (kind in ("mark", "arrow") and text in wanted):
            self.i += 1
            return text
        return None

    def chain(self) -> Chain:
        items = self.element()
        while self.take("->"):
            items += self.element()
        return Chain(items)

    def element(self) -> tuple[Call | Repeat | Maybe, ...]:
        primary = self.primary()
        body: Chain | Call | Repeat = primary
        if self.take("*"):
            at = self.tokens[self.i][2]
            if number := self.take("number"):
                count = _number(number)
                if not isinstance(count, int):
                    self.fail("a whole number of repeats", at, repr(number))
                body = Repeat(primary, count)
            elif name := self.take("name"):
                body = Repeat(primary, Symbol(name, at))
            else:
                self.expected("a number of repeats or a symbol after '*'")
        if self.take("?"):
            return (Maybe(body),)
        return body.items if isinstance(body, Chain) else (body,)

    def primary(self) -> Chain | Call:
        if self.take("["):
            self.depth += 1
            if self.depth > MAX_NESTING:
                self.fail(f"at most {MAX_NESTING} brackets in one another", self.tokens[self.i][2],
                          "more")  # fmt: skip
            body = self.chain()
            if not self.take("]"):
                self.expected("'->' or ']'")
            self.depth -= 1
            only = body.items[0]
            return only if len(body.items) == 1 and isinstance(only, Call) else body
        at = self.tokens[self.i][2]
        name = self.take("name")
        if name is None:
            self.expected("a layer, a block or '['")
        return Call(name, self.arguments() if self.take("(") else (), at)

    def arguments(self) -> tuple[tuple[str | None, Value], ...]:
        args: list[tuple[str | None, Value]] = []
        while not self.take(")"):
            if args and not self.take(","):
                self.expected("',' or ')'")
            at = self.tokens[self.i][2]
            name = self.take("name")
            if name is not None and not self.take("="):
                args.append((None, Symbol(name, at)))
            else:
                if name is None and args and args[-1][0] is not None:
                    self.expected("a named argument, since the one before it is named")
                if name is not None and name in [n for n, _ in args]:
                    self.fail("each argument once", at, f"{name!r} again")
                args.append((name, self.value()))
        return tuple(args)

    def value(self) -> Value:
        at = self.tokens[self.i][2]
        if number := self.take("number"):
            return _number(number)
        name = self.take("name")
        if name is None:
            self.expected("a number, a word or a symbol")
        return Symbol(name, at)


def read(text: str) -> Chain:
    """The tree of a pattern. Raises PatternError with the place and what was expected there."""
    reader = _Reader(text)
    tree = reader.chain()
    if not reader.take("end"):
        reader.expected("'->', '*', '?' or the end")
    return tree


# --- tree -> text --------------------------------------------------------------------------------


def write(tree: Tree) -> str:
    """The text of a tree, on one line."""
    match tree:
        case Call(name, args):
            arguments = [f"{key}={_value(v)}" if key else _value(v) for key, v in args]
            return f"{name}({', '.join(arguments)})" if arguments else name
        case Repeat(body, count):
            return f"{_bracket(body)}*{_value(count)}"
        case Maybe(body):
            return f"{_bracket(body)}?"
        case Chain(items):
            return " -> ".join(map(write, items))


def _bracket(body: Chain | Call | Repeat) -> str:
    return f"[{write(body)}]" if isinstance(body, Chain) else write(body)


def _value(value: Value) -> str:
    return value.name if isinstance(value, Symbol) else repr(value)


def repeats(texts: Sequence[str]) -> list[tuple[int, int]]:
    """The repetitions in a chain whose elements have these texts: its outermost parts in order,
    each as (elements of its body, repetitions). Greedy from left to right: at each element, takes
    the repetition that saves most elements, of equal ones that with the shortest body."""
    parts: list[tuple[int, int]] = []
    n, i = len(texts), 0
    while i < n:
        best, period, count = 0, 1, 1
        for p in range(1, (n - i) // 2 + 1):
            if texts[i] != texts[i + p]:
                continue
            r = 1
            while texts[i + r * p : i + (r + 1) * p] == texts[i : i + p]:
                r += 1
            if p * (r - 1) > best:
                best, period, count = p * (r - 1), p, r
        parts.append((period, count))
        i += period * count
    return parts


def fold(texts: Sequence[str]) -> list[tuple[str, int]]:
    """Folds repeats: the outermost parts of a chain whose elements have these texts, each with the
    number of elements in it."""
    parts: list[tuple[str, int]] = []
    at = 0
    for period, count in repeats(texts):
        body = texts[at]
        if period > 1:
            inner = fold(texts[at : at + period])
            body = f"[{' -> '.join(text for text, _ in inner)}]"
        parts.append((f"{body}*{count}" if count > 1 else body, period * count))
        at += period * count
    return parts
