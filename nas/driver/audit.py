"""``nas audit``: which early signals predict the final ranking, on this space and this data.

A few architectures are drawn and trained in full, pausing at the rungs. Then every rung's accuracy,
and every number known without training (params, MACs, training-free scores), is compared with the
final accuracies by rank correlation.
"""

from __future__ import annotations

import dataclasses
import math
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from nas import data
from nas.data.batches import Source, batches, preparation, statistics
from nas.driver import rungs
from nas.errors import NasError, StudyError
from nas.job import Failure, Job
from nas.language.architecture import Architecture
from nas.metrics import ACCURACY, METRICS, arithmetic
from nas.spaces.space import Space
from nas.training import candidate, train
from nas.training.device import available
from nas.training.indicators import INDICATORS

RESAMPLES = 1000
LEVEL = 0.95
TRUSTED = 0.5  # Kendall's tau: three of four pairs are ranked correctly
BATCH = 64  # images that a training-free score sees
FEWEST = 5  # architectures; four are in the right order in 1 of 24 random orders
DRAWS = 1000  # random draws in a row without a new feasible architecture, before giving up


@dataclass(frozen=True, slots=True)
class Subject:
    """An audited architecture: its accuracy at each rung, the last being the final one, and its
    ``free`` scores, known without training, with the ``seconds`` that each took."""

    architecture: Architecture
    scores: rungs.Scores
    free: Mapping[str, float]
    seconds: Mapping[str, float]

    @property
    def final(self) -> float:
        return self.scores[max(self.scores)]


@dataclass(frozen=True, slots=True)
class Rank:
    """A rank correlation with the final accuracy, and the bounds of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Signal:
    """A number that may predict the final accuracy: ``rung`` in epochs (0: needs no training), the
    ``epochs`` of training up to it, and how well it ranks: ``right`` is the share of the pairs in
    the right order, of those that differ in both (NaN: there is none)."""

    name: str
    rung: int
    epochs: int
    kendall: Rank
    spearman: Rank
    right: float


@dataclass(frozen=True, slots=True)
class Audit:
    """``trusted`` is the cheapest rung that predicts the ranking (None: only a full training does);
    ``better`` are the training-free scores that beat both params and MACs, at 95% confidence."""

    subjects: tuple[Subject, ...]
    signals: tuple[Signal, ...]
    trusted: int | None
    better: tuple[str, ...]


def audit(
    space: Space,
    job: Job,
    levels: Sequence[int],
    count: int,
    on_trained: Callable[[int, Subject], None] = lambda *_: None,
) -> Audit:
    """Trains ``count`` architectures of the space under ``job`` to each of ``levels``, in epochs.

    ``on_trained`` is called with the index and result of each. Raises StudyError where too few
    architectures meet the space's constraints, and NasError where a training fails.
    """
    if count < FEWEST:
        raise StudyError(
            f"count is {count}: an audit needs {FEWEST} architectures or more, as fewer are in the "
            "right order by chance"
        )
    job = dataclasses.replace(
        job, latency=False, recipe=dataclasses.replace(job.recipe, schedule="rungs")
    )
    subjects = []
    for number, architecture in enumerate(drawn(space, count, job.seed)):
        subjects.append(examine(architecture, job, levels))
        on_trained(number, subjects[-1])
    return judge(subjects)


def drawn(space: Space, count: int, seed: int) -> list[Architecture]:
    """Distinct feasible architectures, drawn uniformly."""
    rng = random.Random(seed)
    found: dict[str, Architecture] = {}
    for _ in range(count * DRAWS):
        _, architecture = space.draw(rng)
        if not space.excess(architecture):
            found[architecture.fingerprint] = architecture
        if len(found) == count:
            return list(found.values())
    raise StudyError(
        f"{space.name} gave {len(found)} architectures that meet its constraints: "
        f"the audit needs {count}"
    )


def examine(architecture: Architecture, job: Job, levels: Sequence[int]) -> Subject:
    """Trains one architecture to each rung, continuing from the one before."""
    job = dataclasses.replace(job, pattern=str(architecture))
    free, seconds = free_scores(architecture, job)
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        for epochs in levels:
            rung = dataclasses.replace(job, epochs=epochs)
            outcome = candidate.evaluate(
                rung, lambda _: None, checkpoint=Path(folder, "checkpoint")
            )
            if isinstance(outcome, Failure):
                raise NasError(f"{architecture} cannot be audited: {outcome.reason}")
            scores[epochs] = outcome.metrics[ACCURACY]
    return Subject(architecture, scores, free, seconds)


def free_scores(architecture: Architecture, job: Job) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of an architecture that need no training, and the seconds that each took."""
    device = available()
    _, module, normal = train.begin(job, device)
    module.to(device)
    images = data.load(job.data, "train")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(job.seed))
    plain = preparation(normal or statistics(images), data.describe(job.data).shape[1:])
    x, y = next(batches(Source.of(images, device), order[:BATCH], BATCH, plain))
    scores = arithmetic(architecture)
    seconds = dict.fromkeys(scores, 0.0)
    for name, indicator in INDICATORS.items():
        began = time.perf_counter()
        scores[name] = indicator(module, x, y)
        seconds[name] = time.perf_counter() - began
    return scores, seconds


