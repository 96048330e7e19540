"""Pruning: a trained network becomes a narrower one of the same pattern, which keeps the weights of
the most important channels.

``narrowed`` changes the widths in the pattern, so the result is an ordinary architecture;
``carried`` walks both trees in parallel and finds which channels are kept. Channels that are added
to one another are kept or dropped together.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from nas import data
from nas.data.batches import Source, batches, preparation
from nas.errors import NasError, PatternError, ShapeError
from nas.job import DataRef
from nas.language.architecture import Architecture, parse
from nas.language.elements import CLASSES, Parameter, Scalar, Step, parameters, realise
from nas.language.expression import Aux, Concat, Leaf, Node, Seq, Shape, Sum
from nas.language.layers import BatchNorm, Conv, Flatten, Linear, SqueezeExcite
from nas.training.device import seeded
from nas.training.models import Model, state_of
from nas.training.network import build

By = Literal["scale", "norm"]
IMAGES, BATCH = 10_000, 250  # images to compute statistics on, and how many at once


# --- a narrower pattern --------------------------------------------------------------------------


def narrowed(architecture: Architecture, factor: float) -> Architecture:
    """The same pattern with its widths times ``factor``; the number of classes stays.

    Equal widths stay equal and different ones different, so that residual sums remain possible;
    widths stay multiples of their groups. Raises NasError where the network gets no narrower.
    """
    if not 0 < factor < 1:
        raise NasError(f"--width {factor:g}: must be above 0 and below 1")
    # The last element with a width makes the classes, as FC or before GAP.
    head = max((n for n, step in enumerate(architecture.steps) if any(_widths(step))), default=0)
    widths = _rounded(architecture.steps[:head], factor)
    x: Shape = architecture.input
    steps: list[Step] = []
    try:
        for number, step in enumerate(architecture.steps):
            args: dict[str, Scalar] = dict(step.args)
            if number < head:
                depthwise = {"width": x[0], "groups": x[0]} if _depthwise(step) else None
                args |= depthwise or {p.name: widths[width] for p, width in _widths(step)}
            if any(p.name == CLASSES for p in parameters(step.name)):
                args[CLASSES] = architecture.classes
            steps += realise(step.name, tuple(args.items()), x)
            x = steps[-1].cost.shape if steps else x
        made = parse(str(Architecture(architecture.input, tuple(steps))))
    except (ShapeError, PatternError) as error:
        raise NasError(f"--width {factor:g}: the network cannot be so narrow: {error}") from None
    if made.params >= architecture.params:
        raise NasError(
            f"--width {factor:g}: leaves {made.params:,} params of {architecture.params:,}: "
            "nothing becomes narrower"
        )
    if made.classes != architecture.classes:
        raise NasError(
            f"--width {factor:g}: leaves {made.classes} classes of {architecture.classes}: the "
            f"channels of {architecture.steps[head]} become classes"
        )
    return made


def _depthwise(step: Step) -> bool:
    return isinstance(step.node, Conv) and 1 < step.node.groups == step.x[0] == step.node.width


def _widths(step: Step) -> Iterator[tuple[Parameter, int]]:
    """The arguments written in a step that may become smaller, and their values."""
    args = dict(step.args)
    for parameter in parameters(step.name):
        value = args.get(parameter.name)
        if parameter.narrowest and isinstance(value, int) and value:
            yield parameter, value


def _rounded(steps: Sequence[Step], factor: float) -> dict[int, int]:
    """The new width for each that occurs: a multiple of all groups that split it, larger than that
    of every smaller width, and at least the least width of its block."""
    multiples: dict[int, int] = {}
    floors: dict[int, int] = {}
    for step in steps:
        numbers: dict[str, int] = {k: v for k, v in step.args if isinstance(v, int)}
        split = 1 if _depthwise(step) else numbers.get("groups", 1)
        if split > 1:  # groups split the inner channels, or the input's
            split *= numbers.get("bottleneck", 0) or 1
            multiples[step.x[0]] = math.lcm(multiples.get(step.x[0], 1), numbers["groups"])
        for parameter, width in _widths(step):
            multiples[width] = math.lcm(multiples.get(width, 1), split)
            floors[width] = max(floors.get(width, 1), parameter.narrowest)
    found: dict[int, int] = {}
    below = 0  # the new width of the next smaller one
    for width, multiple in sorted(multiples.items()):
        wanted = max(width * factor, floors.get(width, 1))
        below = max(round(wanted / multiple), below // multiple + 1) * multiple
        found[width] = below
    return found


# --- which channels ------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Segment:
    """Adjacent channels: ``wide`` of them, of which ``narrow`` are kept. One that is added to other
    segments is replaced by them, its ``parts``."""

    wide: int
    narrow: int
    parts: tuple[Segment, ...] = ()
    blocks: int = 1
    score: Tensor | None = None

    def kept(self) -> Tensor:
        """Indices of the channels that are kept, in order: equally many of each block (a group of a
        convolution), with the highest scores."""
        if self.wide == self.narrow or self.score is None:
            return torch.arange(self.wide)[: self.narrow]
        each = self.score.view(self.blocks, -1)
        best = each.argsort(dim=1, descending=True, stable=True)[:, : self.narrow // self.blocks]
        starts = torch.arange(self.blocks)[:, None] * each.shape[1]
        return (best.sort(1).values + starts).flatten()


@dataclass(frozen=True, slots=True)
class Axis:
    """The channels of a map, or the features of a flattened one, in which each channel has
    ``repeat`` places."""

    segments: tuple[Segment, ...]
    repeat: int = 1

    @property
    def wide(self) -> int:
        return sum(segment.wide for segment in self.segments)

    @property
    def narrow(self) -> int:
        return sum(segment.narrow for segment in self.segments)

    def flat(self) -> tuple[Segment, ...]:
        return tuple(found for segment in self.segments for found in _flat(segment))

    def kept(self) -> Tensor:
        """The indices along the axis that are kept."""
        places, start = [], 0
        for segment in self.flat():
            places.append(segment.kept() + start)
            start += segment.wide
        channels = torch.cat(places)
        return (channels[:, None] * self.repeat + torch.arange(self.repeat)).flatten()


def _flat(segment: Segment) -> Iterator[Segment]:
    if segment.parts:
        for part in segment.parts:
            yield from _flat(part)
    else:
        yield segment


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor of the state dict: the axes of its first two dimensions (``into``: None without a
    second), and the number of groups that split the second along the first."""

    name: str
    out: Axis
    into: Axis | None = None
    groups: int = 1


