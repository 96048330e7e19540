"""A pattern with nothing left open: one network, with its shapes, parameters and MACs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NoReturn, Protocol

from nas.errors import PatternError, ShapeError, nearest
from nas.language.elements import (
    CLASSES,
    Args,
    Parameter,
    Scalar,
    Step,
    layer_args,
    parameters,
    realise,
    recipe,
    unknown,
)
from nas.language.expression import Aux, Node, Shape, kinds, seq, show
from nas.language.layers import BatchNorm, Conv, Dropout, Flatten, Linear
from nas.language.pattern import (
    Call,
    Chain,
    Maybe,
    Repeat,
    Symbol,
    Tree,
    Value,
    fold,
    place,
    read,
    write,
)
from nas.sources import digest

MAX_ELEMENTS = 4_096

# The embedded data set, digits: what INPUT and the last FC take where nothing else is said.
DEFAULT_INPUT: Shape = (1, 8, 8)
DEFAULT_CLASSES = 10


@dataclass(frozen=True)
class Architecture:
    """One network. Equal architectures have equal texts and fingerprints.

    ``steps`` are its elements after INPUT, each with its expression and cost.
    """

    input: Shape
    steps: tuple[Step, ...]

    @property
    def classes(self) -> int:
        return self.steps[-1].cost.shape[0]

    @cached_property
    def params(self) -> int:
        """Parameters of the network as deployed (without auxiliary classifiers)."""
        return sum(step.cost.params for step in self.steps)

    @cached_property
    def macs(self) -> int:
        """Multiply-adds of one forward pass of one image, as deployed."""
        return sum(step.cost.macs for step in self.steps)

    @property
    def aux_params(self) -> int:
        """Parameters of the auxiliary classifiers, which only training has."""
        return sum(s.node.head.cost(s.x).params for s in self.steps if isinstance(s.node, Aux))

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The input's shape, and the shape after each element."""
        return (self.input, *(step.cost.shape for step in self.steps))

    @property
    def expression(self) -> Node:
        return seq(*(step.node for step in self.steps))

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the network: its input and its expression."""
        told = repr((self.input, [step.node for step in self.steps]))
        layers = {kind.__module__ for step in self.steps for kind in kinds(step.node)}
        if theirs := sorted(name for name in layers if not name.startswith("nas.language")):
            told += digest(*theirs)  # a plug-in's layer is what its source says
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def svg(self, title: str = "") -> str:
        """A drawing of the network, as the text of an SVG file, with ``title`` above it."""
        from nas.language.drawing.network import svg

        return svg(self, title)

    def _repr_svg_(self) -> str:
        return self.svg()  # in a notebook

    def __repr__(self) -> str:
        return f"nas.parse({str(self)!r})"

    def __str__(self) -> str:
        channels, height, width = self.input
        return f"INPUT({channels}, {height}, {width}) -> {self._text}"

    @cached_property
    def _text(self) -> str:
        return " -> ".join(text for text, _ in fold([str(step) for step in self.steps]))

    def stages(self) -> Iterator[tuple[str, Sequence[Step]]]:
        """The canonical text in its outermost parts, each with the steps it stands for."""
        at = 0
        for text, length in fold([str(step) for step in self.steps]):
            yield text, self.steps[at : at + length]
            at += length

    def on(self, input: Shape, classes: int) -> Architecture:
        """The same pattern on other data. Raises ShapeError where it does not fit."""
        tree = read(self._text)
        last = tree.items[-1]
        if isinstance(last, Call) and last.name == "FC":
            rest = tuple(arg for arg in last.args if arg[0] != "width")
            tree = Chain((*tree.items[:-1], dataclasses.replace(last, args=rest)))
        return close(Chain((Call("INPUT"), *tree.items)), input=input, classes=classes)


# --- from tree to architecture -------------------------------------------------------------------

Scope = Mapping[str, int]  # the repetition one is in, by the symbol of its count; the first is 1


class Chooser(Protocol):
    """Gives the open parts of a pattern their values; see ``nas.spaces.space``."""

    def symbol(self, name: str, scope: Scope) -> Scalar: ...
    def argument(
        self, argument: Argument, known: Args, x: Shape, scope: Scope
    ) -> Scalar | None: ...
    def present(self, name: str, scope: Scope) -> bool: ...
    def element(self, name: str, scope: Scope) -> Tree | None: ...


class StillOpen(PatternError):
    """Something is open where a closed pattern was expected."""


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


def parse(text: str, input: Shape | None = None, classes: int | None = None) -> Architecture:
    """The architecture of a closed pattern.

    ``INPUT`` takes ``input`` (channels, height, width) and the last ``FC`` ``classes``, unless
    written; without either, those of the digits data set. Raises PatternError or ShapeError.
    """
    return close(read(text), input=input, classes=classes, text=text)


def close(
    tree: Chain,
    chooser: Chooser = CLOSED,
    *,
    input: Shape | None = None,
    classes: int | None = None,
    text: str = "",
) -> Architecture:
    """Expands a tree to an architecture; ``chooser`` gives what is open its values, in the order of
    the pattern, knowing the shape that has come so far."""
    first, last = tree.items[0], tree.items[-1]
    if not (isinstance(first, Call) and first.name == "INPUT"):
        raise PatternError(f"column 1: a pattern begins with INPUT, not with {write(first)}")
    if len(tree.items) < 2:
        raise PatternError("a pattern has at least one element after INPUT")
    shape = _input(first, input)
    head = last if isinstance(last, Call) and last.name == "FC" else None
    if classes is None:
        classes = _written_width(head) if head else None
    expansion = _Expansion(chooser, shape, classes or DEFAULT_CLASSES, head, text)
    for item in tree.items[1:]:
        expansion.add(item, {})
    steps = _settle(expansion.steps)
    if not steps:
        raise PatternError("nothing is left after INPUT: a pattern has a layer that does something")
    out = steps[-1].cost.shape
    if len(out) != 1:
        raise ShapeError(f"the pattern ends in a map of {show(out)}, not in features (FC or GAP)")
    if classes is not None and out[0] != classes:
        raise ShapeError(f"the pattern ends in {out[0]} features, but there are {classes} classes")
    return Architecture(shape, steps)


def _written_width(head: Call) -> int | None:
    written = [value for key, value in head.args if key in ("width", None)]
    return written[0] if written and type(written[0]) is int else None


def _input(call: Call, given: Shape | None) -> Shape:
    if not call.args:
        return given or DEFAULT_INPUT
    sizes = [value for _, value in call.args]
    named = [name for name, _ in call.args if name is not None]
    if len(sizes) != 3 or named not in ([], ["channels", "height", "width"]):
        raise PatternError(f"{write(call)}: must be INPUT(channels, height, width)")
    for size in sizes:
        if type(size) is not int or not 1 <= size <= 65_536:
            raise PatternError(f"{write(call)}: sizes must be whole numbers from 1 to 65536")
    shape = tuple(size for size in sizes if isinstance(size, int))
    if given is not None and shape != given:
        raise ShapeError(f"{write(call)}: the data is {show(given)}")
    return shape


class _Expansion:
    """The walk over a tree that a chooser closes."""

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
        """Whether an optional element can stand here, as far as that is known before its open parts
        are chosen: what cannot be present is not asked for."""
        trial = _Expansion(CLOSED, self.x, self.classes, None, self.text)
        try:
            trial.add(body, {})
        except ShapeError:
            return False
        except PatternError:
            return True
        return True

    def call(self, call: Call, scope: Scope, alias: str = "") -> None:
        """Adds one element; ``alias`` is the element symbol that stood in the pattern for it."""
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
        """An element symbol: what was chosen for it, with the arguments written here added."""
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
            if value is not None:
                args[p.name] = p.check(value)
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
    """What stands for an element symbol: the choice, with the arguments that are written at the
    symbol added where the choice takes them and does not have them."""
    if not isinstance(chosen, Call) or not symbol.args:
        return chosen
    takes = parameters(chosen.name)
    written = {key or p.name for p, (key, _) in zip(takes, chosen.args, strict=False)}
    known = {p.name for p in takes} - written
    more = tuple(arg for arg in symbol.args if arg[0] in known)
    return Call(chosen.name, chosen.args + more, symbol.at)


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a call: its written value, or None, and the names that its domain may have."""

    owner: str
    parameter: Parameter
    value: Value | None
    names: tuple[str, ...]


