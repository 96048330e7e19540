"""Forecasts what more trials of a study would bring: whether it pays to continue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.driver.asking import sampler
from nas.driver.beliefs import LEVEL, evaluated, rebuilt
from nas.driver.noise import of_study
from nas.driver.plan import Plan
from nas.driver.tradeoffs import feasible, uncertain
from nas.metrics import metric, scaled
from nas.samplers.ehvi import EHVISampler
from nas.samplers.related import Older
from nas.store import StudyRow, TrialRow

Floats = NDArray[np.float64]
Measure = Callable[[Floats], float]  # of values (n, objectives), minimised: the less, the better

MOST = 100  # trials to look ahead: all are chosen by today's model
# The simulated futures are overconfident: they ignore that later proposals learn from earlier ones,
# and that the model may be wrong. Their 80% intervals covered 60% of the outcomes of 99 searches on
# six tables (``benchmarks/outlook.py``); with their ends multiplied by these factors, 80%.
WIDER = 0.7, 1.5
# The reference point of the hypervolume: this quantile of the trials.
WORST = 0.75


@dataclass(frozen=True, slots=True)
class Outlook:
    """The expected gain by ``trials`` more: its mean over simulated futures, and the ends of an 80%
    interval. It is the improvement of the best value of ``metric``; with two objectives, at equal
    values of the other, ``at_equal``, averaged over its range so far (logarithmic for logarithmic
    metrics). With more objectives ``metric`` is empty, and it is the relative growth of the front's
    hypervolume."""

    trials: int
    metric: str
    at_equal: str
    mean: float
    low: float
    high: float


def outlook(
    plan: Plan,
    study: StudyRow,
    rows: Sequence[TrialRow],
    trials: int,
    older: tuple[Older, ...] = (),
) -> Outlook | None:
    """Forecasts the gain by ``trials`` more, at most ``MOST``, over the study's ``rows``. None
    before the first results, for a sampler without a model, with rungs, and with a constraint on a
    measured metric.
    """
    names = [name for name, _ in study.objectives]
    name = uncertain(study)
    of = sampler(plan, plan.job.seed, older=older, noise=of_study(study, rows))
    if not (name and isinstance(of, EHVISampler)) or plan.rungs:
        return None
    if any(not metric(constraint).arithmetic for constraint in study.constraints):
        return None
    sampled, so_far = evaluated(study, rows), [row for row in rows if feasible(study, row)]
    count = min(trials, MOST)
    futures = of.futures(rebuilt(study, sampled, scaled), count) if sampled else None
    if futures is None or not so_far:
        return None
    signs = np.array([1.0 if direction == "min" else -1.0 for _, direction in study.objectives])
    now = np.array([[scaled(n, row.value(n)) for n in names] for row in so_far]) * signs
    now, place, known = now[np.isfinite(now).all(axis=1)], names.index(name), metric(name)
    least, best = scaled(name, known.least), scaled(name, known.most)
    futures[..., place] = np.clip(futures[..., place], least, best)
    gained = gains(now, futures * signs, place)
    ideal = now.min(axis=0)  # the least cost, and the best that the metric can be
    ideal[place] = min(least * signs[place], best * signs[place])
    low, high = interval(gained)
    most = float(gains(now, ideal[None, None], place)[0])
    others = [other for other in names if other != name]
    whole = name if len(others) < 2 else ""
    at_equal = others[0] if len(others) == 1 else ""
    return Outlook(count, whole, at_equal, float(gained.mean()), low, min(high, most))


def interval(gained: Floats) -> tuple[float, float]:
    """The ends of the 80% interval for the gains (k,) of k futures."""
    low, high = np.quantile(gained, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return WIDER[0] * float(low), WIDER[1] * float(high)


def gains(now: Floats, futures: Floats, place: int) -> Floats:
    """The gain (k,) of each of ``futures`` (k, m, objectives) over the values ``now``
    (n, objectives), all minimised, as ``Outlook`` defines it; ``place`` is its metric's index."""
    measure = _measure(now, place)
    before = measure(now)
    after = np.array([measure(np.vstack([now, future])) for future in futures])
    return np.maximum(before - after, 0.0) / (max(-before, 1e-12) if now.shape[1] > 2 else 1.0)


def _measure(now: Floats, place: int) -> Measure:
    """A measure of the front of values (n, objectives), minimised, lower is better: the best value;
    with two objectives the mean over the other's range ``now`` of the best at that level; with more
    the negative hypervolume."""
    if now.shape[1] > 2:
        corner = np.quantile(now, WORST, axis=0)
        return lambda values: -float(moocore.hypervolume(np.minimum(values, corner), ref=corner))
    cost = now[:, 1 - place] if now.shape[1] == 2 else np.zeros(len(now))
    if np.ptp(cost) == 0:
        return lambda values: float(values[:, place].min())
    low, high = float(cost.min()), float(cost.max())

    def mean_best(values: Floats) -> float:
        values = values[np.argsort(values[:, 1 - place], kind="stable")]
        edges = np.append(np.clip(values[:, 1 - place], low, high), high)
        best = np.minimum.accumulate(values[:, place])
        return float((best * np.diff(edges)).sum() / (high - low))

    return mean_best
