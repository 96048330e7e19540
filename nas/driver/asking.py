"""The sampler's side of a search: a study in memory, asked for candidates and told of trials.

It is rebuilt from the record on start: Optuna's own storage would cost 20 ms a trial and more. Each
candidate of the record, whichever driver runs it, is one trial of it: running as long as nothing is
known, then with what is believed, then with what came of it.
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
from nas.samplers.problem import Params
from nas.samplers.related import Older
from nas.spaces.preflight import nothing_meets
from nas.store import Ask, StudyRow, TrialRow

AGAIN = "again"  # the user attribute of a proposal that was evaluated before, on purpose
PATIENCE = 10  # proposals in a row that cost nothing and bring nothing, before a random one
AT_ONCE = 16  # proposals of one ask, where as many slots wait: the last knows less than the first
DRAWS = 2_000  # random draws without a new feasible architecture, before the space is exhausted


class Memory(InMemoryStorage):
    """Optuna's storage in memory, except that a finished trial may be corrected, and that a trial
    which comes whole is kept without a copy and a second check: 20,000 trials take 0.4 s and 30 MiB
    instead of 3 s and 90 MiB."""

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


def sampler(plan: Plan, seed: int, begun: int = 0, older: tuple[Older, ...] = ()) -> BaseSampler:
    """The plan's sampler for a study that has ``begun`` trials. Ours is told what arithmetic knows
    of the space, and of ``older`` studies, and goes on as it would have; Optuna's would repeat
    their first proposals, so they go on with another seed."""
    made = SAMPLERS[plan.sampler](seed + begun)
    if isinstance(made, EHVISampler):
        objectives = problem(plan.space, tuple(plan.space.objectives))
        return EHVISampler(seed, dataclasses.replace(objectives, older=older))
    return made


class Asker:
    """Candidates that are feasible and new to the study.

    ``begun`` trials were there before. ``hoped`` gives a trial that is at a rung as it is expected
    to end, None where nothing is expected yet. ``driver`` tells this driver from others of the
    study, and ``older`` are those that it begins with. ``rejected`` counts what arithmetic refused,
    ``repeated`` what was evaluated before: neither costs more than the asking.
    """

    def __init__(
        self,
        plan: Plan,
        study: StudyRow,
        begun: int,
        hoped: Callable[[TrialRow], TrialRow | None],
        driver: str = "",
        older: tuple[Older, ...] = (),
    ) -> None:
        self.rejected = self.repeated = 0
        self._queued = 0  # proposals that wait to be asked for
        self._plan, self._space, self._row, self._hoped = plan, plan.space, study, hoped
        self._driver, self._diverged, self._older = driver, False, older
        directions = plan.space.objectives.values()
        self._memory = Memory()
        self._study = optuna.create_study(
            storage=self._memory,
            directions=["maximize" if d == "max" else "minimize" for d in directions],
            sampler=sampler(plan, plan.job.seed, begun, older),
        )
        self._study_id = self._memory.get_study_id_from_name(self._study.study_name)
        self._rng = Random(plan.job.seed + begun)  # not again the draws of an earlier run
        self._ids: dict[int, int] = {}  # by a trial's number in the record: its id here
        # By what is never evaluated twice (``evaluation_key``): as told; None: under way.
        self._seen: dict[str, FrozenTrial | None] = {}

    def __contains__(self, row: TrialRow) -> bool:
        """Whether the study here has the trial."""
        return row.number in self._ids

    def ask(self, wanted: int = 1, late: bool = False) -> tuple[int, Ask] | None:
        """A candidate and its trial's number here, to ``begin`` or to ``drop``; None where none is
        left. Where several are ``wanted`` soon, the sampler proposes up to ``AT_ONCE`` together,
        which the next asks get. ``late`` in a budget it may be a network that was evaluated, to be
        trained with another seed, where that pays more.

        Raises NothingFound where there never was one.
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
                self._seen[key] = None  # under way: the next ask is for another
                return trial.number, ask
            self.repeated += 1
            if row := self._seen[key]:
                self._put(self._id_of(trial.number), row)
            else:
                self.drop(trial.number)
        return None

    def _consult(self, sampler: EHVISampler, wanted: int, late: bool) -> None:
        """Makes the next asks ones for what pays most; where several are wanted, for new ones."""
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
        """Makes the next ask a random one that is feasible and new; False where there is none."""
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
        """What was asked as ``trial`` is a trial of the record now."""
        self._ids[row.number] = self._id_of(trial)

    def drop(self, trial: int) -> None:
        """Nothing came of an ask: it costs the study no trial, and teaches nothing."""
        self._memory.set_trial_user_attr(self._id_of(trial), DROPPED, True)
        self._study.tell(trial, state=TrialState.FAIL)

    def miss(self, trial: int) -> None:
        """Another driver was faster with what was asked."""
        self.repeated += 1
        self.drop(trial)
        self.diverge()

    def diverge(self) -> None:
        """Another driver asks for the same study: from now on by draws of this driver's own, as
        with one seed both would ask for the same."""
        if self._diverged:
            return
        self._diverged = True
        seed = seed_of(f"{self._plan.job.seed} {self._driver}")
        self._study.sampler = sampler(self._plan, seed, older=self._older)
        self._rng = Random(seed)

    def tell(self, row: TrialRow) -> None:
        """A trial of the record as it stands, whoever runs it; again where more is known of it. A
        baseline is not the sampler's: it is only never asked for."""
        waits = row.state == "paused" and not row.baseline and self._hoped(row) is None
        known = not waits and row.state not in ("running", "waiting")
        frozen = self._frozen(row) if known else _trial(row, TrialState.RUNNING)
        if row.state == "refused" and not breaks(self._row, row):
            return  # by a bound that was stricter: it may be asked for again
        if row.baseline:
            pass
        elif row not in self:
            self._ids[row.number] = self._memory.create_new_trial(self._study_id, frozen)
        elif known:
            frozen = self._put(self._ids[row.number], frozen)
        self._seen[evaluation_key(row)] = frozen if known else None

    def _put(self, trial_id: int, frozen: FrozenTrial) -> FrozenTrial:
        """Tells the study of a trial that it has, or corrects what was told; the trial then."""
        was = self._memory.get_trial(trial_id)
        for name, value in frozen.system_attrs.items():  # where Optuna keeps constraints
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
        """A trial of the record as the study has it: one that is at a rung with what is expected
        of it, as its bare score would say that nothing near it is any good."""
        if row.state in ("paused", "stopped"):
            row = self._hoped(row) or row
        values = [scaled(name, row.value(name)) for name, _ in self._row.objectives]
        lacking = [place for place, value in enumerate(values) if value != value]
        if row.state == "refused":  # samplers of Optuna's learn nothing of one without values
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
    """A trial of the record as Optuna's. ``optuna.trial.create_trial`` holds each value against its
    domain once more, which the record has from Optuna."""
    frozen = optuna.trial.create_trial(state=TrialState.RUNNING)
    frozen.state, frozen.values = state, values
    frozen.params, frozen.distributions = dict(row.sampled), domains(row)
    if state.is_finished():
        frozen.datetime_complete = frozen.datetime_start
    for name, by in (constraints or {}).items():
        frozen.set_constraint(name, by)
    return frozen


def domains(row: TrialRow) -> dict[str, BaseDistribution]:
    """Where a trial's parameters were drawn from, not to be changed: trials that ask for the same
    parameters share it, and each text is read once."""
    return _domains(tuple(row.distributions.items()))


@functools.lru_cache(maxsize=4096)
def _domains(texts: tuple[tuple[str, str], ...]) -> dict[str, BaseDistribution]:
    return {name: _distribution(text) for name, text in texts}


_distribution = functools.lru_cache(maxsize=4096)(json_to_distribution)
