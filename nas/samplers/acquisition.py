"""Expected hypervolume improvement, exact, for any number of independent objectives.

The improvement is an integral over the nondominated region of the probability that a candidate
dominates a point. As the objectives are independent, that probability is a product whose factors
have closed integrals over intervals. So the region is cut into slabs along the last objective, each
slab's cross-section is the same problem with one objective fewer, and one objective is the
classical expected improvement. (The cell decomposition of Emmerich, Deutz and Klinkenberg, 2011.)
A known objective is a normal of deviation 0. All objectives are minimised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nas.samplers.warp import Warp

Floats = NDArray[np.float64]
Shortfall = Callable[[Floats], Floats]  # of levels (k,), ascending; (m, k)


@dataclass(frozen=True)
class Marginal:
    """One objective of m candidates: normals with ``mean`` and ``deviation`` (m,) on the scale of
    ``warp`` (None: in its own units)."""

    mean: Floats
    deviation: Floats
    warp: Warp | None = None


def shortfall(levels: Floats, marginal: Marginal) -> Floats:
    """E[max(level - value, 0)] of each candidate, in the objective's units, (m, k).

    ``levels`` (k,) ascend. A warp changes the unit from place to place: between two levels its mean
    is used.
    """
    warped = levels if marginal.warp is None else marginal.warp(levels)
    mean, deviation = marginal.mean[:, None], np.maximum(marginal.deviation[:, None], 1e-9)
    gap = warped[None, :] - mean
    z = gap / deviation
    under: Floats = gap * ndtr(z) + deviation * np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
    if marginal.warp is None:
        return under
    # Nothing was observed below the lowest level: half a warped unit there sets the unit.
    below = np.array([warped[0] - 0.5])
    steps = np.diff(warped, prepend=below)
    units = np.diff(levels, prepend=marginal.warp.inverse(below)) / np.maximum(steps, 1e-12)
    return np.cumsum(np.diff(under, axis=1, prepend=0.0) * units, axis=1)


def improvement(front: Floats, reference: Floats, marginals: Sequence[Marginal]) -> Floats:
    """Expected hypervolume improvement of each candidate over ``front`` (k, objectives), (m,)."""
    return gain(front, reference, [partial(shortfall, marginal=each) for each in marginals])


def gain(front: Floats, reference: Floats, shortfalls: Sequence[Shortfall]) -> Floats:
    """As ``improvement``, with one function like ``shortfall`` per objective."""
    front = front[(front < reference).all(axis=1)]
    grids = [np.unique(np.append(front[:, k], reference[k])) for k in range(len(reference))]
    ranks = np.stack([np.searchsorted(g, front[:, k]) for k, g in enumerate(grids)], axis=1)
    return _volume([under(grid) for grid, under in zip(grids, shortfalls, strict=True)], ranks)


def _volume(tables: list[Floats], ranks: NDArray[np.intp]) -> Floats:
    *rest, last = tables
    end = last.shape[1] - 1
    if not rest:
        return last[:, ranks[:, 0].min() if len(ranks) else end]
    total = np.zeros(len(last))
    lower: Floats | float = 0.0
    for stop in np.unique(np.append(ranks[:, -1], end)):
        upper = last[:, stop]
        total += (upper - lower) * _volume(rest, ranks[ranks[:, -1] < stop, :-1])
        lower = upper
    return total
