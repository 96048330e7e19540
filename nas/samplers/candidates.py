"""The candidates of one ask: the rows that may be proposed, and a local search for the best."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.samplers.encoding import keys
from nas.samplers.evidence import Evidence
from nas.samplers.model import Model
from nas.samplers.problem import Problem

Floats = NDArray[np.float64]

# Up to this many rows an encoding is enumerated instead of sampled.
WHOLE = 2048
# Local search: the number of parents and of rounds.
BEST, ROUNDS = 20, 3
# Where time counts, an improvement is divided by this power of its cost in seconds: with 1 a
# search stays at small networks and misses what only large ones reach.
PAID = 0.5


@dataclass(frozen=True)
class Candidates:
    """What may be proposed next in a ``problem``, given the ``evidence`` so far. ``seed`` completes
    rows where the problem does so at random.

    Rows are (m, parameters), their known objectives (m, objectives), minimised, NaN where unknown.
    """

    problem: Problem
    evidence: Evidence
    seed: int

    def drawn(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Rows that may be proposed, all or a sample, and their known objectives."""
        encoding = self.evidence.encoding
        whole = encoding.size <= WHOLE
        rows = encoding.every() if whole else encoding.draw(rng, self.problem.proposals // 3)
        return self.admitted(rows, rng)

    def best(
        self, model: Model, rows: Floats, costs: Floats, rng: np.random.Generator, most: int
    ) -> tuple[Floats, Floats, Floats]:
        """The up to ``most`` best rows, the best first, after a local search from the best of
        ``rows``; their known objectives; and the reference point they were scored with."""
        reference = model.reference(rows, costs)

        def score(rows: Floats, costs: Floats) -> Floats:
            return model.score(rows, costs, reference) / self.price(rows)

        scores = score(rows, costs)
        parents = np.vstack([model.best(BEST), rows[np.argsort(-scores)[:BEST]]])
        for _ in range(ROUNDS):
            times = self.problem.proposals * 2 // (3 * ROUNDS * len(parents)) + 1
            copies = np.repeat(parents, times, axis=0)
            more, known = self.admitted(self.evidence.encoding.mutate(rng, copies), rng)
            rows, costs = np.vstack([rows, more]), np.vstack([costs, known])
            scores = np.concatenate([scores, score(more, known)])
            parents = rows[np.argsort(-scores)[:BEST]]
        best = _distinct(rows, scores)[:most]
        return rows[best], costs[best], reference

    def price(self, rows: Floats) -> Floats:
        """What each row's improvement is divided by, (m,). With one objective 1: the best network
        is often expensive, and would be found later."""
        seconds, chance = self.problem.seconds, random.Random(self.seed)
        if seconds is None or len(self.evidence.signs) == 1:
            return np.ones(len(rows))
        whole = (self.problem.whole(self.evidence.encoding.params(row), chance) for row in rows)
        return np.array([seconds(params) for params in whole]).reshape(len(rows)) ** PAID

    def pending(self, chance: random.Random) -> tuple[Floats, Floats]:
        """The rows being evaluated, and their known objectives, minimised (or NaN)."""
        known = [self.costs(row, chance) for row in self.evidence.pending]
        possible = [k for k, costs in enumerate(known) if costs is not None]
        costs = np.array([known[k] for k in possible]).reshape(-1, len(self.evidence.signs))
        return self.evidence.pending[possible], costs

    def costs(self, row: Floats, chance: random.Random) -> Floats | None:
        """A row's known objectives, minimised, NaN for the others; None if it is rejected."""
        params = self.problem.whole(self.evidence.encoding.params(row), chance)
        return self.problem.costs(params, self.evidence.signs)

    def admitted(self, rows: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """The distinct rows, completed by the problem, that it does not reject and that were not
        tried before; and their known objectives, minimised (or NaN)."""
        encoding, problem, signs = self.evidence.encoding, self.problem, self.evidence.signs
        taken = self.evidence.taken
        chance = random.Random(int(rng.integers(1 << 62)))
        declared = problem.distributions is not None  # else nothing is known of a set
        whole = [problem.whole(encoding.params(row), chance) for row in rows] if declared else []
        if problem.complete:
            rows = np.array([encoding.row(params) for params in whole]).reshape(rows.shape)
        fresh = {key: k for k, key in enumerate(keys(rows)) if key not in taken}.values()
        if not declared:
            return rows[list(fresh)], np.full((len(fresh), len(signs)), np.nan)
        known = {k: problem.costs(whole[k], signs) for k in fresh}
        possible = {k: costs for k, costs in known.items() if costs is not None}
        costs = np.array(list(possible.values())).reshape(len(possible), len(signs))
        return rows[list(possible)], costs


def _distinct(rows: Floats, scores: Floats) -> list[int]:
    """The indices of the distinct rows, the best first."""
    order = np.argsort(-scores, kind="stable")  # of equal scores the first drawn
    places: dict[bytes, int] = {}
    for k, key in zip(order.tolist(), keys(rows[order]), strict=True):
        places.setdefault(key, k)
    return [*places.values()]
