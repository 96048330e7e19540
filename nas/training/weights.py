"""Pretrained weights: torchvision's state dicts, and the weights that a training starts from.

The networks themselves are the closed patterns in ``search_spaces/zoo``. No table maps
torchvision's entries to ours: both modules run once, on the meta device, and their layers with
weights are paired in the order in which they ran.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn
from torchvision import models

from nas.data import Info
from nas.data.batches import Normal
from nas.errors import NasError, ShapeError, nearest
from nas.language.architecture import Architecture
from nas.language.expression import Shape
from nas.spaces.zoo import names, network
from nas.training import states
from nas.training.card import Card
from nas.training.device import alone
from nas.training.network import AuxHead, build
from nas.training.states import Pairs, State

log = logging.getLogger(__name__)

# With pretrained weights, torchvision's module maps inputs from ImageNet's normalisation to -1..1
# (transform_input); ours expects -1..1.
NORMALS: Mapping[str, Normal] = {"googlenet": Normal((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}

PATIENCE = 5.0  # seconds to wait for a server's answer: torch's own download has no timeout


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What pretrained weights expect: images of ``size`` x ``size`` pixels, normalised.

    For evaluation torchvision scales the shorter side a little larger (256 or 232 for 224) and
    crops the centre; here the whole image is scaled to the size, in training and evaluation alike.
    """

    size: int
    normal: Normal


@dataclass(frozen=True, slots=True, kw_only=True)
class Initial:
    """Weights to start from (``recipe.init``), and the normalisation of their training.

    Entries of the heads may be absent; all others are present.
    """

    state: Mapping[str, Tensor]
    normal: Normal | None = None


def torchvision_names() -> list[str]:
    """The zoo's networks that torchvision has, with pretrained weights."""
    known = set(models.list_models())
    return [name for name in names() if name in known]


# --- torchvision's state dicts -------------------------------------------------------------------


def load_torchvision(name: str, state_dict: State) -> nn.Module:
    """The zoo's network ``name`` with torchvision's state dict, and as many classes as that has.

    Auxiliary classifiers may be absent, as in torchvision's deployed networks: ours are then newly
    initialised. Takes torchvision's inputs and returns its logits. Raises NasError, which names the
    entries that do not fit.
    """
    where = f"the state dict for {name}"
    found = _modern(states.checked(state_dict, where))
    pairs = correspondence(name, network(name))
    architecture = network(name, classes=_classes(found, pairs))
    with torch.device("meta"):  # drawing weights that are replaced took 0.3 to 1.3 s
        module = build(architecture)
    state = _fitted(module, found, pairs, where)
    if module.state_dict().keys() == state.keys():
        module.to_empty(device=torch.get_default_device())
    else:
        module = build(architecture)
    module.load_state_dict(state, strict=False)
    return module


def correspondence(name: str, architecture: Architecture) -> Pairs:
    """Maps our entries, in the order in which their layers run, to torchvision's.

    Raises NasError where the architecture's layers are of other kinds than torchvision's ``name``.
    """
    if name not in torchvision_names():
        raise NasError(f"torchvision has no {name}; {nearest(name, torchvision_names())}")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # from GoogLeNet, about weights that are not created here
        ours = _as_run(build(architecture), architecture.input)
        theirs = _as_run(models.get_model(name, weights=None), (3, 224, 224))
    kinds = [[type(layer).__name__ for _, layer in layers] for layers in (ours, theirs)]
    if kinds[0] != kinds[1]:
        raise NasError(
            f"the weights of {name} do not fit the network: {_difference(*kinds)}, "
            "among the layers with weights in the order in which they run"
        )
    return {
        f"{our}.{entry}": f"{their}.{entry}"
        for (our, layer), (their, _) in zip(ours, theirs, strict=True)
        for entry in layer.state_dict()
    }


def _as_run(module: nn.Module, x: Shape) -> list[tuple[str, nn.Module]]:
    """The layers with weights, in the order of a training pass; the module is on the meta device,
    and keeps the hooks."""
    ran: list[tuple[str, nn.Module]] = []

    def note(name: str, layer: nn.Module, _: Any) -> None:
        ran.append((name, layer))

    for name, layer in module.named_modules():
        if next(layer.parameters(recurse=False), None) is not None:
            layer.register_forward_pre_hook(partial(note, name))
        # It keeps the shape, and on the meta device torch decomposes it in Python: 1.1 s of
        # densenet161's 1.7.
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = lambda x: x  # type: ignore[method-assign, assignment]
    with torch.no_grad():
        module.train()(torch.empty(1, *x))
    return ran


