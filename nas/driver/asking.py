"""The sampler's side of a search: a study in memory, asked for candidates and told of trials.

It is rebuilt from the record at the start: Optuna's own storage would cost 20 ms or more per trial.
Each candidate of the record, whichever driver runs it, is one of its trials: running as long as
nothing is known, then with an extrapolated result, then with its own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from random import Random

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.driver.jobs import ask_of, evaluation_key, seed_of, with_next_seed
from nas.driver.noise import images, of_objectives
from nas.driver.plan import Plan
from nas.driver.proposals import problem
from nas.driver.tradeoffs import breaks, excess
from nas.errors import ShapeError
from nas.job import Recipe
from nas.language.architecture import Architecture
from nas.metrics import metric, scaled
from nas.samplers import SAMPLERS
from nas.samplers.ehvi import EHVISampler
from nas.samplers.evidence import DROPPED, LACKING
from nas.samplers.problem import Noise, Params, unknown
from nas.samplers.related import Older
from nas.spaces.preflight import nothing_meets
from nas.store import Ask, StudyRow, TrialRow

AGAIN = "again"  # user attribute of a proposal that deliberately repeats an evaluated network
SEEDS = 1 << 32  # numpy's, and so Optuna's
PATIENCE = 10  # consecutive infeasible or repeated proposals before a random one
AT_ONCE = 16  # most proposals of one ask when many slots wait: later ones are less informed
DRAWS = 2_000  # random draws without a new feasible architecture before the space is exhausted


class Memory(InMemoryStorage):
    """Optuna's in-memory storage, except that a finished trial may be corrected, and a trial given
    as a template is neither copied nor checked again: 20,000 trials take 0.4 s and 30 MiB instead
    of 3 s and 90 MiB."""

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id)
        if template_trial is not None:
            template_trial._trial_id = trial_id
            template_trial.number = self.get_trial_number_from_id(trial_id)
            self._set_trial(trial_id, template_trial)
            self._update_cache(trial_id, study_id)
        return trial_id

    def check_trial_is_updatable(self, trial_id: int, trial_state: TrialState) -> None:
        pass


Expected = Callable[[int], float | None]  # the expected cost of a training, by its MACs


def sampler(
    plan: Plan,
    seed: int,
    begun: int = 0,
    older: tuple[Older, ...] = (),
    expected: Expected | None = None,
    noise: Noise = unknown,
) -> BaseSampler:
    """The plan's sampler for a study with ``begun`` trials. Ours is given the known objectives of
    the space, the ``older`` studies, and the cost and noise of a training, and continues as it
    would have; Optuna's would repeat their first proposals, so they get another seed."""
    made = SAMPLERS[plan.sampler]((seed + begun) % SEEDS)
    if isinstance(made, EHVISampler):
        known = problem(plan.space, tuple(plan.space.objectives), expected)
        return EHVISampler(seed, dataclasses.replace(known, older=older, noise=noise))
    return made


