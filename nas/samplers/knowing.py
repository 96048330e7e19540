"""Knowing against finding: whether another evaluation of a known network pays more than a new one.

What one is given in the end is the front of what is believed of the networks that were evaluated.
An evaluation, of whichever network, moves the beliefs of all that are like it; what it is worth is
how much more hypervolume that front is then expected to have. (The knowledge gradient with
correlated beliefs, Frazier, Powell and Dayanik 2009; Astudillo and Frazier 2017 for a function of
several.) It looks one evaluation ahead, so it is asked near the end of a budget only: before that,
what a new network teaches of all the others is worth more than it sees.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from nas.samplers.encoding import keys
from nas.samplers.gp import JITTER
from nas.samplers.model import Model, Surrogate

Floats = NDArray[np.float64]

# What may come of an evaluation: so many outcomes, the same for all.
OUTCOMES = 16
# So many of those that were evaluated are weighed by all outcomes: the best by a first look, at
# one deviation up and down. In 13 of 13 asks it found the same best, in a fifth of the time: 600 by
# 16 took 0.9 s on a busy core, in which 64 slots with trainings of 10 s want six candidates.
CLOSER = 32
# Where the front begins to matter: better than the worst quarter of what was evaluated. Far below,
# where a warp draws outliers in, a little luck is a great volume.
WORST = 0.75
# Evaluated ones are weighed that may be on the front: if they are better by so many deviations.
HOPE = 2.0
# As long as fewer were evaluated again, nothing tells luck from what is a network's own: the part
# that the features leave unexplained counts as luck, so that it pays to find out.
DOUBTED = 3


def gains(model: Model, rows: Floats, costs: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """The hypervolume that one more evaluation is expected to add to the front that one is given:
    of each row that ``model`` rests on, shape (n,), 0 for one that cannot be on the front; and of
    each of the new ``rows`` (m, parameters) with their told objectives ``costs`` (m, objectives),
    shape (m,)."""
    known = len(model.rows)
    first = {key: k for k, key in reversed([*enumerate(keys(model.rows))])}
    doubt = known - len(first) < DOUBTED
    beliefs = _Beliefs.of(
        model, np.vstack([model.rows, rows]), np.vstack([model.means, costs]), doubt
    )
    corner = reference.copy()
    for k in beliefs.learned:
        corner[k] = min(corner[k], np.quantile(model.means[:, k], WORST))
    own = np.array(sorted(k for k in first.values() if model.feasible[k]), dtype=int)
    if not len(own):
        return np.zeros(known), np.zeros(len(rows))
    now = _volume(beliefs.values[own], corner)

    def gain(candidate: int, outcomes: Floats) -> float:
        some = own if candidate < known else np.append(own, candidate)
        after = beliefs.after(candidate, some, outcomes)
        return float(np.mean([_volume(values, corner) for values in after])) - now

    from scipy.stats import qmc  # 0.24 s, that no launch need pay

    half = ndtri(qmc.Sobol(len(beliefs.learned), seed=0).random(OUTCOMES // 2))
    outcomes = np.vstack([half, -half])
    hopeful = _hopeful(beliefs, own)
    if len(hopeful) > CLOSER:
        ends = np.array([*itertools.product((-1.0, 1.0), repeat=len(beliefs.learned))])
        order = np.argsort([-gain(candidate, ends) for candidate in hopeful], kind="stable")
        hopeful = [hopeful[k] for k in order[:CLOSER]]
    gained = np.zeros(known + len(rows))
    for candidate in [*hopeful, *range(known, known + len(rows))]:
        gained[candidate] = gain(candidate, outcomes)
    return gained[:known], gained[known:]


@dataclass(frozen=True)
class _Beliefs:
    """What is believed of rows, minimised: ``values`` (n, objectives); of each of the ``learned``
    objectives the process's ``means`` (n,), ``deviations`` (n,), and by how much the means move
    where the evaluation of a row comes out by one deviation higher, ``shifts`` (n, n), a row of
    which that evaluation is a column."""

    values: Floats
    learned: Mapping[int, Surrogate]
    means: Mapping[int, Floats]
    deviations: Mapping[int, Floats]
    shifts: Mapping[int, Floats]

    @classmethod
    def of(cls, model: Model, rows: Floats, values: Floats, doubt: bool) -> _Beliefs:
        x, _ = model.features(rows, values)
        learned = {k: s for k, s in enumerate(model.surrogates) if s is not None}
        values, means, deviations, shifts = values.copy(), {}, {}, {}
        for k, surrogate in learned.items():
            process = surrogate.process.doubting() if doubt else surrogate.process
            means[k], covariance = process.joint(x)
            variance = np.maximum(np.diag(covariance), 1e-12)
            deviations[k] = np.sqrt(variance)
            noise = process.settings.noise + JITTER
            shifts[k] = covariance / np.sqrt(variance + noise)
            values[:, k] = surrogate.warp.inverse(means[k])
        return cls(values, learned, means, deviations, shifts)

    def after(self, candidate: int, some: NDArray[np.intp], outcomes: Floats) -> Floats:
        """What may be believed of ``some`` (m,) once the candidate was evaluated: of shape
        (outcomes, m, objectives), by outcomes (outcomes, learned) in deviations."""
        values = np.repeat(self.values[some][None], len(outcomes), axis=0)
        for z, (k, surrogate) in zip(outcomes.T, self.learned.items(), strict=True):
            moved = self.means[k][some] + np.outer(z, self.shifts[k][some, candidate])
            values[:, :, k] = surrogate.warp.inverse(moved)
        return values

    def hoped(self) -> Floats:
        """The values as good as they may be."""
        values = self.values.copy()
        for k, surrogate in self.learned.items():
            values[:, k] = surrogate.warp.inverse(self.means[k] - HOPE * self.deviations[k])
        return values


def _hopeful(beliefs: _Beliefs, own: NDArray[np.intp]) -> list[int]:
    """Those of ``own`` that may be on the front: that no other dominates even if they are as good
    as may be."""
    values, hoped = beliefs.values[own], beliefs.hoped()[own]
    beaten = [(values < best).all(axis=1).any() for best in hoped]
    return [int(k) for k, out in zip(own, beaten, strict=True) if not out]


def _volume(values: Floats, corner: Floats) -> float:
    inside = values[(values < corner).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=corner)) if len(inside) else 0.0
