"""The model of a study: surrogates of its objectives, constraints and failure, and its front."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import moocore
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nas.samplers.acquisition import Marginal, improvement
from nas.samplers.calibration import Believed, Calibration
from nas.samplers.encoding import Encoding
from nas.samplers.evidence import Finished
from nas.samplers.surrogate import Fit, Scales, Surrogate, Variance, fitted_on, unknown
from nas.samplers.warp import Warp

Floats = NDArray[np.float64]
Normal = tuple[Floats, Floats]  # means and standard deviations of rows, (m,) each

# Observations a posterior holds: 600 keep an ask at 5,000 trials under a quarter of a second.
OBSERVATIONS = 600
# How far the reference point may lie beyond the median, in distances from the median to the best: a
# penalty of 1e9 is outside the range, the 45% of a network without layers is inside.
REACH = 20.0
# At the start, rows with at least this probability of success are equally good.
LIKELY = 0.5
# Scales a known objective as a feature: its quartiles are then as far apart as a parameter's.
SPREAD = 0.37


@dataclass(frozen=True)
class Features:
    """Maps rows to the kernel's columns: their parameters and their known objectives, as a
    network's cost says much of its accuracy from the first trial on.

    What older studies ``predict`` of rows comes last, standardised by ``middle`` and ``spread``: in
    these columns a process is linear.
    """

    encoding: Encoding
    known: tuple[tuple[int, Warp], ...]
    predict: Callable[[Floats], Floats] | None = None
    middle: Floats = field(default_factory=lambda: np.zeros(0))
    spread: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def extra(self) -> int:
        """How many columns follow those of the parameters."""
        return len(self.known) + len(self.middle)

    def __call__(self, rows: Floats, costs: Floats) -> tuple[Floats, Scales]:
        """As ``Encoding.embed``, of rows and their known objectives (n, objectives), minimised."""
        x, scales = self.encoding.embed(rows)
        extra = [SPREAD * warp(costs[:, k]) for k, warp in self.known]
        if self.predict:
            extra += [*((self.predict(rows) - self.middle) / self.spread).T]
        more = np.arange(len(extra)) + scales[-1] + 1
        return np.column_stack([x, *extra]), np.append(scales, more)


@dataclass(frozen=True)
class Model:
    """The surrogates (None: an objective that is known) and the front they predict.

    ``limits`` are surrogates that must stay below a level: constraints, and failure itself.
    ``rows`` (n, parameters) are the observed rows, pending ones last; ``means`` (n, objectives)
    their posterior means, minimised; ``feasible`` (n,) whether they meet the constraints.
    """

    features: Features
    surrogates: tuple[Surrogate | None, ...]
    limits: tuple[tuple[Surrogate, float], ...]
    rows: Floats
    means: Floats
    feasible: NDArray[np.bool_]
    starting: bool = False

    @classmethod
    def of(
        cls,
        encoding: Encoding,
        finished: Sequence[Finished],
        pending: Floats,
        costs: Floats,
        known: NDArray[np.bool_],
        fit: Fit,
        predict: Callable[[Floats], Floats] | None = None,
        limit: Fit | None = None,
        noise: Sequence[Variance] = (),
        starting: bool = False,
    ) -> Model:
        """Fits the model to ``finished`` trials, at least one with values, while ``pending`` run.

        ``known`` (objectives,) marks the objectives known before an evaluation; ``costs`` (pending,
        objectives) holds them for the pending rows, minimised, its other columns are unused.
        ``predict`` gives what older studies predict of rows, (n, columns); ``limit`` fits what is
        not an objective (None: as ``fit``). While ``starting``, rows that succeed with probability
        ``LIKELY`` are all worth the same: too little is known of the objectives.
        """
        measured = [f for f in finished if f.values is not None]
        values = np.array([f.values for f in measured])
        kept = _representative(values)
        rows, values = np.array([measured[k].row for k in kept]), values[kept]
        feasible = np.array([measured[k].feasible for k in kept])
        early = values[: fitted_on(len(values))]
        features = Features(
            encoding, tuple((int(k), Warp.of(early[:, k])) for k in np.flatnonzero(known))
        )
        if predict:
            column = predict(rows[: len(early)])
            # Not below 0.3 of the older study's deviation: the first picks are similar.
            spread = np.maximum(column.std(axis=0), 0.3)
            features = replace(features, predict=predict, middle=column.mean(axis=0), spread=spread)
        x, scales = features(rows, values)
        x_pending, _ = features(pending, costs)
        seen = np.isfinite(values)
        surrogates = [
            None
            if known[k] or not seen[:, k].any()  # as long as no trial meets the constraints
            else Surrogate.of(
                f"objective {k}",
                x[seen[:, k]],
                scales,
                values[seen[:, k], k],
                fit,
                noise[k] if noise else unknown,
            ).believing(x_pending)
            for k in range(len(known))
        ]
        means = np.vstack([values, costs])
        for k, surrogate in enumerate(surrogates):
            if surrogate is not None:
                own = np.append(seen[:, k], np.full(len(pending), True))
                means[own, k] = surrogate.warp.inverse(surrogate.process.smoothed())
                predicted = surrogate.process.mean(x[~seen[:, k]])
                means[~own, k] = surrogate.warp.inverse(predicted)
        return cls(
            features,
            tuple(surrogates),
            tuple(_limits(finished, encoding, pending, limit or fit)),
            np.vstack([rows, pending]),
            means,
            np.append(feasible, np.full(len(pending), bool(feasible.any()))),
            starting,
        )

    def _means(self, x: Floats, costs: Floats) -> Floats:
        """The predicted means of rows at ``x`` with known ``costs``, (n, objectives)."""
        means = costs.copy()
        for k, surrogate in enumerate(self.surrogates):
            if surrogate is not None:
                means[:, k] = surrogate.warp.inverse(surrogate.process.mean(x))
        return means

    @cached_property
    def front(self) -> Floats:
        """The nondominated feasible means, (k, objectives), minimised."""
        values = self.means[self.feasible]
        return values[moocore.is_nondominated(values)] if len(values) else values

    def best(self, n: int) -> Floats:
        """Up to ``n`` of the feasible rows, by nondomination rank."""
        values, rows = self.means[self.feasible], self.rows[self.feasible]
        if not len(rows):
            return rows
        return rows[np.argsort(moocore.pareto_rank(values), kind="stable")[:n]]

    def believed(self, rows: Floats, values: Floats, fit: Fit) -> Believed:
        """Calibrated estimates of any rows, minimised, from finished trials alone.

        ``values`` (n, objectives) holds their known objectives; its other columns are unused.
        """
        x, _ = self.features(rows, values)
        mean, deviation = values.copy(), np.zeros_like(values)
        low, high = np.full_like(values, -np.inf), np.full_like(values, np.inf)
        checks: list[Calibration | None] = []
        for k, surrogate in enumerate(self.surrogates):
            if surrogate is None:
                checks.append(None)
                continue
            warp, committee = surrogate.warp, surrogate.committee(fit)
            mean[:, k], deviation[:, k] = warp.spread(*committee.predict(x))
            low[:, k], high[:, k] = warp.low, warp.high
            checks.append(committee.calibration)
        return Believed(mean, deviation, low, high, tuple(checks), np.ones(values.shape[1]))

    def futures(
        self, rows: Floats, costs: Floats, fit: Fit, count: int, rng: np.random.Generator
    ) -> Floats:
        """Draws (count, m, objectives) from the joint distribution of evaluations of ``rows``
        (m, parameters), minimised; ``costs`` (m, objectives) holds their known objectives."""
        x, _ = self.features(rows, costs)
        values = np.repeat(costs[None], count, axis=0)
        for k, surrogate in enumerate(self.surrogates):
            if surrogate is not None:
                drawn = surrogate.committee(fit).evaluations(x, count, rng)
                values[:, :, k] = surrogate.warp.inverse(drawn)
        return values

    def reference(self, rows: Floats, costs: Floats) -> Floats:
        """The reference point (objectives,): beyond all observed means, and all that is known or
        predicted of ``rows`` (m, parameters) with known ``costs`` (m, objectives), all minimised.

        Values of a learned objective beyond ``REACH`` count as penalties, unless on the front.
        """
        x, _ = self.features(rows, costs)
        means = self.means if len(self.means) else self._means(x, costs)
        best, middle, worst = np.quantile(means, [0.0, 0.5, 1.0], axis=0)
        nadir = self.front.max(axis=0, initial=-np.inf)
        corner: Floats = np.empty_like(worst)
        for k, surrogate in enumerate(self.surrogates):
            if surrogate is None:
                corner[k] = max(worst[k], costs[:, k].max())
                continue
            predicted = surrogate.warp.inverse(surrogate.process.mean(x)).max()
            limit = max(middle[k] + REACH * (middle[k] - best[k]), nadir[k])
            margin = 0.1 * (min(worst[k], limit) - best[k])
            corner[k] = max(min(worst[k], limit) + margin, min(predicted, limit))
        return corner

    def score(self, rows: Floats, costs: Floats, reference: Floats) -> Floats:
        """The acquisition value of each row, (m,): expected hypervolume improvement times the
        probability of success. ``costs`` (m, objectives) holds known objectives, minimised."""
        x, plain = self._features(rows, costs)
        return self._worth(
            costs,
            reference,
            self.front,
            [s.process.predict(x) if s else None for s in self.surrogates],
            [surrogate.process.predict(plain) for surrogate, _ in self.limits],
        )

    def choose(
        self, rows: Floats, costs: Floats, reference: Floats, count: int, price: Floats
    ) -> list[int]:
        """The indices of up to ``count`` rows: each the best value for its ``price`` (m,) after the
        previous ones have come out at their means (kriging believer). Works on the rows' joint
        posterior: growing the process cost a factorisation of all observations per choice."""
        x, plain = self._features(rows, costs)
        joints = [s.process.joint(x) if s else None for s in self.surrogates]
        limits = [surrogate.process.joint(plain) for surrogate, _ in self.limits]
        means, front = self._means(x, costs), self.front
        chosen: list[int] = []
        while len(chosen) < min(count, len(rows)):
            scores = self._worth(
                *(costs, reference, front),
                [(j.mean, j.deviation) if j else None for j in joints],
                [(j.mean, j.deviation) for j in limits],
            )
            scores /= price
            scores[chosen] = -np.inf
            best = int(np.argmax(scores))
            chosen.append(best)
            joints = [j.believing(best) if j else None for j in joints]
            limits = [j.believing(best) for j in limits]
            if len(front) or not len(self.rows):
                front = np.vstack([front, means[best]])
                front = front[moocore.is_nondominated(front)]
        return chosen

    def _features(self, rows: Floats, costs: Floats) -> tuple[Floats, Floats]:
        """Rows embedded for the processes of the objectives, and for those of the limits."""
        x, _ = self.features(rows, costs)
        return x, x[:, : x.shape[1] - self.features.extra]

    def _worth(
        self,
        costs: Floats,
        reference: Floats,
        front: Floats,
        objectives: Sequence[Normal | None],
        limits: Sequence[Normal],
    ) -> Floats:
        """As ``score``, given the front and the posteriors of the rows' objectives and limits."""
        chance = np.ones(len(costs))
        for (surrogate, level), (mean, deviation) in zip(self.limits, limits, strict=True):
            chance *= ndtr((surrogate.warp(np.array([level])) - mean) / deviation)
        if self.starting:
            return np.minimum(chance, LIKELY)
        if not len(front) and len(self.rows):
            return chance
        beliefs = [
            Marginal(costs[:, k], np.zeros(len(costs)))
            if surrogate is None or normal is None
            else Marginal(*normal, surrogate.warp)
            for k, (surrogate, normal) in enumerate(zip(self.surrogates, objectives, strict=True))
        ]
        return chance * improvement(front, reference, beliefs)


