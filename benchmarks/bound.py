"""A search under a bound of latency: measured after a training, before it, and predicted.

    python benchmarks/bound.py DIR

``resnet_like`` on digits, in this process (one device, one thread), accuracy:max and latency_ms:min
under a bound that a quarter of random networks keeps (the first quartile of ``--drawn``, by another
seed than the searches). "measured" bounds ``latency_ms``, which a search measures itself before a
training, "after" the same as long as it was measured after one; "predicted" bounds
``latency_ms@bench``, which the profile made before predicts. All in turn, the order changing with
the seed, each in a record of its own, ``--trials`` trainings each.

What is near the bound is measured once more at the end, all alike: by the lesser of the two
measurements a network breaks the bound, and is on the front. Device-seconds are the processor's, of
trainings and measurements: what others compute meanwhile adds none. The hypervolume is accuracy
above chance times decades of latency below the bound (``--goal params``: of parameters below a
million), at the device-seconds that the shortest search of a seed had. What is in DIR is not made
again, so that the same command goes on. A seed takes 90 s.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.cli import options
from nas.cli.searches import run
from nas.driver.profiles import predicting, profile
from nas.job import Job
from nas.job.pool import Done, Event
from nas.language.architecture import Architecture, parse
from nas.metrics import of_pattern
from nas.pareto import hypervolume
from nas.spaces.space import load_space
from nas.store import open_store
from nas.training import latency
from nas.training.network import build
from nas.workers.in_process import InProcess

SPACE, INPUT, CLASSES, NAME = "resnet_like", (1, 8, 8), 10, "bench"
METRIC = {"after": "latency_ms", "measured": "latency_ms", "predicted": f"latency_ms@{NAME}"}
CHANCE = 1 / CLASSES
PARAMS = 1_000_000  # the most that the space allows
NEAR = 0.2  # of the bound
SHARES = (0.125, 0.25, 0.5, 1.0)  # of the device-seconds that both of a pair had

Told = dict[str, Any]


class Pool(InProcess):
    """Tells the processor's seconds of a trial instead of the clock's; ``after``: each trial is
    trained, whatever its latency."""

    def __init__(self, after: bool) -> None:
        super().__init__()
        self.after = after

    def submit(self, ticket: int, job: Job) -> None:
        super().submit(ticket, dataclasses.replace(job, most_ms={}) if self.after else job)

    def wait(self, timeout: float) -> list[Event]:
        began = time.process_time()
        events = super().wait(timeout)
        spent = time.process_time() - began
        return [
            Done(event.ticket, dataclasses.replace(event.outcome, seconds=spent))
            if isinstance(event, Done)
            else event
            for event in events
        ]


def once(file: Path, make: Callable[[], Told]) -> Told:
    if not file.exists():
        file.write_text(json.dumps(make()))
    found: Told = json.loads(file.read_text())
    return found


def measure(pattern: str) -> float:
    network: Architecture = parse(pattern)
    return latency.measure(build(network, seed=0), network.input, torch.device("cpu")).ms


def bound(drawn: int) -> Told:
    space, rng = load_space(SPACE, INPUT, CLASSES), random.Random(1_000)
    networks = {str(a) for _ in range(3 * drawn) if not space.excess(a := space.draw(rng)[1])}
    ms = [measure(pattern) for pattern in sorted(networks)[:drawn]]
    return {"ms": float(f"{np.quantile(ms, 0.25):.3g}"), "least": min(ms), "most": max(ms)}


def profiled(record: str) -> Told:
    began, store = time.monotonic(), open_store(record)
    _, predict = profile(
        store, load_space(SPACE, INPUT, CLASSES), name=NAME, runtime="eager", threads=1, batch=1,
        networks=80, seed=0, on_progress=lambda *_: None,
    )  # fmt: skip
    store.close()
    return {"seconds": time.monotonic() - began, "trust": predict.trust}


def searched(
    arm: str, record: str, goal: str, most: float, trials: int, epochs: int, seed: int
) -> Told:
    name = METRIC[arm]
    cost = name if goal == "latency_ms" else goal
    plan = options.plan(
        SPACE, options.data_ref(None, ""), study="s", trials=trials, epochs=epochs, seed=seed,
        objectives=["accuracy:max", f"{cost}:min"], constraints=[f"{name}<={most:g}"], keep="none",
    )  # fmt: skip
    since = time.monotonic()
    pool = Pool(after=arm == "after")
    _, rows, status = run(plan, record, lambda _: pool, progress=False, since=since)
    ended = [row for row in rows if row.state in ("finished", "refused")]
    return {
        "wall": time.monotonic() - since,
        "rejected": status.rejected,
        "failed": status.failed,
        "trials": [
            {"pattern": row.pattern, "accuracy": row.accuracy, "own": row.value("latency_ms"),
             "params": row.params, "seconds": row.seconds, "trained": row.state == "finished"}
            for row in sorted(ended, key=lambda row: row.finished or 0.0)
        ],
    }  # fmt: skip


def measured(patterns: Sequence[str]) -> Told:
    return {pattern: measure(pattern) for pattern in dict.fromkeys(patterns)}


def volume(
    trials: Sequence[Told], ms: Mapping[str, float], goal: str, most: float, until: float
) -> float:
    ends = np.cumsum([trial["seconds"] for trial in trials])
    kept = [
        trial
        for trial, end in zip(trials, ends, strict=True)
        if end <= until and trial["trained"] and ms[trial["pattern"]] <= most
    ]
    if not kept:
        return 0.0
    costs = [ms[t["pattern"]] if goal == "latency_ms" else t["params"] for t in kept]
    points = [(t["accuracy"], math.log10(cost)) for t, cost in zip(kept, costs, strict=True)]
    largest = most if goal == "latency_ms" else PARAMS
    return hypervolume(points, (CHANCE, math.log10(largest)), ("max", "min"))


def told(
    trials: Sequence[Told], ms: Mapping[str, float], goal: str, most: float, until: float
) -> Told:
    trained = [trial for trial in trials if trial["trained"]]
    refused = [trial for trial in trials if not trial["trained"]]
    broke = [trial for trial in trained if ms[trial["pattern"]] > most]
    spent = sum(trial["seconds"] for trial in trials)
    return {
        "trained": len(trained),
        "refused": len(refused),
        "of them keep it": sum(ms[trial["pattern"]] <= most for trial in refused),
        "broke the bound": len(broke),
        "by over 3 %": sum(ms[trial["pattern"]] > 1.03 * most for trial in broke),
        "device-seconds": spent,
        "% of them on those": 100 * sum(t["seconds"] for t in [*broke, *refused]) / spent,
        **{
            f"hypervolume at {share:.0%}": volume(trials, ms, goal, most, share * until)
            for share in SHARES
        },
    }


def summary(values: Sequence[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):9.3f} ± {error:.3f}"


def refusals(record: str, patterns: Sequence[str], ms: Mapping[str, float], most: float) -> str:
    """What the prediction would have made of networks that were trained without it."""
    store = open_store(record)
    with predicting(store, [METRIC["predicted"]]):
        guess = {pattern: of_pattern(METRIC["predicted"], pattern) for pattern in patterns}
    store.close()
    kept = [pattern for pattern in guess if ms[pattern] <= most]
    over = [pattern for pattern in guess if ms[pattern] > most]
    errors = [abs(guess[pattern] / ms[pattern] - 1) for pattern in guess]
    return (
        f"of {len(kept)} that keep the bound {sum(guess[p] > most for p in kept)} would have been "
        f"refused, of {len(over)} that break it {sum(guess[p] <= most for p in over)} trained; "
        f"median error {100 * np.median(errors):.1f} %, 95 % within "
        f"{100 * np.quantile(errors, 0.95):.1f} %"
    )


def main(
    folder: Path, goal: str, seeds: Sequence[int], trials: int, epochs: int, drawn: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chosen = once(folder / "bound.json", lambda: bound(drawn))
    most: float = chosen["ms"]
    profiles = folder / "profile.db"
    made = once(folder / "profile.json", lambda: profiled(f"sqlite:///{profiles}"))
    where = latency.fingerprint(torch.device("cpu"), 1)
    print(
        f"{where}\nbound {most} ms; of {drawn} networks {chosen['least']:.3f} to "
        f"{chosen['most']:.3f}\nprofile: {made['seconds']:.0f} s, {made['trust']}",
        flush=True,
    )
    found: dict[str, list[Told]] = {arm: [] for arm in METRIC}
    of_measured: dict[str, float] = {}
    for seed in seeds:
        pair: dict[str, Told] = {}
        for arm in sorted(METRIC, reverse=bool(seed % 2)):
            record = folder / f"{goal}-{seed}-{arm}.db"
            file = record.with_suffix(".json")
            if not file.exists() and arm == "predicted":
                shutil.copy(profiles, record)
            args = (arm, f"sqlite:///{record}", goal, most, trials, epochs, seed)
            pair[arm] = once(file, lambda args=args: searched(*args))  # type: ignore[misc]
        both = [trial for one in pair.values() for trial in one["trials"]]
        file = folder / f"{goal}-{seed}-again.json"
        near = [trial["pattern"] for trial in both if abs(trial["own"] / most - 1) < NEAR]
        ms = once(file, lambda some=near: measured(some))  # type: ignore[misc]
        for trial in both:
            ms[trial["pattern"]] = min(ms.get(trial["pattern"], math.inf), trial["own"])
        of_measured |= {t["pattern"]: ms[t["pattern"]] for t in pair["after"]["trials"]}
        until = min(sum(trial["seconds"] for trial in one["trials"]) for one in pair.values())
        for arm, one in pair.items():
            row = {
                "rejected": one["rejected"],
                "wall": one["wall"],
                **told(one["trials"], ms, goal, most, until),
            }
            found[arm].append(row)
            print(seed, arm, ", ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    for key in found["after"][0]:
        columns = {arm: [row[key] for row in rows] for arm, rows in found.items()}
        print(f"{key:24}", *(f"{arm} {summary(column)}  " for arm, column in columns.items()))
        for arm in ("measured", "predicted"):
            apart = [b - a for a, b in zip(columns["after"], columns[arm], strict=True)]
            print(f"{'':24}   {arm} less after {summary(apart)}")
    print(refusals(f"sqlite:///{profiles}", [*of_measured], of_measured, most))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--goal", choices=["latency_ms", "params"], default="latency_ms")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=24, help="of each search")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--drawn", type=int, default=40)
    asked = parser.parse_args()
    main(asked.folder, asked.goal, asked.seeds, asked.trials, asked.epochs, asked.drawn)
