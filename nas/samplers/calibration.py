"""What a model believes of networks, and what its intervals are worth: how often they hold what the
model had not seen.

The settings of the greatest posterior density are surer of themselves than they may be, and their
residuals do not tell, as the same observations were fitted. So a process is fitted without each
fifth of the observations and judged by it (cross-validation), and what differs between those
processes is part of the deviation (a committee, as in query by committee).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from nas.samplers.gp import GP, JITTER

Floats = NDArray[np.float64]

FOLDS = 5
LEVELS = (0.5, 0.8, 0.95)
# Of what an interval leaves out, the share on the worse side. A network that is among the best is
# there by what no model foresaw, too: on the tables of NAS-Bench-Macro and TransNAS-Bench-101 80%
# intervals with as much on both sides held 61% of the best tenth, so they hold 81%.
WORSE = 0.85
# Observations that the factor a fold shows is weighed against, and what it is without any.
PRIOR, WIDE = 10, 1.5


def sides(level: float) -> tuple[float, float]:
    """How many deviations an interval reaches from the mean to the better and the worse side."""
    out = 1.0 - level
    return float(ndtri(1.0 - out * (1.0 - WORSE))), float(ndtri(1.0 - out * WORSE))


@dataclass(frozen=True)
class Calibration:
    """``factor`` is what the deviations are multiplied by; ``held`` the share of ``count``
    observations, each unseen by the process that predicted it, inside the intervals of ``LEVELS``
    after that."""

    factor: float
    held: tuple[float, ...]
    count: int

    @classmethod
    def of(cls, z: Floats) -> Calibration:
        """From the distances ``z`` (n,) of values, minimised, from what was predicted, in its
        deviations."""
        n = len(z)
        size = np.sort(np.abs(z))
        # The quantile that holds 80% of the next ones, too (conformal prediction's).
        wide = size[min(n - 1, int(np.ceil(0.8 * (n + 1))) - 1)] / float(ndtri(0.9))
        weight = n / (n + PRIOR)
        factor = float(np.clip(weight * wide + (1 - weight) * WIDE, 0.5, 4.0))
        ends = [(factor * better, factor * worse) for better, worse in map(sides, LEVELS)]
        held = tuple(float(((-a <= z) & (z <= b)).mean()) for a, b in ends)
        return cls(factor, held, n)

    @property
    def holds(self) -> bool:
        """Whether the shares are what chance leaves of the levels: within three deviations."""
        off = [
            abs(held - level) / np.sqrt(level * (1 - level) / self.count)
            for held, level in zip(self.held, LEVELS, strict=True)
        ]
        return bool(max(off) <= 3.0)


@dataclass(frozen=True)
class Believed:
    """What is believed of n rows, (n, objectives) each: the median, the standard deviation (0 of
    what was told), and the ends of what is plausible; by objective, how far it is to be trusted,
    and 1 where less is better, -1 where more is."""

    mean: Floats
    deviation: Floats
    least: Floats
    most: Floats
    calibrations: tuple[Calibration | None, ...]
    signs: Floats

    def interval(self, level: float = 0.8) -> tuple[Floats, Floats]:
        """The ends, (n, objectives) each, of intervals that hold a share of ``level``."""
        better, worse = sides(level)
        down, up = np.where(self.signs > 0, better, worse), np.where(self.signs > 0, worse, better)
        low, high = self.mean - down * self.deviation, self.mean + up * self.deviation
        return np.maximum(low, self.least), np.minimum(high, self.most)

    def times(self, signs: Floats) -> Believed:
        """The same of the objectives times ``signs`` (objectives,), each 1 or -1."""
        ends = np.sort([self.least * signs, self.most * signs], axis=0)
        told = {"least": ends[0], "most": ends[1], "signs": self.signs * signs}
        return replace(self, mean=self.mean * signs, **told)


@dataclass(frozen=True)
class Committee:
    """Posteriors of the same observations under several settings, and what they are worth."""

    members: tuple[GP, ...]
    calibration: Calibration

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the function at rows ``x``, of the mixture; what is far
        from all that was seen varies as that does, by 1, however much more the fit allows for."""
        means, deviations = np.stack([member.predict(x) for member in self.members], axis=1)
        spread = (deviations**2).mean(axis=0) + means.var(axis=0)
        deviation = self.calibration.factor * np.sqrt(spread)
        return means.mean(axis=0), deviation / np.sqrt(1.0 + deviation**2)

    def evaluations(self, x: Floats, count: int, rng: np.random.Generator) -> Floats:
        """What evaluations of rows ``x`` (m, columns) may give, their luck included, drawn
        together ``count`` times, each by one of the members: (count, m)."""
        drawn = np.empty((count, len(x)))
        for first, member in enumerate(self.members):
            mean, covariance = member.joint(x)
            wide = self.calibration.factor**2 * covariance
            # As far as ``predict`` lets each of them vary.
            bound = np.sqrt(1.0 + np.maximum(np.diag(wide), 0.0))
            wide = wide / np.outer(bound, bound)
            wide[np.diag_indices(len(x))] += member.settings.noise + JITTER
            some = drawn[first :: len(self.members)]
            # By eigenvalues, as those of rows that are alike may be rounded below 0.
            some[:] = rng.multivariate_normal(mean, wide, len(some), "ignore", method="eigh")
        return drawn
