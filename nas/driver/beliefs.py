"""Estimates of trials from the sampler's model, shown as "believed".

Of many networks trained once, the best score is also the luckiest. The sampler's model, fitted to
all trials, estimates each network without the noise of its training, with an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna

from nas.driver.asking import domains
from nas.driver.noise import of_study
from nas.driver.tradeoffs import uncertain
from nas.metrics import METRICS, metric
from nas.samplers.calibration import LEVELS
from nas.samplers.ehvi import STARTUP, EHVISampler
from nas.samplers.encoding import union
from nas.samplers.problem import Problem
from nas.store import StudyRow, TrialRow

LEVEL = 0.8


def as_measured(_: str, value: float) -> float:
    return value


@dataclass(frozen=True, slots=True)
class Belief:
    """The noise-free estimate of a trial's metric, the ends of its 80% interval, and its standard
    deviation (NaN: unknown)."""

    mean: float
    low: float
    high: float
    deviation: float = math.nan


@dataclass(frozen=True, slots=True)
class Beliefs:
    """The estimates of metric ``name``, ``by`` a trial's id; empty with too few trials. ``held`` is
    the coverage of the intervals on cross-validated values; they are ``sure`` where it is not
    significantly below 80%. ``noise`` is the variance of a training about its estimate.
    ``lacking`` more finished trials are needed for estimates."""

    name: str
    by: Mapping[int, Belief] = field(default_factory=dict)
    held: float = math.nan
    sure: bool = True
    noise: float = math.nan
    lacking: int = 0


def believed(study: StudyRow, rows: Iterable[TrialRow], name: str = "") -> Beliefs:
    """Estimates metric ``name`` (default: the ``uncertain`` one) of the finished ``rows`` that have
    all objectives and are no baselines."""
    name = name or uncertain(study)
    rows = evaluated(study, rows)
    names = [objective for objective, _ in study.objectives]
    if name not in names:
        return Beliefs(name)
    if len(rows) < STARTUP:
        return Beliefs(name, lacking=STARTUP - len(rows))
    known = rebuilt(study, rows)
    trials = known.get_trials(deepcopy=False)
    # Objectives known by arithmetic are features, as in the search.
    exact = [k for k, n in enumerate(names) if n in METRICS and METRICS[n].arithmetic]
    costs = {k: rows[-1].value(names[k]) for k in exact}
    problem = Problem(
        distributions=union(trials), known=lambda _: costs, noise=of_study(study, rows)
    )
    beliefs = EHVISampler(study.seed, problem).believed(known, trials)
    if beliefs is None:
        return Beliefs(name)
    place = names.index(name)
    measured = np.array([row.value(name) for row in rows])
    # Clipped to the metric's range, or to the values of a record older than that rule.
    ends = min(metric(name).least, measured.min()), max(metric(name).most, measured.max())
    parts = [np.clip(part[:, place], *ends) for part in (beliefs.mean, *beliefs.interval(LEVEL))]
    parts.append(beliefs.deviation[:, place])
    by = {row.id: Belief(*map(float, b)) for row, *b in zip(rows, *parts, strict=True)}
    noise = float(np.mean((measured - parts[0]) ** 2))
    check = beliefs.calibrations[place]
    if check is None:
        return Beliefs(name, by, noise=noise)
    held = check.held[LEVELS.index(LEVEL)]
    sure = held >= LEVEL - 3 * math.sqrt(LEVEL * (1 - LEVEL) / check.count)
    return Beliefs(name, by, held, sure, noise)


def evaluated(study: StudyRow, rows: Iterable[TrialRow]) -> list[TrialRow]:
    """The finished trials with all objectives, without baselines."""
    rows = [row for row in rows if row.evaluated and not row.baseline]
    return [r for r in rows if all(math.isfinite(r.value(name)) for name, _ in study.objectives)]


def rebuilt(
    study: StudyRow, rows: Sequence[TrialRow], weigh: Callable[[str, float], float] = as_measured
) -> optuna.Study:
    """Finished trials as an in-memory Optuna study, with values ``weigh(objective, value)``."""
    made = optuna.create_study(
        directions=["maximize" if d == "max" else "minimize" for _, d in study.objectives]
    )
    made.add_trials(
        [
            optuna.trial.create_trial(
                values=[weigh(name, row.value(name)) for name, _ in study.objectives],
                params=dict(row.sampled),
                distributions=domains(row),
            )
            for row in rows
        ]
    )
    return made
