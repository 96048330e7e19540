"""What the driver costs a trial, from the ask to the committed result; trainings are stubs.

    python benchmarks/driver_overhead.py [--counts 100,1000,5000] [--last 50] [--pools local,ray]

It must not grow with the number of trials, except for the sampler's model, whose time is reported
separately. For comparison, in the same run and on the same trials: a plain Optuna loop on its SQL
storage. The record is filled up to the last trials by direct inserts. Takes 15 minutes on one core;
prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.samplers import BaseSampler
from sqlalchemy import update

import nas.driver.asking
from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.driver.proposals import distributions
from nas.driver.tally import Status
from nas.job import Job
from nas.job.pool import Pool
from nas.language.architecture import Architecture
from nas.samplers import SAMPLERS
from nas.spaces.space import Space, load_space
from nas.store import Ask, Store, open_store
from nas.store.mirror import Mirror, optuna_storage
from nas.store.steps import add_trials
from nas.store.tables import now, studies
from nas.workers import open_pool

STUDY = "overhead"
WARM = 20  # trials before those that count: at first the dashboard's copy compares itself
POOLS = {"local": 0, "ray": 1}


def stub(architecture: Architecture, **_: Any) -> dict[str, float]:
    return {"accuracy": accuracy(architecture.fingerprint, architecture.params)}


def accuracy(fingerprint: str, params: int) -> float:
    """Grows with the size, but for luck: a front has about as many members as a real one."""
    return 1 - 1 / (2 + params / 1e4) - 0.3 * random.Random(fingerprint).random()


def plan(space: Space, count: int, sampler: str) -> Plan:
    job = Job(pattern="", evaluator="driver_overhead:stub", latency=False)
    return Plan(study=STUDY, space=space, job=job, trials=count, sampler=sampler)


def fill(store: Store, searched: Plan, count: int) -> None:
    """So many finished trials of different architectures, drawn at random."""
    space, rng = searched.space, random.Random(STUDY)
    texts = {name: distribution_to_json(d) for name, d in distributions(space)}
    asks: dict[str, Ask] = {}
    while len(asks) < count:
        params, architecture = space.draw(rng)
        if not space.excess(architecture):
            asks[architecture.fingerprint] = Ask(
                sampled=params,
                distributions={name: texts[name] for name in params},
                pattern=str(architecture),
                fingerprint=architecture.fingerprint,
                params=architecture.params,
                macs=architecture.macs,
                recipe=dataclasses.asdict(searched.job.recipe),
                job_key=searched.job.key,
                epochs=searched.job.epochs,
            )
    study = store.open_study(searched.row())
    with store.engine.begin() as connection:
        for number, ask in enumerate(asks.values()):
            metrics = {"accuracy": accuracy(ask.fingerprint, ask.params)}
            told = {"metrics": metrics, **metrics, "seconds": 0.0, "finished": now()}
            name = f"filled {number}"
            add_trials(connection, study.id, [ask], [name], state="finished", budget=None, **told)
    Mirror(store, study).catch_up()


def timed(sampler: BaseSampler, spent: list[float]) -> BaseSampler:
    """The sampler, which adds what its model takes to ``spent[0]``. Ours is also asked for several
    at once and, late in a budget, for advice."""
    asked = ("infer_relative_search_space", "sample_relative", "after_trial", "propose", "advise")
    for name in asked:
        if hasattr(sampler, name):
            setattr(sampler, name, counted(getattr(sampler, name), spent))
    return sampler


def counted(method: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*told: Any) -> Any:
        begun = time.thread_time()
        try:
            return method(*told)
        finally:
            spent[0] += time.thread_time() - begun

    return call


@dataclasses.dataclass(frozen=True)
class Moment:
    """Seconds on the wall, of the processor, and of the processor in the model, so far.

    The driver's processor time holds that of the dashboard's copy, a thread; others on the machine
    do not blur it as they do the wall's.
    """

    wall: float
    processor: float
    model: float

    @classmethod
    def now(cls, spent: list[float]) -> Moment:
        return cls(time.perf_counter(), time.process_time(), spent[0])


def row(begun: Moment, ends: list[Moment]) -> str:
    """The last trials in milliseconds, and the start in seconds, as cells of the table."""
    pairs = list(itertools.pairwise(ends))[WARM:]
    wall = [after.wall - before.wall for before, after in pairs]
    processor = [after.processor - before.processor for before, after in pairs]
    model = [after.model - before.model for before, after in pairs]
    rest = [whole - part for whole, part in zip(processor, model, strict=True)]
    medians = [statistics.median(values) for values in (wall, processor, model, rest)]
    medians.insert(1, statistics.quantiles(wall, n=10)[-1])
    cells = [f"{1e3 * value:.1f}" for value in medians]
    return " | ".join([*cells, f"{ends[0].processor - begun.processor:.2f}"])


def driver(url: str, searched: Plan, pool: Pool) -> str:
    """The last trials of a search on a record that has the others."""
    store, spent = open_store(url), [0.0]
    begun, ends = Moment.now(spent), list[Moment]()
    made = nas.driver.asking.sampler

    def watch(status: Status) -> None:
        if not status.running:
            ends.append(Moment.now(spent))

    nas.driver.asking.sampler = lambda *told, **more: timed(made(*told, **more), spent)
    try:
        search(searched, store, pool, watch)
    finally:
        nas.driver.asking.sampler = made
        store.close()
    return row(begun, ends[:-1])  # the last is repeated


def plain(url: str, sampler: BaseSampler, space: Space, last: int) -> str:
    """Optuna's own loop on its own tables."""
    store, spent = open_store(url), [0.0]
    begun = Moment.now(spent)
    study = optuna.load_study(
        study_name=STUDY, storage=optuna_storage(store), sampler=timed(sampler, spent)
    )
    ends = [Moment.now(spent)]
    for _ in range(WARM + last):
        trial = study.ask()
        architecture = space.suggest(trial)
        study.tell(trial, [stub(architecture)["accuracy"], float(architecture.params)])
        ends.append(Moment.now(spent))
    store.close()
    return row(begun, ends)


