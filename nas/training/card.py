"""The card of a model: all that its file says of it beside the weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nas import data, fields
from nas.data import Info
from nas.data.batches import Normal
from nas.errors import NasError, PatternError, RecipeError, ShapeError
from nas.fields import Field
from nas.job import DataRef, Job, Recipe
from nas.language.architecture import Architecture, parse
from nas.text import counted
from nas.training import predict
from nas.training.predict import Prediction, Probabilities
from nas.version import __version__

VERSION = 1
LEAST_STD = 1e-3  # of values from 0 to 1 in steps of 1/255, the least that a training takes
PREPARATION = (
    "turned upright, what is transparent on grey, scaled to cover the size, cut to it about the "
    "centre; pixels 0 to 255"
)


def class_numbers(classes: Sequence[str], among: Sequence[str]) -> list[int]:
    """The indices of the data's ``classes`` ``among`` a model's."""
    numbers = {name: number for number, name in enumerate(among)}
    return [numbers[name] for name in classes]


def image_entries(ref: DataRef) -> dict[str, Any]:
    """A card's entries on the images that a model was trained on, and their split."""
    return {
        "dataset": ref.name,
        "size": ref.size,
        "split_seed": ref.split_seed,
        "skip_unreadable": ref.skip_unreadable,
        "group_by": ref.group_by,
        "identity": ref.identity,
        "seen": data.sketch(ref).astype(">u8").tobytes().hex(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A model's metadata.

    ``normal`` is the normalisation of its input; ``recipe``, ``epochs`` and ``seed`` say how it was
    trained; ``dataset`` to ``seen`` on which images, and their split (an empty ``identity``:
    unknown; ``seen``: their ``sketch``, in hexadecimal). ``metrics`` are those at saving:
    ``accuracy`` on the validation images, ``test_accuracy``, ``latency_ms``. ``versions`` are of
    nas and torch.
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
    seen: str = ""
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
        """The card of a finished training."""
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
        """Its entries as JSON texts by name, as files hold them."""
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
        """Reads what ``metadata`` wrote. Raises NasError where it is not a model's, or of another
        format."""
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
        return cls(
            architecture=architecture,
            classes=_names(classes),
            normal=Normal(mean, std),
            metrics={name: each.number() for name, each in _members(told["metrics"])},
            **{
                name: _entry(told[name]) for name in _KINDS if name in metadata or name not in LATER
            },
        )


def _names(classes: Sequence[Field]) -> tuple[str, ...]:
    """The names of classes. Raises NasError unless they are distinct."""
    first: dict[str, Field] = {}
    for each in classes:
        if not each.of(str):
            each.refuse("a name")
        if first.setdefault(each.value, each) is not each:
            each.refuse(f"another name than {first[each.value].place}")
    return tuple(first)


def _members(told: Field) -> list[tuple[str, Field]]:
    return [(name, told[name]) for name in told.of(dict)]


def _entry(told: Field) -> Any:
    kind = _KINDS[told.place]
    if told.place == "versions":
        return {name: each.of(str) for name, each in _members(told)}
    if told.place == "recipe":
        try:
            Recipe.of(told.of(dict))
        except RecipeError as error:
            raise NasError(f"{told.file}: {error}") from None
    if told.place == "seen" and not _HEXADECIMAL.fullmatch(told.of(str)):
        told.refuse("hexadecimal digits, 16 an image")
    return told.whole(0, _MOST[told.place]) if kind is int else told.of(kind)


_HEXADECIMAL = re.compile("([0-9a-f]{16})*")
_MOST: Mapping[str, int] = {  # the limits of the record, of a pattern and of numpy's generator
    **dict.fromkeys(("epochs", "seed"), (1 << 63) - 1),
    "size": 65_536,
    "split_seed": (1 << 32) - 1,
}
_KINDS: Mapping[str, type] = {
    **dict.fromkeys(_MOST, int),
    **dict.fromkeys(("dataset", "group_by", "identity", "seen"), str),
    "skip_unreadable": bool,
    **dict.fromkeys(("recipe", "versions"), dict),
}
LATER = frozenset({"skip_unreadable", "group_by", "seen"})  # models without these are older
_KNOWN = frozenset({"nas_model", "pattern", "classes", "mean", "std", "metrics", *_KINDS})


class Described:
    """What predicts by its ``card``: a model, one in ONNX Runtime, a cascade."""

    card: Card

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

    def probabilities(self, pixels: Tensor) -> Probabilities:
        """(images, classes) of pixels (images, channels, height, width) from 0 to 255."""
        raise NotImplementedError

    def predict(self, images: Any) -> list[Prediction]:
        """A prediction for each of ``images``: paths, Pillow's images or arrays of uint8, one or a
        sequence of them. Raises DataError for what cannot be read."""
        return predict.predict(self, images)
