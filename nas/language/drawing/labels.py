"""A layer's label in a drawing: its name, window, width, and arguments that are not defaults."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable
from typing import NamedTuple

from nas.language.elements import layer
from nas.language.expression import Leaf, Shape
from nas.language.layers import LAYERS

# Left out: the map's size and the channels already show the padding.
HIDDEN = frozenset({"bias", "eps", "pad", "ceil", "alpha", "beta", "k"})


class Label(NamedTuple):
    """``amount`` is the layer's required argument, such as its width: layers that differ only in it
    are drawn as one form."""

    title: str
    amount: int | None
    rest: tuple[str, ...]


def readable(name: str) -> str:
    """A name of the language for a drawing: CONV becomes conv; BN and AUX stay."""
    return name if len(name) <= 3 else name.lower()


def label(node: Leaf, x: Shape) -> Label:
    name, _ = layer(node) or ("", ())
    if name and not inspect.isclass(LAYERS[name]):  # no arguments
        return Label(readable(name), None, ())
    words = [readable(name) or re.sub(r"(?<!^)(?=[A-Z])", " ", type(node).__name__).lower()]
    amount: int | None = None
    rest: list[str] = []
    for i, field in enumerate(dataclasses.fields(node)):
        value = getattr(node, field.name)
        if field.name == "kernel":
            words.append(f"{value}×{value}")
        elif field.name == "stride":
            step = getattr(node, "step", value)
            rest += [f"/{step}"] if step > 1 else []
        elif field.name == "groups" and value == x[0] > 1:
            words[0] = "depthwise"
        elif field.name == "kind" and name:
            words.insert(0, str(value))
        elif i == 0 and field.default is dataclasses.MISSING and isinstance(value, int):
            amount = value
        elif field.name not in HIDDEN and value != field.default:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            if i == 0:
                words.append(text)
            elif isinstance(value, bool):
                rest.append(field.name if value else f"no {field.name}")
            else:
                rest.append(f"{text} {field.name}")
    return Label(" ".join(words), amount, tuple(rest))


def span(amounts: Iterable[int]) -> str:
    """One number, or the range from the smallest to the largest."""
    low, *rest = sorted(set(amounts))
    return f"{low}–{rest[-1]}" if rest else str(low)


def follows(node: Leaf, x: Shape) -> bool:
    """Whether a layer is drawn with the one before it: it has no window and no MACs."""
    shape, _, macs = node.cost(x)
    return shape == x and macs == 0 and not hasattr(node, "kernel")
