"""Regularised evolution: the oldest of a population dies, a child of its best is born.

Real, Aggarwal, Huang and Le, "Regularized Evolution for Image Classifier Architecture Search"
(2019), algorithm 1. With several objectives the parent is drawn from the first front of the sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas import pareto
from nas.metrics import Direction
from nas.samplers.encoding import Encoding, union


class EvolutionSampler(BaseSampler):
    """The last ``population`` finished trials are alive; a parent is the best of ``sample`` of
    them, and its child has a parameter or two changed (``Encoding.mutate``). Until the population
    is complete, draws are uniform."""

    def __init__(self, seed: int | None = None, population: int = 50, sample: int = 10) -> None:
        self._rng = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)
        self._population = population
        self._sample = sample

    def reseed_rng(self) -> None:
        self._rng = np.random.default_rng()
        self._independent.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        living = self._living(study)
        return union(living) if len(living) == self._population else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        encoding = Encoding.of(search_space)
        living = self._living(study)
        if not encoding.parameters or not living:
            return {}
        size = min(self._sample, len(living))
        sample = [living[k] for k in self._rng.choice(len(living), size, replace=False)]
        directions: list[Direction] = [
            "max" if d == StudyDirection.MAXIMIZE else "min" for d in study.directions
        ]
        front = pareto.front([t.values for t in sample], directions)
        if not len(front):
            return {}
        parent = encoding.row(sample[self._rng.choice(front)].params)
        return encoding.params(encoding.mutate(self._rng, parent[None, :])[0])

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _living(self, study: Study) -> list[FrozenTrial]:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return complete[-self._population :]
