"""A model: a trained network in one file, with everything that a prediction needs.

The file is safetensors, so nothing in it is run. Its tensors are the network's state dict, those
of auxiliary classifiers where it has them; its metadata is the ``Card``, each entry as JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nas import artifacts, fields
from nas.data import Info
from nas.data.batches import Normal
from nas.errors import NasError, PatternError, ShapeError, brief
from nas.fields import Field
from nas.files import content, regular
from nas.job import DataRef, Job
from nas.language.architecture import Architecture, parse
from nas.text import counted
from nas.training import predict
from nas.training.network import AuxHead, build
from nas.training.predict import Prediction, Probabilities
from nas.version import __version__

VERSION = 1
LEAST_STD = 1e-3  # of values from 0 to 1 in steps of 1/255, the least that a training takes
HEADER = 100_000_000  # bytes: the longest header that safetensors takes
PREPARATION = (
    "turned upright, what is transparent on grey, scaled to cover the size, cut to it about the "
    "centre; pixels 0 to 255"
)


def class_numbers(classes: Sequence[str], among: Sequence[str]) -> list[int]:
    """The numbers of the data's ``classes`` among a model's."""
    numbers = {name: number for number, name in enumerate(among)}
    return [numbers[name] for name in classes]


def image_entries(ref: DataRef) -> dict[str, Any]:
    """What a card says of the images that a model was trained on, and of how they were split."""
    return {
        "dataset": ref.name,
        "size": ref.size,
        "split_seed": ref.split_seed,
        "skip_unreadable": ref.skip_unreadable,
        "group_by": ref.group_by,
        "identity": ref.identity,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a model says of itself.

    ``normal`` is the normalisation of its input; ``recipe``, ``epochs`` and ``seed`` how it was
    trained; ``dataset``, ``size`` and what follows on which images, and how these were split;
    ``identity`` tells them from any others (empty: unknown). ``metrics`` are as it was saved:
    ``accuracy`` on the validation images, ``test_accuracy``, ``latency_ms``. ``versions`` are
    those that made it.
    """

    architecture: Architecture
    classes: tuple[str, ...]
    normal: Normal
    recipe: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0
    seed: int = 0
    dataset: str = ""
    size: int = 0
    split_seed: int = 0
    skip_unreadable: bool = False
    group_by: str = ""
    identity: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_job(
        cls,
        job: Job,
        info: Info,
        normal: Normal,
        metrics: Mapping[str, float],
    ) -> Card:
        """That of a finished training."""
        return cls(
            architecture=parse(job.pattern, info.shape, len(info.classes)),
            classes=info.classes,
            normal=normal,
            recipe=job.recipe.plain(),
            epochs=job.epochs,
            seed=job.seed,
            **image_entries(job.data),
            metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
            versions={"nas": __version__, "torch": torch.__version__},
        )

    @property
    def input(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        channels, height, width = self.architecture.input
        return channels, height, width

    def metadata(self) -> dict[str, str]:
        """As text by name, for the files that hold it."""
        entries: dict[str, Any] = {
            "nas_model": VERSION,
            "pattern": str(self.architecture),
            "input": self.input,
            "preparation": PREPARATION,
        }
        for name, kind in _KINDS.items():
            entries[name] = kind(getattr(self, name))
        entries |= {"classes": self.classes, "metrics": dict(self.metrics)}
        entries |= {"mean": self.normal.mean, "std": self.normal.std}
        return {name: json.dumps(value, ensure_ascii=False) for name, value in entries.items()}

    @classmethod
    def of(cls, metadata: Mapping[str, str], where: str) -> Card:
        """What ``metadata`` wrote. Raises NasError where that is no model's, or of other format."""
        if "nas_model" not in metadata:
            raise NasError(
                f"{where} is not a model of nas: it holds no pattern, classes and normalisation "
                "(--init can start a training from weights alone)"
            )
        told = Field(where, "", {
            name: fields.read(f"{where}: {name}", text, "JSON").value
            for name, text in metadata.items()
            if name in _KNOWN
        })  # fmt: skip
        told["nas_model"].version(VERSION)
        try:
            architecture = parse(told["pattern"].of(str))
        except (PatternError, ShapeError) as error:
            raise NasError(f"{where}: its pattern cannot be read: {error}") from None

        def listed(name: str, count: int, rule: str) -> list[Field]:
            found = told[name].items(rule)
            return found if len(found) == count else told[name].refuse(rule)

        channels, count = architecture.input[0], architecture.classes
        classes = listed(
            "classes",
            count,
            f"the names of the {counted(count, 'class', 'classes')} of its pattern",
        )
        mean, std = (
            tuple(each.number(*range_) for each in listed(name, channels, f"{channels} numbers"))
            for name, range_ in (("mean", (0, 1)), ("std", (LEAST_STD, 1)))
        )
        metrics = told["metrics"].of(dict) if told["metrics"].given else {}
        return cls(
            architecture=architecture,
            classes=_names(classes),
            normal=Normal(mean, std),
            metrics={name: told["metrics"][name].number() for name in metrics},
            **{name: _entry(told[name]) for name in _KINDS if told[name].given},
        )


def _names(classes: Sequence[Field]) -> tuple[str, ...]:
    """Those of classes, each another. Raises NasError."""
    first: dict[str, Field] = {}
    for each in classes:
        if not each.of(str):
            each.refuse("a name")
        if first.setdefault(each.value, each) is not each:
            each.refuse(f"another name than {first[each.value].place}")
    return tuple(first)


def _entry(told: Field) -> Any:
    kind = _KINDS[told.place]
    return told.whole(0, _MOST[told.place]) if kind is int else told.of(kind)


_MOST: Mapping[str, int] = {  # as far as the record, a pattern and numpy's generator take each
    **dict.fromkeys(("epochs", "seed"), (1 << 63) - 1),
    "size": 65_536,
    "split_seed": (1 << 32) - 1,
}
_KINDS: Mapping[str, type] = {
    **dict.fromkeys(_MOST, int),
    **dict.fromkeys(("dataset", "group_by", "identity"), str),
    "skip_unreadable": bool,
    **dict.fromkeys(("recipe", "versions"), dict),
}
_KNOWN = frozenset({"nas_model", "pattern", "classes", "mean", "std", "metrics", *_KINDS})


class Model(nn.Module):
    """A network that takes pixels: (images, channels, height, width), uint8 or floats from 0 to
    255, and answers logits (images, classes)."""

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
    def architecture(self) -> Architecture:
        return self.card.architecture

    @property
    def classes(self) -> tuple[str, ...]:
        return self.card.classes

    @property
    def input(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that it takes."""
        return self.card.input

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of all that its answers depend on: network, classes, normalisation
        and weights, wherever its file lies and whatever else that tells."""
        card = self.card
        facts = (self.architecture.fingerprint, card.classes, card.normal.mean, card.normal.std)
        found = hashlib.sha256(json.dumps(facts).encode())
        for name, tensor in sorted(state_of(self.network).items()):
            found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            found.update(tensor.numpy().tobytes())
        return found.hexdigest()[:16]

    def predict(self, images: Any) -> list[Prediction]:
        """A prediction for each of ``images``: paths, Pillow's images or arrays of uint8, one or a
        sequence of them. Raises DataError for what cannot be read."""
        return predict.predict(self, images)

    def probabilities(self, pixels: Tensor) -> Probabilities:
        """(images, classes) of pixels as ``forward`` takes them, in evaluation."""
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


def room_for(architecture: Architecture) -> int:
    """Bytes that a file with the architecture's model takes, or a little more."""
    with torch.device("meta"):
        state = build(architecture).state_dict()
    held: int = sum(v.nbytes for v in state.values())
    return held + 200 * len(state) + 100_000


def create_model(file: Path, network: nn.Module, card: Card) -> bool:
    """Writes a model to a file, unless one is there: whether it did. Raises NasError as
    ``save_model``."""
    return artifacts.create(file, safetensors.torch.save(state_of(network), card.metadata()))


def save_model(location: str | Path, network: nn.Module, card: Card) -> None:
    """Writes a model to a file, or to a URL that fsspec knows, whole or not at all.

    Raises NasError where the file cannot be written, or what the URL's file system raises.
    """
    data = safetensors.torch.save(state_of(network), card.metadata())
    if "://" in str(location):
        artifacts.write(location, data)
    else:
        artifacts.replace(Path(location), data)


def free_for(file: Path, model: Model) -> None:
    """Raises NasError where ``file`` is there and is not this model, by its digest."""
    try:
        free = not file.exists() or load_model(file).digest == model.digest
    except NasError:
        free = False
    if not free:
        raise occupied(file)


def occupied(file: Path) -> NasError:
    """Why what is made is not written to a file that is another one."""
    return NasError(f"{file} exists and is a different one: it would be overwritten; move it away")


def save_once(file: Path, model: Model) -> None:
    """Writes a model to a file of which the user was not asked: none that is there is written over.
    Raises NasError where it is another."""
    free_for(file, model)
    if not file.exists():
        save_model(file, model.network, model.card)


def load_model(file: str | Path) -> Model:
    """The model in a file, or at a URL that fsspec knows, ready to predict. No code in it is run.

    Raises NasError where there is none, it is cut short, of another format, or its tensors do not
    fit its pattern.
    """
    return model_of(read(file), str(file))


def card_of(file: str | Path) -> Card:
    """What the model in a file, or at a URL, says of itself. Raises NasError where it is none. Of a
    file no more than the header is read."""
    return _card(read(file, header), str(file))


def kept_card(file: str | Path) -> Card | None:
    """What the model in a file, or at a URL that fsspec knows, says of itself; None where there is
    none. One that is not whole is set aside, with a warning."""

    def whole(data: bytes) -> bytes:
        safetensors.torch.load(data)
        return data

    data = artifacts.newest(file, whole)
    return None if data is None else _card(data, str(file))


def model_of(data: bytes, where: str) -> Model:
    """As ``load_model``, of the file's bytes."""
    card = _card(data, where)
    try:
        state = safetensors.torch.load(data)
    except SafetensorError as error:
        raise NasError(f"{where} is cut short or damaged: {error}") from None
    with torch.device("meta"):
        network = build(card.architecture)
    _fill(network, state, where)
    # As in the training: for convolutions on a CPU up to twice as fast.
    return Model(network.to(memory_format=torch.channels_last), card).eval()


def read(file: str | Path, opened: Callable[[Path], bytes] = content) -> bytes:
    """The bytes of a file, as ``opened`` reads it, or at a URL. Raises NasError."""
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
    """The metadata of a safetensors file; None where it is no such file. Raises NasError where it
    has one entry twice."""
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
    """Gives a network without data its tensors. Auxiliary classifiers that are absent become
    nothing: predictions do not need them. Raises NasError where the others do not fit."""
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