def _difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    for i, (our, their) in enumerate(zip(ours, theirs, strict=False), 1):
        if our != their:
            return f"number {i} is {our} here and {their} there"
    return f"there are {len(ours)} here and {len(theirs)} there"


def _modern(state: State) -> State:
    """Renames DenseNet's layers (norm.1 to norm1), which changed when module names could no longer
    hold dots: torchvision's own files have the old names."""
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
    return {old.sub(r"\1", key): tensor for key, tensor in state.items()}


def _classes(state: State, pairs: Pairs) -> int | None:
    """The number of classes of a state dict, from its last bias; None where it has none."""
    bias = state.get(list(pairs.values())[-1])
    return len(bias) if bias is not None and bias.ndim == 1 and len(bias) else None


def _fitted(
    module: nn.Module, given: State, pairs: Pairs, where: str, fresh: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The entries of ``given`` under our names, except those that begin with ``fresh`` and those of
    auxiliary classifiers that ``given`` lacks altogether. Raises NasError."""
    expected = module.state_dict()
    for name, part in module.named_modules():
        if isinstance(part, AuxHead):
            own = [key for key in pairs if key.startswith(f"{name}.")]
            if not any(pairs[key] in given for key in own):
                fresh += (f"{name}.",)
    state: dict[str, Tensor] = {}
    known = set(pairs.values())
    wrong = [f"{key} is unknown" for key in given if key not in known]
    for ours, theirs in pairs.items():
        if ours.startswith(fresh):
            continue
        shape = tuple(expected[ours].shape)
        if theirs in given and given[theirs].shape == shape:
            if not given[theirs].isfinite().all():  # as heads in IMAGENET1K_FEATURES
                wrong.append(f"{theirs} holds values that are not finite")
            state[ours] = given[theirs]
        elif theirs in given:
            wrong.append(f"{theirs} has the shape {tuple(given[theirs].shape)}, expected {shape}")
        elif ours.endswith(".num_batches_tracked"):  # absent from files of old torch versions
            state[ours] = torch.tensor(0)
        else:
            wrong.append(f"{theirs} is missing, expected with the shape {shape}")
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise NasError(f"{where} does not fit: {'; '.join(wrong[:3])}{more}")
    return state


# --- initial weights -----------------------------------------------------------------------------


def initial_state(source: str, architecture: Architecture) -> Initial:
    """Weights for ``architecture``, and the normalisation of their training.

    ``source`` is a network of the zoo (torchvision's pretrained weights, NAME or NAME:MEMBER of its
    weights enumeration), or a file of any kind that ``nas.training.states`` reads, with our names,
    torchvision's, or others, which are matched by the layers' shapes, with a warning. For another
    number of classes the head and the auxiliary classifiers are left out. For grey images the
    stem's weights are summed over its input channels, as if each got the grey channel; the
    normalisation is then the mean over channels. Raises NasError where the weights are missing,
    unreadable or do not fit.
    """
    with torch.device("meta"):
        module = build(architecture)
    normal: Normal | None = None
    if name := pretrained_name(source):
        where, normal = f"the pretrained state dict of {source}", preprocessing(source).normal
        pairs = correspondence(name, architecture)
        state = pretrained(source)  # last, as it may be a download
    else:
        where = source
        state, card = states.read(Path(source).expanduser())
        pairs, name = _names(module, architecture, state, where)
        if name:
            normal = preprocessing(name).normal
        if card:
            normal = card.normal
    state = _modern(state)
    stem = next(iter(pairs))
    if architecture.input[0] == 1 and stem.endswith("weight") and pairs[stem] in state:
        weight = state[pairs[stem]]
        if weight.ndim == 4:
            state = {**state, pairs[stem]: weight.sum(1, keepdim=True)}
        normal = normal and _grey(normal)
    fresh: tuple[str, ...] = ()
    if _classes(state, pairs) not in (None, architecture.classes):
        head = list(pairs)[-1].rpartition(".")[0]
        auxiliary = [key for key, part in module.named_modules() if isinstance(part, AuxHead)]
        fresh = tuple(f"{key}." for key in (head, *auxiliary))
    return Initial(state=_fitted(module, state, pairs, where, fresh), normal=normal)


def zoo_model(name: str, source: str, info: Info) -> tuple[nn.Module, Card]:
    """The zoo's network ``name`` for these images, with all its weights from ``source`` (as for
    ``initial_state``). Raises NasError where its head is for other classes."""
    architecture = network(name, info.shape, len(info.classes))
    start = initial_state(source, architecture)
    module = build(architecture, seed=0)
    auxiliary = tuple(
        f"{key}." for key, part in module.named_modules() if isinstance(part, AuxHead)
    )
    lacking = [
        k for k in module.state_dict() if k not in start.state and not k.startswith(auxiliary)
    ]
    if lacking:
        raise NasError(
            f"{source} knows other classes than the {len(info.classes)} of these images: "
            f"`nas train {name} --init {source}` makes a model that knows them"
        )
    module.load_state_dict(start.state, strict=False)
    if start.normal is None:
        raise NasError(f"{source} does not tell how its images were normalised: only a model does")
    return module.eval(), Card(architecture=architecture, classes=info.classes, normal=start.normal)


def _names(
    module: nn.Module, architecture: Architecture, state: State, where: str
) -> tuple[Pairs, str]:
    """Maps our entries to a file's; and the zoo's name where the file's are torchvision's."""
    ours = {key: key for key in module.state_dict()}
    if state.keys() <= ours.keys() and list(ours)[-1] in state:
        return ours, ""
    if name := identify(architecture):
        pairs = correspondence(name, architecture)
        if not set(pairs.values()).isdisjoint(_modern(state)):
            return pairs, name
    pairs = states.by_structure(module, state, where)
    log.warning("%s has other names: its layers were matched by their shapes and order", where)
    return pairs, ""


def pretrained_name(source: str) -> str:
    """The zoo's network whose pretrained weights ``source`` names; empty for a file."""
    name = source.partition(":")[0]
    return name if name in names() else ""


