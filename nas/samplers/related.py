"""Older studies as related tasks: what their models predict is a feature of the new one.

The function is linear in what an older study predicts, with a slope that is learned, and what is
left is a process of its own (autoregressive co-kriging: Kennedy and O'Hagan 2000, equation 1). So
an older study is worth what it turns out to be, down to nothing, and is never mixed with what is
measured. Its length scales are where those of the new one are expected, too: which parameters
matter is often the same where values are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nas.samplers.encoding import Encoding
from nas.samplers.gp import GP, Joint, Settings, fit
from nas.samplers.model import Features, Model
from nas.samplers.surrogate import Surrogate
from nas.samplers.warp import Warp

Floats = NDArray[np.float64]
Scales = NDArray[np.intp]

# Evaluations that an older study's model rests on: the latest.
MOST = 200
FOLDS = 5
FEWEST = 2 * FOLDS  # evaluations that an older study needs
# The share of its own variance that an older study must predict, each fifth by the others, to be
# of use: shuffled values have none, and what has none says nothing of another study.
SKILL = 0.15


@dataclass(frozen=True, eq=False)
class Older:
    """The evaluations of an older study of n networks.

    ``place`` gives the features of a parameter set of the new study, (columns,), and ``x`` (n,
    columns) those of the old networks, with the length scale of each column in ``scales``.
    ``values`` are what was measured, by the index of the new study's objective, (n,) in its units,
    NaN where nothing was.
    ``shared`` tells how many of the first length scales are the new encoding's own: all, or none.
    """

    name: str
    place: Callable[[Mapping[str, Any]], Floats]
    x: Floats
    scales: Scales
    values: Mapping[int, Floats]
    shared: int = 0

    def predicts(self, k: int) -> bool:
        """Whether its values of an objective predict one another."""
        return k in self.values and self._skill.get(k, 0.0) >= SKILL

    @property
    def useful(self) -> bool:
        return any(map(self.predicts, self.values))

    def told(self, k: int) -> tuple[Floats, Floats]:
        """The latest rows of ``x`` with a value of an objective, and those."""
        measured = np.flatnonzero(np.isfinite(self.values[k]))[-MOST:]
        return self.x[measured], self.values[k][measured]

    @cached_property
    def _skill(self) -> Mapping[int, float]:
        told = {k: self.told(k) for k in self.values}
        return {
            k: _skill(x, self.scales, Warp.of(values)(values))
            for k, (x, values) in told.items()
            if len(values) >= FEWEST
        }


@dataclass(frozen=True)
class Ensemble:
    """Processes of one objective, each of an older study's columns of x, on a scale of deviation 1
    of that study's values: their mean. It stands where a process of the new study's own would."""

    parts: tuple[tuple[GP, slice], ...]

    def mean(self, x: Floats) -> Floats:
        means: Floats = np.mean([gp.mean(x[:, at]) for gp, at in self.parts], axis=0)
        return means

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and deviation; what the studies disagree in is part of it."""
        told = [gp.predict(x[:, at]) for gp, at in self.parts]
        means, deviations = np.stack([m for m, _ in told]), np.stack([d for _, d in told])
        return means.mean(axis=0), np.sqrt((deviations**2).mean(axis=0) + means.var(axis=0))

    def together(self, x: Floats) -> Joint:
        """As ``predict``, with the covariances of the rows."""
        told = [gp.together(x[:, at]) for gp, at in self.parts]
        means = np.stack([joint.mean for joint in told])
        away = means - means.mean(axis=0)
        covariance = np.mean([joint.covariance for joint in told], axis=0)
        covariance += away.T @ away / len(told)
        noise = float(np.mean([joint.noise for joint in told]))
        return Joint(means.mean(axis=0), covariance, noise)

    def believing(self, x: Floats) -> Ensemble:
        return Ensemble(tuple((gp.believing(x[:, at]), at) for gp, at in self.parts))


