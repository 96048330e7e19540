"""Resolves names in a pattern: a layer's or block's recipe, its arguments, the node it makes."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import types
import typing
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from nas.errors import NasError, PatternError, ShapeError, nearest
from nas.language.blocks import BLOCKS
from nas.language.expression import Cost, Node, Seq, Shape
from nas.language.layers import LAYERS, Divides, Narrows, Range
from nas.language.pattern import Symbol

Scalar = int | float | str
Args = tuple[tuple[str, Scalar], ...]
WORDS: Mapping[str, bool] = {"yes": True, "no": False}

# An argument of this name is never written: it takes the number of classes.
CLASSES = "classes"


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument of a layer or a block, as annotated in its recipe. ``narrowest`` is the least
    value that pruning may set; 0: pruning leaves it unchanged. ``divides``: see ``Divides``."""

    name: str
    kind: Literal["int", "float", "bool", "word"]
    low: float
    high: float
    words: tuple[str, ...]
    default: Any  # inspect.Parameter.empty where the argument must be given
    narrowest: int = 0
    open: bool = False  # of a float: excludes ``low``
    divides: bool = False

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def rule(self) -> str:
        match self.kind:
            case "bool" | "word":
                return "one of " + ", ".join(self.words)
            case "int":
                return f"a whole number from {self.low:.0f} to {self.high:.0f}"
            case "float":
                begin = f"above {self.low:g} and up" if self.open else f"from {self.low:g}"
                return f"a number {begin} to {self.high:g}"

    def check(self, value: object) -> Scalar:
        """The value in the parameter's type. Raises PatternError, which names the rule."""
        plain = value.name if isinstance(value, Symbol) else value
        match self.kind:
            case "int":
                if type(plain) is int and self.low <= plain <= self.high:
                    return plain
            case "word":
                if isinstance(plain, str) and plain in self.words:
                    return plain
            case "bool":
                given = WORDS.get(plain) if isinstance(plain, str) else plain
                if isinstance(given, bool):
                    return given
            case "float":
                if type(plain) is int or type(plain) is float:
                    above = self.low < plain if self.open else self.low <= plain
                    if above and plain <= self.high:
                        return float(plain) + 0.0  # -0.0 becomes 0.0
        raise PatternError(f"{self.name} is {plain!r}: must be {self.rule}")


def recipe(name: str) -> Callable[..., Node] | None:
    """The layer's or block's recipe, or None for a name that is neither."""
    return LAYERS.get(name) or BLOCKS.get(name)


def names() -> list[str]:
    return ["INPUT", *map(str, [*LAYERS, *BLOCKS])]


def unknown(name: str) -> str:
    """A clause for an error about an unknown name."""
    if name == "INPUT":
        return "INPUT stands at the beginning alone"
    return f"unknown layer or block {name}, unless a --plugin adds it; {nearest(name, names())}"


def parameters(name: str) -> tuple[Parameter, ...]:
    """The arguments of a known layer or block, in the order in which they may be written."""
    make = recipe(name)
    assert make is not None
    return _parameters(make)


@lru_cache(maxsize=256)
def _parameters(make: Callable[..., Node]) -> tuple[Parameter, ...]:
    function = make.__init__ if inspect.isclass(make) else make
    with _blamed(make):
        hints = typing.get_type_hints(function, include_extras=True)
        return tuple(
            _parameter(p.name, hints.get(p.name), p.default)
            for p in inspect.signature(make).parameters.values()
            if p.kind is p.KEYWORD_ONLY or inspect.isclass(make)
        )


@contextlib.contextmanager
def _blamed(make: object) -> Iterator[None]:
    """Raises PatternError for any error of a plug-in's layer or block."""
    try:
        yield
    except NasError:
        raise
    except Exception as error:
        name = getattr(make, "__name__", repr(make))
        raise PatternError(f"its Python, {name}, fails: {type(error).__name__}: {error}") from error


def _parameter(name: str, hint: Any, default: Any) -> Parameter:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(h for h in typing.get_args(hint) if h is not types.NoneType)
    low, high, narrowest, above, divides = 0.0, 65_536.0, 0, False, False
    for extra in getattr(hint, "__metadata__", ()):
        match extra:
            case Range():
                low, high, above = extra
            case Narrows():
                narrowest = extra.least
            case Divides():
                divides = True
    base = hint.__origin__ if hasattr(hint, "__metadata__") else hint
    if base is bool:
        return Parameter(name, "bool", 0, 0, tuple(WORDS), default)
    if typing.get_origin(base) is Literal:
        return Parameter(name, "word", 0, 0, typing.get_args(base), default)
    kinds: dict[Any, Literal["int", "float"]] = {int: "int", float: "float"}
    if base not in kinds:
        raise PatternError(
            f"a block's argument {name} is annotated {hint!r}: must be int, float, bool or Literal"
        )
    return Parameter(name, kinds[base], low, high, (), default, narrowest, above, divides)


