"""A trial's memory in bytes, from the same tree that counts its parameters.

A training step's peak is the end of its forward pass: the weights, their gradients, the optimizer's
moments, the weight average, and the activations that autograd saves for the backward pass. The
activations are most of it; a forward pass over shapes alone finds them. No torch here.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nas.data.footprint import AHEAD, ROOM, SCORED, at_once, chunk, readers
from nas.errors import NasError, ShapeError
from nas.job import Recipe
from nas.language.architecture import Architecture
from nas.language.expression import Aux, Concat, Kept, Leaf, Node, Seq, Shape, Sum
from nas.spaces.draws import Draw
from nas.spaces.space import Space

FLOAT, HALF = 4, 2  # bytes of a number
PROCESS = 350 << 20  # a worker with torch 2.14: 325 to 327 MiB with the smallest networks
LARGE = 16 << 20  # bytes from which on a freed tensor is returned to the operating system
DRAWS = 200  # feasible draws, among at most:
TRIES = 1_000


def greatest(
    space: Space,
    recipe: Recipe,
    images: int,
    others: Iterable[Architecture] = (),
    streamed: bool = False,
) -> int:
    """The largest ``trial`` on so many training ``images`` over 200 random feasible draws of a
    space, and ``others``; 0 without any. Not a bound: a sampler may find larger ones. Takes 0.1 to
    0.6 s, 1.6 s at 224 pixels."""
    draws = [(architecture, batched(recipe, images)) for architecture in others]
    draws += feasible(space, recipe, images)
    return max((trial(*draw, streamed) for draw in draws), default=0)


def batched(recipe: Recipe, images: int) -> Recipe:
    """The recipe with batches of no more than all training images, as a training makes them."""
    return dataclasses.replace(recipe, batch=min(recipe.batch, max(1, images)))


def feasible(space: Space, base: Recipe, images: int) -> Iterator[tuple[Architecture, Recipe]]:
    """Random draws of a space that meet its constraints, up to ``DRAWS``, with recipes for so many
    training images."""
    rng, found = random.Random(0), 0
    for _ in range(TRIES):
        draw = Draw(rng)
        try:
            architecture = space.suggest(draw)
        except ShapeError:
            continue
        if not space.excess(architecture):
            yield architecture, batched(space.suggest_recipe(draw, base), images)
            found += 1
            if found == DRAWS:
                return


def trial(architecture: Architecture, recipe: Recipe, streamed: bool = False) -> int:
    """Peak bytes of a trial's process on the CPU, without the images, which are a shared map, but
    with the batches read from them, which are more where they are ``streamed``.

    Divided by the measured private memory (``benchmarks/memory.py``), over 19 networks (draws of
    the shipped spaces and the zoo), it is 1.06 to 1.22 at 32 pixels, 0.87 to 1.15 at 64 and, in
    batches of 16 and 32, 1.01 to 1.15 at 224. It assumes float32: which node a trial runs on, and
    whether bf16 pays there, is not known yet. The heap returns only part of what a step has freed,
    hence the factor 3/2, and validation, with more images at once, comes on top. ``LARGE`` tensors,
    most of the memory at 224 pixels, are mapped one by one, and are freed before validation.
    """
    large = recipe.batch * _taped(architecture, FLOAT, LARGE / recipe.batch).large
    heap = training(architecture, recipe) - large
    made_ready = ready(architecture, recipe) + read(architecture, recipe, streamed)
    return PROCESS + heap * 3 // 2 + max(large, _evaluating(architecture)) + made_ready


def read(architecture: Architecture, recipe: Recipe, streamed: bool) -> int:
    """Bytes of the images being read from files."""
    channels, height, width = architecture.input
    if recipe.resized_crop:  # from larger ones
        height, width = math.ceil(ROOM * height), math.ceil(ROOM * width)
    return readers((channels, height, width), recipe.batch, AHEAD if streamed else 0)


def scoring(architecture: Architecture) -> int:
    """Bytes of a network that only infers, as a teacher does: its weights and a forward pass."""
    return FLOAT * architecture.params + _evaluating(architecture)


def _evaluating(architecture: Architecture) -> int:
    images = at_once(architecture.input[1:], SCORED)
    return images * FLOAT * _passing(architecture.expression, architecture.input)


def ready(architecture: Architecture, recipe: Recipe) -> int:
    """Bytes of the images prepared at once for training, with their temporary copies: at 32 and 224
    pixels (batches of 64) 3.2 and 2.3 times the images themselves, up to 4.6 and 3.6 with
    photometric augmentation or erasing, and up to 6.2 and 4.2 with mixup or cutmix.
    """
    images = chunk(architecture.input[1:], recipe.batch)
    mixed = recipe.mixup or recipe.cutmix
    copies = 3 + recipe.augments + bool(mixed)
    return images * FLOAT * math.prod(architecture.input) * copies


def _passing(node: Node, x: Shape) -> int:
    """The peak count of numbers per image during inference of a node: a layer's input and output,
    and the outputs of earlier branches."""
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
    """Bytes of the tensors alive when a step's forward pass ends: a lower bound.

    The activations are 0.99 to 1.01 times torch's own count (``saved_tensors_hooks``, each storage
    once, from batch size 4 on), in float32 and under bf16 autocast, for draws of the shipped spaces
    and the zoo.
    """
    moments = 2 if recipe.optimizer == "adamw" else int(recipe.momentum > 0)
    copies = 2 + moments + (recipe.ema > 0)  # weights, gradients; moments; average
    weight = FLOAT * copies + (HALF if bf16 else 0)  # autocast's copy
    params = architecture.params + architecture.aux_params
    return weight * params + recipe.batch * kept(architecture, bf16=bf16)


def kept(architecture: Architecture, *, bf16: bool = False) -> int:
    """Bytes per image that autograd saves from the forward to the backward pass.

    Leaves out what does not grow with the map: BN's statistics, squeeze-excitation's gates.
    """
    return _taped(architecture, HALF if bf16 else FLOAT).bytes


def _taped(architecture: Architecture, width: int, least: float = math.inf) -> _Tape:
    tape = _Tape(width, least)
    _classify(architecture.expression, _Tensor(architecture.input), tape)
    return tape


@dataclass(eq=False, slots=True)
class _Tensor:
    """A tensor passed between layers; counted once, however many layers save it."""

    shape: Shape
    kept: bool = False


@dataclass(eq=False, slots=True)
class _Tape:
    """The bytes saved, with ``width`` bytes per number; ``large`` counts those in tensors of
    ``least`` bytes or more."""

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
    """The network or an auxiliary classifier: its loss saves the log-softmax, in float32."""
    logits = _forward(node, x, tape)
    tape.bytes += FLOAT * math.prod(logits.shape)


def _forward(node: Node, x: _Tensor, tape: _Tape) -> _Tensor:
    """The output of a node for input ``x``; records on the tape what its backward pass reads."""
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
