"""A Gaussian process with a length scale a feature, its settings fitted, and a warp of its target.

Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006): prediction is algorithm
2.1, the gradient of the marginal likelihood equation 5.9. The prior of the length scales grows
with the number of features (Hvarfner, Hellsten and Nardi, 2024), which keeps forty parameters
learnable from thirty networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, lapack, solve_triangular
from scipy.optimize import minimize

Floats = NDArray[np.float64]

# Variance added to the diagonal whatever the fit says; in units of a target of variance 1.
JITTER = 1e-6
# How much of what the features leave unexplained is the network's own, and not luck. One evaluation
# cannot tell the two apart: on the macro tables of NAS-Bench-Macro and TransNAS-Bench-101 it was
# between none and all; a half is never far off.
OWN = 0.5
# Hermite nodes that carry a posterior through the warp: 12 are exact to 1e-4 of the deviation.
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(12)


@dataclass(frozen=True)
class Settings:
    """What is fitted: inverse squared length scale a feature, amplitude, variance of the rest."""

    weights: Floats
    amplitude: float
    noise: float


def _matern(distances: Floats) -> tuple[Floats, Floats]:
    """Matern 5/2 of a squared distance, and its derivative (R&W equation 4.17)."""
    r = np.sqrt(5.0 * distances)
    e = np.exp(-r)
    return (1.0 + r + r * r / 3.0) * e, (-5.0 / 6.0) * (1.0 + r) * e


def squared(a: Floats, b: Floats) -> Floats:
    """Squared distances between the rows of ``a`` (n, columns) and ``b`` (m, columns): (n, m)."""
    total: Floats = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2.0 * (a @ b.T)
    return np.maximum(total, 0.0, out=total)


def fit(x: Floats, scales: NDArray[np.intp], y: Floats) -> Settings:
    """The settings of the greatest posterior density.

    ``x`` (n, columns) from ``Encoding.embed``, ``scales`` (columns,) the feature of each column,
    ``y`` (n,) of mean 0 and variance about 1.
    """
    features = int(scales.max()) + 1
    start, _ = _prior(features)
    bounds = [(-14.0, 5.0)] * features + [(-4.0, 6.0), (-14.0, 1.0)]
    best = minimize(
        objective(x, scales, y),
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 60},
    )
    return Settings(np.exp(best.x[:-2]), float(np.exp(best.x[-2])), float(np.exp(best.x[-1])))


def _prior(features: int) -> tuple[Floats, Floats]:
    """Centre and spread of the logarithms of weights, amplitude and noise, all normal.

    Noise is centred at 0.02: a hundred trials may find a quarter or none, ten are not enough to
    take all for noise, by which the least cost would be the only good of a network.
    """
    centre = np.concatenate([np.full(features, -2.8 - np.log(features)), [0.0, -4.0]])
    return centre, np.concatenate([np.full(features, 3.4), [1.5, 1.5]])


def objective(
    x: Floats, scales: NDArray[np.intp], y: Floats
) -> Callable[[Floats], tuple[float, Floats]]:
    """The negative logarithm of the posterior density of settings, and its gradient.

    A function of the logarithms of the weights, the amplitude and the noise, in this order.
    """
    features = int(scales.max()) + 1
    centre, spread = _prior(features)
    diagonal = np.diag_indices(len(y))

    def loss(theta: Floats) -> tuple[float, Floats]:
        weights, amplitude, noise = np.exp(theta[:-2]), np.exp(theta[-2]), np.exp(theta[-1])
        z = x * np.sqrt(weights[scales])
        kernel, slope = _matern(squared(z, z))
        covariance = amplitude * kernel
        covariance[diagonal] += noise + JITTER
        factor, failed = lapack.dpotrf(covariance, lower=True)
        if failed:
            return 1e10, np.zeros_like(theta)
        inverse = lapack.dpotri(factor, lower=True)[0]
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        alpha = inverse @ y
        away = (theta - centre) / spread
        value = 0.5 * y @ alpha + np.log(np.diag(factor)).sum() + 0.5 * away @ away
        outer = 0.5 * (inverse - np.outer(alpha, alpha))
        inner = outer * slope * amplitude
        # The derivative by a column's weight is a sum over pairs of its squared differences; two
        # products with z give it for all columns, without a matrix of differences for each.
        by_column = 2.0 * (inner.sum(axis=1) @ (z * z) - ((inner @ z) * z).sum(axis=0))
        by_feature = np.bincount(scales, by_column, minlength=features)
        by_scalars = [amplitude * (outer * kernel).sum(), noise * np.trace(outer)]
        return float(value), np.concatenate([by_feature, by_scalars]) + away / spread

    return loss


@dataclass(frozen=True)
class GP:
    """A posterior: observations ``y`` at scaled rows ``z`` under fitted settings.

    The function is a smooth part of the features and, for each distinct row, a part of its own.
    """

    settings: Settings
    scales: NDArray[np.intp]
    z: Floats
    y: Floats
    factor: Floats
    alpha: Floats

    @classmethod
    def given(cls, settings: Settings, scales: NDArray[np.intp], x: Floats, y: Floats) -> GP:
        """The posterior after observing ``y`` (n,) at ``x`` (n, columns)."""
        z = x * np.sqrt(settings.weights[scales])
        covariance = settings.amplitude * _matern(squared(z, z))[0]
        covariance[np.diag_indices(len(y))] += (1 - OWN) * settings.noise + JITTER
        _, row = np.unique(x, axis=0, return_inverse=True)
        covariance += OWN * settings.noise * (row[:, None] == row[None, :])
        factor = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        half = solve_triangular(factor, y, lower=True, check_finite=False)
        alpha = solve_triangular(factor, half, lower=True, trans=1, check_finite=False)
        return cls(settings, scales, z, y, factor, alpha)

    def believing(self, x: Floats) -> GP:
        """The posterior once ``x`` (m, columns) have come out at their means.

        The mean is then the same function (their coefficients are 0); the deviation shrinks.
        """
        z = x * np.sqrt(self.settings.weights[self.scales])
        cross = solve_triangular(self.factor, self._covariance(x).T, lower=True, check_finite=False)
        own = self.settings.amplitude * _matern(squared(z, z))[0] - cross.T @ cross
        own[np.diag_indices(len(z))] += self.settings.noise + JITTER
        n, m = cross.shape
        factor = np.zeros((n + m, n + m))
        factor[:n, :n], factor[n:, :n] = self.factor, cross.T
        factor[n:, n:] = cholesky(own, lower=True, check_finite=False)
        alpha = np.concatenate([self.alpha, np.zeros(m)])
        y = np.concatenate([self.y, self.mean(x)])
        return GP(self.settings, self.scales, np.vstack([self.z, z]), y, factor, alpha)

    def mean(self, x: Floats) -> Floats:
        """The posterior mean at rows ``x`` (m, columns) that were not observed."""
        return self._covariance(x) @ self.alpha

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the function at unobserved rows ``x`` (m, columns)."""
        k = self._covariance(x)
        v = solve_triangular(self.factor, k.T, lower=True, check_finite=False)
        variance = self.settings.amplitude + OWN * self.settings.noise - (v * v).sum(axis=0)
        return k @ self.alpha, np.sqrt(np.maximum(variance, 1e-12))

    def observed(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the function at the observed rows, in their order."""
        noise = (1 - OWN) * self.settings.noise + JITTER
        inverse = solve_triangular(self.factor, np.eye(len(self.y)), lower=True, check_finite=False)
        variance = noise - noise**2 * (inverse * inverse).sum(axis=0)
        return self.y - noise * self.alpha, np.sqrt(np.maximum(variance, 0.0))

    def _covariance(self, x: Floats) -> Floats:
        z = x * np.sqrt(self.settings.weights[self.scales])
        return self.settings.amplitude * _matern(squared(z, self.z))[0]


@dataclass(frozen=True)
class Warp:
    """A monotone map of an objective to a scale on which it is about normal.

    Yeo and Johnson (2000) on values centred by the median and scaled by the quartiles, the power
    chosen by likelihood: accuracies crowd below their best, params and latencies above their least,
    and a diverged training is far from both. Without it one such value flattens all others.
    """

    centre: float
    scale: float
    power: float
    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Floats) -> Warp:
        """The warp for ``values`` (n,), all finite."""
        low, centre, high = np.quantile(values, [0.25, 0.5, 0.75])
        scale = float(high - low) or float(np.std(values)) or 1.0
        z = (values - centre) / scale
        jacobian = np.sign(z) * np.log1p(np.abs(z))

        def likelihood(power: float) -> float:
            spread = float(np.log(np.var(_yeo_johnson(z, power)) + 1e-12))
            return (power - 1.0) * float(jacobian.mean()) - 0.5 * spread

        power = float(max(np.linspace(-2.0, 4.0, 31), key=likelihood))
        warped = _yeo_johnson(z, power)
        return cls(float(centre), scale, power, float(warped.mean()), float(warped.std()) or 1.0)

    def __call__(self, values: Floats) -> Floats:
        warped = _yeo_johnson((values - self.centre) / self.scale, self.power)
        return (warped - self.mean) / self.deviation

    def inverse(self, warped: Floats) -> Floats:
        """Values in the objective's units. A power that is bounded is cut short of its bound."""
        z = _yeo_johnson_inverse(warped * self.deviation + self.mean, self.power)
        return z * self.scale + self.centre

    def moments(self, mean: Floats, deviation: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation, in the objective's units, of normals on the warped scale."""
        weights = NODE_WEIGHTS / NODE_WEIGHTS.sum()
        values = self.inverse(mean[:, None] + deviation[:, None] * NODES)
        centre = values @ weights
        return centre, np.sqrt(((values - centre[:, None]) ** 2) @ weights)


def _branch(power: float) -> Callable[[Floats], Floats]:
    def forward(z: Floats) -> Floats:
        return np.log1p(z) if abs(power) < 1e-9 else ((1.0 + z) ** power - 1.0) / power

    return forward


def _unbranch(power: float) -> Callable[[Floats], Floats]:
    def backward(w: Floats) -> Any:
        if abs(power) < 1e-9:
            return np.expm1(np.minimum(w, 50.0))
        return np.maximum(1.0 + power * w, 1e-3) ** (1.0 / power) - 1.0

    return backward


def _yeo_johnson(z: Floats, power: float) -> Floats:
    up, down = _branch(power), _branch(2.0 - power)
    return np.where(z >= 0, up(np.maximum(z, 0.0)), -down(np.maximum(-z, 0.0)))


def _yeo_johnson_inverse(w: Floats, power: float) -> Floats:
    up, down = _unbranch(power), _unbranch(2.0 - power)
    return np.where(w >= 0, up(np.maximum(w, 0.0)), -down(np.maximum(-w, 0.0)))