# --- a closed element ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """A closed element in its network: its canonical name and arguments, its node, its input shape
    and its cost. Equality compares the node, as fingerprints do."""

    name: str = field(compare=False)
    args: Args = field(compare=False)
    node: Node
    x: Shape
    cost: Cost

    def __str__(self) -> str:
        arguments = ", ".join(f"{key}={_text(value)}" for key, value in self.args)
        return f"{self.name}({arguments})" if arguments else self.name


def _text(value: Scalar) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else repr(value)


# Stages repeat and draws are alike: the caches make a draw of 40 elements 4x faster.
_cached = lru_cache(maxsize=65_536)


@_cached
def expression(make: Callable[..., Node], args: Args, x: Shape) -> tuple[Node, Cost]:
    """The node that a recipe makes for ``x``, and its cost. Raises ShapeError, and PatternError
    where a plug-in's recipe returns no node."""
    with _blamed(make):
        node = make(**dict(args)) if make in LAYERS.values() else make(x, **dict(args))
        if not isinstance(node, Node):
            raise PatternError(f"it makes {node!r}: must be a layer or an expression of layers")
        cost = node.cost(x)
    if not isinstance(cost, Cost):
        raise PatternError(f"its cost is {cost!r}: must be Cost(shape, params, macs)")
    return node, cost


def realise(name: str, args: Args, x: Shape) -> tuple[Step, ...]:
    """The steps of a layer or block with checked arguments. A block that is a plain sequence of
    layers becomes those layers, so that equal networks have one text. Raises ShapeError."""
    make = recipe(name)
    assert make is not None
    return _realise(make, name, args, x)


@_cached
def _realise(make: Callable[..., Node], name: str, args: Args, x: Shape) -> tuple[Step, ...]:
    node, cost = expression(make, args, x)
    items = node.items if isinstance(node, Seq) else (node,)
    layers = [(item, known) for item in items if (known := layer(item))]
    if len(layers) < len(items):
        return (Step(name, _canonical(make, args, x, node, cost), node, x, cost),)
    steps = []
    for item, known in layers:
        steps.append(Step(*known, item, x, item.cost(x)))
        x = steps[-1].cost.shape
    return tuple(steps)


def _canonical(make: Callable[..., Node], args: Args, x: Shape, node: Node, cost: Cost) -> Args:
    """A block's canonical arguments, the same for equal networks: its output width instead of
    arguments that follow from it, one of equivalent divisors, and no redundant argument."""

    def same(kept: Mapping[str, Scalar]) -> bool:
        try:
            return expression(make, tuple(kept.items()), x)[0] == node
        except ShapeError:
            return False

    kept = dict(args)
    takes = {p.name: p for p in _parameters(make) if p.name != CLASSES}
    if (width := takes.get("width")) and "width" not in kept:
        follows = {**kept, "width": cost.shape[0]}
        if width.low <= cost.shape[0] <= width.high and same(follows):
            kept = follows
    for name, p in takes.items():
        if name not in kept:
            continue
        rest = {key: value for key, value in kept.items() if key != name}
        if not p.required and same(rest):
            kept = rest
        elif p.divides:
            kept[name] = _divisor(p, kept, same)
    return tuple((name, kept[name]) for name in takes if name in kept)


def _divisor(
    p: Parameter, args: Mapping[str, Scalar], same: Callable[[Mapping[str, Scalar]], bool]
) -> int:
    """The canonical one of equivalent divisors: a power of two, as people write them, or else the
    largest, which divides exactly if any does."""

    def does(value: int) -> bool:
        return same({**args, p.name: value})

    value, most = int(args[p.name]), int(p.high)
    least = bisect_left(range(value), True, int(p.low), key=does)
    power = 1 << (least - 1).bit_length() if least > 1 else least
    if power <= most and does(power):
        return power
    return bisect_left(range(most + 1), True, value + 1, key=lambda v: not does(v)) - 1


def layer(node: Node) -> tuple[str, Args] | None:
    """Name and written arguments of a leaf layer; None if it has no name in the language."""
    for name, make in LAYERS.items():
        if make is type(node):
            return name, layer_args(node)
        if not inspect.isclass(make) and make() == node:
            return name, ()
    return None


def layer_args(node: Node) -> Args:
    """The fields of a leaf that differ from their defaults."""
    settings = ((f.name, getattr(node, f.name), f.default) for f in dataclasses.fields(node))
    return tuple((name, value) for name, value, default in settings if value != default)