class Asker:
    """Proposes candidates that are feasible and new to the study.

    ``begun`` trials exist already. ``hoped`` extrapolates a trial at a rung to its end, None while
    that is impossible. ``driver`` is this driver's name; ``older`` are studies to transfer from;
    ``expected`` gives the cost of a training, where time is limited. ``rejected`` counts proposals
    that broke a constraint by arithmetic, ``repeated`` those that were evaluated before: neither
    costs more than the ask.
    """

    def __init__(
        self,
        plan: Plan,
        study: StudyRow,
        begun: int,
        hoped: Callable[[TrialRow], TrialRow | None],
        driver: str = "",
        older: tuple[Older, ...] = (),
        expected: Expected | None = None,
    ) -> None:
        self.rejected = self.repeated = 0
        self._queued = 0  # enqueued proposals
        self._plan, self._space, self._row, self._hoped = plan, plan.space, study, hoped
        self._driver, self._diverged = driver, False
        self._images = 1  # validation images, by the accuracies so far
        self._sampler = functools.partial(
            sampler,
            plan,
            older=older,
            expected=expected,
            noise=of_objectives(study, lambda: self._images),
        )
        directions = plan.space.objectives.values()
        self._memory = Memory()
        self._study = optuna.create_study(
            storage=self._memory,
            directions=["maximize" if d == "max" else "minimize" for d in directions],
            sampler=self._sampler(plan.job.seed, begun),
        )
        self._study_id = self._memory.get_study_id_from_name(self._study.study_name)
        self._rng = Random(plan.job.seed + begun)  # does not repeat an earlier run's draws
        self._ids: dict[int, int] = {}  # a trial's number in the record -> its id here
        # By ``evaluation_key``: the trial as told to the study; None: running.
        self._seen: dict[str, FrozenTrial | None] = {}

    def __contains__(self, row: TrialRow) -> bool:
        """Whether the sampler's study has the trial."""
        return row.number in self._ids

    def ask(self, wanted: int = 1, late: bool = False) -> tuple[int, Ask] | None:
        """A candidate and its trial's number here, to ``begin`` or ``drop``; None when the space is
        exhausted. When several are ``wanted`` soon, the sampler proposes up to ``AT_ONCE`` together
        and the next asks return those. ``late`` in a budget it may be an evaluated network, to be
        trained with another seed, if that is worth more.

        Raises NothingFound if the space has no feasible candidate.
        """
        vain = 0
        while vain < DRAWS and (vain < PATIENCE or self._enqueue()):
            vain += 1
            sampler = self._study.sampler
            if not self._queued and isinstance(sampler, EHVISampler):
                self._consult(sampler, wanted, late)
            trial = self._study.ask()
            self._queued = max(0, self._queued - 1)
            try:
                architecture = self._space.suggest(trial)
            except ShapeError:
                architecture = None
            recipe = self._space.suggest_recipe(trial, self._plan.job.recipe)
            if architecture is None or self._space.excess(architecture):
                self.rejected += 1
                self.drop(trial.number)
                continue
            ask = self._candidate(architecture, recipe, trial)
            if AGAIN in trial.user_attrs:
                ask = with_next_seed(self._plan.job, ask, self._seen)
            key = evaluation_key(ask)
            if key not in self._seen:
                self._seen[key] = None
                return trial.number, ask
            self.repeated += 1
            if row := self._seen[key]:
                self._put(self._id_of(trial.number), row)
            else:
                self.drop(trial.number)
        return None

    def _consult(self, sampler: EHVISampler, wanted: int, late: bool) -> None:
        """Enqueues the sampler's best proposals; where several are wanted, only new networks."""
        candidates: list[tuple[Params, bool]] = []
        if wanted > 1:
            proposed = sampler.propose(self._study, min(wanted, AT_ONCE))
            candidates = [(params, False) for params in proposed]
        elif late and (advice := sampler.advise(self._study)):
            candidates = [advice]
        for params, again in candidates:
            self._study.enqueue_trial(params, user_attrs={AGAIN: True} if again else None)
            self._queued += 1

    def _enqueue(self) -> bool:
        """Enqueues a random candidate that is feasible and new; False where there is none."""
        job, missed = self._plan.job, []
        for _ in range(DRAWS):
            params, architecture = self._space.draw(self._rng)
            if over := self._space.excess(architecture):
                missed.append(over)
                continue
            # With a searched recipe, the same architecture may be evaluated again under another.
            if (
                self._space.recipe
                or evaluation_key(ask_of(job, architecture, params)) not in self._seen
            ):
                self._study.enqueue_trial(params)
                self._queued += 1
                return True
        if not self._seen:
            raise nothing_meets(self._space, missed)
        return False

    def _candidate(self, architecture: Architecture, recipe: Recipe, trial: Trial) -> Ask:
        job = dataclasses.replace(self._plan.job, recipe=recipe)
        distributions = {k: distribution_to_json(d) for k, d in trial.distributions.items()}
        return ask_of(job, architecture, trial.params, distributions)

    # -- what comes of it -------------------------------------------------------------------------

    def begin(self, trial: int, row: TrialRow) -> None:
        """The proposal ``trial`` was recorded as ``row``."""
        self._ids[row.number] = self._id_of(trial)

    def drop(self, trial: int) -> None:
        """Forgets a proposal: it costs the study no trial, and is no observation."""
        self._memory.set_trial_user_attr(self._id_of(trial), DROPPED, True)
        self._study.tell(trial, state=TrialState.FAIL)

    def miss(self, trial: int) -> None:
        """Another driver was faster with this proposal."""
        self.repeated += 1
        self.drop(trial)
        self.diverge()

    def diverge(self) -> None:
        """Reseeds by this driver's name: with one seed, two drivers would propose the same."""
        if self._diverged:
            return
        self._diverged = True
        seed = seed_of(f"{self._plan.job.seed} {self._driver}")
        self._study.sampler = self._sampler(seed)
        self._rng = Random(seed)

    def tell(self, row: TrialRow) -> None:
        """Adds or updates a trial of the record, whichever driver runs it. A baseline is only
        marked as evaluated: the sampler does not learn from it."""
        if row.accuracy is not None:
            self._images = images([row.accuracy], self._images)
        waits = row.state == "paused" and not row.baseline and self._hoped(row) is None
        known = not waits and row.state not in ("running", "waiting")
        frozen = self._frozen(row) if known else _trial(row, TrialState.RUNNING)
        if row.state == "refused" and not breaks(self._row, row):
            return  # by a bound that was stricter: it may be proposed again
        if row.baseline:
            pass
        elif row not in self:
            self._ids[row.number] = self._memory.create_new_trial(self._study_id, frozen)
        elif known:
            frozen = self._put(self._ids[row.number], frozen)
        self._seen[evaluation_key(row)] = frozen if known else None

    def _put(self, trial_id: int, frozen: FrozenTrial) -> FrozenTrial:
        """Tells the study the result of its trial, or corrects it; returns the trial."""
        was = self._memory.get_trial(trial_id)
        for name, value in frozen.system_attrs.items():  # constraints among them
            self._memory.set_trial_system_attr(trial_id, name, value)
        for name, value in frozen.user_attrs.items():
            self._memory.set_trial_user_attr(trial_id, name, value)
        if was.state == TrialState.RUNNING:
            self._study.tell(was.number, frozen.values, state=frozen.state)
        else:
            self._memory.set_trial_state_values(trial_id, frozen.state, frozen.values)
        return self._memory.get_trial(trial_id)

    def _id_of(self, trial: int) -> int:
        return self._memory.get_trial_id_from_study_id_trial_number(self._study_id, trial)

    def _frozen(self, row: TrialRow) -> FrozenTrial:
        """A trial of the record as one of Optuna's. One at a rung has its extrapolated result: its
        score there would make all similar candidates look bad."""
        if row.state in ("paused", "stopped"):
            row = self._hoped(row) or row
        values = [scaled(name, row.value(name)) for name, _ in self._row.objectives]
        lacking = [place for place, value in enumerate(values) if value != value]
        if row.state == "refused":  # Optuna's samplers ignore trials without values
            for place in lacking:
                values[place] = _worst(*self._row.objectives[place])
        failed = row.state == "failed" or any(value != value for value in values)
        frozen = _trial(
            row,
            TrialState.FAIL if failed else TrialState.COMPLETE,
            values=None if failed else values,
            constraints=excess(self._row, row),
        )
        if lacking and not failed:
            frozen.set_user_attr(LACKING, lacking)
        return frozen


