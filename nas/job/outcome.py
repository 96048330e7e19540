"""What comes of a job: epochs while it runs, then a Result or a Failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One point of a training curve. Accuracies are fractions, the balanced one the mean recall of
    the classes (None: unknown); ``seconds`` are since the training began."""

    epoch: int
    train_loss: float
    accuracy: float
    seconds: float
    balanced_accuracy: float | None = None


# The setting in which a search measures a trial's ``latency_ms``.
OWN_RUNTIME, OWN_THREADS, OWN_BATCH = "eager", 1, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Measured latency of a batch, in milliseconds, and where it was measured.

    ``ms`` is the median of several instances' fastest calls, ``low`` to ``high`` its interval: see
    ``nas.training.timing``. ``device`` is the fingerprint: device, threads and versions. ``busy``
    is the fraction of the processors that others used meanwhile, ``peak_bytes`` the peak memory of
    one inference (None: unknown).
    """

    ms: float
    low: float
    high: float
    device: str
    runtime: str = OWN_RUNTIME
    batch: int = OWN_BATCH
    busy: float | None = None
    peak_bytes: int | None = None

    @property
    def place(self) -> tuple[str, str, int]:
        """Device, runtime and batch: with these, latencies of an architecture are comparable."""
        return self.device, self.runtime, self.batch


Report = Callable[[Epoch], None]

FailureKind = Literal["diverged", "error", "timeout", "out_of_memory", "worker_died", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished evaluation. ``metrics`` holds at least the objectives (``accuracy`` is validation
    accuracy as a fraction); ``device`` is where it was trained, ``model`` the file of its weights,
    if kept.

    ``refused``: its latency broke the job's bound, and nothing else was measured."""

    metrics: Mapping[str, float]
    curve: tuple[Epoch, ...] = ()
    latency: Latency | None = None
    seconds: float = 0.0
    device: str = ""
    model: str = ""
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A candidate that could not be evaluated. A value, not an exception.

    ``ours`` distinguishes a fault of the machinery (a worker that died, which is requeued) from
    the candidate's own.
    """

    kind: FailureKind
    reason: str
    seconds: float = 0.0
    curve: tuple[Epoch, ...] = ()

    @property
    def ours(self) -> bool:
        return self.kind == "worker_died"


Outcome = Result | Failure
