"""Calibrated predictions: how often the model's intervals cover observations it has not seen.

Under MAP settings a Gaussian process is overconfident, and its residuals do not show it, as the
same observations were fitted. So a process is also fitted without each fifth of the observations
and scored on it (cross-validation), and the disagreement of those processes is part of the
deviation (a committee, as in query by committee).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from nas.samplers.gp import GP

Floats = NDArray[np.float64]

FOLDS = 5
LEVELS = (0.5, 0.8, 0.95)
# The fraction of the tail probability that lies on the worse side. The best networks exceed what a
# model predicts: on the tables of NAS-Bench-Macro and TransNAS-Bench-101 symmetric 80% intervals
# covered 61% of the best tenth, these cover 81%.
WORSE = 0.85
# The prior of the factor: its weight, in observations, and its value.
PRIOR, WIDE = 10, 1.5


def sides(level: float) -> tuple[float, float]:
    """How many deviations an interval extends from the mean to the better and the worse side."""
    out = 1.0 - level
    return float(ndtri(1.0 - out * (1.0 - WORSE))), float(ndtri(1.0 - out * WORSE))


@dataclass(frozen=True)
class Calibration:
    """``factor`` multiplies the deviations; with it the intervals of ``LEVELS`` covered the
    fractions ``held`` of ``count`` observations, each unseen by the process that predicted it."""

    factor: float
    held: tuple[float, ...]
    count: int

    @classmethod
    def of(cls, z: Floats) -> Calibration:
        """From the standardised residuals ``z`` (n,) of held-out values, minimised."""
        n = len(z)
        size = np.sort(np.abs(z))
        # Conformal prediction's quantile, which covers 80% of future residuals.
        wide = size[min(n - 1, int(np.ceil(0.8 * (n + 1))) - 1)] / float(ndtri(0.9))
        weight = n / (n + PRIOR)
        factor = float(np.clip(weight * wide + (1 - weight) * WIDE, 0.5, 4.0))
        ends = [(factor * better, factor * worse) for better, worse in map(sides, LEVELS)]
        held = tuple(float(((-a <= z) & (z <= b)).mean()) for a, b in ends)
        return cls(factor, held, n)

    @property
    def holds(self) -> bool:
        """Whether each coverage is within three standard errors of its level."""
        off = [
            abs(held - level) / np.sqrt(level * (1 - level) / self.count)
            for held, level in zip(self.held, LEVELS, strict=True)
        ]
        return bool(max(off) <= 3.0)


@dataclass(frozen=True)
class Believed:
    """Estimates of n rows, (n, objectives) each: the median, the standard deviation (0 of a known
    objective), and the bounds of plausible values; by objective, the calibration (None: known), and
    the sign: 1 if it is minimised, -1 if maximised."""

    mean: Floats
    deviation: Floats
    least: Floats
    most: Floats
    calibrations: tuple[Calibration | None, ...]
    signs: Floats

    def interval(self, level: float = 0.8) -> tuple[Floats, Floats]:
        """The ends, (n, objectives) each, of intervals with probability ``level``."""
        better, worse = sides(level)
        down, up = np.where(self.signs > 0, better, worse), np.where(self.signs > 0, worse, better)
        low, high = self.mean - down * self.deviation, self.mean + up * self.deviation
        return np.maximum(low, self.least), np.minimum(high, self.most)

    def times(self, signs: Floats) -> Believed:
        """The estimates of the objectives times ``signs`` (objectives,), each 1 or -1."""
        least, most = np.sort([self.least * signs, self.most * signs], axis=0)
        mean, signs = self.mean * signs, self.signs * signs
        return replace(self, mean=mean, least=least, most=most, signs=signs)


@dataclass(frozen=True)
class Committee:
    """Posteriors of the same observations under several settings, and their calibration."""

    members: tuple[GP, ...]
    calibration: Calibration

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation (m,) of the mixture at rows ``x`` (m, columns). The deviation
        is bounded by that of the observations, 1, which it approaches far from them."""
        means, deviations = np.stack([member.predict(x) for member in self.members], axis=1)
        spread = (deviations**2).mean(axis=0) + means.var(axis=0)
        deviation = self.calibration.factor * np.sqrt(spread)
        return means.mean(axis=0), deviation / np.sqrt(1.0 + deviation**2)

    def evaluations(self, x: Floats, count: int, rng: np.random.Generator) -> Floats:
        """Draws (count, m) from the joint distribution of noisy evaluations of rows ``x``
        (m, columns), shared evenly among the members."""
        drawn = np.empty((count, len(x)))
        for first, member in enumerate(self.members):
            joint = member.joint(x)
            wide = self.calibration.factor**2 * joint.covariance
            # The variances of ``predict``.
            bound = np.sqrt(1.0 + np.maximum(np.diag(wide), 0.0))
            wide = wide / np.outer(bound, bound)
            wide[np.diag_indices(len(x))] += joint.noise
            some = drawn[first :: len(self.members)]
            # By eigenvalues: rounding makes the covariance of similar rows indefinite.
            some[:] = rng.multivariate_normal(joint.mean, wide, len(some), "ignore", method="eigh")
        return drawn