@dataclass(eq=False)
class _Walk:
    state: Mapping[str, Tensor]
    held: list[Held] = field(default_factory=list)
    scales: list[tuple[Axis, Tensor]] = field(default_factory=list)
    norms: list[tuple[Axis, Tensor]] = field(default_factory=list)
    blocks: list[tuple[Axis, int]] = field(default_factory=list)

    def sequence(
        self, wide: Sequence[Node], narrow: Sequence[Node], at: str, x: Shape, axis: Axis
    ) -> Axis:
        for a, b, name in _pairs(wide, narrow, at):
            axis = self.node(a, b, name, x, axis)
            x = a.cost(x).shape
        return axis

    def node(self, a: Node, b: Node, at: str, x: Shape, axis: Axis) -> Axis:
        """The output channels of node ``a`` of the wide tree, whose input has the shape ``x`` and
        the channels ``axis``; ``b`` is its counterpart in the narrow tree, ``at`` the module's name
        with a dot."""
        match a, b:
            case Seq(items), Seq(others):
                return self.sequence(items, others, at, x, axis)
            case Sum(items), Sum(others):
                first, *rest = [self.node(*pair, x, axis) for pair in _pairs(items, others, at)]
                for other in rest:
                    _together(first, other)
                return first
            case Concat(items), Concat(others):
                axes = [self.node(*pair, x, axis) for pair in _pairs(items, others, at)]
                return Axis(tuple(segment for each in axes for segment in each.segments))
            case Aux(head), Aux(other):
                mine, theirs = (n.items if isinstance(n, Seq) else (n,) for n in (head, other))
                self.sequence(mine, theirs, at, x, axis)
                return axis
            case Leaf(), Leaf() if type(a) is type(b):
                return self.leaf(a, b, at, x, axis)
        raise _Other(at)

    def leaf(self, a: Leaf, b: Leaf, at: str, x: Shape, axis: Axis) -> Axis:
        match a, b:
            case Conv(), Conv():
                return self.conv(a, b, at, axis)
            case Linear(), Linear():
                area = math.prod(x[1:])  # a map is flattened first, by a module of its own
                name = at if len(x) == 1 else f"{at}1."
                out = Axis((Segment(a.width, b.width),))
                self.weights(name, out, Axis(axis.segments, axis.repeat * area))
                return out
            case BatchNorm(), BatchNorm():
                for entry in ("weight", "bias", "running_mean", "running_var"):
                    self.held.append(Held(f"{at}{entry}", axis))
                if axis.repeat == 1 and (scale := self.state.get(f"{at}weight")) is not None:
                    self.scales.append((axis, scale.abs()))
                return axis
            case SqueezeExcite(), SqueezeExcite():
                inner = Axis((Segment(a.squeeze, b.squeeze),))
                self.weights(f"{at}fc1.", inner, axis)
                self.weights(f"{at}fc2.", axis, inner, scored=False)
                return axis
            case Flatten(), Flatten():
                return Axis(axis.segments, axis.repeat * math.prod(x[1:]))
        if a.cost(x).params:
            raise NasError(
                f"{type(a).__name__} is a layer of a plug-in: which of its weights belong to a "
                "channel is not known"
            )
        return axis

    def conv(self, a: Conv, b: Conv, at: str, axis: Axis) -> Axis:
        channels = axis.wide, axis.narrow
        if a.groups > 1 and (a.groups, b.groups) == channels:
            if (a.width, b.width) != channels:
                raise NasError("a depthwise convolution that widens cannot be made narrower")
            self.weights(at, axis, None, scored=False)
            return axis
        if a.groups != b.groups:
            raise _Other(at)
        out = Axis((Segment(a.width, b.width),))
        if a.groups > 1:
            self.blocks += [(axis, a.groups), (out, a.groups)]
        self.weights(at, out, axis, a.groups)
        return out

    def weights(
        self, at: str, out: Axis, into: Axis | None, groups: int = 1, scored: bool = True
    ) -> None:
        self.held += [Held(f"{at}weight", out, into, groups), Held(f"{at}bias", out)]
        if scored and (weight := self.state.get(f"{at}weight")) is not None:
            self.norms.append((out, weight.flatten(1).norm(dim=1)))