def _limits(
    finished: Sequence[Finished], encoding: Encoding, pending: Floats, fit: Fit
) -> Iterator[tuple[Surrogate, float]]:
    """Surrogates of failure and of the constraints, each with the level to stay below.

    Functions of the parameters alone: a failed trial has no objectives.
    """
    recent = finished[-OBSERVATIONS:]

    def learned(name: str, of: Sequence[Finished], values: Floats) -> Surrogate:
        x, scales = encoding.embed(np.array([f.row for f in of]))
        surrogate = Surrogate.of(name, x, scales, values, fit)
        return surrogate.believing(encoding.embed(pending)[0])

    ended = [f for f in recent if f.values is None or f.whole]
    failed = np.array([f.values is None for f in ended])
    if failed.any() and not failed.all():
        labels = np.where(failed, 1.0, -1.0)
        yield learned("failure", ended, labels), 0.0
    for name in sorted({name for f in recent for name in f.constraints}):
        bound = [f for f in recent if name in f.constraints]
        values = np.array([f.constraints[name] for f in bound])
        if (values > 0).any() and np.isfinite(values).all():
            yield learned(f"constraint {name}", bound, values), 0.0


def _representative(values: Floats) -> NDArray[np.intp]:
    """The ascending indices of up to ``OBSERVATIONS`` to keep: half are the best by nondomination
    rank, where accuracy matters; the other half, evenly spaced in time, cover the whole space."""
    n = len(values)
    if n <= OBSERVATIONS:
        return np.arange(n)
    worst = np.where(np.isfinite(values), values, np.inf)
    order = np.argsort(moocore.pareto_rank(worst), kind="stable")
    best, rest = order[: OBSERVATIONS // 2], np.sort(order[OBSERVATIONS // 2 :])
    spaced = np.linspace(0, len(rest) - 1, OBSERVATIONS - len(best)).astype(int)
    return np.sort(np.concatenate([best, rest[spaced]]))
