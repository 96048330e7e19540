"""An unbiased choice of the winner: a study's best networks, retrained with other seeds.

Of many candidates trained once, the best score is also the luckiest. So the finalists are chosen by
the model's estimates and retrained with seeds that the search has not used, those near the best
more often. The winner is chosen on the validation images; every training is scored once on the test
images, which decide nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from nas import artifacts
from nas.data import load
from nas.driver.beliefs import Belief, Beliefs, believed, evaluated
from nas.driver.halving import Prior, halve
from nas.driver.jobs import seed_of
from nas.driver.tradeoffs import network, nothing_found, pareto
from nas.errors import NasError, StudyError
from nas.job import DataRef, Epoch, Job, Recipe
from nas.metrics import ACCURACY
from nas.plugins import module_name
from nas.sources import digest
from nas.store import StudyRow, TrialRow
from nas.store.teachers import teacher_files
from nas.training import single
from nas.training.models import kept_card

LEVEL = 0.95
SEEDS = 3  # trainings of a finalist on average
WORTH = 0.9  # of the winner's cost: smaller savings are not mentioned


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean accuracy of several trainings, as a fraction, and its 95% interval over other seeds
    and other images; of a single training, over other images only."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, scores: Sequence[float], images: int) -> Mean:
        """The mean of one score per seed, all on the same number of ``images``.

        Its variance is that of the seeds, s²/k, plus that of the images, p(1 - p)/n, which all
        seeds share (Bouthillier et al. 2021, "Accounting for variance in machine learning
        benchmarks"). The interval is Wilson's (1927) for the effective number of images (Franco et
        al. 2019, "Comparative study of confidence intervals for proportions in complex sample
        surveys"), with Student's t at Satterthwaite's (1946) degrees of freedom. It has positive
        width even where all seeds agree or no image is wrong, and is conservative: the interaction
        of seeds and images counts twice.
        """
        p, k = float(np.mean(scores)), len(scores)
        seeds = float(np.var(scores, ddof=1)) / k if k > 1 else 0.0
        share = seeds / (seeds + p * (1 - p) / images) if seeds else 0.0
        t = float(stats.t.ppf((1 + LEVEL) / 2, (k - 1) / share**2 if share else math.inf))
        z = t**2 / (images * (1 - share))
        middle, half = p + z / 2, math.sqrt(z * p * (1 - p) + z**2 / 4)
        return cls(p, (middle - half) / (1 + z), (middle + half) / (1 + z))

    def above(self, other: Mean) -> tuple[float, float]:
        """The 95% interval of the difference to the other (Newcombe 1998, "Interval estimation for
        the difference between independent proportions", method 10); conservative on the same
        images."""
        difference = self.value - other.value
        return (
            difference - math.hypot(self.value - self.low, other.high - other.value),
            difference + math.hypot(self.high - self.value, other.value - other.low),
        )


@dataclass(frozen=True, slots=True)
class Training:
    """One training of a finalist: its accuracies, and the file of its model (empty: not kept)."""

    validation: float
    test: float
    model: str = ""


@dataclass(frozen=True, slots=True)
class Finalist:
    """A trial trained again. ``role`` is empty, a baseline's name or "random search"; ``belief`` is
    the estimate before."""

    row: TrialRow
    role: str
    validation: Mean
    test: Mean
    trainings: tuple[Training, ...] = ()
    belief: Belief | None = None

    @property
    def model(self) -> str:
        """The file of the model with the best validation accuracy."""
        return max(self.trainings, key=lambda t: t.validation).model if self.trainings else ""


@dataclass(frozen=True, slots=True)
class Report:
    """``finalists`` are in the order of the halving, the best first; ``beside`` are trials to
    compare with; ``lost`` are those with a diverged training, with the reason. ``front`` is based
    on the search's own measurements, and need not contain all finalists; ``searched`` is the front
    without baselines, distilled and pruned networks."""

    study: StudyRow
    seeds: int
    top: int
    epochs: int
    finalists: tuple[Finalist, ...]
    beside: tuple[Finalist, ...]
    lost: tuple[tuple[TrialRow, str], ...] = ()
    front: tuple[TrialRow, ...] = ()
    searched: tuple[TrialRow, ...] = ()

    @property
    def winner(self) -> Finalist:
        return self.finalists[0]

    @property
    def cost(self) -> str:
        """The first objective to be minimised, or else params."""
        others = (name for name, to in self.study.objectives if name != ACCURACY and to == "min")
        return next(others, "params")

    @property
    def cheaper(self) -> Finalist | None:
        """The cheapest finalist not significantly worse than the winner, at 90% of its cost or less
        and no worse in any other objective; None where there is none."""
        winner, cost = self.winner, self.cost

        def stands(found: Finalist) -> bool:
            low, high = winner.validation.above(found.validation)
            less = found.row.value(cost) <= WORTH * winner.row.value(cost)
            return low <= 0 <= high and less and self._no_worse(found.row, winner.row, ACCURACY)

        some = filter(stands, self.finalists[1:])
        return min(some, key=lambda found: found.row.value(cost), default=None)

    @property
    def off_front(self) -> list[tuple[TrialRow, TrialRow | None]]:
        """The finalists that are not on the front, each with a trial of the front that is no worse
        in any objective (None: there is none)."""
        there = {network(row) for row in self.front}
        off = [f.row for f in self.finalists if network(f.row) not in there]
        return [(row, next((r for r in self.front if self._no_worse(r, row)), None)) for row in off]

    def _no_worse(self, one: TrialRow, other: TrialRow, *apart: str) -> bool:
        """Whether ``one`` is no worse in any objective, except those ``apart``."""
        signs = {name: 1 if to == "max" else -1 for name, to in self.study.objectives}
        return all(
            sign * one.value(name) >= sign * other.value(name)
            for name, sign in signs.items()
            if name not in apart
        )


# The trial, the index of its training, an epoch of it (None: the training is reused).
Tell = Callable[[TrialRow, int, Epoch | None], None]


def report(
    study: StudyRow,
    rows: Sequence[TrialRow],
    data: DataRef,
    *,
    seeds: int = SEEDS,
    top: int = 3,
    random: Sequence[TrialRow] = (),
    folder: str = "",
    plugins: tuple[str, ...] = (),
    begin: Callable[[Sequence[TrialRow]], None] = lambda _: None,
    tell: Tell = lambda *_: None,
) -> Report:
    """Retrains the ``top`` finalists of a study, with ``seeds`` each on average, more for likely
    winners; and with ``seeds`` each its baselines and the best of a ``random`` search. ``begin`` is
    called first, with the trial of each training that there may be.

    ``folder``, a directory or a URL that fsspec knows, keeps models and checkpoints: interrupted,
    the next call resumes. Raises StudyError where nothing can be retrained, NothingFound where no
    trial has finished within the constraints, and NasError where every finalist diverges.
    """
    if seeds < 1 or top < 1:
        raise StudyError(f"seeds is {seeds} and top is {top}: each must be 1 or more")
    if evaluator := study.evaluator:
        raise StudyError(f"study {study.name!r} was run by {evaluator}: nothing to train again")
    if dict(study.objectives).get(ACCURACY) != "max":
        raise StudyError(f"study {study.name!r} has no objective {ACCURACY}:max to choose by")
    beliefs = believed(study, rows, ACCURACY)
    entered = choose(study, rows, top, beliefs)
    if not entered:
        raise nothing_found(study, [row for row in rows if not row.baseline])
    images = len(load(data, "validation")), len(load(data, "test"))
    lost: dict[int, tuple[TrialRow, str]] = {}

    def trained(row: TrialRow, number: int) -> Training | None:
        try:
            return train_again(study, row, data, number, tell, folder, plugins)
        except single.NotTrained as error:
            lost[row.id] = row, str(error)
            return None

    def finalist(row: TrialRow, role: str, trainings: Sequence[Training]) -> Finalist:
        means = (
            Mean.of([t.validation for t in trainings], images[0]),
            Mean.of([t.test for t in trainings], images[1]),
        )
        return Finalist(row, role, *means, tuple(trainings), beliefs.by.get(row.id))

    # Distilled and pruned networks were compared over seeds when they were made.
    zoo = [row for row in rows if row.baseline and not row.made and row.is_network]
    others = [(row, row.baseline) for row in zoo]
    others += [(row, "random search") for row in choose(study, random, 1)]
    begin(
        [entered[k % len(entered)] for k in range(seeds * top)]
        + [row for row, _ in others for _ in range(seeds)]
    )
    order, trainings = contest(entered, beliefs, seeds * top, trained)
    finalists = [finalist(entered[k], "", trainings[k]) for k in order if trainings[k]]
    if not finalists:
        reasons = "; ".join(f"trial {row.number}: {why}" for row, why in lost.values())
        raise NasError(f"no finalist could be trained again: {reasons}")
    beside = []
    for row, role in others:
        tries = [trained(row, number) for number in range(seeds)]
        if whole := [t for t in tries if t]:
            beside.append(finalist(row, role, whole))
    epochs = study.settings["epochs"]
    made = tuple(finalists), tuple(beside), tuple(lost.values())
    searched = pareto(study, [row for row in rows if not row.baseline])
    return Report(study, seeds, top, epochs, *made, pareto(study, rows), searched)


def contest(
    entered: Sequence[TrialRow],
    beliefs: Beliefs,
    budget: int,
    train: Callable[[TrialRow, int], Training | None],
) -> tuple[list[int], list[list[Training]]]:
    """Trains the finalists by sequential halving; returns their indices, the best first, and each
    one's trainings. Divergence eliminates."""
    trainings: list[list[Training]] = [[] for _ in entered]
    priors = []
    for row in entered:
        belief = beliefs.by.get(row.id)
        priors.append(
            Prior(belief.mean, belief.deviation) if belief else Prior(row.value(ACCURACY), math.inf)
        )

    def evaluate(candidate: int, number: int) -> float:
        done = train(entered[candidate], number)
        if done is None:
            return math.nan
        trainings[candidate].append(done)
        return done.validation

    order, _ = halve(priors, budget, beliefs.noise, evaluate)
    return order, trainings


def choose(
    study: StudyRow, rows: Iterable[TrialRow], top: int, beliefs: Beliefs | None = None
) -> list[TrialRow]:
    """The ``top`` of the front by estimated accuracy (measured, where there is no estimate)."""
    rows = list(rows)
    known = (beliefs or believed(study, rows, ACCURACY)).by
    measured = {row.id: row for row in evaluated(study, rows)}
    values = {
        row.id: known[row.id].mean if row.id in known else row.value(ACCURACY)
        for row in measured.values()
    }
    better = [
        dataclasses.replace(row, metrics={**row.metrics, ACCURACY: values[row.id]})
        for row in measured.values()
    ]
    best = sorted(pareto(study, better), key=lambda row: -values[row.id])
    return [measured[row.id] for row in best[:top]]


def train_again(
    study: StudyRow,
    row: TrialRow,
    data: DataRef,
    number: int,
    tell: Tell = lambda *_: None,
    folder: str = "",
    plugins: tuple[str, ...] = (),
) -> Training:
    """Trains a trial's architecture by its recipe with a new seed, resuming or reusing a training
    in ``folder``. Raises NotTrained where the training diverges."""
    job = Job(
        pattern=row.pattern,
        recipe=Recipe.of(row.recipe),
        data=data,
        epochs=study.settings["epochs"],
        seed=seed_of(f"{study.seed} {row.fingerprint} finalist {number}"),
        source=digest(*map(module_name, plugins)),
        plugins=plugins,
    )
    file = checkpoint = None
    if folder:
        place = (
            f"{folder.rstrip('/')}/trial-{row.number}-again-{number + 1}-{single.training_id(job)}"
        )
        file, checkpoint = f"{place}.safetensors", f"{place}.checkpoint"
        if card := kept_card(file):
            tell(row, number, None)
            return Training(card.metrics[ACCURACY], card.metrics["test_accuracy"], file)
    job = dataclasses.replace(job, teachers=teacher_files(study))  # only now are they needed
    done = single.train(
        job, lambda epoch: tell(row, number, epoch), checkpoint=checkpoint, file=file
    )
    if checkpoint:
        artifacts.remove(checkpoint)
    return Training(done.curve[-1].accuracy, done.test, file or "")
