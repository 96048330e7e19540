"""Samplers by name, each a plain Optuna sampler made from a seed.

    study = optuna.create_study(directions=["maximize", "minimize"], sampler=SAMPLERS["default"](0))

``default`` is ``ehvi``, ours. It does more where it is told what is known before an evaluation:
``EHVISampler(seed, Problem(...))``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna.samplers import BaseSampler

from nas.samplers.ehvi import EHVISampler, Problem
from nas.samplers.evolution import EvolutionSampler

__all__ = ["SAMPLERS", "EHVISampler", "EvolutionSampler", "Problem"]


def _tpe(seed: int | None) -> BaseSampler:
    """Multivariate, so that it sees which choices go together; grouped, for conditional spaces."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True
        )


def _gp(seed: int | None) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.GPSampler(seed=seed)


SAMPLERS: dict[str, Callable[[int | None], BaseSampler]] = {
    "default": lambda seed: EHVISampler(seed),
    "ehvi": lambda seed: EHVISampler(seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": _tpe,
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "gp": _gp,
    "evolution": lambda seed: EvolutionSampler(seed),
}
