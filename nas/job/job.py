"""Job: one evaluation, and the images that it is made on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from nas.job.outcome import Latency
from nas.job.recipe import Recipe

PLACE = ("name", "dir", "skip_unreadable")  # where images are from, once it is told what they are
# In what results of one architecture and seed may differ and stand for each other.
APART = (
    *("pattern", "seed", "plugins", "latency", "known", "most_ms"),
    *("checkpoint", "model", "teachers"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRef:
    """Which images: a name in DATASETS, a directory (or a table), the seed of the split, and the
    side in pixels that the images are resized to (0: as they are).

    ``skip_unreadable`` leaves out what cannot be read, which is refused otherwise; ``group_by``
    says what no split may part: a regular expression over paths, or a column of a table.
    ``identity`` is what ``nas.data.identity`` has told: a machine that has these images decoded
    takes them without a look at the files, and another refuses files that are others.
    """

    name: str = "digits"
    dir: str = ""
    split_seed: int = 0
    size: int = 0
    skip_unreadable: bool = False
    group_by: str = ""
    identity: str = ""


def allowed(most_ms: Mapping[str, float], device: str) -> float:
    """The most milliseconds that a latency on a device may be, by a job's ``most_ms``."""
    return min(most_ms.get(name, math.inf) for name in ("", device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One evaluation: what a worker needs to build, train and measure a candidate.

    ``pattern`` is the canonical closed pattern; ``epochs`` the fidelity, 0 for a measurement of the
    latency alone. ``evaluator`` names a user's function as ``module:function``, called as
    ``f(architecture, *, fidelity, seed, report) -> metrics``, with ``recipe`` too where it has that
    parameter; empty: ``nas.training.candidate``.
    ``source`` is the digest of the evaluator's module, where the search was started. ``teachers``
    are the files of the models that ``recipe.teacher`` names by their digest.
    ``plugins`` are files registered before the pattern is read; ``checkpoint`` is a file that the
    training keeps and goes on from, ``model`` the one that its weights are written to in the end
    (none, if empty).

    ``known`` are this network's latencies by the device that measured them (its fingerprint, as a
    ``Latency`` has it): there it is not measured again. ``most_ms`` is the most that its latency
    may be, by device, on any under an empty name: it is measured before the training, and where it
    is more, nothing is trained.
    """

    pattern: str
    recipe: Recipe = field(default_factory=Recipe)
    data: DataRef = field(default_factory=DataRef)
    epochs: int = 20
    seed: int = 0
    evaluator: str = ""
    source: str = ""
    latency: bool = True
    known: Mapping[str, Latency] = field(default_factory=dict)
    most_ms: Mapping[str, float] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    checkpoint: str = ""
    model: str = ""
    teachers: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Identifies recipe, images, evaluator and fidelity (not architecture, not seed): results
        of one architecture and seed under one key may stand for each other. Images are what they
        are, not where they lie; an evaluator is given none."""
        settings = dataclasses.asdict(self)
        for name in APART:
            settings.pop(name)
        if self.evaluator:
            settings.pop("data")
        elif self.data.identity:
            settings["data"] = {k: v for k, v in settings["data"].items() if k not in PLACE}
        settings["recipe"] = self.recipe.plain()
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
