"""The time budget of a search, and the expected duration of a training."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from nas.driver.equal_cost import trained_epochs
from nas.store import TrialRow

FEW = 5  # trainings that are too few to fit how an epoch's duration grows with the MACs


class TimeBudget:
    """``seconds`` of wall-clock time from ``since`` on, by the clock ``now``; None: no limit.

    An epoch is expected to take ``a + b * MACs`` seconds with nonnegative ``a`` and ``b``, by least
    squares of the logarithms over the study's trials on this driver's device (or until there are
    any, on that of the latest trial); with ``FEW`` trials or less, the median, and for
    a network larger than all of them, as a baseline may be by far, the duration of the largest,
    scaled by the MACs.
    """

    def __init__(self, seconds: float | None, since: float, now: Callable[[], float]) -> None:
        self.seconds, self._since, self._now = seconds, since, now
        self._refused = False  # whether a training did not fit
        self._device: str | None = None
        self._own = False
        self._fitted: tuple[str | None, int] = (None, 0)
        self._line = (0.0, 0.0)
        self._largest = (0.0, 0.0)  # MACs, and the seconds of an epoch: the largest of those fitted
        # Of trainings by device: MACs, and the seconds of an epoch.
        self._took: defaultdict[str | None, list[tuple[float, float]]] = defaultdict(list)

    @classmethod
    def recorded(cls, rows: Iterable[TrialRow], machine: str) -> TimeBudget:
        """Fitted to trials trained on ``machine``, the name of its processor or GPU: for trainings
        there with as many threads and as many others at the same time."""
        found = cls(None, 0.0, time.monotonic)
        found.take(row for row in rows if (row.device or "").startswith(machine))
        return found

    @property
    def left(self) -> float | None:
        """Seconds left; None: no limit."""
        return None if self.seconds is None else self._since + self.seconds - self._now()

    @property
    def over(self) -> bool:
        """Whether the time is over, or a training did not fit."""
        return self._refused or (self.left is not None and self.left <= 0)

    def take(self, rows: Iterable[TrialRow], own: bool = False) -> None:
        """Learns from ended trials, each given once; ``own``: they are this driver's."""
        for row in rows:
            epochs = trained_epochs(row) if row.state in ("finished", "stopped") else 0
            if row.seconds and epochs:
                self._took[row.device].append((float(row.macs), row.seconds / epochs))
                if own or not self._own:
                    self._device, self._own = row.device, own

    def expected(self, macs: int, epochs: int) -> float | None:
        """The expected seconds of ``epochs`` of a network; None before any training."""
        known = self._took[self._device]
        if not known:
            return None
        if self._fitted != (self._device, len(known)):
            self._fitted, self._line = (self._device, len(known)), line(np.array(known))
            self._largest = max(known)
        a, b = self._line
        most, took = self._largest
        if len(known) <= FEW and macs > most:
            return epochs * max(a, took * macs / max(1.0, most))
        return epochs * (a + b * macs)

    def fits(self, macs: int, epochs: int, first: bool = False) -> bool:
        """Whether a training is expected to end in time. Before any training, whether any time is
        left; always for the ``first``."""
        left = self.left
        if left is None:
            return True
        expected = self.expected(macs, epochs)
        fits = (left > 0 or first) if expected is None else left > 0 and expected <= left
        self._refused = self._refused or not fits
        return fits


def line(taken: NDArray[np.float64]) -> tuple[float, float]:
    """Fits ``a`` and ``b`` of ``seconds = a + b * MACs`` to rows of (MACs, seconds), (n, 2)."""
    macs, seconds = taken.T
    middle, most = float(np.median(seconds)), max(1.0, float(macs.max()))
    if len(taken) <= FEW:
        return middle, 0.0
    from scipy.optimize import least_squares  # 0.2 s, which a search that fits nothing saves

    found = least_squares(
        lambda ab: np.log(ab[0] + ab[1] * macs / most) - np.log(seconds),
        (middle / 2, middle / 2),
        bounds=(middle * 1e-9, np.inf),
        x_scale=middle,
    )
    return float(found.x[0]), float(found.x[1]) / most
