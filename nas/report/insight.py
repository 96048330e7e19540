"""Insights from a study: how its front grew, what the best have in common, which parameters
matter."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from nas.driver.beliefs import rebuilt
from nas.driver.tradeoffs import MARGIN, feasible
from nas.metrics import scaled
from nas.pareto import front, hypervolume, reference_point
from nas.store import ENDED, StudyRow, TrialRow

ENOUGH = 20  # least trials for importances
TENTH, FEWEST = 0.1, 5  # the best trials, for PED-ANOVA: a fraction, and a least number
BINS = 4  # for a parameter with more values than a table has room for
VALUES = 8


@dataclass(frozen=True, slots=True)
class Growth:
    """How the front grew: after each ended trial the device-seconds so far, and the hypervolume as
    a fraction of the box from the reference point to the best of each objective."""

    seconds: tuple[float, ...]
    hypervolume: tuple[float, ...]


def growth(study: StudyRow, rows: Sequence[TrialRow]) -> Growth:
    """The growth in the order in which trials ended, without baselines. Objectives are on the scale
    of trade-offs; the reference point lies a tenth of the range beyond the worst."""
    ended = sorted(
        (row for row in rows if row.state in ENDED and not row.baseline),
        key=lambda row: (row.finished or row.created, row.number),
    )
    names, directions = zip(*study.objectives, strict=True)
    points = [[scaled(name, row.value(name)) for name in names] for row in ended]
    good = [
        feasible(study, row) and all(map(math.isfinite, p))
        for row, p in zip(ended, points, strict=True)
    ]
    kept = [p for p, is_good in zip(points, good, strict=True) if is_good]
    spent = tuple(np.cumsum([row.seconds or 0.0 for row in ended]).tolist())
    if not kept:
        return Growth(spent, (0.0,) * len(spent))
    reference = reference_point(kept, directions, MARGIN)
    best = [
        (max if d == "max" else min)(column)
        for d, column in zip(directions, zip(*kept, strict=True), strict=True)
    ]
    whole = math.prod(abs(a - b) for a, b in zip(best, reference, strict=True))
    ahead: list[list[float]] = []
    levels, level = [], 0.0
    for point, is_good in zip(points, good, strict=True):
        if is_good:
            ahead = [*ahead, point]
            members = front(ahead, directions)
            if len(ahead) - 1 in members:
                ahead = [ahead[i] for i in members]
                level = float(hypervolume(ahead, reference, directions) / whole)
            else:
                ahead.pop()
        levels.append(level)
    return Growth(spent, tuple(levels))


# --- values in common ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """The fraction of networks with a value, among those that have its parameter: of the front, and
    of all."""

    value: str
    best: float
    all: float


@dataclass(frozen=True, slots=True)
class Common:
    """A parameter: how many networks of the front and of all have it, and the shares of its values.
    ``stage`` is its repetition; empty: the whole network."""

    symbol: str
    stage: str
    best: int
    all: int
    shares: tuple[Share, ...]


def common(best: Sequence[TrialRow], rows: Sequence[TrialRow]) -> list[Common]:
    """Compares the sampled values of the front with those of all evaluated trials, for each
    parameter with several values, ordered by symbol and stage."""
    whole = [row for row in rows if row.evaluated and not row.baseline]
    chosen = [row for row in best if not row.baseline]
    names = list(dict.fromkeys(name for row in whole for name in row.sampled))
    found = []
    for name in names:
        all_values = [row.sampled[name] for row in whole if name in row.sampled]
        best_values = [row.sampled[name] for row in chosen if name in row.sampled]
        label = _labels(all_values)
        mine, others = Counter(map(label, best_values)), Counter(map(label, all_values))
        if len(others) < 2:
            continue
        shares = tuple(
            Share(value, mine[value] / max(1, len(best_values)), others[value] / len(all_values))
            for value in dict.fromkeys(map(label, sorted(all_values, key=order)))
        )
        symbol, stage = place(name)
        found.append(Common(symbol, stage, len(best_values), len(all_values), shares))
    symbols = list(dict.fromkeys(each.symbol for each in found))
    return sorted(found, key=lambda each: (symbols.index(each.symbol), len(each.stage), each.stage))


def place(name: str) -> tuple[str, str]:
    """A parameter's symbol and its stage: ``N[2]`` is ``("N", "2")``."""
    match = re.fullmatch(r"(.+?)\[([\d, ]+)\]", name)
    return (match[1], match[2]) if match else (name, "")


def order(value: Any) -> tuple[bool, float, str]:
    """The sorting key of a parameter's values, and of their texts: numbers and ranges by their
    first number, then words."""
    first = str(value).partition(" to ")[0]
    try:
        return (False, float(first), str(value))
    except ValueError:
        return (True, 0.0, str(value))


def _labels(values: Sequence[Any]) -> Callable[[Any], str]:
    """Formats values; where there are many numbers, as ranges between quartiles."""
    numbers = [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) < len(values) or len(set(numbers)) <= VALUES:
        return lambda value: f"{value:g}" if isinstance(value, float) else str(value)
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, BINS + 1)))

    def label(value: float) -> str:
        i = min(int(np.searchsorted(edges, value, side="right")) - 1, len(edges) - 2)
        return f"{edges[i]:.3g} to {edges[i + 1]:.3g}"

    return label


# --- importances ---------------------------------------------------------------------------------


def importances(study: StudyRow, rows: Sequence[TrialRow]) -> dict[str, dict[str, float]]:
    """Per objective, the importance of each parameter for being among the best (a tenth, at least
    five), as fractions that sum to 1, the greatest first: Optuna's PED-ANOVA (Watanabe et al.
    2023), conditional for parameters that not every network has. Empty with too few trials.
    """
    rows = [
        row
        for row in rows
        if row.evaluated
        and row.distributions
        and all(math.isfinite(row.value(objective)) for objective, _ in study.objectives)
    ]
    if len(rows) < ENOUGH:
        return {}
    known = rebuilt(study, rows)
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(TENTH, FEWEST / len(rows)))
    by_parameter = {}
    for place, (name, direction) in enumerate(study.objectives):
        sign = -1 if direction == "max" else 1

        def low(trial: FrozenTrial, place: int = place, sign: int = sign) -> float:
            return sign * float(trial.values[place])

        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # that lower targets are taken as better: they are
            shares = get_param_importances(known, evaluator=evaluator, target=low)
        by_parameter[name] = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return by_parameter
