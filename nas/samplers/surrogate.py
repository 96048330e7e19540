"""A Gaussian process of one quantity, on a warped scale, and its cross-validated committee."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nas.samplers.calibration import FOLDS, Calibration, Committee
from nas.samplers.gp import GP, JITTER, Settings
from nas.samplers.warp import Warp

Floats = NDArray[np.float64]
Scales = NDArray[np.intp]
# Fits settings: of a quantity's name, embedded rows, the scales of their columns, warped values.
Fit = Callable[[str, Floats, Scales, Floats], Settings]

# Observations that settings are fitted on: more hardly change them, and the cost is cubic.
FITTED_ON = 200


@dataclass(frozen=True)
class Surrogate:
    """A warped Gaussian process of one quantity, conditioned on ``values`` (n,) at rows ``x``
    (n, columns); its settings were fitted on those with indices ``some``."""

    name: str
    warp: Warp
    process: GP
    x: Floats
    values: Floats
    some: Scales

    @classmethod
    def of(cls, name: str, x: Floats, scales: Scales, values: Floats, fit: Fit) -> Surrogate:
        first = fitted_on(len(values))
        some = np.linspace(0, first - 1, min(first, FITTED_ON)).astype(int)
        # Repeated evaluations tell the noise: keep them all.
        numbers = _numbered(x[:first])
        again = np.flatnonzero(np.bincount(numbers)[numbers] > 1)
        some = np.union1d(some, again)
        settings = fit(name, x[some], scales, Warp.of(values[:first])(values[some]))
        warp = Warp.of(values)
        process = GP.given(settings, scales, x, warp(values))
        return cls(name, warp, process, x, values, some)

    def believing(self, x: Floats) -> Surrogate:
        """Conditioned on its own means at ``x`` (kriging believer)."""
        return replace(self, process=self.process.believing(x)) if len(x) else self

    def committee(self, fit: Fit) -> Committee:
        """This process and those with the settings fitted without each fold, and how well the
        latter predict that fold."""
        scales = self.process.scales
        y = self.warp(self.values)
        members = [GP.given(self.process.settings, scales, self.x, y)]
        z = np.empty(len(self.some))
        network = _numbered(self.x[self.some])  # evaluations of one network share a fold
        for fold in range(FOLDS):
            out = network % FOLDS == fold
            rest = self.some[~out]
            if not len(rest) or not out.any():
                continue
            warp = Warp.of(self.values[rest])
            seen = warp(self.values[rest])
            settings = fit(f"{self.name}, without {fold}", self.x[rest], scales, seen)
            judged = GP.given(settings, scales, self.x[rest], seen)
            mean, deviation = judged.predict(self.x[self.some[out]])
            away = warp(self.values[self.some[out]]) - mean
            z[out] = away / np.sqrt(deviation**2 + settings.noise + JITTER)
            members.append(GP.given(settings, scales, self.x, y))
        return Committee(tuple(members), Calibration.of(z))


def fitted_on(n: int) -> int:
    """How many of ``n`` observations the settings are fitted on: all of the first 20, then refitted
    after each growth by a tenth. So the amortised cost of an ask falls, and a new sampler on a
    stored study finds the settings that the old one had."""
    stage = 20
    if n <= stage:
        return n
    while (grown := max(stage + 1, stage * 11 // 10)) <= n:
        stage = grown
    return stage


def _numbered(x: Floats) -> NDArray[np.intp]:
    """The index of each row among the distinct rows, in order of first occurrence."""
    _, first, places = np.unique(x, axis=0, return_index=True, return_inverse=True)
    numbers: NDArray[np.intp] = np.argsort(np.argsort(first))[places.ravel()]
    return numbers
