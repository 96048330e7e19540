"""A model: a trained network in one file, with everything that a prediction needs.

The file is safetensors, so no code in it is run. Its tensors are the network's state dict, with
auxiliary classifiers if any; its metadata is the ``Card``, each entry as JSON, with a digest of the
tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nas import artifacts, fields
from nas.errors import NasError, brief
from nas.files import content, regular
from nas.language.architecture import Architecture
from nas.text import counted
from nas.training.card import Card, Described
from nas.training.network import AuxHead, build
from nas.training.predict import Probabilities

HEADER = 100_000_000  # bytes: the longest header that safetensors takes
DIGEST = "weights_digest"  # the metadata's entry


class Model(Described, nn.Module):
    """A network on pixels (images, channels, height, width), uint8 or floats from 0 to 255; returns
    logits (images, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, card: Card) -> None:
        super().__init__()
        self.network, self.card = network, card
        for name, values in (("mean", card.normal.mean), ("std", card.normal.std)):
            each = torch.tensor(values).mul(255).view(-1, 1, 1)
            self.register_buffer(name, each, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network((pixels.to(torch.float32) - self.mean) / self.std)
        return logits

    @property
    def digest(self) -> str:
        """16 hexadecimal digits, a hash of all that its predictions depend on: network, classes,
        normalisation and weights."""
        card = self.card
        facts = (self.architecture.fingerprint, card.classes, card.normal.mean, card.normal.std)
        return digest_of(state_of(self.network), json.dumps(facts))

    def probabilities(self, pixels: Tensor) -> Probabilities:
        """(images, classes) of pixels as ``forward`` takes them, in evaluation mode."""
        was = self.training
        self.eval()
        try:
            with torch.inference_mode():
                pixels = pixels.to(self.mean.device).contiguous(memory_format=torch.channels_last)
                found: Probabilities = self(pixels).softmax(1).cpu().numpy()
                return found
        finally:
            self.train(was)

    def __repr__(self) -> str:
        return f"Model({self.architecture}, {counted(len(self.classes), 'class', 'classes')})"


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """The network's state dict as a file holds it."""
    return {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}


def digest_of(state: Mapping[str, Tensor], facts: str = "") -> str:
    """16 hexadecimal digits, a hash of ``facts`` and a state dict as a file holds it."""
    found = hashlib.sha256(facts.encode())
    for name, tensor in sorted(state.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # numpy has no bfloat16
    return found.hexdigest()[:16]


def packed(network: nn.Module, card: Card) -> bytes:
    """A model's file."""
    state = state_of(network)
    return safetensors.torch.save(state, card.metadata() | {DIGEST: json.dumps(digest_of(state))})


def verify(state: Mapping[str, Tensor], metadata: Mapping[str, str], where: str) -> None:
    """Raises NasError where a model's tensors are not those that it was written with; older files
    do not tell."""
    told = metadata.get(DIGEST) if "nas_model" in metadata else None
    if told is not None and told != json.dumps(digest_of(state)):
        raise NasError(
            f"{where} was changed or damaged since nas wrote it: its weights must have the digest "
            f"{brief(told, 20)} and have {digest_of(state)}"
        )


def room_for(architecture: Architecture) -> int:
    """An upper bound, in bytes, of the size of the architecture's model file."""
    with torch.device("meta"):
        state = build(architecture).state_dict()
    held: int = sum(v.nbytes for v in state.values())
    return held + 200 * len(state) + 100_000


def create_model(file: Path, network: nn.Module, card: Card) -> bool:
    """Writes a model to a new file; returns False where the file exists. Raises NasError as
    ``save_model``."""
    return artifacts.create(file, packed(network, card))


def save_model(location: str | Path, network: nn.Module, card: Card) -> None:
    """Writes a model atomically to a file, or to a URL that fsspec knows.

    Raises NasError where the file cannot be written, or what the URL's file system raises.
    """
    data = packed(network, card)
    if "://" in str(location):
        artifacts.write(location, data)
    else:
        artifacts.replace(Path(location), data)


def free_for(file: Path, model: Model) -> None:
    """Raises NasError where ``file`` exists and is not this model, by its digest."""
    try:
        free = not file.exists() or load_model(file).digest == model.digest
    except NasError:
        free = False
    if not free:
        raise occupied(file)


def occupied(file: Path) -> NasError:
    """The error for a file that would be overwritten with another model."""
    return NasError(f"{file} exists and is a different one: it would be overwritten; move it away")


def save_once(file: Path, model: Model) -> None:
    """Writes a model to a file that the user did not name, unless it is there already. Raises
    NasError rather than overwriting another."""
    free_for(file, model)
    if not file.exists():
        save_model(file, model.network, model.card)


def load_model(file: str | Path) -> Model:
    """Loads the model in a file, or at a URL that fsspec knows. No code in it is run.

    Raises NasError where there is none, it is truncated, of another format, or its tensors do not
    fit its pattern or are not those that were written.
    """
    return model_of(read(file), str(file))


def card_of(file: str | Path) -> Card:
    """The card of the model in a file, of which only the header is read, or at a URL. Raises
    NasError where it is not a model."""
    return _card(read(file, header), str(file))


def kept_card(file: str | Path) -> Card | None:
    """The card of the model in a file, or at a URL that fsspec knows; None where there is none. A
    damaged one is renamed, with a warning."""

    def whole(data: bytes) -> bytes:
        verify(safetensors.torch.load(data), metadata_of(data, str(file)) or {}, str(file))
        return data

    data = artifacts.newest(file, whole)
    return None if data is None else _card(data, str(file))


def model_of(data: bytes, where: str) -> Model:
    """As ``load_model``, from the file's bytes; errors name ``where``."""
    card = _card(data, where)
    try:
        state = safetensors.torch.load(data)
    except SafetensorError as error:
        raise NasError(f"{where} is cut short or damaged: {error}") from None
    with torch.device("meta"):
        network = build(card.architecture)
    _fill(network, state, where)
    verify(state, metadata_of(data, where) or {}, where)
    # As in the training: for convolutions on a CPU up to twice as fast.
    return Model(network.to(memory_format=torch.channels_last), card).eval()


def read(file: str | Path, opened: Callable[[Path], bytes] = content) -> bytes:
    """The bytes of a file, read by ``opened``, or at a URL. Raises NasError."""
    try:
        if "://" not in str(file):
            return opened(Path(file).expanduser())
        found = artifacts.newest(file, bytes)
    except Exception as error:  # a file system of fsspec's raises what its library raises
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise NasError(f"{file}: {brief(why)}: must be a model") from None
    if found is None:
        raise NasError(f"{file} does not exist: must be a model")
    return found


def header(path: Path) -> bytes:
    """The beginning of a safetensors file, up to its tensors. Raises OSError."""
    with open(path, "rb", opener=regular) as file:
        start = file.read(8)
        return start + file.read(min(int.from_bytes(start, "little"), HEADER))


def _card(data: bytes, where: str) -> Card:
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") > len(data) - 8:
        raise NasError(f"{where} is cut short: it ends within its header")
    return Card.of(metadata_of(data, where) or {}, where)


def metadata_of(data: bytes, where: str) -> dict[str, str] | None:
    """The metadata of a safetensors file; None for any other file. Raises NasError for a duplicate
    entry."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(HEADER, len(data) - 8) or data[8:9] != b"{":
        return None
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=fields.once)
        metadata = header.get("__metadata__", {})
        return {str(name): str(value) for name, value in metadata.items()}
    except fields.Twice as error:
        twice = brief(json.dumps(error.args[0]), 60)
        raise NasError(f"{where}: its header has two values of {twice}: must be one") from None
    except (ValueError, AttributeError, RecursionError):
        return None


def _fill(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Loads tensors into a network on the meta device. Absent auxiliary classifiers are removed, as
    predictions do not need them. Raises NasError where other tensors do not fit."""
    for name, part in list(network.named_children()):
        if isinstance(part, AuxHead) and not any(key.startswith(f"{name}.") for key in state):
            setattr(network, name, nn.Identity())
    expected = network.state_dict()
    wrong = [f"{key} is missing" for key in expected if key not in state]
    wrong += [f"{key} is none of its tensors" for key in state if key not in expected]
    wrong += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise NasError(f"{where} does not fit its pattern: {'; '.join(wrong[:3])}{more}")
    fitted = {key: state[key].to(tensor.dtype) for key, tensor in expected.items()}
    network.load_state_dict(fitted, assign=True)
