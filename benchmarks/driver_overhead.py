"""The driver's overhead a trial, ask to result committed, beside a plain Optuna RDB loop.

python benchmarks/driver_overhead.py --counts 100,1000     random draws of resnet_like on SQLite

Training is stubbed. The median of the last 50 trials before each count, in milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import pairwise

import optuna

import nas
from nas.job import Job
from nas.plan import Plan
from nas.search import search
from nas.store import open_store
from workers.pool import open_pool


def stub(architecture: nas.Architecture, **_: object) -> dict[str, float]:
    return {"accuracy": 1 - 1 / architecture.params}


def ours(trials: int, sampler: str, folder: str) -> list[float]:
    store = open_store(f"sqlite:///{folder}/{sampler}.db")
    job = Job(pattern="", evaluator="driver_overhead:stub")
    plan = Plan(
        study="s", space=nas.load_space("resnet_like"), job=job, trials=trials, sampler=sampler
    )
    times: list[float] = []
    search(plan, store, open_pool(0), lambda _: times.append(time.perf_counter()))
    return times


def plain(trials: int, folder: str) -> list[float]:
    space = nas.load_space("resnet_like")
    study = optuna.create_study(
        storage=f"sqlite:///{folder}/plain.db",
        directions=["maximize", "minimize"],
        sampler=optuna.samplers.RandomSampler(0),
    )
    times = [time.perf_counter()]
    for _ in range(trials):
        trial = study.ask()
        architecture = space.suggest(trial)
        study.tell(trial, [stub(architecture)["accuracy"], architecture.params])
        times.append(time.perf_counter())
    return times


def median(times: list[float], count: int) -> float:
    steps = [b - a for a, b in pairwise(times)]
    return 1e3 * statistics.median(steps[max(0, count - 50) : count])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--counts", default="100,1000")
    counts = [int(n) for n in options.parse_args().counts.split(",")]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"| loop | {' | '.join(f'{n:,} trials' for n in counts)} |")
    print(f"|---|{'--:|' * len(counts)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, times in (
            ("nas, random", ours(counts[-1], "random", folder)),
            ("plain Optuna RDB, random", plain(min(counts[-1], 1_000), folder)),
        ):
            cells = [f"{median(times, n):.1f} ms" if n < len(times) + 50 else "" for n in counts]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
