"""Corrects the latencies of pieces timed alone, from networks that were measured whole.

Alone, a piece pays for a call that it shares in a network, finds its input in the cache, and in
ONNX Runtime converts it to blocks of channels and back, which a network does at its ends only:
there the plain sum is 1.2 to 2.4 times the latency of the whole. The error depends on a piece's
kind and form, and only sums of it are observed. So it is a Gaussian process over pieces, observed
in sums: with counts C (networks, pieces) and a kernel Q over pieces, the kernel over networks is
C Q C' (additive Gaussian processes: Duvenaud, Nickisch, Rasmussen 2011; observed in sums: Rasmussen
and Williams 2006, section 9.4).

Q is a sum of terms: errors in proportion to the time alone, to the call, to the map read and to the
map written; each shared by all pieces, by those of a kind, and by those of a kind with similar
form. The variances are learned by marginal likelihood (section 5.4.1), so nothing is specific to a
runtime.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.training.latency_pieces import Parts, Piece

Floats = NDArray[np.float64]

LENGTH = 2.0  # length scale of the form, in standard deviations
ODD = 0.3  # relative error from which a network counts as disturbed, and is left out of the fit
MOST = 200  # networks that the variances are learned from, evenly spread; the rest uses all
# Prior means of the log variances: 14 % of a piece's time, 2 % noise of a whole; their deviation.
USUAL, NOISE, WIDE = -4.0, 2 * math.log(0.02), 3.0


@dataclass(frozen=True)
class _Traits:
    """Features of pieces: the four quantities, in ms, that errors are proportional to (4, pieces);
    the standardised logarithms of their form (pieces, numbers); their kinds (pieces,)."""

    scales: Floats
    form: Floats
    kinds: NDArray[np.str_]

    def alike(self, other: _Traits) -> list[Floats]:
        """The correlations of all pieces, of those of a kind, and of those of a kind with similar
        form: three matrices."""
        same = (self.kinds[:, None] == other.kinds[None]).astype(float)
        squares = (self.form**2).sum(1)[:, None] + (other.form**2).sum(1)[None]
        apart = np.maximum(squares - 2 * self.form @ other.form.T, 0) / self.form.shape[1]
        return [np.ones_like(same), same, same * np.exp(-0.5 * apart / LENGTH**2)]

    def kernel(self, other: _Traits, variances: Floats) -> Floats:
        """Q, with ``variances`` (4 quantities, 3 correlations)."""
        alike = self.alike(other)
        found = np.zeros_like(alike[0])
        for a, b, some in zip(self.scales, other.scales, variances, strict=True):
            within = sum(v * each for v, each in zip(some, alike, strict=True))
            found += np.outer(a, b) * within
        return found


@dataclass(frozen=True)
class _Units:
    """The scales of features: milliseconds per call, per number read and per number written; mean
    and standard deviation of forms."""

    call: float
    read: float
    written: float
    mean: Floats
    deviation: Floats

    def traits(self, pieces: Sequence[Piece], alone: Floats) -> _Traits:
        read, written = _maps(pieces)
        scales = [alone, np.full(len(pieces), self.call), read * self.read, written * self.written]
        form = (_forms(pieces) - self.mean) / self.deviation
        return _Traits(np.array(scales), form, np.array([piece.kind for piece in pieces]))


def _maps(pieces: Sequence[Piece]) -> tuple[Floats, Floats]:
    read = [float(math.prod(piece.x)) for piece in pieces]
    return np.array(read), np.array([float(math.prod(piece.total[0])) for piece in pieces])


def _forms(pieces: Sequence[Piece]) -> Floats:
    return np.array([piece.numbers for piece in pieces])


@dataclass(frozen=True)
class Correction:
    """``errors`` are the leave-one-out errors of the networks it was fitted to, predicted /
    measured - 1. ``counted`` are the milliseconds per network, per join, and per number that joins
    move."""

    counted: Floats
    errors: Floats
    units: _Units
    known: _Traits
    variances: Floats
    shares: Floats  # the posterior's weight of each known piece

    @classmethod
    def fit(
        cls, networks: Sequence[Parts], pieces: Sequence[Piece], alone: Floats, ms: Floats
    ) -> Correction:
        """Fits to ``networks`` with their latencies ``ms``; ``pieces`` are their distinct pieces,
        with the latencies when timed ``alone``, all in milliseconds."""
        place = {piece: k for k, piece in enumerate(pieces)}
        counts = np.zeros((len(networks), len(pieces)))
        for row, network in zip(counts, networks, strict=True):
            for piece in network.pieces:
                row[place[piece]] += 1
        besides = np.array([_besides(network) for network in networks])
        units = _units(pieces, alone, counts)
        known, plain = units.traits(pieces, alone), counts @ alone
        # The prior: each is a tenth of a whole at most.
        tenth = 0.1 * plain.mean() / np.maximum(besides.max(0), 1)
        fair = np.ones(len(ms), dtype=bool)
        for _ in range(2):  # the second time without disturbed networks: one distorts all others
            some = np.flatnonzero(fair)
            some = some[np.linspace(0, len(some) - 1, min(len(some), MOST)).astype(int)]
            variances, of_besides, noise = _variances(
                known, counts[some], besides[some] * tenth, ms[some], plain[some]
            )
            inner = known.kernel(known, variances)
            gram = counts @ inner @ counts.T + (besides * tenth**2 * of_besides) @ besides.T
            gram /= np.outer(ms, ms)
            # Infinite noise, almost: a disturbed network then counts for nothing.
            gram += np.diag(np.where(fair, noise, 1e6))
            inverse = np.linalg.inv(gram)
            alpha = inverse @ (1 - plain / ms)
            errors = -alpha / np.diag(inverse)
            fair = np.abs(errors) <= max(ODD, 6 * float(np.median(np.abs(errors))))
        counted = tenth**2 * of_besides * (besides.T @ (alpha / ms))
        return cls(counted, errors, units, known, variances, counts.T @ (alpha / ms))

    def within(self, pieces: Sequence[Piece], alone: Floats) -> Floats:
        """Milliseconds of pieces inside a network, from those when timed ``alone``. Only their sum
        over a network is meaningful: a single one may be negative."""
        kernel = self.units.traits(pieces, alone).kernel(self.known, self.variances)
        found: Floats = alone + kernel @ self.shares
        return found

    def besides(self, network: Parts) -> float:
        """Milliseconds of a network in addition to its pieces."""
        return float(self.counted @ _besides(network))


def _besides(network: Parts) -> Floats:
    return np.array([1.0, network.joins, network.moved])


def _units(pieces: Sequence[Piece], alone: Floats, counts: Floats) -> _Units:
    """Scaled so that calls alone, or maps read or written alone, would explain the total time."""
    often = counts.sum(0)
    read, written = _maps(pieces)
    whole, forms = float(often @ alone), _forms(pieces)
    deviation = forms.std(0)
    return _Units(
        call=whole / float(often.sum()),
        read=whole / float(often @ read),
        written=whole / float(often @ written),
        mean=forms.mean(0),
        deviation=np.where(deviation > 0, deviation, 1.0),
    )


def _variances(
    known: _Traits, counts: Floats, besides: Floats, ms: Floats, plain: Floats
) -> tuple[Floats, Floats, float]:
    """The variances of the kernel (4, 3), of the counted terms (3), and of the relative noise."""
    from scipy.optimize import minimize  # 0.2 s, which a command that predicts nothing saves

    used = counts.any(0)
    known = _Traits(known.scales[:, used], known.form[used], known.kinds[used])
    alike, grams = known.alike(known), []
    for scale in known.scales:
        weighed = counts[:, used] * scale / ms[:, None]
        grams += [weighed @ each @ weighed.T for each in alike]
    grams += [np.outer(column, column) for column in (besides / ms[:, None]).T]
    stack, y, eye = np.array([*grams, np.eye(len(ms))]), 1 - plain / ms, np.eye(len(ms))
    usual = np.array([*np.full(len(grams), USUAL), NOISE])

    def unlikely(logs: Floats) -> tuple[float, Floats]:
        """The negative log posterior of the log variances, and its gradient."""
        variances = np.exp(logs)
        factor = np.linalg.cholesky(np.tensordot(variances, stack, 1) + 1e-6 * eye)
        inverse = np.linalg.inv(factor)
        inverse = inverse.T @ inverse
        alpha = inverse @ y
        value = 0.5 * float(y @ alpha) + float(np.log(np.diag(factor)).sum())
        slope = np.tensordot(stack, inverse - np.outer(alpha, alpha), 2) * variances / 2
        off = (logs - usual) / WIDE
        return value + 0.5 * float(off @ off), slope + off / WIDE

    bounds = [(-14.0, 4.0)] * len(grams) + [(2 * math.log(0.005), 0.0)]
    found = np.exp(minimize(unlikely, usual, jac=True, method="L-BFGS-B", bounds=bounds).x)
    split = len(grams) - besides.shape[1]
    return found[:split].reshape(-1, len(alike)), found[split:-1], float(found[-1]) + 1e-6
