"""The knowledge gradient: is it better to evaluate a network again, or a new one?

The result of a search is the Pareto front of the posterior means of the evaluated networks. An
evaluation, of whichever network, also moves the means of similar ones; its value is the expected
gain of that front's hypervolume. (The knowledge gradient with correlated beliefs, Frazier, Powell
and Dayanik 2009; of a function of several objectives, Astudillo and Frazier 2017.) It looks one
evaluation ahead and undervalues what a new network teaches of others, so it is used near the end of
a budget only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from nas.samplers.encoding import keys
from nas.samplers.gp import GP, JITTER
from nas.samplers.model import Model
from nas.samplers.warp import Warp

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

# Outcomes drawn of an evaluation, the same for all candidates.
OUTCOMES = 16
# Evaluated networks that are examined in full: the best by a cheap estimate, in which they alone
# move, by one deviation up or down.
CLOSER = 32
# The reference point: this quantile of the evaluated means. Far beyond it, where the warp draws in
# outliers, a little noise is a large volume.
WORST = 0.75
# With fewer repeated evaluations, unknown noise cannot be separated from the rough component, which
# is then counted as noise: so repeating pays.
DOUBTED = 3


def gains(model: Model, rows: Floats, costs: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """The expected gain of the front's hypervolume by one more evaluation: of each row of
    ``model``, all of them evaluated in full, (n,), 0 for all but ``CLOSER``; and of each of the new
    ``rows`` (m, parameters) with known objectives ``costs`` (m, objectives), (m,)."""
    known = len(model.rows)
    gained = np.zeros(known + len(rows))
    first = {key: k for k, key in reversed([*enumerate(keys(model.rows))])}
    own = np.array(sorted(k for k in first.values() if model.feasible[k]), dtype=int)
    surrogates = {k: s for k, s in enumerate(model.surrogates) if s is not None}
    if not (len(own) and surrogates):
        return gained[:known], gained[known:]
    values = np.vstack([model.means, costs])
    x, _ = model.features(np.vstack([model.rows, rows]), values)
    doubt = known - len(first) < DOUBTED
    corner, learned = reference.copy(), []
    for k, surrogate in surrogates.items():
        corner[k] = min(corner[k], np.quantile(model.means[:, k], WORST))
        noise_known = surrogate.noise(surrogate.values) is not None
        process = surrogate.process.doubting() if doubt and not noise_known else surrogate.process
        learned.append(_Learned.of(k, process, surrogate.warp, x))
    beliefs = _Beliefs(values, tuple(learned))

    from scipy.stats import qmc  # 0.24 s, that no launch need pay

    half = ndtri(qmc.Sobol(len(learned), seed=0).random(OUTCOMES // 2))
    outcomes = np.vstack([half, -half])
    candidates = np.append(_closer(beliefs, own, corner), np.arange(known, len(x)))
    shifts = [part.shifts(x, own, candidates) for part in learned]
    farthest = np.abs(outcomes).max(axis=0)
    reach = [z * np.abs(s).max(axis=1) for z, s in zip(farthest, shifts, strict=True)]
    kept = _undominated(
        beliefs.at(own, [-r for r in reach]), beliefs.at(own, reach)
    )  # the others are on the front in no outcome
    now = _volumes(beliefs.at(own[kept])[None], corner)[0]
    for place, candidate in enumerate(candidates):
        some, moved = own[kept], [s[kept, place] for s in shifts]
        if candidate >= known:
            some = np.append(some, candidate)
            moved = [np.append(m, p.moves[candidate]) for m, p in zip(moved, learned, strict=True)]
        after = beliefs.at(some, [np.outer(z, m) for z, m in zip(outcomes.T, moved, strict=True)])
        gained[candidate] = _volumes(after, corner).mean() - now
    return gained[:known], gained[known:]


@dataclass(frozen=True)
class _Learned:
    """The posterior of one objective of n rows on the scale of ``warp``: ``means`` and
    ``deviations`` (n,). ``moves`` (n,) is by how much an evaluation one deviation above a row's
    mean raises that mean."""

    objective: int
    process: GP
    warp: Warp
    means: Floats
    deviations: Floats

    @classmethod
    def of(cls, objective: int, process: GP, warp: Warp, x: Floats) -> _Learned:
        """Of the rows at ``x``, the evaluated ones first, in their order."""
        seen, new = process.observed(), process.predict(x[len(process.y) :])
        means, deviations = (np.concatenate(parts) for parts in zip(seen, new, strict=True))
        return cls(objective, process, warp, means, np.maximum(deviations, 1e-6))

    @property
    def spread(self) -> Floats:
        """The standard deviation of an evaluation of each row."""
        noise = np.full(len(self.means), self.process.settings.noise + JITTER)
        noise[: len(self.process.noise)] = self.process.noise
        spread: Floats = np.sqrt(self.deviations**2 + noise)
        return spread

    @property
    def moves(self) -> Floats:
        return self.deviations**2 / self.spread

    def shifts(self, x: Floats, own: Places, candidates: Places) -> Floats:
        """By how much an evaluation of each candidate one deviation above its mean raises the means
        of the evaluated rows ``own``, (own, candidates)."""
        covariance = self.process.covariance_with(x[candidates])[own]
        moved: Floats = covariance / self.spread[candidates]
        return moved


@dataclass(frozen=True)
class _Beliefs:
    """The ``values`` (n, objectives) of rows, minimised; columns of ``learned`` ones are unused."""

    values: Floats
    learned: tuple[_Learned, ...]

    def at(self, some: Places, moved: Sequence[Floats] | None = None) -> Floats:
        """The values of ``some`` rows (m,) after the mean of each learned objective ``moved`` by
        (m,) or (outcomes, m): (m, objectives) or (outcomes, m, objectives)."""
        moved = moved or [np.zeros(len(some))] * len(self.learned)
        values = np.broadcast_to(self.values[some], (*moved[0].shape, self.values.shape[1])).copy()
        for part, by in zip(self.learned, moved, strict=True):
            values[..., part.objective] = part.warp.inverse(part.means[some] + by)
        return values


def _closer(beliefs: _Beliefs, own: Places, corner: Floats) -> Places:
    """The up to ``CLOSER`` of ``own`` that gain most if they alone move."""
    moves = [part.moves[own] for part in beliefs.learned]
    values = beliefs.at(own)
    hopeful = np.flatnonzero(_undominated(beliefs.at(own, [-m for m in moves]), values))
    others = _undominated(values, beliefs.at(own, moves))
    now = _volumes(values[others][None], corner)[0]
    brought = np.zeros(len(hopeful))
    ends = np.array([*itertools.product((-1.0, 1.0), repeat=len(moves))]).T
    moved = beliefs.at(
        own[hopeful], [np.outer(z, m[hopeful]) for z, m in zip(ends, moves, strict=True)]
    )
    for place, k in enumerate(hopeful):
        rest = values[others & (np.arange(len(own)) != k)]
        sets = np.empty((len(moved), len(rest) + 1, len(corner)))
        sets[:, :-1], sets[:, -1] = rest, moved[:, place]
        brought[place] = _volumes(sets, corner).mean() - now
    return own[hopeful[np.argsort(-brought, kind="stable")[:CLOSER]]]


def _undominated(best: Floats, worst: Floats) -> NDArray[np.bool_]:
    """Which rows (n, objectives), at their ``best``, no other at its ``worst`` dominates."""
    front = worst[moocore.is_nondominated(worst)]
    pairs = [(w[:, None], b) for w, b in zip(front.T, best.T, strict=True)]
    beaten = np.logical_and.reduce([w <= b for w, b in pairs])
    beaten &= np.logical_or.reduce([w < b for w, b in pairs])
    return ~np.asarray(beaten.any(axis=0))


def _volumes(values: Floats, corner: Floats) -> Floats:
    """The hypervolume (sets,) of each set of points (sets, points, objectives). With two objectives
    vectorised over the sets: of 800 calls of moocore two thirds of 60 ms were checks."""
    values = np.minimum(values, corner)
    if values.shape[2] != 2:
        return np.array([float(moocore.hypervolume(some, ref=corner)) for some in values])
    order = np.argsort(values[:, :, 0], axis=1)
    across, up = (np.take_along_axis(values[:, :, k], order, axis=1) for k in (0, 1))
    widths = np.diff(across, axis=1, append=corner[0])
    volumes: Floats = (widths * (corner[1] - np.minimum.accumulate(up, axis=1))).sum(axis=1)
    return volumes
