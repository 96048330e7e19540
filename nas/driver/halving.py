"""Which of a few candidates is the best, where each evaluation has luck: sequential halving
(Karnin, Koren and Somekh 2013, algorithm 1), with what was believed beforehand as their priors.

Pure: what an evaluation is, the caller says. `benchmarks/finalists.py` has what it is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 2  # that go on: what one alone scores tells nothing of its place
WEIGHT = 2  # evaluations that the prior of the luck counts as, in degrees of freedom


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed of a candidate beforehand; an infinite ``deviation`` is nothing."""

    mean: float
    deviation: float


def halve(
    priors: Sequence[Prior],
    budget: int,
    noise: float,
    evaluate: Callable[[int, int], float],
) -> tuple[list[int], list[list[float]]]:
    """Evaluates every candidate once, then the better half of them, two at least, once more, and so
    on, as long as the ``budget`` of evaluations has room for a whole round.

    ``noise`` is the variance of an evaluation as far as it is known beforehand (NaN: it is not);
    ``evaluate`` is called with a candidate and how often it was evaluated, and gives NaN where that
    failed: the candidate is then out. Returns the candidates, the best first, and the scores of
    each.
    """
    scores: list[list[float]] = [[] for _ in priors]
    order: list[int] = []  # those that are out, the best first
    alive = list(range(len(priors)))
    while alive and budget >= len(alive):
        for candidate in alive:
            scores[candidate].append(evaluate(candidate, len(scores[candidate])))
        budget -= len(alive)
        means = standings(priors, scores, noise)
        ranked = sorted(alive, key=lambda k: -means[k])
        failed = [k for k in ranked if math.isnan(scores[k][-1])]
        ranked = [k for k in ranked if k not in failed]
        kept = max(LEAST, math.ceil(len(ranked) / 2))
        alive, order = ranked[:kept], [*ranked[kept:], *order, *failed]
    return [*alive, *order], scores


def standings(
    priors: Sequence[Prior], scores: Sequence[Sequence[float]], noise: float
) -> list[float]:
    """The posterior mean of each candidate, its own scores (NaN left out) and its prior weighed by
    their variances: a normal mean with a normal prior. The variance of an evaluation is pooled from
    the candidates' own, and ``noise`` counts as ``WEIGHT`` more."""
    own = [[score for score in each if not math.isnan(score)] for each in scores]
    squares = sum(float(np.var(each)) * len(each) for each in own if each)
    free = sum(len(each) - 1 for each in own if each)
    if not math.isnan(noise):
        squares, free = squares + WEIGHT * noise, free + WEIGHT
    variance = squares / free if free else 0.0
    means = []
    for prior, each in zip(priors, own, strict=True):
        if not each:
            means.append(prior.mean)
            continue
        weight = 1.0
        if math.isfinite(prior.deviation):
            believed = len(each) * prior.deviation**2
            weight = believed / (believed + variance) if believed + variance else 0.5
        means.append(weight * float(np.mean(each)) + (1 - weight) * prior.mean)
    return means
