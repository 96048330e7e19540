"""The sampler of ``nas search``: Gaussian processes and expected hypervolume improvement.

Objectives known before an evaluation (params, MACs) are not modelled but given by ``Problem``; the
others are learned, those without noise exactly, as the noise is fitted. A proposal depends on the
seed, the trial's number and the study's trials only: a new sampler on a stored study continues as
the old one would have.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial
from threadpoolctl import ThreadpoolController

from nas.samplers.calibration import Believed
from nas.samplers.candidates import BEST, Candidates
from nas.samplers.encoding import Encoding, keys, learn_rules, union
from nas.samplers.evidence import Evidence, Reading
from nas.samplers.gp import Settings, fit
from nas.samplers.knowing import gains
from nas.samplers.model import Model
from nas.samplers.problem import Params, Problem
from nas.samplers.related import Related, opening

Floats = NDArray[np.float64]

# The latest trials, from which the conditions of parameters are learned.
LEARNED_FROM = 300
# The first trials of a study, before there is a model.
STARTUP = 10
# The first trials of a study with useful older ones: proposed by those.
OPENING = 5
# How many of the best rows are scored again for each further proposal of one ask: pending trials
# make rows near them worth less and hardly any worth more, and 512 found nothing better.
AGAIN = 64
# How many futures are drawn, and among how many rows their evaluations are chosen.
FUTURES, FORESEEN = 64, 512
# Discounts the gain of evaluating a network again: looking one step ahead ignores what a new
# network teaches for later steps.
PAYS = 0.4


class EHVISampler(BaseSampler):
    """Expected hypervolume improvement over Gaussian processes; see the module.

    The first ``startup`` trials are random (a space-filling design finds less by the tenth trial).
    Trials that break a constraint before their evaluation do not count as such: they teach the
    draws after them which rows may meet it. Useful older studies of the problem propose the first
    ``OPENING`` trials instead. Spaces without free parameters are left to uniform draws.
    """

    def __init__(
        self, seed: int | None = None, problem: Problem | None = None, startup: int = STARTUP
    ) -> None:
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._problem = problem or Problem()
        self._startup = startup
        self._independent = RandomSampler(seed=self._seed)
        # Caches. Replaced, not changed in place: threads share a sampler.
        self._union: tuple[Any, frozenset[int], dict[str, BaseDistribution]] = (
            None,
            frozenset(),
            {},
        )
        self._read = Reading()
        self._fitted: dict[Any, Settings] = {}
        self._related: Related | None = None
        self._placed: dict[bytes, Floats] = {}
        self._older_read = False

    def reseed_rng(self) -> None:
        """Reseeds independent draws only: proposals are seeded by the trial's number."""
        self._independent.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The problem's distributions, or the union of those in the study's trials."""
        return self._space(study)

    def _space(self, study: Study) -> dict[str, BaseDistribution]:
        if self._problem.distributions is not None:
            return dict(self._problem.distributions)
        trials = study.get_trials(deepcopy=False)
        source = _source(study, trials)
        old, numbers, known = self._union
        if old != source:
            numbers, known = frozenset(), {}
        new = [t for t in trials if t.number not in numbers]
        known = union(new, known)
        numbers = numbers.union(t.number for t in new if t.state.is_finished())
        self._union = (source, numbers, known)
        return dict(known)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        """The proposal for a trial: a value for each parameter it is expected to ask for."""
        evidence = self._evidence(study, Encoding.of(search_space), trial.number)
        with one_thread():
            return next(iter(self._proposals(evidence, trial.number, 1)), {})

    def propose(self, study: Study, count: int) -> list[Params]:
        """Up to ``count`` proposals for the study's next trials, in little more time than one: the
        same rows are scored again for each, with the previous ones pending."""
        evidence, number = self._next(study)
        with one_thread():
            return self._proposals(evidence, number, count)

    def advise(self, study: Study) -> tuple[Params, bool] | None:
        """The best parameter set to evaluate next, and whether it repeats an evaluated one
        (``nas.samplers.knowing``). None without a model yet, or without a new set."""
        evidence, number = self._next(study)
        rng = np.random.default_rng([self._seed, number])
        candidates = self._candidates(evidence)
        with one_thread():
            rows, costs = candidates.drawn(rng)
            model = self._model(evidence) if evidence.encoding.parameters else None
            if model is None or not len(rows):
                return None
            rows, costs, reference = candidates.best(model, rows, costs, rng, BEST)
            # The knowledge gradient is about trials with all objectives.
            whole = tuple(f for f in evidence.finished if f.whole or f.values is None)
            if len(whole) < len(evidence.finished):
                model = self._model(replace(evidence, finished=whole))
            if model is not None:
                known, new = gains(model, rows, costs, reference)
                if known.max() * PAYS > new.max():
                    return evidence.encoding.params(model.rows[int(np.argmax(known))]), True
            return evidence.encoding.params(rows[0]), False

    def _next(self, study: Study) -> tuple[Evidence, int]:
        """The evidence for the study's next trial, and that trial's number."""
        number = len(study.get_trials(deepcopy=False))
        return self._evidence(study, Encoding.of(self._space(study)), number), number

    def _proposals(self, evidence: Evidence, number: int, count: int) -> list[Params]:
        encoding = evidence.encoding
        if not encoding.parameters:
            return []
        rng = np.random.default_rng([self._seed, number])
        candidates = self._candidates(evidence)
        rows, costs = candidates.drawn(rng)
        if not len(rows):  # every set was tried: a repeat at least informs the noise
            fresh = replace(evidence, finished=(), pending=evidence.pending[:0], tried=frozenset())
            drawn = encoding.draw(rng, self._problem.proposals // 3)
            rows, _ = self._candidates(fresh).admitted(drawn, rng)
            return [encoding.params(rows[rng.integers(len(rows))])] if len(rows) else []
        model = self._model(evidence) or self._opening(evidence)
        if model is None:
            first = rng.integers(len(rows))
            others = rng.permutation(np.delete(np.arange(len(rows)), first))
            return [encoding.params(rows[k]) for k in (first, *others[: count - 1])]
        rows, costs, reference = candidates.best(model, rows, costs, rng, AGAIN)
        chosen = [0]
        if count > 1:
            chosen = model.choose(rows, costs, reference, count, candidates.price(rows))
        return [encoding.params(row) for row in rows[chosen]]

    def futures(self, study: Study, count: int) -> Floats | None:
        """``FUTURES`` draws of the values of up to ``count`` proposals, in the study's units,
        (draws, proposals, objectives). None without a model yet, or without a new set.

        The proposals are chosen at once: that later ones would learn from earlier ones is ignored.
        """
        evidence, number = self._next(study)
        rng = np.random.default_rng([self._seed, number])
        candidates = self._candidates(evidence)
        with one_thread():
            rows, costs = candidates.drawn(rng)
            model = self._model(evidence) if evidence.encoding.parameters else None
            if model is None or not len(rows):
                return None
            most = max(count, FORESEEN)
            rows, costs, reference = candidates.best(model, rows, costs, rng, most)
            chosen = model.choose(rows, costs, reference, count, candidates.price(rows))
            fit = partial(self._fit, evidence.encoding, related=self._older(evidence.signs))
            return evidence.signs * model.futures(rows[chosen], costs[chosen], fit, FUTURES, rng)

    def posterior(self, study: Study, trials: Sequence[FrozenTrial]) -> tuple[Floats, Floats]:
        """The posterior mean and standard deviation of the noise-free objectives of finished
        trials, (trials, objectives) each, in the study's units.

        Of two candidates the one with the better mean is the better bet, whatever they scored. An
        objective known to the problem has its value and 0; without a model yet, values and NaN.
        """
        believed = self.believed(study, trials)
        if believed is None:
            values = np.array([t.values for t in trials], dtype=float)
            values = values.reshape(len(trials), len(study.directions))
            return values, np.full_like(values, np.nan)
        return believed.mean, believed.deviation

    def believed(self, study: Study, trials: Sequence[FrozenTrial]) -> Believed | None:
        """As ``posterior``, with intervals and their calibration; None without a model yet.

        ``trials`` need not be the study's: only parameters and known objectives are used.
        """
        evidence = self._evidence(study, Encoding.of(self._space(study)), -1)
        encoding = evidence.encoding
        with one_thread():
            model = self._model(evidence) if trials and encoding.parameters else None
            if model is None:
                return None
            rows = np.array([encoding.row(t.params) for t in trials])
            values = np.array([t.values for t in trials], dtype=float)
            fit = partial(self._fit, encoding, related=self._older(evidence.signs))
            return model.believed(rows, values * evidence.signs, fit).times(evidence.signs)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A uniform draw, for a parameter not asked for before."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _evidence(self, study: Study, encoding: Encoding, asking: int) -> Evidence:
        """The study's trials as rows of ``encoding``, without the running trial ``asking``. Each is
        read once, and again where its object was replaced: a result may be corrected."""
        trials = study.get_trials(deepcopy=False)
        signs = [1.0 if d == StudyDirection.MINIMIZE else -1.0 for d in study.directions]
        source = (_source(study, trials), encoding)
        read = self._read if self._read.source == source else Reading(source)
        read = self._read = read.again(trials, encoding, np.array(signs))
        finished = tuple(read.finished[number] for number in sorted(read.finished))
        pending = [read.running[number] for number in sorted(read.running) if number != asking]
        met = [f.row for f in finished[-LEARNED_FROM:]]
        if met and self._problem.distributions is None:
            encoding = replace(encoding, rules=learn_rules(np.array(met)))
        return Evidence(
            encoding,
            finished,
            np.array(pending).reshape(len(pending), len(encoding.parameters)),
            np.array(signs),
            read.tried,
        )

    def _candidates(self, evidence: Evidence) -> Candidates:
        return Candidates(self._problem, evidence, self._seed)

    def _model(self, evidence: Evidence) -> Model | None:
        """The fitted model; None while there are too few trials."""
        measured = [f.row for f in evidence.finished if f.values is not None]
        related = self._older(evidence.signs)
        startup = min(self._startup, OPENING) if related else self._startup
        if len(evidence.finished) < startup or len(measured) < 2:
            return None
        chance = random.Random(self._seed)
        candidates = self._candidates(evidence)
        pending, costs = candidates.pending(chance)
        example = candidates.costs(measured[-1], chance)
        known = np.zeros(len(evidence.signs), bool) if example is None else np.isfinite(example)

        def predict(rows: Floats) -> Floats:
            assert related is not None
            return related.columns(self._place(evidence, related, rows))

        return Model.of(
            evidence.encoding,
            evidence.finished,
            pending,
            costs,
            known,
            fit=partial(self._fit, evidence.encoding, related=related),
            predict=predict if related else None,
            limit=partial(self._fit, evidence.encoding),
            noise=[partial(self._noise, k, sign) for k, sign in enumerate(evidence.signs)],
            starting=sum(f.whole or f.values is None for f in evidence.finished) < startup,
        )

    def _opening(self, evidence: Evidence) -> Model | None:
        """The model of the first trials, which predicts by older studies; None without any."""
        related = self._older(evidence.signs)
        if related is None:
            return None
        chance = random.Random(self._seed)
        candidates = self._candidates(evidence)
        rows, costs = candidates.pending(chance)
        for finished in evidence.finished:
            known = candidates.costs(finished.row, chance)
            if known is not None:
                rows, costs = np.vstack([rows, finished.row]), np.vstack([costs, known])
        drawn = evidence.encoding.draw(np.random.default_rng(self._seed), 1)[0]
        example = candidates.costs(drawn, chance)
        if example is None:
            return None
        place = partial(self._place, evidence, related)
        return opening(related, evidence.encoding, place, rows, costs, np.isfinite(example))

    def _older(self, signs: Floats) -> Related | None:
        """The useful older studies, fitted once; None without any."""
        if not self._older_read and self._problem.older:
            self._related = Related.of(self._problem.older, signs)
        self._older_read = True
        return self._related

    def _place(self, evidence: Evidence, related: Related, rows: Floats) -> Floats:
        """The features of rows in the older studies, (n, columns), cached by row."""
        chance = random.Random(self._seed)
        if len(self._placed) > 50_000:
            self._placed = {}
        for key, row in zip(keys(rows), rows, strict=True):
            if key not in self._placed:
                params = self._problem.whole(evidence.encoding.params(row), chance)
                self._placed[key] = related.place(params)
        columns = sum(study.x.shape[1] for study in related.older)
        return np.array([self._placed[key] for key in keys(rows)]).reshape(-1, columns)

    def _fit(
        self,
        encoding: Encoding,
        name: str,
        x: Floats,
        scales: NDArray[np.intp],
        y: Floats,
        noise: Floats | None,
        related: Related | None = None,
    ) -> Settings:
        """Fits settings, unless they were fitted to the same number of observations before."""
        key = (self._read.source, name, len(y))
        if key not in self._fitted:
            self._fitted = {k: v for k, v in self._fitted.items() if k[1] != name}
            linear, hint = (related.width, related.hint(name)) if related else (0, None)
            found = fit(x, scales, y, encoding.doubtful, linear, hint, noise)
            self._fitted = {**self._fitted, key: found}
        return self._fitted[key]

    def _noise(self, objective: int, sign: float, values: Floats) -> Floats | None:
        """As ``Problem.noise``, of minimised values."""
        return self._problem.noise(objective, sign * values)


def one_thread() -> Any:
    """BLAS in one thread: matrices of a few hundred rows gain nothing from more, and on busy cores
    threads that wait for one another are 30 times slower (a fit of 100 trials on two busy cores:
    0.18 s in one thread, 6.5 s in two)."""
    return _blas().limit(limits=1)


@functools.cache
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")


def _source(study: Study, trials: Sequence[FrozenTrial]) -> Any:
    """Identifies a study, also where its name is reused."""
    return study.study_name, trials[0].datetime_start if trials else None
