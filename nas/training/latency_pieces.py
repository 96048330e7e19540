"""The pieces whose latencies add up to a network's, and how a piece is timed.

A piece is what a runtime fuses: a convolution or linear layer with the normalisation and activation
that follow it; or any other layer alone. Joins of branches (sums, concatenations) move numbers and
compute next to nothing: they are counted, not timed.

Torch is imported only to time: a prediction is arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nas.language.architecture import Architecture
from nas.language.expression import Aux, Concat, Cost, Leaf, Node, Seq, Shape, Sum
from nas.language.layers import Activation, BatchNorm, Conv, Dropout, Flatten, Linear, Pool
from nas.training import timing

if TYPE_CHECKING:
    import torch

FOLLOWS = (BatchNorm, Activation)
ALIGNED = 16  # channels in a 512-bit vector register
QUICK = 0.004  # seconds of calls per instance when timing a piece


@dataclass(frozen=True)
class Piece:
    """Consecutive layers, and the shape ``x`` that reaches the first."""

    layers: tuple[Leaf, ...]
    x: Shape

    @property
    def key(self) -> str:
        """Its key in the record."""
        return f"{self.layers} on {self.x}"

    @property
    def kind(self) -> str:
        first = self.layers[0]
        if isinstance(first, Conv):
            alone = first.groups > 1 and first.groups == self.x[0]
            name = "depthwise" if alone else "grouped" if first.groups > 1 else "conv"
        elif isinstance(first, Pool):
            name = f"{first.kind}pool"
        else:
            name = type(first).__name__.lower()
        kinds = [each.kind for each in self.layers if isinstance(each, Activation)]
        normal = ["bn"] if any(isinstance(each, BatchNorm) for each in self.layers[1:]) else []
        return "-".join([name, *normal, *kinds])

    @cached_property
    def total(self) -> Cost:
        """Shape, parameters and MACs of its layers together."""
        return Seq(self.layers).cost(self.x)

    @property
    def work(self) -> tuple[float, ...]:
        """The terms of its linear cost model: one call, MACs (rounded up to whole vectors of output
        channels), weights, and numbers read and written."""
        out, params, macs = self.total
        whole = _aligned(out[0]) / out[0]
        return 1.0, macs * whole, float(params), float(math.prod(self.x) + math.prod(out))

    @cached_property
    def numbers(self) -> tuple[float, ...]:
        """The features of its Gaussian process: logarithms of work, weights, maps and form."""
        first = self.layers[0]
        x, params, macs = self.total
        kernel, stride = getattr(first, "kernel", 1), getattr(first, "stride", None)
        inside, outside = _aligned(self.x[0]) / self.x[0], _aligned(x[0]) / x[0]
        values = (
            *(1 + macs, 1 + params, math.prod(self.x), math.prod(x), self.x[0], x[0]),
            *(kernel, stride or kernel, getattr(first, "groups", 1), inside, outside),
            max(self.x[1:], default=1),
        )
        return tuple(math.log(value) for value in values)


def _aligned(channels: int) -> int:
    return -(-channels // ALIGNED) * ALIGNED


@dataclass(frozen=True)
class Parts:
    """A network's pieces, the number of its joins, and how many numbers these move."""

    pieces: tuple[Piece, ...]
    joins: int
    moved: int


def parts(architecture: Architecture) -> Parts:
    """Splits a network, as deployed, into its pieces and joins."""
    found: list[Piece] = []
    joined: list[int] = []
    _walk(architecture.expression, architecture.input, found, joined)
    return Parts(tuple(found), len(joined), sum(joined))


def _walk(node: Node, x: Shape, found: list[Piece], joined: list[int]) -> None:
    match node:
        case Seq(items):
            _sequence(items, x, found, joined)
        case Sum(items) | Concat(items):
            for item in items:
                _walk(item, x, found, joined)
            joined.append(math.prod(node.cost(x).shape))
        case Aux():
            pass  # not deployed
        case _:
            _sequence((node,), x, found, joined)


def _sequence(items: Sequence[Node], x: Shape, found: list[Piece], joined: list[int]) -> None:
    row: list[Leaf] = []
    begin = x

    def end() -> None:
        if row:
            found.append(Piece(tuple(row), begin))
            row.clear()

    for item in items:
        if isinstance(item, Dropout | Flatten):
            pass  # no operation when deployed
        elif isinstance(item, Leaf):
            if not (row and isinstance(item, FOLLOWS) and isinstance(row[0], Conv | Linear)):
                end()
            if not row:
                begin = x
            row.append(item)
        else:
            end()
            _walk(item, x, found, joined)
        x = item.cost(x).shape
    end()


def time_piece(piece: Piece, runtime: str, device: torch.device, threads: int, batch: int) -> float:
    """Milliseconds of a piece alone: the fastest call of two instances; takes about 20 ms. Call it
    inside ``turns.measurement``."""
    from nas.training.network import build_row
    from nas.training.runtimes import RUNTIMES

    module = build_row(piece.layers, piece.x).to(device).eval()
    ready = RUNTIMES[runtime].prepare(module, (batch, *piece.x), device, threads)
    return 1000 * min(timing.least(ready.instance(), QUICK) for _ in range(2))


def distinct(networks: Sequence[Architecture]) -> Iterator[Piece]:
    """The distinct pieces of ``networks``, those of most networks first."""
    counted: dict[str, tuple[int, Piece]] = {}
    for architecture in networks:
        for piece in {piece.key: piece for piece in parts(architecture).pieces}.values():
            counted[piece.key] = (counted.get(piece.key, (0, piece))[0] + 1, piece)
    yield from (piece for _, piece in sorted(counted.values(), key=lambda pair: -pair[0]))
