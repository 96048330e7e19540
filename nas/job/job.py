"""Job: one evaluation, and the images it uses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nas.job.outcome import Latency
from nas.job.recipe import Recipe

PLACE = ("name", "dir", "skip_unreadable")  # irrelevant once the identity of images is known
GIVEN_GPU = "NAS_GIVEN_GPU"  # in a worker's environment, where its share of a node has a GPU
# Fields that do not affect whether results of one architecture and seed are interchangeable.
APART = (
    *("pattern", "seed", "plugins", "latency", "known", "most_ms"),
    *("checkpoint", "model", "teachers"),
)
# Fields that do not affect a training itself.
APART_FROM_TRAINING = ("evaluator", "latency", "plugins", "checkpoint", "model", "teachers")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRef:
    """Which images: a name in DATASETS, a directory (or a table), the seed of the split, and the
    ``size`` in pixels of the square they are resized to (0: automatic).

    ``skip_unreadable`` leaves out unreadable images, which are otherwise refused; ``group_by``
    keeps images together in splits: a regular expression over paths, or a column of a table.
    ``identity`` is that of ``nas.data.identity``: a machine that has these images decoded uses them
    without reading the files, others refuse files with another identity.
    """

    name: str = "digits"
    dir: str = ""
    split_seed: int = 0
    size: int = 0
    skip_unreadable: bool = False
    group_by: str = ""
    identity: str = ""


def allowed(most_ms: Mapping[str, float], device: str) -> float:
    """The upper bound in milliseconds of a latency on a device, by a job's ``most_ms``."""
    return min(most_ms.get(name, math.inf) for name in ("", device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One evaluation: what a worker needs to build, train and measure a candidate.

    ``pattern`` is the canonical closed pattern; ``epochs`` the fidelity, 0 to measure only the
    latency. ``evaluator`` names a user's function as ``module:function``, called as
    ``f(architecture, *, fidelity, seed, report) -> metrics``, with ``recipe`` too if it has
    that parameter; empty: ``nas.training.candidate``. ``source`` is the digest of the evaluator's
    module where the search was started. ``teachers`` are the files of the models whose digest is
    ``recipe.teacher``. ``plugins`` are files to load before the pattern is parsed. ``checkpoint``
    is the file to save to and resume from, ``model`` that for the final weights (empty: none).

    ``known`` are the network's latencies by device fingerprint, which are not measured again.
    ``most_ms`` are upper bounds of its latency by device ("": any device): with them it is measured
    first, and above its bound nothing is trained.
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
        """Identifies recipe, images, evaluator and fidelity, without architecture and seed: results
        of one architecture and seed with the same key are interchangeable. Images count by their
        identity; an evaluator has none."""
        settings = self._settings(*APART)
        if self.evaluator:
            settings.pop("data")
        return _digest(settings)[:16]

    @property
    def training_key(self) -> str:
        """Identifies a training, architecture and seed included: one with the same key may resume
        its checkpoint. The number of epochs counts only if the schedule depends on it from the
        start; latencies and their bounds do not."""
        # Emptied, not left out: so hash the checkpoints of older versions.
        job = dataclasses.replace(self, known={}, most_ms={})
        settings = job._settings(*APART_FROM_TRAINING)
        settings["data"].pop("dir", None)
        if self.recipe.schedule == "rungs":
            settings.pop("epochs")
        return _digest(settings)

    def _settings(self, *apart: str) -> dict[str, Any]:
        """The fields as plain data, without those ``apart`` and, where images have an identity,
        without their place."""
        settings = dataclasses.asdict(self)
        for name in apart:
            settings.pop(name)
        settings["recipe"] = self.recipe.plain()
        if self.data.identity:
            settings["data"] = {k: v for k, v in settings["data"].items() if k not in PLACE}
        return settings


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
