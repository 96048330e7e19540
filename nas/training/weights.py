"""The networks of the literature with their weights: torchvision's state dicts, and what a training
starts from.

The networks themselves are the closed patterns in ``search_spaces/zoo``. How torchvision's entries
map to ours is written down nowhere: both modules run once, without data, and their layers with
weights pair up in the order in which they ran.
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

# torchvision's module makes inputs from -1 to 1 out of ImageNet's normalisation (transform_input)
# where it has pretrained weights; ours takes such inputs as they are.
NORMALS: Mapping[str, Normal] = {"googlenet": Normal((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}

PATIENCE = 5.0  # seconds for a server's first answer: torch's own download waits without an end


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What pretrained weights ask for: images of ``size`` x ``size`` pixels, normalised.

    To score, torchvision scales the shorter side to a little more than that (256 or 232 for 224)
    and cuts the middle out; here the whole image is scaled to the size, for training and scoring
    alike.
    """

    size: int
    normal: Normal


@dataclass(frozen=True, slots=True, kw_only=True)
class Initial:
    """Weights to start from (``recipe.init``), and the normalisation that they were trained with.

    Entries of the heads may be absent; the others are all there.
    """

    state: Mapping[str, Tensor]
    normal: Normal | None = None


def torchvision_names() -> list[str]:
    """Those that torchvision has, with pretrained weights."""
    known = set(models.list_models())
    return [name for name in names() if name in known]


# --- torchvision's state dicts -------------------------------------------------------------------


def load_torchvision(name: str, state_dict: State) -> nn.Module:
    """The zoo's network ``name`` with the state dict of torchvision's, as many classes as that has.

    Entries of auxiliary classifiers may be absent altogether, as in torchvision's deployed
    networks: ours are then fresh. It takes what torchvision's takes and answers its logits. Raises
    NasError that names the entries that do not fit.
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
    """Our entries, in the order in which their layers run, with torchvision's names for them.

    Raises NasError where the architecture's layers are not of the kinds of torchvision's ``name``.
    """
    if name not in torchvision_names():
        raise NasError(f"torchvision has no {name}; {nearest(name, torchvision_names())}")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # of GoogLeNet, about weights never made here
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
    """The layers with weights of a module on the meta device, as one training pass runs them."""
    ran: list[tuple[str, nn.Module]] = []

    def note(name: str, layer: nn.Module, _: Any) -> None:
        ran.append((name, layer))

    for name, layer in module.named_modules():
        if next(layer.parameters(recurse=False), None) is not None:
            layer.register_forward_pre_hook(partial(note, name))
        # It keeps the shape, and on the meta device torch has it in Python alone: two thirds of the
        # time of all, 1.1 s of densenet161's 1.7.
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
    """With the names that DenseNet's layers have had since module names may hold no dots (norm1 for
    norm.1): torchvision's own files still have the old ones."""
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
    return {old.sub(r"\1", key): tensor for key, tensor in state.items()}


def _classes(state: State, pairs: Pairs) -> int | None:
    """The number of classes of a state dict, where its last bias tells it."""
    bias = state.get(list(pairs.values())[-1])
    return len(bias) if bias is not None and bias.ndim == 1 and len(bias) else None


def _fitted(
    module: nn.Module, given: State, pairs: Pairs, where: str, fresh: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The entries for ``module`` out of those ``given``: all, but those that begin with
    ``fresh`` and those of an auxiliary classifier that ``given`` lacks whole. Raises NasError."""
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
            if not given[theirs].isfinite().all():  # the heads of torchvision's features alone
                wrong.append(f"{theirs} holds values that are not finite")
            state[ours] = given[theirs]
        elif theirs in given:
            wrong.append(f"{theirs} has the shape {tuple(given[theirs].shape)}, expected {shape}")
        elif ours.endswith(".num_batches_tracked"):  # files from before torch counted them
            state[ours] = torch.tensor(0)
        else:
            wrong.append(f"{theirs} is missing, expected with the shape {shape}")
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise NasError(f"{where} does not fit: {'; '.join(wrong[:3])}{more}")
    return state


# --- where a training starts ---------------------------------------------------------------------


def initial_state(source: str, architecture: Architecture) -> Initial:
    """Weights for ``architecture``, and the normalisation that they were trained with.

    ``source`` is a network of the zoo (torchvision's pretrained weights, as NAME or NAME:MEMBER of
    its weights' enumeration), or a file of any kind that ``nas.training.states`` reads, in our
    names, torchvision's, or others for layers of the same shapes (told by a warning). For another
    number of classes the head and the auxiliary classifiers are absent from the result. For grey
    images a stem's weights are summed over its input channels, as if the grey channel were given to
    each; the normalisation is then the channels' mean. Raises NasError where the weights are not
    there, cannot be read or do not fit.
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
    """The zoo's network ``name`` on these images with all its weights from ``source``, as for
    ``initial_state``. Raises NasError where its head is for other classes."""
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
    """Our entries with those of a file, and the network where they are torchvision's names."""
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
    """The network of the zoo whose weights ``source`` names; empty where it is a file."""
    name = source.partition(":")[0]
    return name if name in names() else ""


def preprocessing(source: str) -> Preprocessing:
    """What torchvision's pretrained weights of a network ask for. Raises NasError for none."""
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
    """The name of a network that torchvision has; empty where it is none."""
    for name in torchvision_names():
        try:
            if network(name, architecture.input, architecture.classes) == architecture:
                return name
        except ShapeError:
            continue
    return ""


def with_weights(name: str) -> str:
    """A clause for an error message: what has pretrained weights. Of a network that has none, no
    other is meant, however alike their names."""
    found = torchvision_names()
    return f"known: {', '.join(found)}" if name in names() else nearest(name, found)


def _weights(source: str) -> Any:
    """torchvision's weights that NAME (its default) or NAME:MEMBER names. Raises NasError."""
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
