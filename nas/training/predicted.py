"""The latency of a network before it is measured: measured pieces added up, and corrected.

Three steps, each learned from measurements of one device, runtime and batch:

1. A piece that is in the table has its time. One that is not has a price for the call, for
   multiply-adds, weights and maps, those of its kind, by least squares that are not negative; times
   what a Gaussian process over the logarithms of work and form makes of how those in the table
   differ from that (Rasmussen and Williams 2006, algorithm 2.1).
2. The sum of pieces takes each for warm in the caches and pays each the call. So a whole network is
   a linear function of that sum, the number of pieces, what joins move, weights and maps, by least
   squares of the relative error, drawn towards the plain sum.
3. What is left goes by size: a second process on the logarithm of measured over predicted, where
   leaving out each network in turn shows that it helps.

``Predictor.errors`` are the relative errors so left out: what a prediction of a network that was
not measured is to be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nas.errors import NasError
from nas.language.architecture import Architecture
from nas.training.pieces import Piece, parts

Floats = NDArray[np.float64]

OWN = 12  # pieces of a kind, from which on it has prices of its own
ODD = 0.3  # error from which on a network may have been disturbed: others are not bent to it
FEWEST = 8  # networks measured whole, below which nothing is learned of wholes
APART = 2.0  # how far kinds of pieces lie from each other, in deviations of a number
# Of the second process: networks, and the share of squared error that it must leave at most. With
# 24 and 0.9 it brought 81 % of others within 10 %, for 82 % without (resnet_like, ONNX Runtime).
MANY, HELPS = 30, 0.7
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class Process:
    """A Gaussian process with a linear mean, on standardised inputs: squared exponential, its
    length and noise by likelihood over a grid."""

    x: Floats
    mean: Floats
    scale: Floats
    weights: Floats
    alpha: Floats
    length: float
    left_out: Floats  # what is wrong at each of its own points where that is left out

    @classmethod
    def fit(cls, x: Floats, y: Floats) -> Process:
        mean, scale = x.mean(0), x.std(0)
        scale = np.where(scale > 0, scale, 1.0)
        z = (x - mean) / scale
        design = np.column_stack([np.ones(len(z)), z])
        penalty = np.diag([1e-6, *np.full(z.shape[1], 0.1)])
        weights = np.linalg.solve(design.T @ design + penalty, design.T @ y)
        rest = y - design @ weights
        variance = max(float(rest.var()), 1e-8)
        best: tuple[float, Floats, float, Floats] | None = None
        for length in (0.5, 1.0, 2.0, 4.0, 8.0):
            kernel = variance * _close(z, z, length)
            for noise in (0.01, 0.05, 0.2):
                factor = np.linalg.cholesky(kernel + (noise * variance + 1e-6) * np.eye(len(z)))
                inverse = np.linalg.inv(factor)
                inverse = inverse.T @ inverse
                alpha = inverse @ rest
                likelihood = -0.5 * rest @ alpha - float(np.log(np.diag(factor)).sum())
                if best is None or likelihood > best[0]:
                    best = (likelihood, variance * alpha, length, alpha / np.diag(inverse))
        assert best
        return cls(z, mean, scale, weights, best[1], best[2], best[3])

    def __call__(self, x: Floats) -> Floats:
        z = (x - self.mean) / self.scale
        linear = np.column_stack([np.ones(len(z)), z]) @ self.weights
        found: Floats = linear + _close(z, self.x, self.length) @ self.alpha
        return found


def _close(a: Floats, b: Floats, length: float) -> Floats:
    apart = ((a[:, None] - b[None]) ** 2).sum(2) / max(1, a.shape[1])
    close: Floats = np.exp(-0.5 * apart / length**2)
    return close


@dataclass(frozen=True)
class Predictor:
    """Milliseconds of a network. ``table`` has measured pieces by their key; ``errors`` the
    relative errors of networks left out, empty where too few were measured whole."""

    table: Mapping[str, float]
    kinds: tuple[str, ...]
    prices: Mapping[str, Floats]
    pieces: Process
    linear: Floats
    rest: Process | None
    errors: tuple[float, ...]
    seen: dict[Piece, float] = field(default_factory=dict, repr=False, compare=False)  # looked up

    @classmethod
    def fit(
        cls, measured: Sequence[tuple[Piece, float]], wholes: Sequence[tuple[Architecture, float]]
    ) -> Predictor:
        """From pieces and whole networks with their milliseconds. Raises NasError without any."""
        if not measured:
            raise NasError("a profile without pieces predicts nothing")
        kinds = tuple(sorted({piece.kind for piece, _ in measured}))
        prices = _prices(measured)
        x = np.array([_numbers(piece, kinds) for piece, _ in measured])
        over = np.log([ms / _price(prices, piece) for piece, ms in measured])
        pieces = Process.fit(x, over)
        table = {piece.key: ms for piece, ms in measured}
        plain = cls(table, kinds, prices, pieces, np.array([1.0, *np.zeros(6)]), None, ())
        if len(wholes) < FEWEST:
            return plain
        features = np.array([plain._features(architecture) for architecture, _ in wholes])
        ms = np.array([whole for _, whole in wholes])
        fair = np.ones(len(ms), dtype=bool)
        for _ in range(2):  # without those that the machine disturbed: one may bend all others
            linear, left = _linear(features, ms, fair)
            fair = np.abs(left) <= max(ODD, 6 * float(np.median(np.abs(left))))
        over, rest = np.log(ms / _least(features, linear)), None
        if fair.sum() >= MANY:
            process = Process.fit(_sizes(features[fair]), over[fair])
            if float((process.left_out**2).mean()) < HELPS * float((left[fair] ** 2).mean()):
                rest, left = process, over - process(_sizes(features))
                left[fair] = process.left_out
        errors = tuple(np.expm1(np.abs(left)).tolist())
        return cls(table, kinds, prices, pieces, linear, rest, errors)

    @property
    def trust(self) -> str:
        """What people are told of the errors."""
        if not self.errors:
            return f"uncorrected: fewer than {FEWEST} networks were measured whole"
        within = sum(error <= 0.1 for error in self.errors) / len(self.errors)
        most = float(np.quantile(self.errors, 0.95))
        return (
            f"of {len(self.errors)} networks left out in turn {100 * within:.0f} % within 10 %, "
            f"95 % within {100 * most:.0f} %"
        )

    def __call__(self, architecture: Architecture) -> float:
        features = self._features(architecture)[None]
        ms = float(_least(features, self.linear)[0])
        return ms * math.exp(float(self.rest(_sizes(features))[0])) if self.rest else ms

    def _features(self, architecture: Architecture) -> Floats:
        told = parts(architecture)
        if unknown := [piece for piece in told.pieces if piece not in self.seen]:
            base = np.array([_price(self.prices, piece) for piece in unknown])
            x = np.array([_numbers(piece, self.kinds) for piece in unknown])
            for piece, ms in zip(unknown, base * np.exp(self.pieces(x)), strict=True):
                self.seen[piece] = self.table.get(piece.key, float(ms))
        whole = sum(self.seen[piece] for piece in told.pieces)
        maps = sum(math.prod(piece.x) for piece in told.pieces)
        return np.array(
            [whole, len(told.pieces), told.joins, told.moved, architecture.params, maps, 1.0]
        )


def _prices(measured: Sequence[tuple[Piece, float]]) -> dict[str, Floats]:
    """Of a piece's ``work``, for each kind that has enough pieces and for all others (empty)."""
    from scipy.optimize import nnls  # 0.2 s, which a command that predicts nothing should not pay

    kinds: dict[str, list[tuple[Piece, float]]] = {"": list(measured)}
    for piece, ms in measured:
        kinds.setdefault(piece.kind, []).append((piece, ms))
    found = {}
    for kind, some in kinds.items():
        if kind and len(some) < OWN:
            continue
        rows = np.array([piece.work for piece, _ in some]) / np.array([[ms] for _, ms in some])
        scale = np.maximum(rows.max(0), 1e-300)
        found[kind] = nnls(rows / scale, np.ones(len(some)))[0] / scale
    return found


