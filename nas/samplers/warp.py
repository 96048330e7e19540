"""Maps a quantity to a scale on which it is about normal, as a Gaussian process assumes.

Yeo and Johnson, "A new family of power transformations to improve normality or symmetry" (2000).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Interquartile ranges from the median beyond which values are compressed; a normal's end at 3.
FENCE = 5.0


@dataclass(frozen=True)
class Warp:
    """A monotone map of an objective to that scale.

    Values are centred by the median, scaled by the interquartile range, and transformed with the
    power of highest likelihood: accuracies crowd below their best, params and latencies above their
    least. Powers from 0 to 2 map the reals onto the reals; others have a bound, beyond which the
    inverse is infinite. Outliers, such as a diverged training, would flatten the rest: values
    beyond ``FENCE`` are compressed to less than twice that.

    ``low`` and ``high`` bound plausible values: the observed range, extended by its length on
    either side.
    """

    centre: float
    scale: float
    power: float
    mean: float
    deviation: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Floats) -> Warp:
        """The warp for ``values`` (n,), all finite."""
        low, centre, high = np.quantile(values, [0.25, 0.5, 0.75])
        scale = float(high - low) or float(np.std(values)) or 1.0
        # Bounded below, for quartiles of 1e-300 beside a value of 1e+30.
        scale = max(scale, 1e-12 * float(np.abs(values - centre).max()))
        z = _drawn_in((values - centre) / scale)
        jacobian = np.sign(z) * np.log1p(np.abs(z))

        def likelihood(power: float) -> float:
            spread = float(np.log(np.var(_yeo_johnson(z, power)) + 1e-12))
            return (power - 1.0) * float(jacobian.mean()) - 0.5 * spread

        power = float(max(np.linspace(0.0, 2.0, 21), key=likelihood))
        warped = _yeo_johnson(z, power)
        least, most = float(values.min()), float(values.max())
        return cls(
            float(centre),
            scale,
            power,
            float(warped.mean()),
            float(warped.std()) or 1.0,
            least - (most - least),
            most + (most - least),
        )

    def __call__(self, values: Floats) -> Floats:
        warped = _yeo_johnson(_drawn_in((values - self.centre) / self.scale), self.power)
        return (warped - self.mean) / self.deviation

    def inverse(self, warped: Floats) -> Floats:
        """Values in the objective's units, clipped to the plausible ones."""
        z = _yeo_johnson_inverse(warped * self.deviation + self.mean, self.power)
        values: Floats = np.clip(_let_out(z) * self.scale + self.centre, self.low, self.high)
        return values

    def spread(self, mean: Floats, deviation: Floats) -> tuple[Floats, Floats]:
        """Of normals on the warped scale, in the objective's units: the median, and half the width
        of mean +- deviation. Quantiles survive the inverse; moments do not, as the tail dominates
        them."""
        half: Floats = 0.5 * (self.inverse(mean + deviation) - self.inverse(mean - deviation))
        return self.inverse(mean), half


def _drawn_in(z: Floats) -> Floats:
    """Compresses what lies beyond ``FENCE`` to between it and its double."""
    far = np.maximum(np.abs(z) / FENCE, 1.0)
    return np.where(far > 1.0, np.sign(z) * FENCE * (2.0 - 1.0 / far), z)


def _let_out(z: Floats) -> Floats:
    near = np.clip(2.0 - np.abs(z) / FENCE, 1e-12, 1.0)
    return np.where(near < 1.0, np.sign(z) * FENCE / near, z)


def _branch(power: float) -> Callable[[Floats], Floats]:
    def forward(z: Floats) -> Floats:
        return np.log1p(z) if power < 1e-9 else ((1.0 + z) ** power - 1.0) / power

    return forward


def _unbranch(power: float) -> Callable[[Floats], Floats]:
    def backward(w: Floats) -> Any:
        # Bounded: no two values of a study are a factor of e^50 apart.
        if power < 1e-9:
            return np.expm1(np.minimum(w, 50.0))
        return np.expm1(np.minimum(np.log1p(power * w) / power, 50.0))

    return backward


def _yeo_johnson(z: Floats, power: float) -> Floats:
    up, down = _branch(power), _branch(2.0 - power)
    return np.where(z >= 0, up(np.maximum(z, 0.0)), -down(np.maximum(-z, 0.0)))


def _yeo_johnson_inverse(w: Floats, power: float) -> Floats:
    up, down = _unbranch(power), _unbranch(2.0 - power)
    return np.where(w >= 0, up(np.maximum(w, 0.0)), -down(np.maximum(-w, 0.0)))
