"""An architecture: a closed pattern, with its shapes, parameters and MACs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Integral

from nas.errors import NasError, PatternError, ShapeError, brief
from nas.language.elements import Step, layer_args
from nas.language.expansion import CLOSED, Chooser, expand
from nas.language.expression import Aux, Node, Shape, kinds, seq, show
from nas.language.layers import BatchNorm, Conv, Dropout, Flatten, Linear
from nas.language.pattern import MAX_TEXT, Call, Chain, Repeat, Tree, fold, read, write
from nas.sources import digest
from nas.text import counted

# Of the built-in digits: defaults of INPUT and the last FC.
DEFAULT_INPUT: Shape = (1, 8, 8)
DEFAULT_CLASSES = 10
LARGEST = 65_536  # of an input's sizes and the number of classes


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
        text = repr((self.input, [step.node for step in self.steps]))
        layers = {kind.__module__ for step in self.steps for kind in kinds(step.node)}
        if theirs := sorted(name for name in layers if not name.startswith("nas.language")):
            text += digest(*theirs)  # a plug-in's layer is identified by its source
        return hashlib.sha256(text.encode()).hexdigest()[:16]

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
        return " -> ".join(text for text, _ in self._folded)

    @cached_property
    def _folded(self) -> Sequence[tuple[str, int]]:
        """The outermost parts of the canonical text, each with the number of its steps. The last FC
        is no part of a repeat, as its width is the number of classes."""
        texts = [str(step) for step in self.steps]
        if self.steps[-1].name == "FC":
            return [*fold(texts[:-1]), (texts[-1], 1)]
        return fold(texts)

    def stages(self) -> Iterator[tuple[str, Sequence[Step]]]:
        """The outermost parts of the canonical text, each with its steps."""
        at = 0
        for text, length in self._folded:
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


def parse(text: str, input: Shape | None = None, classes: int | None = None) -> Architecture:
    """The architecture of a closed pattern.

    ``INPUT`` takes ``input`` (channels, height, width) and the last ``FC`` ``classes``, unless
    written; without either, those of the digits data set. Raises PatternError or ShapeError, or
    NasError for an ``input`` or ``classes`` of another form.
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
    """Expands a tree to an architecture; ``chooser`` chooses the values of open symbols, in pattern
    order, given the shape so far."""
    shape = opening(tree, None if input is None else image_shape(input))
    classes = None if classes is None else class_count(classes)
    last = tree.items[-1]
    head = last if isinstance(last, Call) and last.name == "FC" else None
    if classes is None:
        classes = _written_width(last)
    open_width = classes or DEFAULT_CLASSES
    steps = _settle(expand(tree.items[1:], chooser, shape, open_width, head, text))
    if not steps:
        raise PatternError("nothing is left after INPUT: a pattern has a layer that does something")
    out = steps[-1].cost.shape
    if len(out) != 1:
        raise ShapeError(f"the pattern ends in a map of {show(out)}, not in features (FC or GAP)")
    if classes is not None and out[0] != classes:
        raise ShapeError(
            f"the pattern ends in {counted(out[0], 'feature')}, but there "
            f"{'is' if classes == 1 else 'are'} {counted(classes, 'class', 'classes')}"
        )
    architecture = Architecture(shape, steps)
    # The printed text must be readable again. Up to 100 elements are always short enough.
    named = sum(len(str(step)) + len(" -> ") for step in steps) if len(steps) > 100 else 0
    if named > MAX_TEXT - 100 and (length := len(str(architecture))) > MAX_TEXT:
        rule = f"must be at most {MAX_TEXT}"
        raise ShapeError(f"the pattern has {length} characters with all arguments named: {rule}")
    return architecture


def image_shape(given: object) -> Shape:
    """Channels, height and width as Python's own integers. Raises NasError for anything else."""
    sizes = tuple(map(_whole, given)) if isinstance(given, tuple | list) else ()
    shape = tuple(size for size in sizes if size is not None)
    if len(sizes) != 3 or len(shape) != 3:
        rule = f"must be (channels, height, width), whole numbers from 1 to {LARGEST}"
        raise NasError(f"input is {brief(repr(given), 60)}: {rule}")
    return shape


def class_count(given: object) -> int:
    """A number of classes. Raises NasError for anything else."""
    count = _whole(given)
    if count is None:
        rule = f"must be a whole number from 1 to {LARGEST}"
        raise NasError(f"classes is {brief(repr(given), 60)}: {rule}")
    return count


def _whole(given: object) -> int | None:
    """The value as an int if it is an integer, numpy's included, in range; else None."""
    whole = isinstance(given, Integral) and not isinstance(given, bool)
    return int(given) if whole and 1 <= int(given) <= LARGEST else None  # type: ignore[call-overload]


def opening(tree: Chain, given: Shape | None) -> Shape:
    """The input shape: ``given``, or INPUT's own. Raises PatternError unless the pattern begins
    with INPUT."""
    first = tree.items[0]
    if not (isinstance(first, Call) and first.name == "INPUT"):
        raise PatternError(f"column 1: a pattern begins with INPUT, not with {write(first)}")
    if len(tree.items) < 2:
        raise PatternError("a pattern has at least one element after INPUT")
    return _input(first, given)


def _written_width(item: Tree) -> int | None:
    """The width of the FC that a pattern's last item ends in, if it is written."""
    if isinstance(item, Repeat) and item.count != 0:
        return _written_width(item.body)
    if isinstance(item, Chain):
        return _written_width(item.items[-1])
    if not isinstance(item, Call) or item.name != "FC":
        return None
    written = [value for key, value in item.args if key in ("width", None)]
    return written[0] if written and type(written[0]) is int else None


def _input(call: Call, given: Shape | None) -> Shape:
    if not call.args:
        return given or DEFAULT_INPUT
    sizes = [value for _, value in call.args]
    named = [name for name, _ in call.args if name is not None]
    if len(sizes) != 3 or named not in ([], ["channels", "height", "width"]):
        raise PatternError(f"{write(call)}: must be INPUT(channels, height, width)")
    for size in sizes:
        if type(size) is not int or not 1 <= size <= LARGEST:
            raise PatternError(f"{write(call)}: sizes must be whole numbers from 1 to {LARGEST}")
    shape = tuple(size for size in sizes if isinstance(size, int))
    if given is not None and shape != given:
        raise ShapeError(f"{write(call)}: the data is {show(given)}")
    return shape


def _settle(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Normalises the steps, so that equal networks have one text: drops layers without effect, and
    writes a convolution's bias only where it is not the default (none directly before BN)."""
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
    arguments = layer_args(dataclasses.replace(node, bias=None if node.bias is rule else node.bias))
    return Step(step.name, arguments, node, step.x, node.cost(step.x))
