"""Transfer from older studies: their models' predictions are features of the new study's model.

The function is linear in an older study's prediction, with a learned slope, plus a process of its
own (autoregressive co-kriging: Kennedy and O'Hagan 2000, equation 1). So an older study counts as
much as it helps, down to nothing, and its values are never mixed with the new measurements. Its
length scales centre the prior of the new ones: which parameters matter often carries over where
values do not.
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

# Evaluations that an older study's model is fitted to: the latest.
MOST = 200
FOLDS = 5
FEWEST = 2 * FOLDS  # evaluations that an older study needs
# The cross-validated R² that an older study needs to be used: shuffled values have none, and a
# model without skill on its own study has none on another.
SKILL = 0.15


@dataclass(frozen=True, eq=False)
class Older:
    """The evaluations of an older study of n networks.

    ``place`` maps a parameter set of the new study to features (columns,); ``x`` (n, columns) are
    those of the old networks, and ``scales`` (columns,) the length scale of each. ``values`` are
    measurements (n,) by the index of the new study's objective, in its units, NaN where missing.
    ``shared`` is how many leading length scales belong to the new study's encoding: all, or 0.
    """

    name: str
    place: Callable[[Mapping[str, Any]], Floats]
    x: Floats
    scales: Scales
    values: Mapping[int, Floats]
    shared: int = 0

    def predicts(self, k: int) -> bool:
        """Whether objective ``k`` is predicted with ``SKILL`` by cross-validation."""
        return k in self.values and self._skill.get(k, 0.0) >= SKILL

    @property
    def useful(self) -> bool:
        return any(map(self.predicts, self.values))

    def observations(self, k: int) -> tuple[Floats, Floats]:
        """The latest rows of ``x`` with a value of objective ``k``, and these values."""
        measured = np.flatnonzero(np.isfinite(self.values[k]))[-MOST:]
        return self.x[measured], self.values[k][measured]

    @cached_property
    def _skill(self) -> Mapping[int, float]:
        return {
            k: _skill(x, self.scales, Warp.of(values)(values))
            for k, (x, values) in ((k, self.observations(k)) for k in self.values)
            if len(values) >= FEWEST
        }


@dataclass(frozen=True)
class Ensemble:
    """The mean of processes of one objective, each of an older study, on its columns of x, with
    values standardised in that study. It takes the place of a process of the new study."""

    parts: tuple[tuple[GP, slice], ...]

    def mean(self, x: Floats) -> Floats:
        means: Floats = np.mean([gp.mean(x[:, at]) for gp, at in self.parts], axis=0)
        return means

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the mixture: the studies' disagreement counts."""
        means, deviations = np.stack([gp.predict(x[:, at]) for gp, at in self.parts], axis=1)
        return means.mean(axis=0), np.sqrt((deviations**2).mean(axis=0) + means.var(axis=0))

    def joint(self, x: Floats) -> Joint:
        """As ``predict``, with the covariances of the rows."""
        joints = [gp.joint(x[:, at]) for gp, at in self.parts]
        means = np.stack([joint.mean for joint in joints])
        away = means - means.mean(axis=0)
        covariance = np.mean([joint.covariance for joint in joints], axis=0)
        covariance += away.T @ away / len(joints)
        noise = float(np.mean([joint.noise for joint in joints]))
        return Joint(means.mean(axis=0), covariance, noise)

    def believing(self, x: Floats) -> Ensemble:
        return Ensemble(tuple((gp.believing(x[:, at]), at) for gp, at in self.parts))


@dataclass(frozen=True)
class Related:
    """The useful ``older`` studies: by objective their ensemble, with the warp of the first, which
    gives it units; and by objective the weights of the features there (None: not shared)."""

    older: tuple[Older, ...]
    predicted: Mapping[int, tuple[Ensemble, Warp]]
    hints: Mapping[int, Floats | None]

    @classmethod
    def of(cls, older: Sequence[Older], signs: Floats) -> Related | None:
        """Fits the studies that predict an objective; None where none does."""
        ends = np.cumsum([0, *(study.x.shape[1] for study in older)])
        predicted, hints = {}, {}
        for k, sign in enumerate(signs):
            parts: list[tuple[GP, slice]] = []
            warps: list[Warp] = []
            weights: list[Floats] = []
            for study, begin in zip(older, ends, strict=False):
                if not study.predicts(k):
                    continue
                x, values = study.observations(k)
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
        """The weights for the quantity that a model calls "objective k", and for its folds."""
        return next((h for k, h in self.hints.items() if name.startswith(f"objective {k}")), None)

    def place(self, params: Mapping[str, Any]) -> Floats:
        """The features of one parameter set, (columns,), of all older studies in a row."""
        return np.concatenate([study.place(params) for study in self.older])

    @property
    def width(self) -> int:
        return sum(len(ensemble.parts) for ensemble, _ in self.predicted.values())

    def columns(self, x: Floats) -> Floats:
        """What each study predicts of rows placed at ``x``, (n, ``width``)."""
        parts = [part for ensemble, _ in self.predicted.values() for part in ensemble.parts]
        return np.stack([gp.mean(x[:, at]) for gp, at in parts], axis=1)


@dataclass(frozen=True)
class Placed(Features):
    """The features of rows in older studies alone."""

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
    known: NDArray[np.bool_],
) -> Model | None:
    """The model of a study without results: what older studies predict, given that its trials so
    far, ``rows`` (n, parameters), come out as predicted. None where an objective that is not known
    beforehand is not predicted.

    ``known`` (objectives,) marks the objectives that are known, ``costs`` (n, objectives) holds
    them, minimised; ``place`` gives the features of rows.
    """
    learned = np.flatnonzero(~known).tolist()
    if not {*learned} <= related.predicted.keys():
        return None
    x, means = place(rows), costs.copy()
    surrogates: list[Surrogate | None] = [None] * len(known)
    for k in learned:
        process, warp = related.predicted[k]
        means[:, k] = warp.inverse(process.mean(x))
        # Takes the place of a process, except that it has no committee.
        own = cast(GP, process)
        surrogates[k] = Surrogate(f"older {k}", warp, own, x, means[:, k], np.zeros(0, np.intp))
    features = Placed(encoding, (), place)
    return Model(features, tuple(surrogates), (), rows, means, np.ones(len(rows), bool))


def _skill(x: Floats, scales: Scales, y: Floats) -> float:
    """The cross-validated R² of ``y`` (n,); 0 where its values are all equal."""
    if np.ptp(y) == 0:
        return 0.0
    fold, predicted = np.arange(len(y)) % FOLDS, np.empty(len(y))
    for k in range(FOLDS):
        rest = fold != k
        settings: Settings = fit(x[rest], scales, y[rest])
        judged = GP.given(settings, scales, x[rest], y[rest])
        predicted[~rest] = judged.mean(x[~rest])
    return float(1.0 - np.mean((predicted - y) ** 2) / y.var())
