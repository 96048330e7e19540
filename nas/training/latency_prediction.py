"""Predicts the latency of a network as the corrected sum of its measured pieces.

Two steps, each learned from measurements on one device, in one runtime, at one batch size:

1. The latency of a piece alone: that in the table, or else a linear cost (per call, MAC, weight and
   number of a map, by non-negative least squares for each kind) times a Gaussian process over the
   logarithms of its work and form, fitted to the ratios of those in the table (Rasmussen and
   Williams 2006, algorithm 2.1).
2. Its latency inside a network, which ``nas.training.latency_correction`` learns from networks that
   were measured whole.

``LatencyPredictor.errors`` are the relative errors of networks left out of the fit: how far a
prediction of another network can be trusted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from nas.errors import NasError
from nas.language.architecture import Architecture
from nas.text import counted
from nas.training.latency_correction import Correction, Floats
from nas.training.latency_pieces import Piece, parts

OWN = 12  # pieces of a kind that give it a linear cost of its own
FEWEST = 8  # networks measured whole that a correction is learned from
APART = 2.0  # distance between kinds of pieces, in standard deviations of a feature
LEAST = 0.05  # of the sum of its pieces alone: the least that is predicted of a network


@dataclass(frozen=True)
class LinearProcess:
    """A Gaussian process with a linear mean on standardised inputs; squared exponential kernel,
    with the length scale and noise of highest likelihood on a grid."""

    x: Floats
    mean: Floats
    scale: Floats
    weights: Floats
    alpha: Floats
    length: float
    left_out: Floats  # leave-one-out residuals of its own points

    @classmethod
    def fit(cls, x: Floats, y: Floats) -> LinearProcess:
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
class LatencyPredictor:
    """Predicts a network's latency in milliseconds. ``table`` holds measured pieces by their key,
    ``errors`` the relative errors of networks left out (empty: too few were measured whole), of
    which ``besides`` were measured outside the profile."""

    table: Mapping[str, float]
    kinds: tuple[str, ...]
    prices: Mapping[str, Floats]
    pieces: LinearProcess
    correction: Correction | None
    errors: tuple[float, ...]
    besides: int = 0
    # A cache: milliseconds of a piece alone, and inside a network.
    seen: dict[Piece, tuple[float, float]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def fit(
        cls,
        measured: Sequence[tuple[Piece, float]],
        wholes: Sequence[tuple[Architecture, float]],
        apart: Sequence[Architecture] = (),
    ) -> LatencyPredictor:
        """Fits to pieces and whole networks, each with its milliseconds; of the networks ``apart``
        only pieces were measured. Raises NasError without any piece."""
        if not measured:
            raise NasError("a profile without pieces predicts nothing")
        kinds = tuple(sorted({piece.kind for piece, _ in measured}))
        prices = _prices(measured)
        x = np.array([_numbers(piece, kinds) for piece, _ in measured])
        over = np.log([ms / _price(prices, piece) for piece, ms in measured])
        pieces = LinearProcess.fit(x, over)
        table = {piece.key: ms for piece, ms in measured}
        plain = cls(table, kinds, prices, pieces, None, ())
        if len(wholes) < FEWEST:
            return plain
        known = [parts(architecture) for architecture, _ in wholes]
        distinct = list(dict.fromkeys(piece for each in known for piece in each.pieces))
        alone, ms = plain._alone(distinct), np.array([whole for _, whole in wholes])
        correction = Correction.fit(known, distinct, alone, ms)
        within = dict(zip(distinct, correction.within(distinct, alone) / alone, strict=True))
        # Leaving a network out also removes the pieces that only it has from the table.
        others = [parts(architecture) for architecture in apart]
        networks = Counter(piece for each in [*known, *others] for piece in set(each.pieces))
        wrong = {
            piece: within[piece] * ms * math.expm1(-log)
            for (piece, ms), log in zip(measured, pieces.left_out, strict=True)
            if networks[piece] == 1 and piece in within
        }
        errors = correction.errors + [
            sum(wrong.get(piece, 0.0) for piece in each.pieces) / whole
            for each, whole in zip(known, ms, strict=True)
        ]
        return cls(table, kinds, prices, pieces, correction, tuple(np.abs(errors).tolist()))

    @property
    def trust(self) -> str:
        """A sentence on the errors, for people."""
        if not self.errors:
            return f"uncorrected: fewer than {FEWEST} networks were measured whole"
        most = float(np.quantile(self.errors, 0.95))
        besides = f" ({self.besides} of them measured besides it)" if self.besides else ""
        return (
            f"of {counted(len(self.errors), 'network')} left out in turn{besides} "
            f"{100 * self.within:.0f} % "
            f"were within 10 %, and 95 of 100 within {100 * most:.0f} %"
        )

    @property
    def within(self) -> float:
        """The fraction of errors up to 10 %."""
        return sum(error <= 0.1 for error in self.errors) / max(1, len(self.errors))

    @property
    def pieces_within(self) -> float:
        """The fraction of pieces predicted within 10 % when left out."""
        return float(np.mean(np.abs(np.expm1(-self.pieces.left_out)) <= 0.1))

    def __call__(self, architecture: Architecture) -> float:
        network = parts(architecture)
        if unknown := [piece for piece in dict.fromkeys(network.pieces) if piece not in self.seen]:
            alone = self._alone(unknown)
            within = self.correction.within(unknown, alone) if self.correction else alone
            both = zip(alone.tolist(), within.tolist(), strict=True)
            self.seen.update(zip(unknown, both, strict=True))
        plain, ms = map(sum, zip(*(self.seen[piece] for piece in network.pieces), strict=True))
        besides = self.correction.besides(network) if self.correction else 0.0
        return max(ms + besides, LEAST * plain)

    def _alone(self, pieces: Sequence[Piece]) -> Floats:
        """Milliseconds of pieces alone, from the table or interpolated."""
        base = np.array([_price(self.prices, piece) for piece in pieces])
        x = np.array([_numbers(piece, self.kinds) for piece in pieces])
        ms = base * np.exp(self.pieces(x))
        return np.array([self.table.get(p.key, each) for p, each in zip(pieces, ms, strict=True)])


def _prices(measured: Sequence[tuple[Piece, float]]) -> dict[str, Floats]:
    """The linear cost of a piece's ``work``, by kind where there are enough; "" for the others."""
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


def _numbers(piece: Piece, kinds: tuple[str, ...]) -> list[float]:
    return [*piece.numbers, *_of_kind(piece.kind, kinds)]


@lru_cache(maxsize=1_000)
def _of_kind(kind: str, kinds: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(APART * (kind == each) for each in kinds)
