"""Samplers of other libraries, asked and told as ours are; each runs where it is installed.

    pip install smac neural-pipeline-search syne-tune botorch

All see the same parameters and the same observations, the metric maximised and, with two
objectives, the cost minimised. The comment on each gives the settings chosen for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

Params = dict[str, Any]


class Searcher(Protocol):
    """One search, one evaluation after another."""

    def ask(self) -> Params: ...

    def tell(self, values: list[float] | None) -> None:
        """The metric and, with two objectives, the cost of what was asked; None: it failed."""


def choices(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution)
    return list(range(distribution.low, distribution.high + 1, distribution.step))


# A space as these libraries take it: every parameter, and the other that a parameter needs to be
# active, with the least value of that.
Space = tuple[Mapping[str, BaseDistribution], Mapping[str, tuple[str, int]]]


class Smac:
    """The facade for hyperparameters (a random forest, log expected improvement); ParEGO."""

    def __init__(self, space: Space, objectives: int, seed: int) -> None:
        from ConfigSpace import (
            CategoricalHyperparameter,
            ConfigurationSpace,
            GreaterThanCondition,
            UniformIntegerHyperparameter,
        )
        from smac import HyperparameterOptimizationFacade as Facade
        from smac import Scenario
        from smac.multi_objective.parego import ParEGO

        distributions, needs = space
        told = ConfigurationSpace(seed=seed)
        for name, d in distributions.items():
            told.add(
                UniformIntegerHyperparameter(name, d.low, d.high)
                if isinstance(d, IntDistribution)
                else CategoricalHyperparameter(name, choices(d))
            )
        for child, (parent, least) in needs.items():
            told.add(GreaterThanCondition(told[child], told[parent], least - 1))
        scenario = Scenario(
            told,
            objectives=["loss", "cost"][:objectives],
            n_trials=100_000,
            deterministic=True,
            seed=seed,
            output_directory=tempfile.mkdtemp(),
        )
        self._facade = Facade(
            scenario,
            lambda config, seed=0: None,
            # The design's default size follows from the number of trials, which is not the budget.
            initial_design=Facade.get_initial_design(scenario, n_configs=25),
            multi_objective_algorithm=ParEGO(scenario) if objectives == 2 else None,
            logging_level=False,
        )

    def ask(self) -> Params:
        self._asked = self._facade.ask()
        return dict(self._asked.config)

    def tell(self, values: list[float] | None) -> None:
        from smac.runhistory.dataclasses import TrialValue
        from smac.runhistory.enumerations import StatusType

        n = self._facade.scenario.count_objectives()
        if values is None:
            worst = [1e12] * n
            told = TrialValue(cost=worst if n > 1 else worst[0], status=StatusType.CRASHED)
        else:
            told = TrialValue(cost=[-values[0], values[1]] if n > 1 else -values[0])
        self._facade.tell(self._asked, told)


class SyneTune:
    """Its EHVI with two objectives, BoTorch's Gaussian process with one. Its EHVI looks only for
    metrics under -2, so values are scaled: -2 is the worst seen in the first ten evaluations."""

    def __init__(self, space: Space, objectives: int, seed: int) -> None:
        from syne_tune.config_space import choice
        from syne_tune.optimizer.baselines import EHVI, BOTorch

        told = {name: choice(choices(d)) for name, d in space[0].items()}
        self._scheduler = (
            EHVI(told, metrics=["loss", "cost"], random_seed=seed)
            if objectives == 2
            else BOTorch(told, metric="loss", random_seed=seed)
        )
        self._number = -1
        self._waiting: list[tuple[Any, list[float]]] = []
        self._scale: Any = None

    def ask(self) -> Params:
        from syne_tune.backend.trial_status import Trial

        self._number += 1
        suggestion = self._scheduler.suggest()
        self._trial = Trial(self._number, suggestion.config, None)
        return dict(suggestion.config)

    def tell(self, values: list[float] | None) -> None:
        if values is None:
            self._scheduler.on_trial_error(self._trial)
            return
        if len(values) == 1:
            self._report(self._trial, {"loss": -values[0]})
            return
        self._waiting.append((self._trial, [-values[0], values[1]]))
        if self._scale is None and len(self._waiting) >= 10:
            seen = np.array([v for _, v in self._waiting])
            self._scale = seen.max(axis=0), np.maximum(np.ptp(seen, axis=0), 1e-9)
        if self._scale is not None:
            for trial, pair in self._waiting:
                scaled = (np.array(pair) - self._scale[0]) / self._scale[1] - 2.0
                self._report(trial, {"loss": scaled[0], "cost": scaled[1]})
            self._waiting.clear()

    def _report(self, trial: Any, result: dict[str, float]) -> None:
        self._scheduler.on_trial_complete(trial, result)


class Neps:
    """Its Bayesian optimisation; with two objectives noisy expected hypervolume improvement, where
    a failed trial stops it, so that the worst value seen is passed instead."""

    def __init__(self, space: Space, objectives: int, seed: int) -> None:
        import neps
        import torch
        from neps.space import SearchSpace

        np.random.seed(seed)
        torch.manual_seed(seed)
        told = SearchSpace({n: neps.HPOCategorical(choices(d)) for n, d in space[0].items()})
        optimizer = neps.algorithms.bayesian_optimization(told, initial_design_size=10)
        self._search = neps.AskAndTell(optimizer)
        self._objectives = objectives
        self._worst = [0.0] * objectives

    def ask(self) -> Params:
        self._trial = self._search.ask()
        return dict(self._trial.config)

    def tell(self, values: list[float] | None) -> None:
        if values is not None:
            told = [-values[0], *values[1:]]
            self._worst = np.maximum(self._worst, told).tolist()
        elif self._objectives == 1:
            self._search.tell(self._trial, ValueError("no network"))
            return
        else:
            told = self._worst
        result = told if len(told) > 1 else told[0]
        self._search.tell(self._trial, {"objective_to_minimize": result})


class BoTorch:
    """qLogNEHVI with two objectives, qLogNEI with one, over its default Gaussian process, after ten
    random draws. It knows the cost (a deterministic model) and which codes are networks. Ranges are
    numbers, choices indicators. Candidates: 512 draws, and four rounds of changes to the best."""

    def __init__(
        self,
        space: Space,
        objectives: int,
        seed: int,
        cost: Callable[[Params], float | None] = lambda _: 0.0,
    ) -> None:
        import torch

        from nas.samplers.encoding import Encoding

        torch.manual_seed(seed)
        self._encoding, self._rng = Encoding.of(space[0]), np.random.default_rng(seed)
        self._objectives, self._cost = objectives, cost
        self._tried: set[bytes] = set()
        self._rows: list[Any] = []
        self._values: list[list[float]] = []

    def ask(self) -> Params:
        rows, costs = self._admitted(self._encoding.draw(self._rng, 512))
        if len(self._rows) >= 10:
            worth = self._acquisition(costs)
            scores = worth(rows, costs)
            for _ in range(4):
                best = rows[np.argsort(-scores)[:16]]
                parents = np.repeat(np.vstack([best, self._best()]), 8, axis=0)
                more, told = self._admitted(self._encoding.mutate(self._rng, parents))
                if len(more):
                    rows = np.vstack([rows, more])
                    scores = np.concatenate([scores, worth(more, told)])
            rows = rows[np.argsort(-scores)]
        self._asked = rows[0]
        self._tried.add(self._asked.tobytes())
        return self._encoding.params(self._asked)

    def tell(self, values: list[float] | None) -> None:
        if values is not None:
            self._rows.append(self._asked)
            self._values.append(values)

    def _admitted(self, rows: Any) -> tuple[Any, Any]:
        """The rows that are new and networks, and their costs."""
        fresh = {row.tobytes(): row for row in rows if row.tobytes() not in self._tried}
        known = [(row, self._cost(self._encoding.params(row))) for row in fresh.values()]
        known = [(row, cost) for row, cost in known if cost is not None]
        return np.array([row for row, _ in known]), np.array([cost for _, cost in known])

    def _best(self) -> Any:
        return np.array(self._rows)[np.argsort([-v[0] for v in self._values])[:8]]

    def _features(self, rows: Any) -> Any:
        columns = []
        for k, p in enumerate(self._encoding.parameters):
            if p.chosen:
                columns += [(rows[:, k] == v) * 1.0 for v in range(int(p.size))]
            else:
                columns.append(p.unit(rows[:, k]))
        return np.stack(columns, axis=1)

    def _acquisition(self, costs: Any) -> Callable[[Any, Any], Any]:
        import torch
        from botorch.acquisition import qLogNoisyExpectedImprovement as NEI
        from botorch.acquisition.multi_objective.logei import (
            qLogNoisyExpectedHypervolumeImprovement as NEHVI,
        )
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import ModelList, SingleTaskGP
        from botorch.models.deterministic import GenericDeterministicModel
        from gpytorch.mlls import ExactMarginalLogLikelihood

        told = np.array(self._values)
        paid = told[:, 1] if self._objectives == 2 else np.zeros(len(told))
        scale = max(paid.max(), costs.max(), 1e-9)

        def tensor(rows: Any, cost: Any) -> Any:
            """The last column is the cost, at most 1."""
            return torch.tensor(np.column_stack([self._features(rows), cost / scale]))

        x, y = tensor(np.array(self._rows), paid), torch.tensor(told[:, :1])
        model = SingleTaskGP(x, y)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        if self._objectives == 1:
            worth = NEI(model, x, prune_baseline=True)
        else:
            price = GenericDeterministicModel(lambda z: -z[..., -1:], num_outputs=1)
            corner = [float(y.min()), -1.0]
            worth = NEHVI(ModelList(model, price), corner, x, prune_baseline=True)

        def score(rows: Any, cost: Any) -> Any:
            with torch.no_grad():
                return worth(tensor(rows, cost)[:, None]).numpy()

        return score


OTHERS: dict[str, Callable[[Space, int, int], Searcher]] = {
    "smac": Smac,
    "syne tune": SyneTune,
    "neps": Neps,
    "botorch": BoTorch,
}