def measurements(
    pools: list[str], samplers: list[str], last: int
) -> Iterator[tuple[str, str, Callable[[str, Plan], str]]]:
    for pool in pools:
        for sampler in samplers:
            yield f"nas, {pool}", sampler, functools.partial(on_pool, pool)
    for sampler in ("random", "tpe"):
        yield (
            "Optuna on SQL",
            sampler,
            lambda url, told: plain(url, SAMPLERS[told.sampler](0), told.space, last),
        )


def on_pool(pool: str, url: str, searched: Plan) -> str:
    opened = open_pool(POOLS[pool])
    try:
        return driver(url, searched, opened)
    finally:
        opened.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="resnet_like")
    parser.add_argument("--counts", default="100,1000,5000")
    parser.add_argument("--last", type=int, default=50)
    parser.add_argument("--pools", default="local,ray")
    parser.add_argument("--samplers", default="random,tpe,default")
    told = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Ray's workers import the stub from this file.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    versions = ", ".join(f"{name} {version(name)}" for name in ("optuna", "ray", "sqlalchemy"))
    print(f"Python {platform.python_version()}, {versions}; {os.cpu_count()} cores, SQLite.\n")
    print(f"Milliseconds a trial, medians of the last {told.last} at each count: on the wall, of")
    print("the processor, of that in the model and in the rest; the start in processor seconds.\n")
    print("| loop | sampler | trials | wall | wall, 90 % | processor | model | the rest | start |")
    print("|---|---|---|---|---|---|---|---|---|")
    space = load_space(told.space)
    for count in map(int, told.counts.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/"
            store = open_store(url + "filled.db")
            fill(store, plan(space, count, "random"), count - told.last - WARM)
            store.close()
            runs = measurements(told.pools.split(","), told.samplers.split(","), told.last)
            for place, (loop, sampler, measure) in enumerate(runs):
                shutil.copy(Path(folder, "filled.db"), Path(folder, f"{place}.db"))
                copy = open_store(f"{url}{place}.db")
                with copy.engine.begin() as connection:
                    connection.execute(update(studies).values(sampler=sampler))
                copy.close()
                measured = measure(f"{url}{place}.db", plan(space, count, sampler))
                print(f"| {loop} | {sampler} | {count:,} | {measured} |", flush=True)


if __name__ == "__main__":
    main()
