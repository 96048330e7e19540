"""The latency of a network before it is measured: measured pieces added up, and corrected.

Two steps, each learned from measurements of one device, runtime and batch:

1. A piece that is in the table has its time. One that is not has a price for the call, for
   multiply-adds, weights and maps, those of its kind, by least squares that are not negative; times
   what a Gaussian process over the logarithms of work and form makes of how those in the table
   differ from that (Rasmussen and Williams 2006, algorithm 2.1).
2. Inside of a network it takes another time: what ``nas.training.correction`` learns from networks
   measured whole.

``LatencyPredictor.errors`` are the relative errors of networks left out: how far a prediction of
another network may be trusted.
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
from nas.training.correction import Correction, Floats
from nas.training.pieces import Piece, parts

OWN = 12  # pieces of a kind, from which on it has prices of its own
FEWEST = 8  # networks measured whole, below which nothing is learned of wholes
APART = 2.0  # how far kinds of pieces lie from each other, in deviations of a number
LEAST = 0.05  # of the sum of pieces alone: a network takes no less


@dataclass(frozen=True)
class LinearProcess:
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
    """Milliseconds of a network. ``table`` has measured pieces by their key; ``errors`` the
    relative errors of networks left out, empty where too few were measured whole; ``besides`` is
    how many of these are none of the profile's own."""

    table: Mapping[str, float]
    kinds: tuple[str, ...]
    prices: Mapping[str, Floats]
    pieces: LinearProcess
    correction: Correction | None
    errors: tuple[float, ...]
    besides: int = 0
    # Pieces that were looked up: alone, and within a network.
    seen: dict[Piece, tuple[float, float]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def fit(
        cls,
        measured: Sequence[tuple[Piece, float]],
        wholes: Sequence[tuple[Architecture, float]],
        apart: Sequence[Architecture] = (),
    ) -> LatencyPredictor:
        """From pieces and whole networks with their milliseconds; ``apart`` are networks that only
        pieces were measured of. Raises NasError without any piece."""
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
        # A network that is left out takes the pieces that it alone has out of the table with it.
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
        """What people are told of the errors."""
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
        """The share of errors of up to a tenth."""
        return sum(error <= 0.1 for error in self.errors) / max(1, len(self.errors))

    @property
    def pieces_within(self) -> float:
        """The share of pieces that, left out in turn, are predicted within a tenth."""
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
        """Milliseconds by the table, or interpolated."""
        base = np.array([_price(self.prices, piece) for piece in pieces])
        x = np.array([_numbers(piece, self.kinds) for piece in pieces])
        ms = base * np.exp(self.pieces(x))
        return np.array([self.table.get(p.key, each) for p, each in zip(pieces, ms, strict=True)])


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


def _numbers(piece: Piece, kinds: tuple[str, ...]) -> list[float]:
    return [*piece.numbers, *_of_kind(piece.kind, kinds)]


@lru_cache(maxsize=1_000)
def _of_kind(kind: str, kinds: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(APART * (kind == each) for each in kinds)
