"""Gaussian process regression with a length scale per feature; hyperparameters by MAP.

Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006): prediction is algorithm
2.1, the gradient of the marginal likelihood equation 5.9. The prior of the length scales grows
with the number of features (Hvarfner, Hellsten and Nardi, 2024), which keeps forty parameters
learnable from thirty networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, lapack, solve_triangular

Floats = NDArray[np.float64]

# Variance always added to the diagonal; targets have variance 1.
JITTER = 1e-6
# The smallest weight that a hint centres a prior at, be it 0 in the older study.
LEAST = np.exp(-12.0)


@dataclass(frozen=True)
class Settings:
    """Hyperparameters: ``weights`` (features,), the inverse squared length scales; the variance
    (``amplitude``) of the smooth part; the variance (``own``) and ``roughness`` of the rough part,
    which is a network's own; and the ``noise`` variance of an evaluation.

    In the last ``linear`` features, one column each, the function is linear instead: their weights
    are the variances of the slopes."""

    weights: Floats
    amplitude: float
    own: float
    roughness: float
    noise: float
    linear: int = 0


def _matern(distances: Floats) -> tuple[Floats, Floats]:
    """Matern 5/2 of a squared distance, and its derivative (R&W equation 4.17)."""
    r = np.sqrt(5.0 * distances)
    e = np.exp(-r)
    return (1.0 + r + r * r / 3.0) * e, (-5.0 / 6.0) * (1.0 + r) * e


def _rough(distances: Floats) -> tuple[Floats, Floats]:
    """Matern 1/2 of a squared distance, and its derivative."""
    r = np.sqrt(distances + 1e-12)
    e = np.exp(-r)
    return e, -0.5 * e / r


def squared(a: Floats, b: Floats) -> Floats:
    """Squared distances between the rows of ``a`` (n, columns) and ``b`` (m, columns): (n, m)."""
    total: Floats = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2.0 * (a @ b.T)
    return np.maximum(total, 0.0, out=total)


def fit(
    x: Floats,
    scales: NDArray[np.intp],
    y: Floats,
    doubtful: NDArray[np.bool_] | None = None,
    linear: int = 0,
    hint: Floats | None = None,
    noise: Floats | None = None,
) -> Settings:
    """The maximum a posteriori settings.

    ``x`` (n, columns) comes from ``Encoding.embed``, ``scales`` (columns,) is the feature of each
    column, ``y`` (n,) has mean 0 and variance about 1. ``doubtful`` marks leading features that are
    all left out where the posterior density is higher without them. In the last ``linear`` columns
    the function is linear. ``hint`` are weights of the first features in an older study. ``noise``
    (n,) are the variances that an evaluation's noise is expected to have, where that is known; the
    setting is then that of the best quarter of ``y``, and the others are in proportion.
    """
    features = int(scales.max()) + 1
    dropped = np.zeros(features, bool)
    if doubtful is not None:
        dropped[: len(doubtful)] = doubtful
    prior = _prior(features, linear, hint, None if noise is None else level(noise, y))
    ratios = relative(noise, y)
    best = _densest(x, scales, y, prior, linear, ratios)
    if dropped.any():
        fewer = _densest(np.where(dropped[scales], 0.0, x), scales, y, prior, linear, ratios)
        if fewer.fun < best.fun:
            fewer.x[:-4][dropped] = -np.inf
            best = fewer
    amplitude, own, roughness, variance = (float(v) for v in np.exp(best.x[-4:]))
    return Settings(np.exp(best.x[:-4]), amplitude, own, roughness, variance, linear)


def _densest(
    x: Floats,
    scales: NDArray[np.intp],
    y: Floats,
    prior: tuple[Floats, Floats],
    linear: int,
    ratios: Floats,
) -> Any:
    from scipy.optimize import minimize  # 0.2 s, which a search that fits nothing saves

    start, _ = prior
    bounds = [(-14.0, 5.0)] * (len(start) - 4)
    return minimize(
        objective(x, scales, y, prior, linear, ratios),
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[*bounds, (-4.0, 6.0), (-14.0, 2.0), (0.0, 6.0), (-14.0, 1.0)],
        options={"maxiter": 60},
    )


def level(noise: Floats, y: Floats) -> float:
    """The expected noise variance of the best quarter of ``y`` (n,), which is minimised: where a
    search goes on."""
    return float(np.median(noise[y <= np.quantile(y, 0.25)]))


def relative(noise: Floats | None, y: Floats) -> Floats:
    """Expected noise variances (n,) in units of their ``level``; all 1 where none are known."""
    return np.ones(len(y)) if noise is None else noise / level(noise, y)


def _prior(
    features: int, linear: int = 0, hint: Floats | None = None, noise: float | None = None
) -> tuple[Floats, Floats]:
    """Means and standard deviations of the normal priors of the log settings, in their order.

    The noise is expected within a factor of 1.35 of ``noise``: with a wider prior (1.6) fifteen
    networks on 120 validation images were all taken for noise. Where that is not known, its prior
    is centred at 0.01: a hundred trials can find a quarter or none, ten are too few
    to explain everything by noise, which would leave cost as a network's only merit. The rough
    part's is centred higher, or all of it would count as noise on tables without noise, and is
    wide, or it would never vanish on smooth objectives. The linear features together are expected
    to explain a third of the variance.
    """
    centre = np.full(features, -2.8 - np.log(features))
    spread = np.full(features, 3.4)
    if hint is not None:
        centre[: len(hint)], spread[: len(hint)] = np.log(np.maximum(hint, LEAST)), 1.0
    if linear:
        centre[-linear:], spread[-linear:] = -1.0 - np.log(linear), 1.5
    luck = (-4.5, 2.0) if noise is None else (np.log(noise), 0.3)
    return (
        np.concatenate([centre, [0.0, -3.5, 2.5, luck[0]]]),
        np.concatenate([spread, [1.5, 2.5, 1.0, luck[1]]]),
    )


def objective(
    x: Floats,
    scales: NDArray[np.intp],
    y: Floats,
    prior: tuple[Floats, Floats] | None = None,
    linear: int = 0,
    ratios: Floats | None = None,
) -> Callable[[Floats], tuple[float, Floats]]:
    """The negative log posterior density and its gradient, as a function of the log settings."""
    features = int(scales.max()) + 1
    centre, spread = prior or _prior(features, linear)
    columns = x.shape[1] - linear
    diagonal = np.diag_indices(len(y))
    ratios = np.ones(len(y)) if ratios is None else ratios

    def loss(theta: Floats) -> tuple[float, Floats]:
        weights = np.exp(theta[:-4])
        amplitude, own, roughness, noise = np.exp(theta[-4:])
        scaled = x * np.sqrt(weights[scales])
        z, slopes = scaled[:, :columns], scaled[:, columns:]
        distances = squared(z, z)
        distances[diagonal] = 0.0  # not quite, after rounding, and the rough part takes the root
        smooth, slope = _matern(distances)
        rough, steep = _rough(roughness * distances)
        covariance = amplitude * smooth + own * rough + slopes @ slopes.T
        covariance[diagonal] += noise * ratios + JITTER
        factor, failed = lapack.dpotrf(covariance, lower=True)
        if failed:
            return 1e10, np.zeros_like(theta)
        inverse = lapack.dpotri(factor, lower=True)[0]
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        alpha = inverse @ y
        away = (theta - centre) / spread
        value = 0.5 * y @ alpha + np.log(np.diag(factor)).sum() + 0.5 * away @ away
        outer = 0.5 * (inverse - np.outer(alpha, alpha))
        steep *= own * roughness
        inner = outer * (amplitude * slope + steep)
        # The derivative by a column's weight is a sum over pairs of its squared differences; two
        # products with z give it for all columns, without a matrix of differences for each.
        by_column = 2.0 * (inner.sum(axis=1) @ (z * z) - ((inner @ z) * z).sum(axis=0))
        by_column = np.append(by_column, ((outer @ slopes) * slopes).sum(axis=0))
        by_feature = np.bincount(scales, by_column, minlength=features)
        by_scalars = [
            amplitude * (outer * smooth).sum(),
            own * (outer * rough).sum(),
            (outer * steep * distances).sum(),
            noise * (ratios @ np.diag(outer)),
        ]
        return float(value), np.concatenate([by_feature, by_scalars]) + away / spread

    return loss


@dataclass(frozen=True)
class GP:
    """A posterior: observations ``y`` (n,) at scaled rows ``z`` (n, columns).

    The function is the sum of a smooth part (Matern 5/2) and a rough one (Matern 1/2), which a
    network shares with its nearest neighbours at most; the rest is noise, drawn by each evaluation.
    """

    settings: Settings
    scales: NDArray[np.intp]
    z: Floats
    y: Floats
    noise: Floats
    factor: Floats
    alpha: Floats

    @classmethod
    def given(
        cls,
        settings: Settings,
        scales: NDArray[np.intp],
        x: Floats,
        y: Floats,
        noise: Floats | None = None,
    ) -> GP:
        """The posterior after observing ``y`` (n,) at ``x`` (n, columns), with the expected noise
        variances ``noise`` (n,), as in ``fit``."""
        z = x * np.sqrt(settings.weights[scales])
        return cls._of(settings, scales, z, y, settings.noise * relative(noise, y) + JITTER)

    @classmethod
    def _of(
        cls, settings: Settings, scales: NDArray[np.intp], z: Floats, y: Floats, noise: Floats
    ) -> GP:
        covariance = _kernel(settings, z, z)
        covariance[np.diag_indices(len(y))] += noise
        factor = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        half = solve_triangular(factor, y, lower=True, check_finite=False)
        alpha = solve_triangular(factor, half, lower=True, trans=1, check_finite=False)
        return cls(settings, scales, z, y, noise, factor, alpha)

    def doubting(self) -> GP:
        """The posterior if the rough part were noise."""
        settings = self.settings
        noisy = replace(settings, own=0.0, noise=settings.noise + settings.own)
        return self._of(noisy, self.scales, self.z, self.y, self.noise + settings.own)

    def believing(self, x: Floats) -> GP:
        """The posterior after observing the means at ``x`` (m, columns) (kriging believer).

        The mean function is unchanged (the new coefficients are 0); the deviation shrinks.
        """
        z = x * np.sqrt(self.settings.weights[self.scales])
        cross = solve_triangular(self.factor, self._covariance(x).T, lower=True, check_finite=False)
        rest = _kernel(self.settings, z, z) - cross.T @ cross
        added = np.full(len(z), self.settings.noise + JITTER)
        rest[np.diag_indices(len(z))] += added
        n, m = cross.shape
        factor = np.zeros((n + m, n + m))
        factor[:n, :n], factor[n:, :n] = self.factor, cross.T
        factor[n:, n:] = cholesky(rest, lower=True, check_finite=False)
        alpha = np.concatenate([self.alpha, np.zeros(m)])
        y = np.concatenate([self.y, self.mean(x)])
        noise = np.concatenate([self.noise, added])
        return GP(self.settings, self.scales, np.vstack([self.z, z]), y, noise, factor, alpha)

    def mean(self, x: Floats) -> Floats:
        """The posterior mean at rows ``x`` (m, columns)."""
        return self._covariance(x) @ self.alpha

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the function at rows ``x`` (m, columns)."""
        k = self._covariance(x)
        v = solve_triangular(self.factor, k.T, lower=True, check_finite=False)
        variance = self.settings.amplitude + self.settings.own - (v * v).sum(axis=0)
        if linear := self.settings.linear:
            slopes = x[:, -linear:] ** 2
            variance += slopes @ self.settings.weights[self.scales[-linear:]]
        return k @ self.alpha, np.sqrt(np.maximum(variance, 1e-12))

    def joint(self, x: Floats) -> Joint:
        """The joint posterior of the function at rows ``x`` (m, columns)."""
        k = self._covariance(x)
        v = solve_triangular(self.factor, k.T, lower=True, check_finite=False)
        z = x * np.sqrt(self.settings.weights[self.scales])
        covariance = _kernel(self.settings, z, z) - v.T @ v
        return Joint(k @ self.alpha, covariance, self.settings.noise + JITTER)

    def observed(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the function at the observed rows, (n,) each."""
        inverse, _ = lapack.dpotri(self.factor, lower=True)
        variance = self.noise - self.noise**2 * np.diag(inverse)
        return self.smoothed(), np.sqrt(np.maximum(variance, 0.0))

    def smoothed(self) -> Floats:
        """The mean of the function at the observed rows, (n,)."""
        return self.y - self.noise * self.alpha

    def covariance_with(self, x: Floats) -> Floats:
        """The posterior covariance (n, m) of the function at the observed rows with that at rows
        ``x`` (m, columns): K - K (K + noise)^-1 K = noise (K + noise)^-1 K."""
        half = solve_triangular(self.factor, self._covariance(x).T, lower=True, check_finite=False)
        whole = solve_triangular(self.factor, half, lower=True, trans=1, check_finite=False)
        covariance: Floats = self.noise[:, None] * whole
        return covariance

    def _covariance(self, x: Floats) -> Floats:
        return _kernel(self.settings, x * np.sqrt(self.settings.weights[self.scales]), self.z)


@dataclass(frozen=True)
class Joint:
    """A function at m rows: ``mean`` (m,), ``covariance`` (m, m), and the ``noise`` variance of an
    evaluation."""

    mean: Floats
    covariance: Floats
    noise: float

    @property
    def deviation(self) -> Floats:
        """The standard deviation at each row, (m,)."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 1e-12))

    def believing(self, k: int) -> Joint:
        """As ``GP.believing`` of row ``k``, by a rank-one update."""
        column = self.covariance[k]
        shrunk = self.covariance - np.outer(column, column / (column[k] + self.noise))
        return replace(self, covariance=shrunk)


def _kernel(settings: Settings, a: Floats, b: Floats) -> Floats:
    columns = a.shape[1] - settings.linear
    distances = squared(a[:, :columns], b[:, :columns])
    r = np.sqrt(5.0 * distances)  # as _matern, without the derivative
    smooth: Floats = settings.amplitude * ((1.0 + r + r * r / 3.0) * np.exp(-r))
    if settings.own:
        smooth += settings.own * _rough(settings.roughness * distances)[0]
    if settings.linear:
        smooth += a[:, columns:] @ b[:, columns:].T
    return smooth
