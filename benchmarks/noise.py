"""How far a search's estimates are from what other trainings of its networks give.

    python benchmarks/noise.py RECORD STUDY [--data DIR] [--seeds 4] [--output noise.jsonl]

RECORD is the file of a SQLite record. Trains every network of the study --seeds times more, with
other seeds (what --output holds is not trained again), and prints, against the mean of these: the
mean difference of the search's own measurement, and that of the estimates and the share inside
their 80 % intervals, with the noise known beforehand and without; and the variance over seeds over
that of nas.driver.noise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from unittest import mock

import numpy as np
import optuna
import torch

from nas.driver import beliefs, noise
from nas.driver.finalists import train_again
from nas.job import DataRef
from nas.samplers.problem import unknown
from nas.store import open_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("study")
    parser.add_argument("--data", metavar="DIR", help="an image folder; digits, if not given")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("noise.jsonl"))
    told = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    store = open_store(f"sqlite:///{told.record}", write=False)
    study = store.find_study(told.study)
    rows = [row for row in store.trials(study.id) if row.evaluated and not row.baseline]
    ref = DataRef(name="imagefolder", dir=told.data) if told.data else DataRef()
    scores: dict[int, dict[int, float]] = {row.number: {} for row in rows}
    if told.output.exists():
        for number, seed, score in map(json.loads, told.output.read_text().splitlines()):
            scores[number][seed] = score
    for seed in range(100, 100 + told.seeds):  # other than a report's
        for row in rows:
            if seed in scores[row.number]:
                continue
            score = train_again(study, row, ref, seed).validation
            scores[row.number][seed] = score
            with told.output.open("a") as file:
                print(json.dumps([row.number, seed, score]), file=file)
    means = np.array([np.mean([*scores[row.number].values()]) for row in rows])
    measured = np.array([row.accuracy for row in rows])
    print(f"measured: off by {100 * np.abs(measured - means).mean():.2f} points")
    found = {"noise known": beliefs.believed(study, rows)}
    with mock.patch.object(beliefs, "of_study", return_value=unknown):
        found["unknown"] = beliefs.believed(study, rows)
    for name, believed in found.items():
        some = [believed.by[row.id] for row in rows]
        off = np.mean([abs(b.mean - mean) for b, mean in zip(some, means, strict=True)])
        inside = np.mean([b.low <= mean <= b.high for b, mean in zip(some, means, strict=True)])
        print(f"{name}: off by {100 * off:.2f} points, {inside:.2f} inside")
    variances = [np.var([*s.values()], ddof=1) for s in scores.values()]
    expected = noise.variance(means, noise.images(measured))
    print(f"variance over seeds / expected: {np.mean(variances / expected):.2f}")


if __name__ == "__main__":
    main()
