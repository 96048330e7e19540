"""Recipe: how an architecture is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.errors import RecipeError, nearest
from nas.job.schedule import SCHEDULES


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an architecture is trained. Stored with each result; each field may be searched.

    ``crop``, ``cutout`` are in pixels (0: off); ``flip`` mirrors left to right; ``aux`` weighs the
    loss of auxiliary classifiers (GoogLeNet, section 5: 0.3).
    """

    batch: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    warmup: float = 0.2
    clip: float = 1.0
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    aux: float = 0.3
    init: str = ""
    freeze: int = 0
    schedule: str = "one_cycle"

    def __post_init__(self) -> None:
        rules: dict[str, tuple[bool, str]] = {
            "batch": (1 <= self.batch <= 1 << 20, "an integer from 1 to 1048576"),
            "lr": (0 < self.lr <= 100, "a number above 0 and up to 100"),
            "momentum": (0 <= self.momentum < 1, "a number from 0 up to but not 1"),
            "weight_decay": (0 <= self.weight_decay <= 10, "a number from 0 to 10"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "a number from 0 up to but not 1"),
            "warmup": (0 < self.warmup < 1, "a fraction between 0 and 1"),
            "clip": (self.clip >= 0, "a norm of 0 (off) or more"),
            "crop": (0 <= self.crop <= 1024, "an integer from 0 to 1024 (pixels)"),
            "cutout": (0 <= self.cutout <= 4096, "an integer from 0 to 4096 (pixels)"),
            "aux": (0 <= self.aux <= 10, "a number from 0 to 10"),
            "freeze": (0 <= self.freeze <= 1 << 20, "a number of epochs, 0 or more"),
            "schedule": (self.schedule in SCHEDULES, "one of " + ", ".join(SCHEDULES)),
        }
        for name, (ok, rule) in rules.items():
            if not ok:
                raise RecipeError(f"recipe.{name} is {getattr(self, name)!r}: must be {rule}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe from plain data (a space file, a stored row); names and types are checked."""
        kinds: dict[str, Any] = {f.name: type(f.default) for f in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in kinds:
                raise RecipeError(f"recipe.{name} is unknown: {nearest(name, kinds)}")
            kind = kinds[name]
            fits = type(value) is kind or (kind is float and type(value) is int)
            if not fits:
                raise RecipeError(f"recipe.{name} is {value!r}: must be of type {kind.__name__}")
        return cls(**{name: kinds[name](value) for name, value in values.items()})
