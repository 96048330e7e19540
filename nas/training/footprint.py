"""The memory that a trial takes, in bytes, from the same tree that counts its parameters.

A training step holds most when its forward pass ends: the weights, their last gradients, the
optimizer's moments, the average of the weights, and of each image what autograd keeps for the way
back. That last is most of it, and a forward pass of sizes instead of numbers finds it. No torch
here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nas.data.footprint import AHEAD, ROOM, SCORED, at_once, chunk, readers
from nas.errors import NasError, ShapeError
from nas.job import Recipe
from nas.language.architecture import Architecture
from nas.language.expression import Aux, Concat, Kept, Leaf, Node, Seq, Shape, Sum
from nas.spaces.space import Draw, Space

FLOAT, HALF = 4, 2  # bytes of a number
PROCESS = 350 << 20  # of a worker with torch 2.14 by itself: 325 to 327 MiB with the least networks
LARGE = 16 << 20  # bytes from which on a tensor is given back to the machine when it is freed
DRAWS = 200  # feasible ones, among at most:
TRIES = 1_000


def greatest(
    space: Space, recipe: Recipe, others: Iterable[Architecture] = (), streamed: bool = False
) -> int:
    """``trial`` at its most over 200 random feasible draws of a space, and ``others``; 0 without
    any. No bound: a sampler may find larger ones. Takes 0.1 to 0.6 s, 1.6 s at 224 pixels."""
    found = [trial(architecture, recipe, streamed) for architecture in others]
    return max((*found, *(trial(*draw, streamed) for draw in feasible(space, recipe))), default=0)


def feasible(space: Space, base: Recipe) -> Iterator[tuple[Architecture, Recipe]]:
    """Random draws of a space that meet its constraints: ``DRAWS``, or as many as are found."""
    rng, found = random.Random(0), 0
    for _ in range(TRIES):
        draw = Draw(rng)
        try:
            architecture = space.suggest(draw)
        except ShapeError:
            continue
        if not space.excess(architecture):
            yield architecture, space.suggest_recipe(draw, base)
            found += 1
            if found == DRAWS:
                return


def trial(architecture: Architecture, recipe: Recipe, streamed: bool = False) -> int:
    """Bytes that the process of a trial holds on the CPU at its peak. The images themselves are
    mapped, and take none of their own: what is read of them does, more where they are ``streamed``.

    Of 19 networks (draws of the shipped spaces and the zoo) it is 1.06 to 1.22 at 32 pixels, 0.87
    to 1.15 at 64 and, in batches of 16 and 32, 1.01 to 1.15 at 224 times the private memory that
    was measured (``benchmarks/memory.py``), in float32: which node a trial goes to, and whether
    bf16 pays there, is not known before. The heap gives back a part only of what a step has freed,
    hence the half; the validation comes on top of that, with more images. Not so of the ``LARGE``
    tensors, most of what there is at 224 pixels: these are mapped one by one, and are gone when the
    validation comes.
    """
    large = recipe.batch * _taped(architecture, FLOAT, LARGE / recipe.batch).large
    heap = training(architecture, recipe) - large
    made_ready = ready(architecture, recipe) + read(architecture, recipe, streamed)
    return PROCESS + heap * 3 // 2 + max(large, _evaluating(architecture)) + made_ready


def read(architecture: Architecture, recipe: Recipe, streamed: bool) -> int:
    """Bytes of the images on their way from their files."""
    channels, height, width = architecture.input
    if recipe.resized_crop:  # from larger ones
        height, width = math.ceil(ROOM * height), math.ceil(ROOM * width)
    return readers((channels, height, width), recipe.batch, AHEAD if streamed else 0)


def scoring(architecture: Architecture) -> int:
    """Bytes that a network takes which only answers, as a teacher does: weights and a pass."""
    return FLOAT * architecture.params + _evaluating(architecture)


def _evaluating(architecture: Architecture) -> int:
    images = at_once(architecture.input[1:], SCORED)
    return images * FLOAT * _passing(architecture.expression, architecture.input)


def ready(architecture: Architecture, recipe: Recipe) -> int:
    """Bytes of the images that are made ready for training at once, with what is there on the way:
    of 32 and of 224 pixels (batches of 64), 3.2 and 2.3 times the images themselves, up to 4.6 and
    3.6 with what works on pixels or erases, and up to 6.2 and 4.2 with mixed ones.
    """
    images = chunk(architecture.input[1:], recipe.batch)
    mixed = recipe.mixup or recipe.cutmix
    copies = 3 + recipe.augments + bool(mixed)
    return images * FLOAT * math.prod(architecture.input) * copies


def _passing(node: Node, x: Shape) -> int:
    """The most numbers an image that are there at once while it passes a node, nothing being kept
    for a way back: what reaches a layer, what leaves it, and what earlier branches have made."""
    here = math.prod(x) + math.prod(node.cost(x).shape)
    match node:
        case Seq(items):
            peaks = []
            for item in items:
                peaks.append(_passing(item, x))
                x = item.cost(x).shape
            return max(peaks, default=here)
        case Sum(items) | Concat(items):
            made = [math.prod(item.cost(x).shape) for item in items]
            peaks = [_passing(item, x) + sum(made[:k]) for k, item in enumerate(items)]
            return max(*peaks, here + sum(made))
    return here


def training(architecture: Architecture, recipe: Recipe, *, bf16: bool = False) -> int:
    """Bytes of the tensors that live when a step's forward pass ends: less is not possible.

    What autograd keeps is 0.99 to 1.01 times torch's own count (``saved_tensors_hooks``, each
    storage once, from a batch of 4 on), in float32 and under bf16 autocast, for the draws of the
    shipped spaces and the zoo.
    """
    moments = 2 if recipe.optimizer == "adamw" else int(recipe.momentum > 0)
    copies = 2 + moments + (recipe.ema > 0)  # the weights themselves, their gradients, an average
    weight = FLOAT * copies + (HALF if bf16 else 0)  # autocast's copy
    params = architecture.params + architecture.aux_params
    return weight * params + recipe.batch * kept(architecture, bf16=bf16)


def kept(architecture: Architecture, *, bf16: bool = False) -> int:
    """Bytes an image that autograd keeps from the forward to the backward pass.

    Left out is what does not grow with the map: BN's statistics, squeeze-excitation's gates.
    """
    return _taped(architecture, HALF if bf16 else FLOAT).bytes


def _taped(architecture: Architecture, width: int, least: float = math.inf) -> _Tape:
    tape = _Tape(width, least)
    _classify(architecture.expression, _Tensor(architecture.input), tape)
    return tape


@dataclass(eq=False, slots=True)
class _Tensor:
    """Passes from layer to layer: whoever keeps it, it is kept once."""

    shape: Shape
    kept: bool = False


@dataclass(eq=False, slots=True)
class _Tape:
    """What is kept, in bytes, where a number of a map has ``width`` bytes; of that, ``large`` in
    maps of ``least`` bytes and more."""

    width: int
    least: float
    bytes: int = 0
    large: int = 0

    def keep(self, tensor: _Tensor) -> None:
        if not tensor.kept:
            tensor.kept = True
            size = self.width * math.prod(tensor.shape)
            self.bytes += size
            self.large += size if size >= self.least else 0


def _classify(node: Node, x: _Tensor, tape: _Tape) -> None:
    """The network or an auxiliary classifier: its loss keeps the log-softmax, in float32."""
    logits = _forward(node, x, tape)
    tape.bytes += FLOAT * math.prod(logits.shape)


def _forward(node: Node, x: _Tensor, tape: _Tape) -> _Tensor:
    """The tensor that leaves a node that ``x`` reaches; what the backward pass reads of the node
    goes to the tape."""
    match node:
        case Seq(items):
            for item in items:
                x = _forward(item, x, tape)
            return x
        case Sum(items) | Concat(items):
            for item in items:
                _forward(item, x, tape)
            return _Tensor(node.cost(x.shape).shape)
        case Aux(head):
            _classify(head, x, tape)
            return x
    assert isinstance(node, Leaf)
    y = _Tensor(node.cost(x.shape).shape)
    kept = node.keeps(x.shape)
    if not isinstance(kept, Kept):  # a plug-in's
        raise NasError(f"{node!r} keeps {kept!r}: must be Kept(...)")
    for tensor, read in ((x, kept.input), (y, kept.output)):
        if read:
            tape.keep(tensor)
    tape.bytes += tape.width * kept.numbers + kept.bytes
    return y