@dataclass(frozen=True)
class Related:
    """What is known at the start: by objective what older studies predict, and the warp of the
    first of them, which gives that units; the weights that the features had there."""

    older: tuple[Older, ...]
    predicted: Mapping[int, tuple[Ensemble, Warp]]
    hints: Mapping[int, Floats | None]

    @classmethod
    def of(cls, older: Sequence[Older], signs: Floats) -> Related | None:
        """From the older studies that predict what they hold; None where none does."""
        ends = np.cumsum([0, *(study.x.shape[1] for study in older)])
        predicted, hints = {}, {}
        for k, sign in enumerate(signs):
            parts: list[tuple[GP, slice]] = []
            warps: list[Warp] = []
            weights: list[Floats] = []
            for study, begin in zip(older, ends, strict=False):
                if not study.predicts(k):
                    continue
                x, values = study.told(k)
                values = sign * values
                warp = Warp.of(values)
                y = warp(values)
                settings = fit(x, study.scales, y)
                process = GP.given(settings, study.scales, x, y)
                parts.append((process, slice(begin, begin + study.x.shape[1])))
                warps.append(warp)
                if study.shared:
                    weights.append(np.log(settings.weights[: study.shared] + 1e-12))
            if parts:
                predicted[k] = Ensemble(tuple(parts)), warps[0]
                hints[k] = np.exp(np.mean(weights, axis=0)) if weights else None
        return cls(tuple(older), predicted, hints) if predicted else None

    def hint(self, name: str) -> Floats | None:
        """The weights for the quantity that a model calls "objective k", and its folds."""
        return next((h for k, h in self.hints.items() if name.startswith(f"objective {k}")), None)

    def place(self, params: Mapping[str, Any]) -> Floats:
        """The columns of one parameter set, of all older studies."""
        return np.concatenate([study.place(params) for study in self.older])

    @property
    def width(self) -> int:
        return sum(len(told.parts) for told, _ in self.predicted.values())

    def columns(self, x: Floats) -> Floats:
        """What each study predicts of rows placed at ``x``, (n, ``width``)."""
        parts = [part for told, _ in self.predicted.values() for part in told.parts]
        return np.stack([gp.mean(x[:, at]) for gp, at in parts], axis=1)


@dataclass(frozen=True)
class Placed(Features):
    """Rows as older studies have them, before there is anything else to compare them by."""

    def __call__(self, rows: Floats, costs: Floats) -> tuple[Floats, Scales]:
        assert self.predict is not None
        x = self.predict(rows)
        return x, np.arange(x.shape[1])


def opening(
    related: Related,
    encoding: Encoding,
    place: Callable[[Floats], Floats],
    rows: Floats,
    costs: Floats,
    told: NDArray[np.bool_],
) -> Model | None:
    """The model before a study has taught anything: what older studies predict, of which its
    trials so far, ``rows`` (n, parameters), came out as predicted. None where they do not tell of
    all that is learned.

    ``costs`` (n, objectives) is what is known of them, minimised, by ``told`` (objectives,);
    ``place`` gives the rows' columns.
    """
    learned = np.flatnonzero(~told).tolist()
    if not {*learned} <= related.predicted.keys():
        return None
    x, means = place(rows), costs.copy()
    surrogates: list[Surrogate | None] = [None] * len(told)
    for k in learned:
        process, warp = related.predicted[k]
        means[:, k] = warp.inverse(process.mean(x))
        # A process like any other, but that nothing was fitted here that could be judged.
        own = cast(GP, process)
        surrogates[k] = Surrogate(f"older {k}", warp, own, x, means[:, k], np.zeros(0, np.intp))
    features = Placed(encoding, (), place)
    return Model(features, tuple(surrogates), (), rows, means, np.ones(len(rows), bool))


def _skill(x: Floats, scales: Scales, y: Floats) -> float:
    """The share of the variance of ``y`` that is predicted, each fifth by the others; nothing of
    values that are all alike."""
    if np.ptp(y) == 0:
        return 0.0
    fold, predicted = np.arange(len(y)) % FOLDS, np.empty(len(y))
    for k in range(FOLDS):
        rest = fold != k
        settings: Settings = fit(x[rest], scales, y[rest])
        judged = GP.given(settings, scales, x[rest], y[rest])
        predicted[~rest] = judged.mean(x[~rest])
    return float(1.0 - np.mean((predicted - y) ** 2) / y.var())
