"""Recipe: how an architecture is trained."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.errors import RecipeError, brief, nearest
from nas.job.schedule import SCHEDULES

# The optimizers, and the learning rate of each where none is given. 0.001 is Adam's (Kingma and Ba
# 2015, algorithm 1).
OPTIMIZERS: Mapping[str, float] = {"sgd": 0.1, "adamw": 0.001}
PADDINGS = ("constant", "reflect")
CLASS_WEIGHTS = ("none", "balanced")
# Of distillation: what gained most on validation images of digits (benchmarks/smaller.py, sweep).
DISTILL, TEMPERATURE = 0.9, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an architecture is trained. Stored with each result; each field may be searched.

    For AdamW, ``momentum`` is the first beta. ``lr`` 0 is replaced by the ``optimizer``'s usual
    value. ``weight_decay`` is the optimizer's own; for AdamW it is scaled by ``lr`` in each step
    (Loshchilov and Hutter 2019), and 0.05 is usual there. ``ema`` is the decay per step of an
    average of the weights, which is then what is scored and kept (0: off). ``aux`` is the weight of
    the loss of auxiliary classifiers (GoogLeNet, section 5: 0.3). ``class_weights`` "balanced"
    weights each class in the loss by images / (classes * its images). ``init`` names the initial
    weights, and for the first ``freeze`` epochs only the head is trained.

    Augmentation, all off by default (``nas.data.augment``): ``resized_crop`` is the smallest
    fraction of the area that a crop may take before it is resized (Szegedy et al. 2014: 0.08);
    ``crop``, the largest shift, and ``cutout`` are in pixels, and ``padding`` is what a shift
    brings in; ``flip`` mirrors left to right; ``photometric`` applies one operation on colours or
    sharpness to each image; ``erase`` is the probability that a rectangle is cleared; ``mixup`` and
    ``cutmix`` are the alpha of the Beta distribution by which two images are mixed (0.2 and 1 are
    usual); with both, each image gets one of them.

    ``teacher`` is the digest of the models whose outputs are learned together with the labels
    (``nas.training.teacher``; ``Job.teachers`` are their files), ``distill`` the weight of that
    loss, ``temperature`` that of both softmaxes, and ``attention`` the weight of a loss on where
    the stages look (0: off).
    """

    batch: int = 64
    lr: float = 0.0
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
    # LATER, from here on.
    padding: str = "constant"
    resized_crop: float = 0.0
    photometric: bool = False
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    class_weights: str = "none"
    optimizer: str = "sgd"
    ema: float = 0.0
    teacher: str = ""
    distill: float = DISTILL
    temperature: float = TEMPERATURE
    attention: float = 0.0

    def __post_init__(self) -> None:
        rules: dict[str, tuple[bool, str]] = {
            "batch": (1 <= self.batch <= 1 << 20, "an integer from 1 to 1048576"),
            "lr": (
                0 <= self.lr <= 100,
                "a number above 0 and up to 100, or 0 for the optimizer's usual",
            ),
            "momentum": (0 <= self.momentum < 1, "a number from 0 up to but not 1"),
            "weight_decay": (0 <= self.weight_decay <= 10, "a number from 0 to 10"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "a number from 0 up to but not 1"),
            "warmup": (0 < self.warmup < 1, "a fraction between 0 and 1"),
            "clip": (self.clip >= 0, "a finite norm, 0 (off) or more"),
            "crop": (0 <= self.crop <= 1024, "an integer from 0 to 1024 (pixels)"),
            "cutout": (0 <= self.cutout <= 4096, "an integer from 0 to 4096 (pixels)"),
            "aux": (0 <= self.aux <= 10, "a number from 0 to 10"),
            "freeze": (0 <= self.freeze <= 1 << 20, "a number of epochs, 0 or more"),
            "schedule": (self.schedule in SCHEDULES, "one of " + ", ".join(SCHEDULES)),
            "padding": (self.padding in PADDINGS, "one of " + ", ".join(PADDINGS)),
            "resized_crop": (
                0 <= self.resized_crop <= 1,
                "a fraction of the area, from 0 (off) to 1",
            ),
            "erase": (0 <= self.erase <= 1, "a probability from 0 (off) to 1"),
            "mixup": (0 <= self.mixup <= 100, "a number from 0 (off) to 100"),
            "cutmix": (0 <= self.cutmix <= 100, "a number from 0 (off) to 100"),
            "class_weights": (
                self.class_weights in CLASS_WEIGHTS,
                "one of " + ", ".join(CLASS_WEIGHTS),
            ),
            "optimizer": (self.optimizer in OPTIMIZERS, "one of " + ", ".join(OPTIMIZERS)),
            "ema": (0 <= self.ema < 1, "a decay from 0 (off) up to but not 1"),
            "teacher": (
                re.fullmatch("(?:[0-9a-f]{16})?", self.teacher) is not None,
                "the digest of models, which --teacher gives",
            ),
            "distill": (
                0 < self.distill <= 1 and self._taught("distill", DISTILL),
                "a weight above 0 and up to 1, of a training with a teacher (--teacher)",
            ),
            "temperature": (
                0 < self.temperature <= 100 and self._taught("temperature", TEMPERATURE),
                "a number above 0 and up to 100, of a training with a teacher (--teacher)",
            ),
            "attention": (
                0 <= self.attention <= 10_000 and self._taught("attention", 0.0),
                "a weight from 0 (off) to 10000, of a training with a teacher (--teacher)",
            ),
        }
        if self.lr == 0 and self.optimizer in OPTIMIZERS:
            object.__setattr__(self, "lr", OPTIMIZERS[self.optimizer])
        for name, (ok, rule) in rules.items():
            value = getattr(self, name)
            # The record and a checkpoint's identity are JSON, which has no infinity.
            if not ok or (isinstance(value, float) and not math.isfinite(value)):
                raise RecipeError(f"recipe.{name} is {brief(repr(value), 60)}: must be {rule}")

    def _taught(self, name: str, usual: float) -> bool:
        """Whether a distillation setting has its default, or a teacher that it applies to."""
        return bool(self.teacher) or getattr(self, name) == usual

    @property
    def augments(self) -> bool:
        """Whether images differ from epoch to epoch."""
        return any(
            (self.resized_crop, self.crop, self.flip, self.photometric, self.cutout, self.erase,
             self.mixup, self.cutmix)
        )  # fmt: skip

    @classmethod
    def of(cls, values: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
        """A recipe from plain data (a space file, a stored row), with names and types checked;
        missing settings are those of ``base``, or the defaults."""
        kinds: dict[str, Any] = {f.name: type(f.default) for f in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in kinds:
                raise RecipeError(f"recipe.{name} is unknown: {nearest(name, kinds)}")
            kind = kinds[name]
            whole = kind is float and type(value) is int and abs(value) <= sys.float_info.max
            if not (type(value) is kind or whole):
                told = brief(repr(value), 60)
                raise RecipeError(f"recipe.{name} is {told}: must be of type {kind.__name__}")
        return (base or cls()).but({name: kinds[name](value) for name, value in values.items()})

    def but(self, changes: Mapping[str, Any]) -> Recipe:
        """This recipe with some changes. With another optimizer, a learning rate that is the usual
        one becomes that one's usual."""
        lr = 0.0 if self.lr == OPTIMIZERS[self.optimizer] else self.lr
        return dataclasses.replace(self, **{"lr": lr, **changes})

    def plain(self) -> dict[str, Any]:
        """As plain data, for the record and for what derives from it (``Job.key`` and
        ``training_key``). Settings added since the first version are left out at their default, so
        that older records still describe the same training."""
        default = Recipe()
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in LATER or value != getattr(default, name)
        }


# Bases by name. What each gives beside the default at equal epochs, in percent of the validation
# images, the mean and the standard deviation over 3 seeds (benchmarks/recipes.py).
RECIPES: Mapping[str, Recipe] = {
    # 10,000 of CIFAR-10's images as JPEG files, 6 epochs: 66.5 +- 0.4 for 65.3 +- 0.7, in twice the
    # steps. Shifts by 2 pixels cost 0.6 in so few epochs; mirrored edges won 0.5 and 1.3 (shifts by
    # 2 and 4, one seed) over black ones.
    "small": Recipe(batch=32, flip=True),
    # Textures of 96 pixels at several scales, 400 images, 30 epochs: 31.7 +- 0.9 for 28.0 +- 1.1.
    "imagenet": Recipe(resized_crop=0.25, flip=True),
    # A small network's weights on 40 images of other digits, 20 epochs: 85.0 +- 0.6 for 80.7, and
    # 78.3 +- 6.7 without the weights. No pretrained network of the zoo was there to measure.
    "finetune": Recipe(optimizer="adamw", lr=0.002, weight_decay=0.05, batch=16),
}

# Of a training without a teacher.
UNTAUGHT: Mapping[str, Any] = {
    "teacher": "", "distill": DISTILL, "temperature": TEMPERATURE, "attention": 0.0,
}  # fmt: skip

_NAMES = tuple(f.name for f in dataclasses.fields(Recipe))
LATER = frozenset(_NAMES[_NAMES.index("schedule") + 1 :])
