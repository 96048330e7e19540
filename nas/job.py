"""What passes between driver and worker: Recipe, Job, Result, Failure. No torch, no database."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nas.errors import RecipeError, nearest
from nas.schedule import SCHEDULES


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRef:
    """Which images: a name in DATASETS, a directory, the seed of the split, and the side in pixels
    that the images are resized to (0: as they are)."""

    name: str = "digits"
    dir: str = ""
    split_seed: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One evaluation: what a worker needs to build, train and measure a candidate.

    ``pattern`` is the canonical closed pattern; ``epochs`` the fidelity. ``evaluator`` names a
    user's function as ``module:function``, called as
    ``f(architecture, *, fidelity, seed, report) -> metrics``; empty: ``nas.train.evaluate``.
    ``plugins`` are files registered before the pattern is read; ``checkpoint`` is a file that the
    training keeps and goes on from (none, if empty).
    """

    pattern: str
    recipe: Recipe = field(default_factory=Recipe)
    data: DataRef = field(default_factory=DataRef)
    epochs: int = 20
    seed: int = 0
    evaluator: str = ""
    latency: bool = True
    plugins: tuple[str, ...] = ()
    checkpoint: str = ""

    @property
    def key(self) -> str:
        """Identifies recipe, data, evaluator and fidelity (not architecture, not seed): results
        under one key may stand for each other."""
        told = dataclasses.asdict(self)
        for name in ("pattern", "seed", "plugins", "latency", "checkpoint"):
            told.pop(name)
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One point of a training curve. Accuracies are fractions; ``seconds`` since training began."""

    epoch: int
    train_loss: float
    accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Measured latency at batch 1, in milliseconds, and where it was measured.

    ``ms`` is the least call's, ``low`` and ``high`` its interval: ``nas.latency`` says why.
    ``device`` is the fingerprint.
    """

    ms: float
    low: float
    high: float
    device: str


Report = Callable[[Epoch], None]

FailureKind = Literal["diverged", "error", "timeout", "out_of_memory", "worker_died", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished evaluation. ``metrics`` holds at least what the objectives name (``accuracy`` is
    validation accuracy as a fraction); ``device`` is where it was trained."""

    metrics: Mapping[str, float]
    curve: tuple[Epoch, ...] = ()
    latency: Latency | None = None
    seconds: float = 0.0
    device: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A candidate that could not be evaluated. A value, not an exception.

    ``ours`` tells a fault of the machinery (a worker that died: requeued) from one of the
    candidate's.
    """

    kind: FailureKind
    reason: str
    seconds: float = 0.0
    curve: tuple[Epoch, ...] = ()

    @property
    def ours(self) -> bool:
        return self.kind == "worker_died"


Outcome = Result | Failure