@lru_cache(maxsize=1_024)
def arguments(call: Call, alias: str = "") -> tuple[Argument, ...]:
    """The arguments of a layer or block; ``alias`` is the element symbol that it stands for.

    Required and written ones come first: whether an optional one matters, and fits, is seen with
    those known. Raises PatternError.
    """
    takes = parameters(call.name)
    known = [p.name for p in takes if p.name != CLASSES]
    if len(call.args) > len(known):
        raise PatternError(f"{len(call.args)} arguments, but it takes {len(known)}")
    written: dict[str, Value] = {}
    for i, (key, value) in enumerate(call.args):
        name = known[i] if key is None else key
        if name not in known:
            raise PatternError(f"unknown argument {name}; {nearest(name, known)}")
        if name in written:
            raise PatternError(f"{name} is given twice")
        written[name] = value
    owners = (alias, call.name) if alias else (call.name,)
    return tuple(
        Argument(call.name, p, written.get(p.name), tuple(f"{o}.{p.name}" for o in owners))
        for p in sorted(takes, key=lambda p: (not p.required, p.name not in written))
    )


def _settle(steps: Sequence[Step]) -> tuple[Step, ...]:
    """One form for one network: what does nothing is left out, and a convolution's bias is said
    only where it is not the rule (none straight before BN)."""
    kept: list[Step] = []
    for step in steps:
        match step.node:
            case Dropout(rate=0):
                continue
            case Flatten() if len(step.x) == 1:
                continue
            case Linear() if kept and isinstance(kept[-1].node, Flatten):  # FC flattens by itself
                step = dataclasses.replace(step, x=kept.pop().x)
        kept.append(step)
    return tuple(
        _settle_bias(step, not (after and isinstance(after.node, BatchNorm)))
        if isinstance(step.node, Conv)
        else step
        for step, after in zip(kept, [*kept[1:], None], strict=False)
    )


@lru_cache(maxsize=65_536)
def _settle_bias(step: Step, rule: bool) -> Step:
    conv = step.node
    assert isinstance(conv, Conv)
    node = dataclasses.replace(conv, bias=rule if conv.bias is None else conv.bias)
    told = layer_args(dataclasses.replace(node, bias=None if node.bias is rule else node.bias))
    return Step(step.name, told, node, step.x, node.cost(step.x))