def _price(prices: Mapping[str, Floats], piece: Piece) -> float:
    own = prices.get(piece.kind, prices[""])
    return max(float(own @ np.array(piece.work)), 1e-9)


def _least(features: Floats, linear: Floats) -> Floats:
    """What the weights make of the features, and never next to nothing of the sum."""
    return np.maximum(features @ linear, 0.05 * features[:, 0])


def _sizes(features: Floats) -> Floats:
    return np.log1p(features[:, :6])


def _linear(features: Floats, ms: Floats, fair: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Weights of the features by relative least squares over ``fair`` ones, drawn towards the plain
    sum; and the logarithm of what each network has over what the weights of all others give it."""
    rows = features / ms[:, None]
    scale = np.sqrt((rows**2).mean(0))
    scale = np.where(scale > 0, scale, 1.0)
    rows = rows / scale
    used = rows[fair]
    towards = np.array([scale[0], *np.zeros(len(scale) - 1)])
    best: tuple[float, Floats, Floats] | None = None
    for ridge in RIDGES:
        inverse = np.linalg.inv(used.T @ used + ridge * len(used) * np.eye(len(scale)))
        weights = towards + inverse @ used.T @ (1.0 - used @ towards)
        levers = np.einsum("ij,jk,ik->i", rows, inverse, rows) * fair
        off = (rows @ weights - 1.0) / (1.0 - levers)  # of the network by all others
        error = float((off[fair] ** 2).mean())
        if best is None or error < best[0]:
            best = (error, weights / scale, -np.log(np.maximum(1.0 + off, 0.05)))
    assert best
    return best[1], best[2]


def _numbers(piece: Piece, kinds: tuple[str, ...]) -> list[float]:
    return [*piece.numbers, *_of_kind(piece.kind, kinds)]


@lru_cache(maxsize=1_000)
def _of_kind(kind: str, kinds: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(APART * (kind == each) for each in kinds)
