"""Fronts and hypervolumes against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nas.errors import NasError
from nas.pareto import front, hypervolume, reference_point

SIGN = {"max": -1.0, "min": 1.0}


def dominated(points: np.ndarray, k: int) -> bool:
    """By the definition, minimised: another is nowhere worse and somewhere better, or equal and
    earlier."""
    others = (q for j, q in enumerate(points) if j != k)
    better = any((q <= points[k]).all() and (q < points[k]).any() for q in others)
    return better or any((points[j] == points[k]).all() for j in range(k))


@given(
    arrays(float, st.tuples(st.integers(1, 12), st.just(3)), elements=st.integers(0, 4)),
    st.tuples(*[st.sampled_from(["max", "min"])] * 3),
)
def test_front_is_what_nothing_dominates(points: np.ndarray, directions: tuple[str, ...]) -> None:
    minimised = points * [SIGN[d] for d in directions]
    expected = [k for k in range(len(points)) if not dominated(minimised, k)]
    assert front(points, directions).tolist() == expected


@given(
    arrays(float, st.tuples(st.integers(0, 8), st.just(3)), elements=st.integers(0, 5)),
    st.tuples(*[st.sampled_from(["max", "min"])] * 3),
)
def test_hypervolume_counts_the_dominated_cells(
    points: np.ndarray, directions: tuple[str, ...]
) -> None:
    """On whole numbers the volume is the number of unit cells between a point and the reference."""
    signs = np.array([SIGN[d] for d in directions])
    reference = np.where(signs > 0, 4, 1)
    low = np.minimum((points * signs).min(axis=0, initial=9), reference * signs)
    grid = np.stack(np.meshgrid(*[np.arange(-6, 5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    inside = (grid >= low) & (grid < reference * signs)
    covered = [any((p * signs <= cell).all() for p in points) for cell in grid[inside.all(axis=1)]]
    assert hypervolume(points, reference, directions) == sum(covered)


def test_points_that_are_not_finite_are_passed_over() -> None:
    points = [[0.9, 10.0], [np.nan, 1.0], [np.inf, 5.0], [0.5, 4.0]]
    assert front(points, ["max", "min"]).tolist() == [0, 3]
    assert reference_point(points, ["max", "min"]).tolist() == [0.5, 10.0]
    assert hypervolume(points, [0.0, 20.0], ["max", "min"]) == pytest.approx(0.9 * 10 + 0.5 * 6)


def test_the_front_of_no_points_is_empty() -> None:
    assert front([], ["max", "min"]).tolist() == []
    assert hypervolume([], [0.0, 1.0], ["max", "min"]) == 0.0
    with pytest.raises(NasError, match="none among 0"):
        reference_point([], ["max", "min"])


def test_wrong_input_is_told() -> None:
    with pytest.raises(NasError, match="direction 1 is 'up': must be 'max' or 'min'"):
        front([[1.0, 2.0]], ["max", "up"])  # type: ignore[list-item]
    with pytest.raises(NasError, match=r"shape \(1, 3\): must be rows of 2 values"):
        front([[1.0, 2.0, 3.0]], ["max", "min"])