def _pairs(
    wide: Sequence[Node], narrow: Sequence[Node], at: str
) -> Iterator[tuple[Node, Node, str]]:
    """Each node with its counterpart and its module's name."""
    for number, (a, b) in enumerate(itertools.zip_longest(wide, narrow)):
        name = f"{at}{number}."
        if a is None or b is None:
            raise _Other(name)
        yield a, b, name


class _Other(NasError):
    def __init__(self, at: str) -> None:
        number = int(at.split(".")[0]) + 1
        super().__init__(
            f"element {number} is built differently at this width: another --width may keep it"
        )


def _together(first: Axis, other: Axis) -> None:
    """Ties two axes that are added, so that the same channels are kept. Raises NasError where they
    are segmented differently."""
    mine, theirs = first.flat(), other.flat()
    if mine == theirs:
        return
    if len(mine) == 1:
        mine[0].parts = theirs
    elif len(theirs) == 1:
        theirs[0].parts = mine
    elif [(s.wide, s.narrow) for s in mine] == [(s.wide, s.narrow) for s in theirs]:
        for a, b in zip(mine, theirs, strict=True):
            if a is not b:
                a.parts = (b,)
    else:
        raise NasError("a sum of concatenations that are split differently cannot be made narrower")


# --- the weights ---------------------------------------------------------------------------------


