"""Fronts and hypervolumes: pure functions over arrays of objective values.

A point is a row with one value per objective; a direction is ``"max"`` or ``"min"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.errors import NasError

if TYPE_CHECKING:
    from nas.metrics import Direction

Floats = NDArray[np.float64]


def front(points: ArrayLike, directions: Sequence[Direction]) -> NDArray[np.intp]:
    """Ascending indices of the nondominated rows of ``points`` (n, objectives).

    Of equal rows the first counts; rows with a value that is not finite are left out.
    """
    import moocore  # takes 0.2 s to import

    minimised = _minimised(points, directions)
    finite = np.flatnonzero(np.isfinite(minimised).all(axis=1))
    if not len(finite):
        return finite
    kept: NDArray[np.intp] = finite[moocore.is_nondominated(minimised[finite])]
    return kept


def hypervolume(points: ArrayLike, reference: ArrayLike, directions: Sequence[Direction]) -> float:
    """The hypervolume (Zitzler and Thiele 1998) of ``points`` (n, objectives) with respect to
    ``reference`` (objectives,), in the objectives' units.

    Points that are not finite, or not better than the reference in every objective, add nothing.
    """
    import moocore

    minimised = _minimised(points, directions)
    bound = _minimised(np.reshape(reference, (1, -1)), directions)[0]
    inside = np.isfinite(minimised).all(axis=1) & (minimised < bound).all(axis=1)
    if not inside.any():
        return 0.0
    return float(moocore.hypervolume(minimised[inside], ref=bound))


def reference_point(
    points: ArrayLike, directions: Sequence[Direction], margin: float = 0.0
) -> Floats:
    """The worst finite value of each objective (objectives,), moved outwards by ``margin`` times
    its range (by 1 where the range is 0), so that the ends of the front add hypervolume.

    A closer reference makes the ends of the front worth nothing, and a search that maximises
    hypervolume then never goes there.
    """
    minimised = _minimised(points, directions)
    finite = minimised[np.isfinite(minimised).all(axis=1)]
    if not len(finite):
        raise NasError(f"a reference point needs a finite point: none among {len(minimised)} given")
    corner: Floats = finite.max(axis=0)
    if margin:
        wide = corner - finite.min(axis=0)
        corner = corner + np.where(wide > 0, margin * wide, 1.0)
    return corner * _signs(directions)


def _signs(directions: Sequence[Direction]) -> Floats:
    for place, direction in enumerate(directions):
        if direction not in ("max", "min"):
            raise NasError(f"direction {place} is {direction!r}: must be 'max' or 'min'")
    return np.array([1.0 if direction == "min" else -1.0 for direction in directions])


def _minimised(points: ArrayLike, directions: Sequence[Direction]) -> Floats:
    array: NDArray[Any] = np.asarray(points, dtype=float)
    if array.size == 0:
        array = array.reshape(0, len(directions))
    if array.ndim != 2 or array.shape[1] != len(directions):
        raise NasError(
            f"points have the shape {array.shape}: must be rows of {len(directions)} values, "
            "one an objective"
        )
    return array * _signs(directions)