def _worst(name: str, direction: str) -> float:
    known = metric(name)
    return scaled(name, known.least if direction == "max" else known.most)


def _trial(
    row: TrialRow,
    state: TrialState,
    values: list[float] | None = None,
    constraints: Mapping[str, float] | None = None,
) -> FrozenTrial:
    """A trial of the record as one of Optuna's. Parameters are set directly, as
    ``optuna.trial.create_trial`` would check each against its distribution again."""
    frozen = optuna.trial.create_trial(state=TrialState.RUNNING)
    frozen.state, frozen.values = state, values
    frozen.params, frozen.distributions = dict(row.sampled), domains(row)
    if state.is_finished():
        frozen.datetime_complete = frozen.datetime_start
    for name, by in (constraints or {}).items():
        frozen.set_constraint(name, by)
    return frozen


def domains(row: TrialRow) -> dict[str, BaseDistribution]:
    """The distributions of a trial's parameters; read-only, as trials with the same parameters
    share them."""
    return _domains(tuple(row.distributions.items()))


@functools.lru_cache(maxsize=4096)
def _domains(texts: tuple[tuple[str, str], ...]) -> dict[str, BaseDistribution]:
    return {name: _distribution(text) for name, text in texts}


_distribution = functools.lru_cache(maxsize=4096)(json_to_distribution)
