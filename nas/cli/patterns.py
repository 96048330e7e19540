"""Networks and spaces as they are named on the command line: a pattern, a name or a file."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from nas.cli.output import form_of, writable
from nas.cli.output import write as write_file
from nas.errors import NasError, nearest
from nas.job import DataRef
from nas.language import elements
from nas.language.architecture import DEFAULT_CLASSES, DEFAULT_INPUT, Architecture, close
from nas.language.expression import show
from nas.language.pattern import Call, Chain, read, write
from nas.spaces.space import Space, load_space, shipped
from nas.text import counted


def space_on(space: str, ref: DataRef) -> Space:
    """A space for a data set's shape and classes."""
    from nas.data import describe

    info = describe(ref)
    return load_space(space, (info.channels, info.height, info.width), len(info.classes))


def closed_or_space(
    text: str, ref: DataRef | None = None, size: int = 0, others: str = "--data DIR for yours"
) -> tuple[Architecture | None, Space | None]:
    """Resolves a pattern, name or file to an architecture (with its space, if it has one) or to an
    open space alone. Without a data set, ``size`` replaces that of the space's own images, or of
    digits; what a pattern takes from digits is printed, with how to get ``others``."""
    if text not in shipped() and not text.endswith((".yaml", ".yml")):
        # One word that is no element is meant as a name.
        if re.fullmatch(r"[\w.-]+", text) and text not in elements.names():
            raise NasError(f"unknown network or space {text}; {nearest(text, shipped())}")
        tree = _whole(read(text))
        if ref is None:
            architecture = _closed(tree, size, text)
            if taken := _taken(tree, architecture):
                print(f"nas: as for digits ({taken}); {others}", file=sys.stderr)
            return architecture, None
        from nas.data import describe

        info = describe(ref)
        shape = info.channels, info.height, info.width
        return close(tree, input=shape, classes=len(info.classes), text=text), None
    space = load_space(text, size=size) if ref is None else space_on(text, ref)
    return (space.sample(0) if space.closed else None), space


def _whole(tree: Chain) -> Chain:
    """Completes a pattern that lacks INPUT and the last FC, as printed in tables. An FC of a given
    width is not the last one there, as that takes the number of classes."""
    first, last = tree.items[0], tree.items[-1]
    if isinstance(first, Call) and first.name == "INPUT":
        return tree
    head = () if last == Call("FC") else (Call("FC"),)
    return Chain((Call("INPUT"), *tree.items, *head))


def _taken(tree: Chain, architecture: Architecture) -> str:
    """The shape and the classes that an architecture did not get from its pattern."""
    shape = show(architecture.input) if tree.items[0] == Call("INPUT") else ""
    classes = counted(DEFAULT_CLASSES, "class", "classes") if tree.items[-1] == Call("FC") else ""
    return ", ".join(filter(None, (shape, classes)))


def _closed(tree: Chain, size: int, text: str) -> Architecture:
    first = tree.items[0]
    if not size or (isinstance(first, Call) and first.args):
        architecture = close(tree, text=text)
        if size and architecture.input[1:] != (size, size):
            raise NasError(f"--size {size}: the pattern begins with {write(first)}")
        return architecture
    return close(tree, input=(DEFAULT_INPUT[0], size, size), text=text)


def drawn(architecture: Architecture | None, space: Space | None, output: Path) -> None:
    """Writes the drawing of what ``closed_or_space`` found, as SVG or PNG by the file's ending.
    Raises NasError."""
    form = form_of("", output, {"svg": ".svg", "png": ".png"}, "svg")
    if architecture is None:
        name = space.name if space else ""
        raise NasError(
            f"{name} is a search space: only one of its networks can be drawn, such as one that "
            "`nas space sample` prints"
        )
    writable(output)
    svg = architecture.svg(space.name if space else "")
    if form == "png":
        from nas.report.front import png

        write_file(output, png(svg))
    else:
        write_file(output, svg.encode())


def closed_pattern(text: str) -> str:
    """The pattern of a zoo network's name, or of a closed pattern. Raises NasError for a space."""
    others = "for others write INPUT(CHANNELS, HEIGHT, WIDTH) and FC(CLASSES)"
    closed, space = closed_or_space(text, others=others)
    if closed is None:
        raise NasError(f"{space.name if space else text} is a search space, not a single network")
    return str(closed)
