"""A Gaussian process of one quantity, on a warped scale, and its cross-validated committee."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nas.samplers.calibration import FOLDS, Calibration, Committee
from nas.samplers.gp import GP, JITTER, Settings, level
from nas.samplers.warp import Warp

Floats = NDArray[np.float64]
Scales = NDArray[np.intp]
# Fits settings: of a quantity's name, embedded rows, the scales of their columns, warped values,
# and the expected variances of their noise (None: unknown).
Fit = Callable[[str, Floats, Scales, Floats, Floats | None], Settings]
# The expected variances (n,) of the noise of evaluations with these values (n,); None: unknown.
Variance = Callable[[Floats], Floats | None]


def unknown(_: Floats) -> None:
    return None


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
    noise: Variance = unknown

    @classmethod
    def of(
        cls,
        name: str,
        x: Floats,
        scales: Scales,
        values: Floats,
        fit: Fit,
        noise: Variance = unknown,
    ) -> Surrogate:
        numbers = _numbered(x)
        first = max(fitted_on(len(values)), _told_apart(numbers))
        some = np.linspace(0, first - 1, min(first, FITTED_ON)).astype(int)
        # Repeated evaluations tell the noise: keep them all.
        again = np.flatnonzero(np.bincount(numbers[:first])[numbers[:first]] > 1)
        some = np.union1d(some, again)
        warp = Warp.of(values[:first])
        settings = fit(name, x[some], scales, warp(values[some]), warped(noise, warp, values[some]))
        warp = Warp.of(values)
        process = GP.given(settings, scales, x, warp(values), warped(noise, warp, values))
        return cls(name, warp, process, x, values, some, noise)

    def believing(self, x: Floats) -> Surrogate:
        """Conditioned on its own means at ``x`` (kriging believer)."""
        return replace(self, process=self.process.believing(x)) if len(x) else self

    def committee(self, fit: Fit) -> Committee:
        """This process and those with the settings fitted without each fold, and how well the
        latter predict that fold."""
        scales = self.process.scales
        y, noise = self.warp(self.values), warped(self.noise, self.warp, self.values)
        members = [GP.given(self.process.settings, scales, self.x, y, noise)]
        z = np.empty(len(self.some))
        network = _numbered(self.x[self.some])  # evaluations of one network share a fold
        for fold in range(FOLDS):
            out = network % FOLDS == fold
            rest = self.some[~out]
            if not len(rest) or not out.any():
                continue
            warp = Warp.of(self.values[rest])
            seen, expected = warp(self.values[rest]), warped(self.noise, warp, self.values[rest])
            settings = fit(f"{self.name}, without {fold}", self.x[rest], scales, seen, expected)
            judged = GP.given(settings, scales, self.x[rest], seen, expected)
            left = self.some[out]
            mean, deviation = judged.predict(self.x[left])
            luck = np.full(len(left), settings.noise)
            own = warped(self.noise, warp, self.values[left])
            if expected is not None and own is not None:
                luck *= own / level(expected, seen)
            away = warp(self.values[left]) - mean
            z[out] = away / np.sqrt(deviation**2 + luck + JITTER)
            members.append(GP.given(settings, scales, self.x, y, noise))
        return Committee(tuple(members), Calibration.of(z))


def warped(noise: Variance, warp: Warp, values: Floats) -> Floats | None:
    """The expected noise variances of evaluations with ``values`` (n,) on the scale of ``warp``."""
    variances = noise(values)
    if variances is None:
        return None
    deviations = np.sqrt(variances)
    half: Floats = 0.5 * (warp(values + deviations) - warp(values - deviations))
    return half**2 + 1e-12


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


def _told_apart(numbers: NDArray[np.intp]) -> int:
    """How many observations, of rows with these ``numbers`` (n,), there were when the settings were
    last to be fitted to repeated evaluations: they tell noise from a network's own part at once,
    which the next growth by a tenth may come too late for. After the first four, after each growth
    by a quarter."""
    seen, again, due = set[int](), 0, 1
    first = 0
    for place, number in enumerate(numbers.tolist()):
        again += number in seen
        seen.add(number)
        if again == due:
            first, due = place + 1, max(due + 1, due * 5 // 4)
    return first


def _numbered(x: Floats) -> NDArray[np.intp]:
    """The index of each row among the distinct rows, in order of first occurrence."""
    _, first, places = np.unique(x, axis=0, return_index=True, return_inverse=True)
    numbers: NDArray[np.intp] = np.argsort(np.argsort(first))[places.ravel()]
    return numbers
