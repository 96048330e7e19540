"""The winner, honestly: the best of a study trained again with other seeds.

Of many candidates that were trained once, the one that scored best was also the luckiest. So the
finalists are chosen by what the sampler's model believes of them, are trained again with seeds that
the search has not used, the winner is chosen by its mean on the validation images, and every
training is scored once on the test images, by which nothing is chosen.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import json_to_distribution
from scipy import stats

from nas.data import load
from nas.driver import rungs
from nas.driver.plan import RANDOM, Plan
from nas.driver.tradeoffs import pareto
from nas.errors import NasError, StudyError
from nas.job import DataRef, Epoch, Job, Recipe
from nas.metrics import ACCURACY, METRICS, on_device
from nas.plugins import module_name
from nas.samplers.ehvi import EHVISampler, Problem
from nas.samplers.encoding import union
from nas.sources import digest
from nas.spaces.plain import parse_mapping
from nas.spaces.space import read_bound, read_space
from nas.store import StudyRow, TrialRow
from nas.training import train

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean accuracy of several trainings as a fraction, and the ends of its 95% interval: where
    the mean of many seeds on many images would be. Of a single training, on many images."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, scores: Sequence[float], images: int) -> Mean:
        """The mean of one score a seed, each on the same so many ``images``.

        Its variance is that of the seeds, s²/k, which averages out, and that of the images,
        p(1 - p)/n, which does not, as all seeds share them (Bouthillier et al. 2021, "Accounting
        for variance in machine learning benchmarks": it is how much the choice of test images
        matters). The interval is Wilson's (1927) for as many images as would vary so much by
        themselves (Franco et al. 2019, "Comparative study of confidence intervals for proportions
        in complex sample surveys"), with Student's t at Satterthwaite's (1946) degrees of freedom
        for a sum of two variances. It is never empty, not even where all seeds agree or no image is
        wrong, and rather too wide: what seeds do differently on an image counts twice.
        """
        p, k = float(np.mean(scores)), len(scores)
        seeds = float(np.var(scores, ddof=1)) / k if k > 1 else 0.0
        share = seeds / (seeds + p * (1 - p) / images) if seeds else 0.0
        t = float(stats.t.ppf((1 + LEVEL) / 2, (k - 1) / share**2 if share else math.inf))
        z = t**2 / (images * (1 - share))
        middle, half = p + z / 2, math.sqrt(z * p * (1 - p) + z**2 / 4)
        return cls(p, (middle - half) / (1 + z), (middle + half) / (1 + z))


@dataclass(frozen=True, slots=True)
class Finalist:
    """A trial trained again. ``role`` is what it stands for: a finalist, a baseline's name or
    "random search"."""

    row: TrialRow
    role: str
    validation: Mean
    test: Mean


@dataclass(frozen=True, slots=True)
class Report:
    """``finalists`` are the best first, by their validation means; ``beside`` what they are
    compared with."""

    study: StudyRow
    seeds: int
    epochs: int
    finalists: tuple[Finalist, ...]
    beside: tuple[Finalist, ...]

    @property
    def winner(self) -> Finalist:
        return self.finalists[0]


Tell = Callable[[TrialRow, int, Epoch], None]  # trial, which seed, an epoch of its training


def report(
    study: StudyRow,
    rows: Sequence[TrialRow],
    data: DataRef,
    *,
    seeds: int = 3,
    top: int = 3,
    random: Sequence[TrialRow] = (),
    tell: Tell = lambda *_: None,
) -> Report:
    """Trains the ``top`` finalists of a study with so many ``seeds`` each, and beside them its
    baselines and the best of a ``random`` search.

    Raises StudyError where nothing can be trained again, and NasError where a training fails.
    """
    if seeds < 1 or top < 1:
        raise StudyError(f"seeds is {seeds} and top is {top}: each must be 1 or more")
    if evaluator := study.settings.get("evaluator"):
        raise StudyError(f"study {study.name!r} was run by {evaluator}: nothing to train again")
    if dict(study.objectives).get(ACCURACY) != "max":
        raise StudyError(f"study {study.name!r} has no objective {ACCURACY}:max to choose by")
    entered = [(row, "") for row in choose(study, rows, top)]
    if not entered:
        raise StudyError(f"study {study.name!r} has no finished candidate: nothing to report on")
    others = [(row, row.baseline) for row in rows if row.baseline and "->" in row.pattern]
    others += [(row, "random search") for row in choose(study, random, 1)]

    def trained(row: TrialRow, role: str) -> Finalist:
        scores = [again(study, row, data, number, tell) for number in range(seeds)]
        validation, test = zip(*scores, strict=True)
        return Finalist(
            row,
            role,
            Mean.of(validation, len(load(data, "validation"))),
            Mean.of(test, len(load(data, "test"))),
        )

    finalists = sorted((trained(*e) for e in entered), key=lambda f: -f.validation.value)
    beside = tuple(trained(*other) for other in others)
    return Report(study, seeds, study.settings["epochs"], tuple(finalists), beside)


def choose(study: StudyRow, rows: Iterable[TrialRow], top: int) -> list[TrialRow]:
    """The ``top`` of the front by accuracy, where a trial's accuracy is what the sampler's model
    believes of it; what the model has too little for counts as it was measured."""
    beliefs = believed(study, rows := list(rows))
    measured = {row.id: row for row in rows if row.id in beliefs}
    better = [
        dataclasses.replace(r, metrics={**r.metrics, ACCURACY: beliefs[r.id].mean})
        for r in measured.values()
    ]
    best = sorted(pareto(study, better), key=lambda r: -beliefs[r.id].mean)
    return [measured[row.id] for row in best[:top]]


@dataclass(frozen=True, slots=True)
class Belief:
    """What the model believes of a trial's accuracy apart from the luck of its training, and the
    ends of the interval that holds it with a chance of 80% (NaN where nothing is known yet)."""

    mean: float
    low: float
    high: float


def believed(study: StudyRow, rows: Iterable[TrialRow]) -> dict[int, Belief]:
    """What the sampler's model, which rests on all of ``rows``, believes of their accuracies, by
    trial id: of the finished ones that have all objectives and are no baselines."""
    names = [name for name, _ in study.objectives]
    rows = [r for r in rows if r.state in ("finished", "reused") and not r.baseline]
    rows = [r for r in rows if all(math.isfinite(r.value(name)) for name in names)]
    if not rows:
        return {}
    known = rebuilt(study, rows)
    trials = known.get_trials(deepcopy=False)
    # What arithmetic knows is told, as in the search: it says much of what it does not know.
    exact = [k for k, name in enumerate(names) if name in METRICS and METRICS[name].arithmetic]
    costs = {k: rows[-1].value(names[k]) for k in exact}
    problem = Problem(distributions=union(trials), known=lambda _: costs)
    found = EHVISampler(study.seed, problem).believed(known, trials)
    measured = [row.value(ACCURACY) for row in rows]
    if found is None:
        return {r.id: Belief(v, math.nan, math.nan) for r, v in zip(rows, measured, strict=True)}
    place = names.index(ACCURACY)
    parts = [part[:, place] for part in (found.mean, *found.interval())]
    if min(measured) >= 0.0 and max(measured) <= 1.0:  # an evaluator's may be no fraction
        parts = [np.clip(part, 0.0, 1.0) for part in parts]
    return {r.id: Belief(*map(float, b)) for r, *b in zip(rows, *parts, strict=True)}


def rebuilt(study: StudyRow, rows: Sequence[TrialRow]) -> optuna.Study:
    """Finished trials as a study of Optuna's in memory, with the objectives' plain values."""
    made = optuna.create_study(
        directions=["maximize" if d == "max" else "minimize" for _, d in study.objectives]
    )
    made.add_trials(
        [
            optuna.trial.create_trial(
                values=[row.value(name) for name, _ in study.objectives],
                params=dict(row.sampled),
                distributions={n: _distribution(t) for n, t in row.distributions.items()},
            )
            for row in rows
        ]
    )
    return made


_distribution = functools.lru_cache(maxsize=4096)(json_to_distribution)  # most repeat


def again(
    study: StudyRow, row: TrialRow, data: DataRef, number: int, tell: Tell
) -> tuple[float, float]:
    """Trains a trial's architecture by its recipe with a seed of its own; the accuracies on the
    validation and on the test images. Raises NasError where the training diverges."""
    told = f"{study.seed} {row.fingerprint} finalist {number}"
    job = Job(
        pattern=row.pattern,
        recipe=Recipe.of(row.recipe),
        data=data,
        epochs=study.settings["epochs"],
        seed=int.from_bytes(hashlib.sha256(told.encode()).digest()[:4]) >> 1,
    )
    device = train.available()
    architecture, module, normal = train.begin(job, device)
    bf16 = train.profits(architecture, device)
    curve: tuple[Epoch, ...]
    try:
        curve = train.fit(
            module,
            job,
            lambda epoch: tell(row, number, epoch),
            device=device,
            bf16=bf16,
            normal=normal,
        )
    except train.Diverged as error:
        raise NasError(f"trial {row.number} diverged with another seed: {error}") from None
    return curve[-1].accuracy, train.score(module, data, device=device, normal=normal)


# --- a random search of equal cost ---------------------------------------------------------------


def trained_epochs(row: TrialRow) -> int:
    """The epochs that a trial was trained for: from each rung it went on from before the tail."""
    steps = [rung for rung, _ in row.rungs]
    if row.state == "finished":
        steps.append(row.epochs)
    return rungs.costs(steps, int(row.recipe.get("freeze", 0)))[-1] if steps else 0


def random_plan(
    study: StudyRow, rows: Iterable[TrialRow], data: DataRef, plugins: tuple[str, ...] = ()
) -> Plan:
    """The plan of a random search that trains every candidate whole and for as many epochs in all
    as the study did; beside it in the record, under its name with ``-random``. Its workers load
    ``plugins``, as the study's did."""
    settings = study.settings
    source = f"the space of study {study.name}"
    channels, height, width = settings["input"]
    space = read_space(
        parse_mapping(study.space_text, source),
        source,
        (channels, height, width),
        settings["classes"],
    )
    space = dataclasses.replace(
        space,
        objectives=dict(study.objectives),
        constraints={m: read_bound(text, m) for m, text in study.constraints.items()},
    )
    spent = sum(trained_epochs(row) for row in rows if not row.baseline)
    return Plan(
        study=f"{study.name}{RANDOM}",
        space=space,
        job=Job(
            pattern="",
            recipe=Recipe.of(study.recipe),
            data=data,
            epochs=settings["epochs"],
            seed=study.seed,
            latency=bool(on_device([*dict(study.objectives), *study.constraints])),
            source=digest(*map(module_name, plugins)),
            plugins=plugins,
        ),
        trials=max(1, round(spent / settings["epochs"])),
        sampler="random",
        images=study.images_about,
    )
