"""How far the validation accuracy of a training varies by its seed alone.

By Jordan ("Calibrated Chaos: Variance Between Runs of Neural Network Training is Harmless and
Inevitable", 2023, section 4) the variance of an error over trainings is about error / (2 n) on n
images, as what a network gets wrong differs from training to training where the trainings together
are calibrated. So a search knows this noise before it trains any network twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from nas.metrics import ACCURACY
from nas.samplers.problem import Noise
from nas.store import StudyRow, TrialRow

Floats = NDArray[np.float64]

MOST = 1_000_000  # validation images


def images(accuracies: Iterable[float], known: int = 1) -> int:
    """The smallest number of images, a multiple of ``known``, of which all ``accuracies`` are
    shares; 0 where there is none up to ``MOST``."""
    for accuracy in accuracies:
        if not known:
            return 0
        if round(accuracy * known) / known == accuracy:
            continue  # a share of these, which need no search: 20,000 took 0.2 s
        share = Fraction(accuracy).limit_denominator(MOST)
        if abs(float(share) - accuracy) > 1e-12:
            return 0
        known = math.lcm(known, share.denominator)
        if known > MOST:
            return 0
    return known


def variance(accuracy: Floats, images: int) -> Floats:
    """The sampling variance of accuracies measured on ``images`` images, about their means over
    trainings. Counts one error more (and two images), as no error in few images proves little."""
    wrong = (1.0 - accuracy) * images + 1.0
    return wrong / (images + 2.0) / (2.0 * images)


def of_study(study: StudyRow, rows: Iterable[TrialRow]) -> Noise:
    """Of a study with these trials."""
    count = images(row.accuracy for row in rows if row.accuracy is not None)
    return of_objectives(study, lambda: count)


def of_objectives(study: StudyRow, images: Callable[[], int]) -> Noise:
    """Of a study whose accuracies are measured on ``images()`` images; 0 or 1: unknown, as is the
    noise of an evaluator."""
    names = [] if study.settings.get("evaluator") else [name for name, _ in study.objectives]

    def noise(objective: int, values: Floats) -> Floats | None:
        count = images()
        known = names[objective : objective + 1] == [ACCURACY] and count > 1
        return variance(np.clip(values, 0.0, 1.0), count) if known else None

    return noise
