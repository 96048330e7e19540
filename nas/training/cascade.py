"""A cascade: networks in the order of their cost, each of which answers where it is sure enough.

Its file is JSON beside the members' own files, which it names with their digests; who predicts with
it needs those alone. ``nas.training.cascade_choice`` chooses the members.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas import artifacts, fields
from nas.errors import NasError, brief
from nas.fields import Field
from nas.text import counted
from nas.training.card import Described
from nas.training.device import with_threads
from nas.training.models import Model, free_for, load_model, read, save_once
from nas.training.predict import Probabilities, tempered

VERSION = 1
TIMED = 200  # images one by one


@dataclass(frozen=True, slots=True)
class Member:
    """A network, the ``temperature`` that calibrates it, and the least confidence at which its
    answer stands (minus infinity for the last). ``file`` is its name beside the cascade's file that
    it was loaded from."""

    model: Model
    temperature: float
    threshold: float
    file: str = ""


class Cascade(Described):
    """Predicts as a ``Model`` does. ``stopped`` counts the images that each member has answered so
    far; ``about`` is what was measured when it was chosen."""

    def __init__(self, members: Sequence[Member], about: Mapping[str, Any]) -> None:
        self.members, self.about = tuple(members), about
        self.stopped = [0] * len(self.members)
        self.card = self.members[-1].model.card  # all members know the same classes

    def to(self, device: torch.device) -> Cascade:
        for member in self.members:
            member.model.to(device)
        return self

    def answers(self, pixels: Tensor) -> tuple[Probabilities, npt.NDArray[np.int64]]:
        """The calibrated probabilities (images, classes) of pixels, and which member stopped each:
        a later one is given only what is left."""
        found = np.empty((len(pixels), len(self.classes)), np.float32)
        by = np.empty(len(pixels), np.int64)
        left = torch.arange(len(pixels))
        for number, member in enumerate(self.members):
            if not len(left):
                break
            each = torch.from_numpy(member.model.probabilities(pixels[left]))
            soft = tempered(each, member.temperature)
            stops = soft.max(1).values >= member.threshold
            if number + 1 == len(self.members):
                stops[:] = True  # NaN, too: no image is left without an answer
            found[left[stops]], by[left[stops]] = soft[stops].numpy(), number
            left = left[~stops]
        return found, by

    def probabilities(self, pixels: Tensor) -> Probabilities:
        found, by = self.answers(pixels)
        for number in by:
            self.stopped[number] += 1
        return found

    @property
    def shares(self) -> list[float]:
        """The fraction of the images so far that stopped at each member; zeros without any."""
        return [count / max(1, sum(self.stopped)) for count in self.stopped]

    def __repr__(self) -> str:
        told = " -> ".join(f"{member.model.architecture.params:,}" for member in self.members)
        return f"Cascade({told} params, {counted(len(self.classes), 'class', 'classes')})"


def timed(model: Model | Cascade, pixels: Tensor) -> float:
    """Milliseconds an image, of these images (at most 200) one by one on one thread: of each image
    the least of five rounds, as other programs only add to it."""
    images = [image[None] for image in pixels[:TIMED]]
    answer = model.answers if isinstance(model, Cascade) else model.probabilities
    least = [math.inf] * len(images)
    with with_threads(1):
        answer(images[0])
        for _ in range(5):
            for number, image in enumerate(images):
                began = time.perf_counter()
                answer(image)
                least[number] = min(least[number], time.perf_counter() - began)
    return 1000 * sum(least) / len(images)


# --- the file ------------------------------------------------------------------------------------


def beside(file: Path, model: Model) -> Path:
    """Where a member of the cascade in ``file`` is written. Raises NasError where that is a file of
    something else."""
    found = file.with_name(f"{file.stem}-{model.digest[:8]}.safetensors")
    free_for(found, model)
    return found


def save_cascade(file: Path, cascade: Cascade) -> None:
    """Writes a cascade to ``file``, and its members beside it under names with their digests: no
    file that was there before is written over but ``file``. Raises NasError."""
    told = []
    places = [beside(file, member.model) for member in cascade.members]
    with artifacts.together() as new:
        for place, member in zip(places, cascade.members, strict=True):
            save_once(new(place), member.model)
            told.append(
                {
                    "file": place.name,
                    "digest": member.model.digest,
                    "temperature": member.temperature,
                    "threshold": member.threshold if math.isfinite(member.threshold) else None,
                }
            )
        held = {"nas_cascade": VERSION, "members": told, "about": dict(cascade.about)}
        artifacts.replace(file, f"{json.dumps(held, indent=1)}\n".encode())


def load_cascade(file: str | Path) -> Cascade:
    """The cascade in a file, ready to predict. Raises NasError where there is none, or where its
    members are not there, are others, or do not know the same classes."""
    where = str(file)
    held = fields.read(where, read(file), "a cascade of nas")
    held.of(dict, "a cascade of nas")
    held["nas_cascade"].version(VERSION)
    folder, _, _ = where.rpartition("/")
    told = held["members"].items("a list of members")
    if not told:
        raise NasError(f"{where} is a cascade without members")
    settings = [_settings(member, last=member is told[-1]) for member in told]
    members = []
    for member, (temperature, threshold) in zip(told, settings, strict=True):
        name = member["file"].text()
        if Path(name).name != name:
            member["file"].refuse("the name of a file beside it")
        model = load_model(f"{folder}/{name}" if folder else name)
        if model.digest != member["digest"].text():
            raise NasError(f"{where}: its member {brief(name)} was changed since it was chosen")
        members.append(Member(model, temperature, threshold, name))
    alike([member.model for member in members], where)
    return Cascade(members, held["about"].of(dict))


def _settings(member: Field, last: bool) -> tuple[float, float]:
    """A member's temperature and threshold, as members can answer in turn. Raises NasError."""
    threshold = member["threshold"]
    if last and threshold.value is not None:
        threshold.refuse("null: the last member answers whatever is left")
    temperature = member["temperature"].number(math.ulp(0.0), rule="a number above 0")
    return temperature, -math.inf if last else threshold.number(0, 1)


def alike(models: Sequence[Model], where: str) -> None:
    """Raises NasError where models do not take the same images or know the same classes."""
    first = models[0]
    for model in models[1:]:
        if model.classes != first.classes:
            raise NasError(f"{where}: the members know other classes, or in another order")
        if model.input != first.input:
            told = ["x".join(map(str, each.input)) for each in (first, model)]
            raise NasError(f"{where}: the members take images of {' and of '.join(told)}")
