"""Samplers by name, each a plain Optuna sampler made from a seed.

    study = optuna.create_study(directions=["maximize", "minimize"], sampler=SAMPLERS["default"](0))

``default`` is ``ehvi``, ours. It does more when given what is known before an evaluation:
``nas.samplers.ehvi.EHVISampler(seed, nas.samplers.problem.Problem(...))``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

Make = Callable[[int | None], "BaseSampler"]  # of a seed; None: another each time


LEARNING = ("default", "ehvi")  # those that take older studies


# Imported when made: Optuna and the models take half a second, the names alone none.
def _ehvi(seed: int | None) -> BaseSampler:
    from nas.samplers.ehvi import EHVISampler

    return EHVISampler(seed)


def _evolution(seed: int | None) -> BaseSampler:
    from nas.samplers.evolution import EvolutionSampler

    return EvolutionSampler(seed)


def _optuna(name: str, **settings: Any) -> Make:
    def make(seed: int | None) -> BaseSampler:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler: BaseSampler = getattr(optuna.samplers, name)(seed=seed, **settings)
        return sampler

    return make


SAMPLERS: dict[str, Make] = {
    "default": _ehvi,
    "ehvi": _ehvi,
    "random": _optuna("RandomSampler"),
    # Multivariate, so that it sees which choices go together; grouped, for conditional spaces.
    "tpe": _optuna("TPESampler", multivariate=True, group=True, constant_liar=True),
    "nsga2": _optuna("NSGAIISampler"),
    "gp": _optuna("GPSampler"),
    "evolution": _evolution,
}
