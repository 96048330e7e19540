"""The sampler's side of a search: a study in memory, asked for candidates and told of trials.

It is rebuilt from the record on start: Optuna's own storage would cost 20 ms a trial and more.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from random import Random

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.driver.plan import Plan
from nas.driver.proposals import problem
from nas.driver.tradeoffs import excess
from nas.errors import NothingFound, ShapeError
from nas.job import Recipe
from nas.language.architecture import Architecture
from nas.metrics import scaled
from nas.samplers import SAMPLERS
from nas.samplers.ehvi import EHVISampler
from nas.store import Ask, StudyRow, TrialRow

PATIENCE = 10  # proposals in a row that cost nothing and bring nothing, before a random one
DRAWS = 2_000  # random draws without a new feasible architecture, before the space is exhausted


def sampler(plan: Plan, begun: int = 0) -> BaseSampler:
    """The plan's sampler, on a study of so many trials; ours is told what arithmetic knows of the
    space. Ours goes on as it would have; the others would propose again what they did at first, so
    they go on with another seed."""
    made = SAMPLERS[plan.sampler](plan.job.seed + begun)
    if isinstance(made, EHVISampler):
        return EHVISampler(plan.job.seed, problem(plan.space, tuple(plan.space.objectives)))
    return made


class Asker:
    """Candidates that are feasible and new to the study.

    ``begun`` trials were there before. ``hoped`` gives a trial that is at a rung the accuracy that
    is expected of it. ``refused`` counts what arithmetic rejected, ``repeated`` what was evaluated
    before: neither costs more than the asking.
    """

    def __init__(
        self, plan: Plan, row: StudyRow, begun: int, hoped: Callable[[TrialRow], TrialRow]
    ) -> None:
        self.plan, self.space, self.row, self.hoped = plan, plan.space, row, hoped
        directions = plan.space.objectives.values()
        self.study = optuna.create_study(
            directions=["maximize" if d == "max" else "minimize" for d in directions],
            sampler=sampler(plan, begun),
        )
        self.rng = Random(plan.job.seed + begun)  # not again the draws of an earlier run
        # By fingerprint and Job.key, what is never evaluated twice; None: under way.
        self.seen: dict[tuple[str, str], TrialRow | None] = {}
        self.refused = self.repeated = 0

    def ask(self) -> tuple[Trial, Ask] | None:
        """A candidate; None where there is none left.

        Raises NothingFound where there never was one.
        """
        vain = 0
        while vain < DRAWS and (vain < PATIENCE or self._enqueue()):
            vain += 1
            trial = self.study.ask()
            try:
                architecture = self.space.suggest(trial)
            except ShapeError:
                architecture = None
            recipe = self.space.suggest_recipe(trial, self.plan.job.recipe)
            if architecture is None or self.space.excess(architecture):
                self.refused += 1
                self.drop(trial)
                continue
            ask = self._candidate(architecture, recipe, trial)
            known = self.seen.get((ask.fingerprint, ask.job_key), ask)
            if known is ask:
                return trial, ask
            self.repeated += 1
            if isinstance(known, TrialRow):
                self.tell(trial, known)
            else:
                self.drop(trial)
        return None

    def _enqueue(self) -> bool:
        """Makes the next ask a random one that is feasible and new; False where there is none."""
        for _ in range(DRAWS):
            params, architecture = self.space.draw(self.rng)
            if self.space.excess(architecture):
                continue
            # With a searched recipe, the same architecture may be evaluated again under another.
            if self.space.recipe or (architecture.fingerprint, self.plan.job.key) not in self.seen:
                self.study.enqueue_trial(params)
                return True
        if not self.seen:
            bounds = ", ".join(f"{m} {b}" for m, b in self.space.constraints.items())
            raise NothingFound(
                f"none of {DRAWS} draws of {self.space.name} meets the constraints ({bounds}): "
                f"`nas space check {self.space.name}` shows what the space holds"
            )
        return False

    def _candidate(self, architecture: Architecture, recipe: Recipe, trial: Trial) -> Ask:
        job = dataclasses.replace(self.plan.job, recipe=recipe)
        seed = hashlib.sha256(f"{job.seed} {architecture.fingerprint}".encode()).digest()
        return Ask(
            sampled=trial.params,
            distributions={k: distribution_to_json(d) for k, d in trial.distributions.items()},
            pattern=str(architecture),
            fingerprint=architecture.fingerprint,
            params=architecture.params,
            macs=architecture.macs,
            recipe=recipe.plain(),
            job_key=job.key,
            epochs=job.epochs,
            seed=int.from_bytes(seed[:4]) >> 1,
        )

    def drop(self, trial: Trial) -> None:
        """Nothing came of an ask: it costs the study no trial."""
        self.study.tell(trial, state=TrialState.FAIL)

    def tell(self, trial: Trial, row: TrialRow) -> None:
        """What came of an ask."""
        frozen = self._frozen(row)
        for name, value in frozen.constraints.items():
            trial.set_constraint(name, value)
        self.study.tell(trial, frozen.values, state=frozen.state)

    def learn(self, row: TrialRow) -> None:
        """Adds a trial that this study did not ask for. A baseline is none of its."""
        if not row.baseline:
            self.study.add_trial(self._frozen(row))

    def _frozen(self, row: TrialRow) -> FrozenTrial:
        """A trial of the record as the study has it: one that is at a rung with what is expected
        of it, as its bare score would say that nothing near it is any good."""
        if row.state in ("paused", "stopped"):
            row = self.hoped(row)
        values = [scaled(name, row.value(name)) for name, _ in self.row.objectives]
        failed = row.state == "failed" or any(value != value for value in values)
        trial = optuna.trial.create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            values=None if failed else values,
            params=dict(row.sampled),
            distributions={name: _distribution(text) for name, text in row.distributions.items()},
        )
        for name, value in excess(self.row, row).items():
            trial.set_constraint(name, value)
        return trial


_distribution = functools.lru_cache(maxsize=4096)(json_to_distribution)
