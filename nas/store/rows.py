"""Rows of the record as frozen dataclasses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any

from nas.errors import NasError, StoreError, StudyError, brief
from nas.fields import encodable
from nas.language.architecture import Architecture, parse
from nas.metrics import METRICS, Direction, by_arithmetic, metric, of_pattern, shown, usual
from nas.store.tables import EVALUATED, AttemptState, TrialState

BASELINE = "baseline"  # the only key of a baseline's sampled values: its name
MADE = ("distilled", "pruned")  # last words of the names of distilled and pruned networks


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The definition of a study. A study can only be reopened with the same values.

    ``objectives`` are (name, "max" or "min") in the order of the sampler's values; ``settings`` are
    further plain data that must not change between runs. ``images`` is the images' identity
    (``nas.data.identity``); their description ``images_about`` and ``directory`` may change. Raises
    StudyError for a directory that no database can hold.
    """

    name: str
    space: str
    space_text: str = ""
    objectives: tuple[tuple[str, Direction], ...]
    constraints: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = ""
    sampler: str = ""
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    images: str = ""
    images_about: str = ""
    directory: str = ""

    def __post_init__(self) -> None:
        if not encodable(self.directory):
            raise StudyError(
                f"directory {brief(ascii(self.directory), 200)}: its name is no text in UTF-8, as "
                "a record's must be: rename it"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRow(Study):
    """A recorded study. ``created`` is in seconds since 1970."""

    id: int
    created: float

    @property
    def folder(self) -> str:
        """The name of its artifacts folder; older versions of nas used the study's name."""
        return str(self.settings.get("folder") or self.name)

    @property
    def evaluator(self) -> str:
        """The user's function that scores its networks; empty where nas trains them."""
        return str(self.settings.get("evaluator") or "")

    @property
    def shown_data(self) -> str:
        """A display name of the images: that of their folder, or of the data set. Empty where an
        evaluator scores the networks, on what it knows alone: it has only their shape from here."""
        return "" if self.evaluator else PurePosixPath(self.directory).name or self.dataset

    @property
    def searched(self) -> str:
        """What was searched, for titles: the space, on which images or by which evaluator."""
        return (
            f"{self.space} {f'by {self.evaluator}' if self.evaluator else f'on {self.shown_data}'}"
        )

    @property
    def once(self) -> str:
        """What gave a trial its result."""
        return "evaluation" if self.evaluator else "training"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A proposed candidate.

    ``sampled`` are the values of the space's parameters by name, ``distributions`` their domains as
    ``optuna.distributions.distribution_to_json`` writes them: together they rebuild the sampler's
    study without the space. ``params`` and ``macs`` are counts below 2^63.
    """

    sampled: Mapping[str, Any] = field(default_factory=dict)
    distributions: Mapping[str, str] = field(default_factory=dict)
    pattern: str
    fingerprint: str
    params: int
    macs: int
    recipe: Mapping[str, Any] = field(default_factory=dict)
    job_key: str = ""
    epochs: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in OWN_METRICS.intersection(by_arithmetic()):
            if not 0 <= getattr(self, name) < 1 << 63:
                raise StoreError(
                    f"{name} is {getattr(self, name)}: the record holds counts from 0 up to 2^63"
                )

    @property
    def baseline(self) -> str:
        """The name of a baseline (``nas.driver.baselines``); empty for a sampled candidate."""
        return "" if self.distributions else str(self.sampled.get(BASELINE, ""))

    @property
    def made(self) -> str:
        """ "distilled" or "pruned" for such a network (``nas.driver.made``), else empty."""
        word = self.baseline.rpartition(" ")[2]
        return word if word in MADE else ""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The sampled values and distributions of an ``Ask``."""

    sampled: Mapping[str, Any]
    distributions: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TrialRow(Ask):
    """A recorded trial.

    ``latency_low`` to ``latency_high`` is the interval of ``latency_ms``, the architecture's on
    ``latency_device``, whichever study measured it; ``device`` is where it was trained, for
    ``seconds``. ``rungs`` are the (epochs, accuracy) of the rungs it reached, in order; a paused or
    stopped trial has the ``accuracy`` and ``metrics`` of the last. ``failure`` is a
    nas.job.FailureKind. ``created`` and ``finished`` are in seconds since 1970; ``reused_from`` is
    a trial's ``id``. ``model`` is the file of its weights, if kept. Metrics that were not finite
    are NaN. ``trainings`` is the number of seeds that the metrics are the mean of: 1, except in
    merged rows.
    """

    id: int
    study_id: int
    number: int
    state: TrialState
    rungs: tuple[tuple[int, float], ...] = ()
    accuracy: float | None = None
    latency_ms: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    latency_device: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: str | None = None
    reason: str | None = None
    seconds: float | None = None
    device: str | None = None
    model: str | None = None
    created: float
    finished: float | None = None
    reused_from: int | None = None
    trainings: int = 1

    def __repr__(self) -> str:
        """One line: state, metrics and network."""
        names = [*usual(), *self.metrics.keys() - METRICS]
        scores = {metric(name).title: shown(name, self.value(name)) for name in names}
        came = ", ".join(f"{title} {score}" for title, score in scores.items() if score)
        state = f"{self.state} ({self.failure}: {self.reason})" if self.failure else self.state
        return brief(f"Trial {self.number}, {state}: {came}: {self.baseline or self.pattern}")

    @property
    def called(self) -> str:
        """Its display name: its number, a baseline's name, or both for a distilled or pruned
        network."""
        number = f"trial {self.number}"
        return f"{number} ({self.baseline})" if self.made else self.baseline or number

    @property
    def evaluated(self) -> bool:
        """Whether it has the result of a full evaluation, its own or a reused one."""
        return self.state in EVALUATED

    @property
    def is_network(self) -> bool:
        """Whether it is a network: the pattern of a classical baseline is the method's name."""
        return "->" in self.pattern

    @property
    def budgeted(self) -> bool:
        """Whether it counts towards the budget of trials: a candidate that was not refused."""
        return not self.baseline and self.state != "refused"

    @property
    def architecture(self) -> Architecture:
        """Raises StudyError for a pattern of no network, or of a plug-in that is not loaded."""
        try:
            return parse(self.pattern)
        except NasError as error:
            raise StudyError(f"trial {self.number}: {error}") from None

    def value(self, name: str) -> float:
        """A metric as measured, or else computed from the network; NaN if it has no value."""
        known = metric(name)
        if name in self.metrics and not (known.device and self.latency_device):
            return self.metrics[name]
        found: float | None = getattr(self, name) if name in OWN_METRICS else None
        if found is None and known.arithmetic:
            return of_pattern(name, self.pattern)
        return math.nan if found is None else float(found)


# Metrics that are fields of every trial.
OWN_METRICS = frozenset(f.name for f in fields(TrialRow)) & METRICS.keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """An attempt at a trial. ``number`` starts at 1; ``driver`` is a ``nas.store.driver`` name."""

    token: str
    trial_id: int
    number: int
    driver: str
    state: AttemptState
    lease_until: float
    started: float
    ended: float | None
    failure: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run ``trial`` once: only the holder of ``token`` can deliver its result.

    ``attempt`` counts from 1; ``faults`` earlier attempts failed through the candidate's own fault.
    """

    token: str
    trial: TrialRow
    attempt: int
    faults: int
