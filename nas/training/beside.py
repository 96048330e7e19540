"""A way to train beside its control: both with the same seeds, on the same images.

A gain is told with its interval, and of test images, by which nothing was chosen.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from nas.errors import NasError
from nas.job import Epoch, Job
from nas.training.evaluation import LEVEL, evaluate
from nas.training.single import Trained, free_to_train, train

Right = Sequence[npt.NDArray[np.bool_]]  # of each seed, which images are right


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much one way is more accurate than another, as a fraction, and the ends of its 95%
    interval, for other seeds and other images; NaN of one seed, which tells no spread."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, way: Right, control: Right) -> Gain:
        """Of trainings in pairs, a seed each, on the same images.

        The variance of the mean difference is that over the seeds, s²/k, and that over the images,
        s²/n of each image's mean difference; their sum has Student's t at Satterthwaite's (1946)
        degrees of freedom. Rather too wide: what seeds do differently on an image counts twice.
        """
        apart = np.asarray(way, float) - np.asarray(control, float)
        (k, n), value = apart.shape, float(apart.mean())
        if k < 2 or n < 2:
            return cls(value, math.nan, math.nan)
        seeds = float(apart.mean(1).var(ddof=1)) / k
        images = float(apart.mean(0).var(ddof=1)) / n
        total = seeds + images
        if not total:
            return cls(value, value, value)
        freedom = total**2 / (seeds**2 / (k - 1) + images**2 / (n - 1))
        half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(total)
        return cls(value, value - half, value + half)

    @property
    def sure(self) -> bool:
        """Whether the interval is on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Side:
    """One way to train: a training for each seed, and which images of a part each has right."""

    trained: tuple[Trained, ...]
    validation: Right
    test: Right

    @property
    def best(self) -> Trained:
        """The training that is best on the validation images; of equals the first."""
        return max(self.trained, key=lambda each: each.curve[-1].accuracy)


@dataclass(frozen=True, slots=True)
class Beside:
    """A way to train and its control."""

    way: Side
    control: Side

    @property
    def validation(self) -> Gain:
        return Gain.of(self.way.validation, self.control.validation)

    @property
    def test(self) -> Gain:
        return Gain.of(self.way.test, self.control.test)


Tell = Callable[[str, Job, Epoch], None]  # which side, the job, an epoch of it


def beside(
    jobs: Mapping[str, Job],
    seeds: int,
    folder: Path,
    name: Callable[[Job], str],
    tell: Tell = lambda *_: None,
) -> Beside:
    """Trains the first of two ``jobs``, the way, and the second, its control, with the same
    ``seeds``, from the job's own on; their models, and what they go on from, are files in
    ``folder`` under the ``name`` of their job. Called again it goes on.

    Raises NasError.
    """
    if seeds < 1:
        raise NasError(f"--seeds {seeds}: must be 1 or more")
    planned = [
        (side, job, folder / name(job))
        for number in range(seeds)
        for side, base in jobs.items()
        for job in [dataclasses.replace(base, seed=base.seed + number)]
    ]
    for _, job, place in planned:
        free_to_train(job, place.with_name(f"{place.name}.safetensors"))
    trained: dict[str, list[Trained]] = {side: [] for side in jobs}
    for side, job, place in planned:
        trained[side].append(
            train(
                job,
                functools.partial(tell, side, job),
                checkpoint=place.with_name(f"{place.name}.checkpoint"),
                file=place.with_name(f"{place.name}.safetensors"),
                over=False,
            )
        )
    way, control = (
        Side(
            tuple(each),
            *(
                [evaluate(t.model, jobs[side].data, part).right for t in each]
                for part in ("validation", "test")
            ),
        )
        for side, each in trained.items()
    )
    return Beside(way, control)
