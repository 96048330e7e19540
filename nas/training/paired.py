"""A treatment and its control, trained in pairs: the same seeds, the same images.

The gain on the test images, by which nothing was chosen, comes with its confidence interval.
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
    """The treatment's accuracy minus the control's, as a fraction, and its 95% interval over other
    seeds and other images; the ends are NaN with a single seed, which shows no spread."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, treatment: Right, control: Right) -> Gain:
        """The mean difference over k pairs, one per seed, on the same n images.

        Its variance is that over the seeds, s²/k, plus that over the images, s²/n of each image's
        mean difference; the interval is Student's t with Satterthwaite's (1946) degrees of freedom.
        It is conservative: the interaction of seeds and images counts twice.
        """
        difference = np.asarray(treatment, float) - np.asarray(control, float)
        (k, n), value = difference.shape, float(difference.mean())
        if k < 2 or n < 2:
            return cls(value, math.nan, math.nan)
        seeds = float(difference.mean(1).var(ddof=1)) / k
        images = float(difference.mean(0).var(ddof=1)) / n
        total = seeds + images
        if not total:
            return cls(value, value, value)
        freedom = total**2 / (seeds**2 / (k - 1) + images**2 / (n - 1))
        half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(total)
        return cls(value, value - half, value + half)

    @property
    def sure(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of the comparison: a training per seed, and which images each classifies right."""

    trained: tuple[Trained, ...]
    validation: Right
    test: Right

    @property
    def best(self) -> Trained:
        """The training with the best validation accuracy, the first of equals."""
        return max(self.trained, key=lambda each: each.curve[-1].accuracy)


@dataclass(frozen=True, slots=True)
class Paired:
    """A treatment and its control, trained with the same seeds."""

    treatment: Arm
    control: Arm

    @property
    def validation(self) -> Gain:
        return Gain.of(self.treatment.validation, self.control.validation)

    @property
    def test(self) -> Gain:
        return Gain.of(self.treatment.test, self.control.test)

    @property
    def better(self) -> Arm:
        """The arm with the higher mean validation accuracy; of equals the treatment."""
        return self.control if self.validation.value < 0 else self.treatment


Tell = Callable[[str, Job, Epoch], None]  # an arm's name, the job, an epoch of it


def train_paired(
    jobs: Mapping[str, Job],
    seeds: int,
    folder: Path,
    name: Callable[[Job], str],
    tell: Tell = lambda *_: None,
) -> Paired:
    """Trains two ``jobs``, the treatment first and its control second, each with ``seeds``
    consecutive seeds from the job's own. Models and checkpoints are files in ``folder``, called by
    the ``name`` of their job: called again, it resumes.

    Raises NasError.
    """
    if seeds < 1:
        raise NasError(f"--seeds {seeds}: must be 1 or more")
    planned = [
        (arm, job, folder / name(job))
        for number in range(seeds)
        for arm, base in jobs.items()
        for job in [dataclasses.replace(base, seed=base.seed + number)]
    ]
    for _, job, place in planned:
        free_to_train(job, place.with_name(f"{place.name}.safetensors"))
    trained: dict[str, list[Trained]] = {arm: [] for arm in jobs}
    for arm, job, place in planned:
        trained[arm].append(
            train(
                job,
                functools.partial(tell, arm, job),
                checkpoint=place.with_name(f"{place.name}.checkpoint"),
                file=place.with_name(f"{place.name}.safetensors"),
                over=False,
            )
        )
    treatment, control = (
        Arm(
            tuple(each),
            *(
                [evaluate(t.model, jobs[arm].data, part).right for t in each]
                for part in ("validation", "test")
            ),
        )
        for arm, each in trained.items()
    )
    return Paired(treatment, control)
