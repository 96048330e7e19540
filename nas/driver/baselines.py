"""Reference points in a study: networks of the zoo, trained beside the candidates by their recipe,
and classical methods, for which no network is trained at all.

A baseline is a trial that nobody sampled: the sampler is not told of it and the budget does not
count it, but the front is measured against it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from nas.driver.plan import Plan
from nas.errors import NasError, nearest
from nas.job import Failure, Job
from nas.job.pool import Done, Pool
from nas.language.architecture import Architecture
from nas.spaces.space import load_space, shipped
from nas.store import BASELINE, Ask, Claim, Store
from nas.training.classical import METHODS, fit


def architectures(plan: Plan, names: Sequence[str]) -> dict[str, Architecture]:
    """The zoo's networks on the plan's data. Raises NasError for one that is unknown or does not
    fit the data."""
    found: dict[str, Architecture] = {}
    for name in names:
        if name in METHODS:
            continue
        if name not in shipped():
            known = [*shipped(), *METHODS]
            raise NasError(f"--baseline: unknown network {name}; {nearest(name, known)}")
        space = load_space(name, plan.space.input, plan.space.classes)
        if not space.closed:
            raise NasError(f"--baseline: {name} is a search space: a baseline is one network")
        found[name] = space.sample(0)
    return found


def evaluate(plan: Plan, names: Sequence[str], store: Store, pool: Pool) -> None:
    """Trains those that the study does not have yet, and records them."""
    study = store.open_study(plan.row())
    known = {row.baseline for row in store.trials(study.id)}
    wanted = {n: a for n, a in architectures(plan, names).items() if n not in known}
    asks = [ask(plan.job, name, architecture) for name, architecture in wanted.items()]
    running = dict(enumerate(store.begin(study.id, asks)))
    try:
        for name in (name for name in names if name in METHODS and name not in known):
            _classical(name, plan.job, study.id, store)
        for ticket, claim in running.items():
            told = dataclasses.replace(plan.job, pattern=claim.trial.pattern, seed=claim.trial.seed)
            pool.submit(-1 - ticket, told)
        _collect(store, pool, running)
    finally:
        stopped = Failure(kind="worker_died", reason="the driver was stopped")
        for claim in running.values():
            store.release(claim.token, stopped)


def _collect(store: Store, pool: Pool, running: dict[int, Claim]) -> None:
    while running:
        for event in pool.wait(store.lease / 4):
            if isinstance(event, Done):
                claim = running.pop(-1 - event.ticket)
                store.finish(claim.token, event.outcome)
        store.beat()


def _classical(name: str, job: Job, study_id: int, store: Store) -> None:
    """Fits a method here, in the driver: seconds on one core. Its size is known only afterwards."""
    fitted = fit(name, job.data)
    found = Ask(
        sampled={BASELINE: name},
        pattern=name,
        fingerprint=name,
        params=fitted.params,
        macs=fitted.macs,
        job_key=job.key,
    )
    (claim,) = store.begin(study_id, [found])
    store.finish(claim.token, fitted.result)


def ask(job: Job, name: str, architecture: Architecture) -> Ask:
    seed = hashlib.sha256(f"{job.seed} {architecture.fingerprint}".encode()).digest()
    return Ask(
        sampled={BASELINE: name},
        pattern=str(architecture),
        fingerprint=architecture.fingerprint,
        params=architecture.params,
        macs=architecture.macs,
        recipe=job.recipe.plain(),
        job_key=job.key,
        epochs=job.epochs,
        seed=int.from_bytes(seed[:4]) >> 1,
    )