# --- rank correlations ---------------------------------------------------------------------------


def judge(subjects: Sequence[Subject]) -> Audit:
    """How well each signal ranks the subjects. A pure function."""
    final = np.array([subject.final for subject in subjects])
    columns = {name: [s.free[name] for s in subjects] for name in subjects[0].free}
    levels = sorted(subjects[0].scores)[:-1]

    def signal(name: str, rung: int, epochs: int, values: Numbers) -> Signal:
        return Signal(name, rung, epochs, *ranks(values, final), right(values, final))

    signals = [signal(name, 0, 0, np.array(values)) for name, values in columns.items()]
    for rung, epochs in zip(levels, rungs.costs(levels), strict=True):
        values = np.array([subject.scores[rung] for subject in subjects])
        signals.append(signal(f"{rung} epochs", rung, epochs, values))
    sure = {s.name: s for s in signals if s.kendall.low > 0}
    trusted = [s.rung for s in sure.values() if s.rung and s.kendall.value >= TRUSTED]
    size = [np.array(columns[name]) for name, metric in METRICS.items() if metric.arithmetic]
    better = tuple(
        name
        for name in INDICATORS
        if name in sure and all(beats(np.array(columns[name]), other, final) for other in size)
    )
    return Audit(tuple(subjects), tuple(signals), min(trusted, default=None), better)


Numbers = NDArray[np.float64]


def ranks(values: Numbers, final: Numbers) -> tuple[Rank, Rank]:
    """Kendall's tau-b and Spearman's rho with their intervals: no narrower than ``least`` allows,
    where every resample of few subjects is in the right order."""
    most = least(len(final))
    found = interval(kendall, values, final), interval(spearman, values, final)
    kendalls, spearmans = (
        dataclasses.replace(rank, low=min(rank.low, most), high=max(rank.high, -most))
        for rank in found
    )
    return kendalls, spearmans


def least(count: int) -> float:
    """The lower bound of tau where ``count`` subjects are all in the right order: the mean tau of
    the random rankings (Mallows 1957) that put so many in order in 2.5 % of cases. Spearman's rho
    is higher."""
    places = np.arange(1, count + 1)

    def ordered(q: float) -> float:  # each discordant pair is worth a factor of q
        return float(np.prod((1 - q) / (1 - q**places)))

    if ordered(1 - 1e-9) >= (1 - LEVEL) / 2:
        return 0.0
    q = float(brentq(lambda q: ordered(q) - (1 - LEVEL) / 2, 0.0, 1 - 1e-9))
    discordant = count * q / (1 - q) - float(np.sum(places * q**places / (1 - q**places)))
    return 1 - 4 * discordant / (count * (count - 1))


def right(values: Numbers, final: Numbers) -> float:
    """The share of the pairs in the right order, of those that differ in both; NaN without any."""
    agree = np.sign(_differences(values) * _differences(final))
    compared = np.count_nonzero(agree)
    return float(np.count_nonzero(agree > 0) / compared) if compared else math.nan


def kendall(x: Numbers, y: Numbers) -> Numbers:
    return _correlation(np.sign(_differences(x)), np.sign(_differences(y)))


def spearman(x: Numbers, y: Numbers) -> Numbers:
    return _correlation(_differences(x), _differences(y))


def _differences(values: Numbers) -> Numbers:
    """The differences of the ranks of all pairs, of shape (..., n, n)."""
    ranked = stats.rankdata(values, axis=-1)
    return np.asarray(ranked[..., :, None] - ranked[..., None, :])


def _correlation(a: Numbers, b: Numbers) -> Numbers:
    """Daniels' coefficient, which generalises tau-b and rho (Kendall 1948, section 2.2), for many
    resamples at once, unlike scipy's functions. 0 for a constant."""
    pairs = (-2, -1)
    size = np.sqrt((a * a).sum(pairs) * (b * b).sum(pairs))
    return np.asarray((a * b).sum(pairs) / np.where(size, size, 1.0))


def beats(values: Numbers, other: Numbers, final: Numbers) -> bool:
    """Whether ``values`` rank better than ``other``, by the interval of the difference."""

    def difference(a: Numbers, b: Numbers, c: Numbers) -> Numbers:
        return kendall(a, c) - kendall(b, c)

    return interval(difference, values, other, final).low > 0


def interval(statistic: Callable[..., Numbers], *columns: Numbers) -> Rank:
    """The statistic with its percentile bootstrap interval over the subjects: with few subjects,
    scipy's corrected intervals are often undefined."""
    resamples = np.random.default_rng(0).integers(
        len(columns[0]), size=(RESAMPLES, len(columns[0]))
    )
    values = statistic(*(column[resamples] for column in columns))
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Rank(float(statistic(*columns)), float(low), float(high))