def preprocessing(source: str) -> Preprocessing:
    """What torchvision's pretrained weights expect. Raises NasError where there are none."""
    preset = _weights(source).transforms()
    normal = NORMALS.get(pretrained_name(source)) or Normal(tuple(preset.mean), tuple(preset.std))
    return Preprocessing(preset.crop_size[0], normal)


def pretrained(source: str) -> State:
    """torchvision's pretrained weights, from its cache or downloaded into it."""
    weights = _weights(source)
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(weights.url).path).name)
    if not os.path.isfile(path):  # Path.is_file raises where the name is too long
        try:
            urlopen(Request(weights.url, method="HEAD"), timeout=PATIENCE).close()
            with alone(), redirect_stdout(sys.stderr):  # torch announces a download on stdout
                weights.get_state_dict(
                    map_location="cpu",
                    progress=sys.stderr.isatty(),
                    check_hash=True,
                    weights_only=True,
                )
        except (OSError, HTTPException, RuntimeError) as error:
            why = error.reason if isinstance(error, URLError) else error
            raise NasError(
                f"the pretrained weights of {source} are not here and could not be downloaded "
                f"({why}): put torchvision's file {path.name} into {path.parent}"
            ) from None
    return states.read(path)[0]


def identify(architecture: Architecture) -> str:
    """The torchvision network that an architecture is; empty where there is none."""
    for name in torchvision_names():
        try:
            if network(name, architecture.input, architecture.classes) == architecture:
                return name
        except ShapeError:
            continue
    return ""


def with_weights(name: str) -> str:
    """A clause for an error message that suggests networks with pretrained weights: all of them if
    ``name`` is in the zoo, as it is then no misspelling."""
    found = torchvision_names()
    return f"known: {', '.join(found)}" if name in names() else nearest(name, found)


def _weights(source: str) -> Any:
    """torchvision's weights for NAME (its default) or NAME:MEMBER. Raises NasError."""
    name, colon, member = source.partition(":")
    if name not in torchvision_names():
        raise NasError(f"there are no pretrained weights of {name}; {with_weights(name)}")
    weights = models.get_model_weights(name)
    if not colon:
        return weights.DEFAULT
    if member not in weights.__members__:
        known = ", ".join(weights.__members__)
        raise NasError(f"there are no pretrained weights {source}; known of {name}: {known}")
    return weights[member]


def _grey(normal: Normal) -> Normal:
    return Normal(
        (sum(normal.mean) / len(normal.mean),),
        (sum(normal.std) / len(normal.std),),
    )
