"""What a search makes one believe of its trials, beside what was measured once: the one place.

Of many that were trained once, the one that scored best was also the luckiest. The sampler's model,
which rests on all of them, says what each is worth apart from its luck, and how sure that is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna

from nas.driver.asking import domains
from nas.metrics import METRICS, metric
from nas.samplers.calibration import LEVELS
from nas.samplers.ehvi import EHVISampler
from nas.samplers.encoding import union
from nas.samplers.problem import Problem
from nas.store import StudyRow, TrialRow

LEVEL = 0.8


def as_measured(_: str, value: float) -> float:
    return value


@dataclass(frozen=True, slots=True)
class Belief:
    """What the model believes of a trial's metric apart from the luck of its training, the ends of
    the interval that holds it with a chance of 80%, and the standard deviation (NaN: not told)."""

    mean: float
    low: float
    high: float
    deviation: float = math.nan


@dataclass(frozen=True, slots=True)
class Beliefs:
    """What is believed of the metric ``name``, ``by`` a trial's id; empty where there are too few
    trials to learn from. ``held`` is the share of values, each unseen by a model that predicted it,
    inside its intervals; they are ``sure`` where that is no less than chance leaves of 80%.
    ``noise`` is the variance of a training about what is believed of it."""

    name: str
    by: Mapping[int, Belief] = field(default_factory=dict)
    held: float = math.nan
    sure: bool = True
    noise: float = math.nan


def uncertain(study: StudyRow) -> str:
    """The objective that beliefs are about: the first that neither arithmetic knows nor a device
    measures; empty where there is none."""
    own = (n for n, _ in study.objectives if not (metric(n).arithmetic or metric(n).device))
    return next(own, "")


def believed(study: StudyRow, rows: Iterable[TrialRow], name: str = "") -> Beliefs:
    """What the sampler's model believes of the metric ``name``, unless told of the one that is
    ``uncertain``: of the finished ``rows`` that have all objectives and are no baselines."""
    name = name or uncertain(study)
    rows = evaluated(study, rows)
    names = [objective for objective, _ in study.objectives]
    if not rows or name not in names:
        return Beliefs(name)
    known = rebuilt(study, rows)
    trials = known.get_trials(deepcopy=False)
    # What arithmetic knows is told, as in the search: it says much of what it does not know.
    exact = [k for k, n in enumerate(names) if n in METRICS and METRICS[n].arithmetic]
    costs = {k: rows[-1].value(names[k]) for k in exact}
    problem = Problem(distributions=union(trials), known=lambda _: costs)
    beliefs = EHVISampler(study.seed, problem).believed(known, trials)
    if beliefs is None:
        return Beliefs(name)
    place = names.index(name)
    measured = np.array([row.value(name) for row in rows])
    # Inside what the metric can be; a record of before that was asked for may have others.
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
    """The finished ones that have all objectives and were sampled, which a baseline was not."""
    rows = [row for row in rows if row.evaluated and not row.baseline]
    return [r for r in rows if all(math.isfinite(r.value(name)) for name, _ in study.objectives)]


def rebuilt(
    study: StudyRow, rows: Sequence[TrialRow], weigh: Callable[[str, float], float] = as_measured
) -> optuna.Study:
    """Finished trials as a study of Optuna's in memory, with the objectives' values as ``weigh``
    has them of an objective's name and a value."""
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
