"""Reads weights from files of any common kind. No code in a file is run.

A file is in safetensors' format (our models, or others), saved by ``torch.save``, or one of our
checkpoints; the state dict is the whole file or an entry, with or without wrappers' key prefixes.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from nas.errors import NasError, nearest
from nas.files import content
from nas.spaces.zoo import names
from nas.training import checkpoint
from nas.training.card import Card
from nas.training.models import header, metadata_of, verify
from nas.training.network import AuxHead

State = Mapping[str, Tensor]
Pairs = Mapping[str, str]  # our entry -> the entry of a state dict

# Where training scripts keep a state dict, likeliest first (an average of the weights scores better
# than the last ones, but few files hold both).
ENTRIES = ("state_dict", "model", "model_state_dict", "net", "network", "module", "weights",
           "params", "model_ema", "state_dict_ema", "ema")  # fmt: skip
# Prefixes that wrappers (torch's and others) add to each key.
WRAPPERS = re.compile(r"^(module|_orig_mod|model|net|network)\.")


def read(path: Path) -> tuple[State, Card | None]:
    """The state dict in a file, and the card if it is a model of ours. Raises NasError."""
    try:
        data = content(path)
    except OSError as error:
        known = nearest(str(path), names())
        raise NasError(
            f"{path}: {error.strerror}: must be a file, or a network of the zoo; {known}"
        ) from None
    metadata = metadata_of(data, str(path))
    try:
        if data.startswith(checkpoint.FORMAT):
            saved = checkpoint.scored(checkpoint.parse(data))
        elif metadata is not None:
            loaded = safetensors.torch.load(data)
            saved = {key: loaded[key] for key in sorted(loaded, key=_natural)}
        else:
            saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    # On invalid or disallowed content, the readers raise nearly anything.
    except Exception as error:
        raise NasError(
            f"{path} is not a whole file of nothing but tensors ({type(error).__name__}): "
            "it was not loaded, and nothing in it was run"
        ) from None
    card = Card.of(metadata, str(path)) if metadata and "nas_model" in metadata else None
    verify(saved, metadata or {}, str(path))
    return unwrapped(saved, str(path)), card


def card_in(path: Path) -> Card | None:
    """The card of a model of ours; None for other files, and unreadable ones."""
    try:
        metadata = metadata_of(header(path), str(path))
    except OSError:
        return None
    return Card.of(metadata, str(path)) if metadata and "nas_model" in metadata else None


def unwrapped(saved: object, where: str) -> State:
    """The state dict in what a training script saved, without wrappers' key prefixes. Raises
    NasError where there is none, or more than one."""
    for _ in range(3):  # {"model": {"state_dict": ...}}
        if not isinstance(saved, Mapping) or _tensors(saved):
            break
        inside = {key: value for key, value in saved.items() if _wraps(value)}
        likely = [key for key in ENTRIES if key in inside] or list(inside)
        if not likely:
            break
        if len(likely) > 1 and likely[0] not in ENTRIES:
            keys = ", ".join(map(str, likely[:5]))
            raise NasError(f"{where} holds more than one state dict ({keys}): save the one alone")
        saved = inside[likely[0]]
    state = checked(saved, where)
    while state and all(WRAPPERS.match(key) for key in state):
        state = {WRAPPERS.sub("", key): tensor for key, tensor in state.items()}
    return state


def checked(saved: object, where: str) -> State:
    """``saved``, if it maps names to tensors. Raises NasError otherwise."""
    if not isinstance(saved, Mapping):
        raise NasError(f"{where} is a {type(saved).__name__}: must map names to tensors")
    for key, value in saved.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise NasError(f"{where} has a {type(value).__name__} at {key!r}: must be a tensor")
    return saved


def _tensors(saved: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) and "." in str(key) for key, value in saved.items())


def _wraps(value: object) -> bool:
    """Whether an entry is a state dict, or holds one."""
    return isinstance(value, Mapping) and (
        _tensors(value) or any(isinstance(v, Mapping) and _tensors(v) for v in value.values())
    )


def _natural(key: str) -> list[tuple[int, int, str]]:
    """A sort key by numeric value: safetensors sorts as text, with layer 10 before layer 2."""
    parts = re.split(r"(\d+)", key)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


# --- other names ---------------------------------------------------------------------------------


def by_structure(module: nn.Module, state: State, where: str) -> Pairs:
    """Maps our entries to those of a state dict with other names: layers of equal shapes are paired
    in order. The last layer, the head, may have other classes. Raises NasError where layers do not
    match."""
    aux = [f"{name}." for name, part in module.named_modules() if isinstance(part, AuxHead)]
    ours = _layers({k: v for k, v in module.state_dict().items() if not k.startswith(tuple(aux))})
    waiting: dict[Any, deque[str]] = defaultdict(deque)
    theirs = _layers(state)
    for name, entries in theirs.items():
        waiting[_shapes(entries)].append(name)
    *body, head = ours
    matched: dict[str, str] = {}
    for name in body:
        same = waiting[_shapes(ours[name])]
        if not same:
            layers = ", ".join(f"{e} {s}" for e, s in _shapes(ours[name]))
            raise NasError(f"{where} does not fit: it has no layer like {name} ({layers}) left")
        matched[name] = same.popleft()
    left = [name for names in waiting.values() for name in names]
    if len(left) != 1 or _inputs(theirs[left[0]]) != _inputs(ours[head]):
        layers = ", ".join(left[:3]) or "nothing"
        raise NasError(f"{where} does not fit: for the head, {head}, it has {layers} left")
    matched[head] = left[0]
    return {
        f"{name}.{entry}": f"{matched[name]}.{entry}"
        for name, elements in ours.items()
        for entry in elements
    }


def _layers(state: State) -> dict[str, dict[str, Tensor]]:
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in state.items():
        layer, _, entry = key.rpartition(".")
        layers[layer][entry] = tensor
    return layers


def _shapes(entries: Mapping[str, Tensor]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """What identifies a layer; files of old torch versions lack ``num_batches_tracked``."""
    return tuple(
        sorted((e, tuple(t.shape)) for e, t in entries.items() if e != "num_batches_tracked")
    )


def _inputs(entries: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """A head's shapes without the classes."""
    return tuple((entry, shape[1:]) for entry, shape in _shapes(entries))