def carried(model: Model, narrow: Architecture, by: By = "scale", seed: int = 0) -> torch.nn.Module:
    """The network ``narrow`` (from ``narrowed``) with the model's weights of the most important
    channels: by the sum of the BN scales on them (Liu et al. 2017, "Network slimming"), or, where
    there are none, by the L2 norm of their filters; ``by`` "norm" always takes the latter.

    Raises NasError where the two architectures do not correspond.
    """
    wide, state = model.architecture, state_of(model.network)
    walk = _Walk(state)
    channels = wide.input[0]
    nodes = [[step.node for step in each.steps] for each in (wide, narrow)]
    axis = Axis((Segment(channels, channels),))
    walk.sequence(nodes[0], nodes[1], "", wide.input, axis)
    for axis, blocks in walk.blocks:
        segments = axis.flat()
        if len(segments) > 1 and any(s.wide != s.narrow for s in segments):
            raise NasError("groups of a concatenation's channels cannot be made narrower")
        segments[0].blocks = math.lcm(segments[0].blocks, blocks)
        if segments[0].narrow % segments[0].blocks:
            raise NasError(
                f"{segments[0].narrow} channels cannot be kept of {segments[0].blocks} groups alike"
            )
    _score(walk.scales if by == "scale" else walk.norms)
    _score([each for each in walk.norms if any(s.score is None for s in each[0].flat())])
    network = build(narrow, seed=seed)
    with torch.no_grad():
        own = network.state_dict()
        for held in walk.held:
            if held.name in state and held.name in own:
                own[held.name].copy_(_taken(state[held.name], held))
        for name, tensor in own.items():
            if name.endswith("num_batches_tracked") and name in state:
                tensor.copy_(state[name])
    return network


def _score(scored: Sequence[tuple[Axis, Tensor]]) -> None:
    for axis, scores in scored:
        start = 0
        for segment in axis.flat():
            own = scores[start : start + segment.wide].double()
            segment.score = own if segment.score is None else segment.score + own
            start += segment.wide


def _taken(tensor: Tensor, held: Held) -> Tensor:
    rows = held.out.kept()
    found = tensor[rows]
    if held.into is None or found.ndim < 2:
        return found
    columns = held.into.kept()
    if held.groups == 1:
        return found[:, columns]
    # A group's filters index its input channels from the group's first.
    width, kept = tensor.shape[1], len(columns) // held.groups
    own = columns.view(held.groups, kept) - torch.arange(held.groups)[:, None] * width
    per_group = found.view(held.groups, -1, *found.shape[1:])
    return torch.cat([each[:, at] for each, at in zip(per_group, own, strict=True)])


def pruned(model: Model, factor: float, by: By = "scale", seed: int = 0) -> Model:
    """The model at ``factor`` of its widths, not yet fine-tuned. Raises NasError."""
    narrow = narrowed(model.architecture, factor)
    card = dataclasses.replace(model.card, architecture=narrow, metrics={})
    return Model(carried(model, narrow, by, seed), card).eval()


def renormalised(model: Model, ref: DataRef, seed: int = 0) -> Model:
    """The model with its BN statistics recomputed on the training images (``IMAGES`` drawn by
    ``seed``, or all): the old ones are of sums over channels that are gone. Changes ``model``.
    Raises DataError."""
    images = data.load(ref, "train")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:IMAGES]
    batch = min(BATCH, len(order))
    whole = order[: len(order) // batch * batch]  # full batches, as each counts equally
    device = next(model.parameters()).device
    prepare = preparation(model.card.normal, data.describe(ref).shape[1:])
    with seeded(seed, device):  # dropout draws
        update_bn(batches(Source.of(images, device), whole, batch, prepare), model.network)
    return model
