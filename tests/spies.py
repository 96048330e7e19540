"""A sampler that tells of its asks, and a space in which it draws nothing twice by chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from nas.spaces.space import Space, read_space


class Spy(RandomSampler):
    """Draws at random, after whatever ``think`` does; knows the study that it is asked for."""

    def __init__(self, seed: int | None, think: Callable[[Spy], None] = lambda _: None) -> None:
        super().__init__(seed)
        self.asks, self.think = 0, think
        self.study: optuna.Study | None = None

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        self.asks, self.study = self.asks + 1, study
        self.think(self)
        return {}

    def count(self, state: TrialState) -> int:
        assert self.study
        return len(self.study.get_trials(deepcopy=False, states=[state]))


def stack() -> Space:
    """4 million architectures: what is drawn twice was not drawn by chance."""
    told = {
        "name": "stack",
        "pattern": "INPUT -> [CONV(width=w) -> BN -> RELU]*N -> GAP -> FC",
        "where": {"w": {"int": [1, 44], "per": "N"}, "N": {"int": [3, 4]}},
    }
    return read_space(told, "a test")
