"""Finds the best of a few candidates from noisy evaluations: sequential halving (Karnin, Koren and
Somekh 2013, algorithm 1), with prior estimates. `benchmarks/finalists.py` measures it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 2  # survivors of a round: more scores of one alone would not change the order
WEIGHT = 2  # degrees of freedom of the prior of the noise variance


@dataclass(frozen=True, slots=True)
class Prior:
    """The normal prior of a candidate; an infinite ``deviation`` is an uninformative one."""

    mean: float
    deviation: float


def halve(
    priors: Sequence[Prior],
    budget: int,
    noise: float,
    evaluate: Callable[[int, int], float],
) -> tuple[list[int], list[list[float]]]:
    """Evaluates every candidate once, then the better half (at least two) once more, and so on, as
    long as the ``budget`` of evaluations allows a whole round.

    ``noise`` is the prior variance of an evaluation (NaN: unknown); ``evaluate`` takes a
    candidate's index and the number of its earlier evaluations, and returns NaN if it failed, which
    eliminates the candidate. Returns the indices, the best first, and each one's scores.
    """
    scores: list[list[float]] = [[] for _ in priors]
    order: list[int] = []  # eliminated ones, the best first
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
    """The posterior mean of each candidate (normal likelihood and prior; NaN scores left out). The
    variance of an evaluation is pooled over the candidates, with ``noise`` as a prior of ``WEIGHT``
    degrees of freedom."""
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
