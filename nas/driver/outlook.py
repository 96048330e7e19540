"""What more trials of a study are expected to bring: whether it pays to go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.driver.asking import sampler
from nas.driver.beliefs import LEVEL, evaluated, rebuilt, uncertain
from nas.driver.plan import Plan
from nas.driver.tradeoffs import feasible
from nas.metrics import metric, scaled
from nas.samplers.ehvi import EHVISampler
from nas.samplers.related import Older
from nas.store import StudyRow, TrialRow

Floats = NDArray[np.float64]
Measure = Callable[[Floats], float]  # of values (n, objectives), minimised: the less, the better

MOST = 100  # trials that are looked ahead: all are chosen by what is known now
# Futures are surer of themselves than they may be: that later proposals learn from earlier ones is
# not in them, nor is that the model may be wrong. Their 80% intervals held 60% of what came in 99
# searches on six tables (``benchmarks/outlook.py``), with ends so much farther out 80%.
WIDER = 0.7, 1.5
# Where hypervolume begins to count: better than the worst quarter of the trials.
WORST = 0.75


@dataclass(frozen=True, slots=True)
class Outlook:
    """What so many more ``trials`` are expected to bring, the mean of many futures and the ends of
    an interval that holds 80% of them: by how much the best value of ``metric`` is better; with
    ``at_equal`` another objective, by how much it is better at the same value of that, on average
    over the range of the trials so far (of what is weighed by its logarithm, of that). With more
    objectives ``metric`` is empty, and it is the share by which the front's hypervolume grows."""

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
    """What ``trials`` more of the plan's study, ``MOST`` at most, would bring to what its ``rows``
    have. None where nothing is known yet, the sampler has no model, a trial may end at a rung, or
    a constraint is known of a network only once it was measured.
    """
    names = [name for name, _ in study.objectives]
    name = uncertain(study)
    of = sampler(plan, plan.job.seed, older=older)
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
    gained = gains(now[np.isfinite(now).all(axis=1)], futures * signs, names.index(name))
    others = [other for other in names if other != name]
    whole = name if len(others) < 2 else ""  # else it is of all of them
    at_equal = others[0] if len(others) == 1 else ""
    return Outlook(count, whole, at_equal, float(gained.mean()), *interval(gained))


def interval(gained: Floats) -> tuple[float, float]:
    """The ends of what the gains of many futures leave likely, with a chance of 80%."""
    low, high = np.quantile(gained, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return WIDER[0] * float(low), WIDER[1] * float(high)


def gains(now: Floats, futures: Floats, place: int) -> Floats:
    """By how much each of ``futures`` (k, m, objectives) betters what there is ``now``
    (n, objectives), all minimised: (k,), as ``Outlook`` tells of the objective at ``place``."""
    measure = _measure(now, place)
    before = measure(now)
    after = np.array([measure(np.vstack([now, future])) for future in futures])
    return np.maximum(before - after, 0.0) / (max(-before, 1e-12) if now.shape[1] > 2 else 1.0)


def _measure(now: Floats, place: int) -> Measure:
    """What a front is measured by, of values (n, objectives), minimised, that begin as ``now``:
    its best, with two objectives the mean of the best at each level of the other, else less its
    hypervolume."""
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
