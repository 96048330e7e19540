"""Baselines of a study: networks of the zoo, trained by the candidates' recipe, and classical
methods.

A baseline is a trial that the sampler neither proposed nor learns from and the budget does not
count; the front is compared with it. A network waits in the record like a candidate whose worker
was lost, and the search trains it like one, with the same retries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from nas.driver.jobs import ask_of
from nas.driver.plan import Plan
from nas.errors import NasError, nearest
from nas.interrupts import heard_during
from nas.job import Job
from nas.language.architecture import Architecture
from nas.spaces.space import load_space, shipped
from nas.store import BASELINE, Ask, Store, StudyRow
from nas.training.classical import METHODS, fit


def architectures(plan: Plan, names: Sequence[str]) -> dict[str, Architecture]:
    """The named networks of the zoo on the plan's data. Raises NasError for an unknown network, and
    for one that does not fit the data."""
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
        for other in found:
            if other != name and found[other].fingerprint == found[name].fingerprint:
                raise NasError(
                    f"--baseline: {other} and {name} are the same network here: name one"
                )
    return found


def enter(
    plan: Plan, names: Sequence[str], store: Store, tell: Callable[[str], None] = lambda _: None
) -> None:
    """Adds baselines that are new to the study to the record: networks for the search to train,
    classical methods with their result. ``tell`` is called with the name of each before it is
    fitted, which takes seconds on 1,000 images and minutes on 30,000."""
    study = store.open_study(plan.row())
    known = {row.baseline: row for row in store.trials(study.id) if row.baseline}
    wanted = {n: a for n, a in architectures(plan, names).items() if n not in known}
    for name, found in wanted.items():
        for row in known.values():
            if row.fingerprint == found.fingerprint:
                raise NasError(
                    f"--baseline: {name} is the network of trial {row.number}, {row.baseline}"
                )
    job = replace(plan.job, recipe=plan.recipe)
    store.enqueue(study, [ask_of(job, found, {BASELINE: name}) for name, found in wanted.items()])
    for name in (name for name in names if name in METHODS and name not in known):
        tell(name)
        _classical(name, plan.job, study, store)


def _classical(name: str, job: Job, study: StudyRow, store: Store) -> None:
    """Fits a method in the driver; its size is known only then."""
    fitted = heard_during(lambda: fit(name, job.data))
    found = Ask(
        sampled={BASELINE: name},
        pattern=name,
        fingerprint=name,
        params=fitted.params,
        macs=fitted.macs,
        job_key=job.key,
    )
    store.enter(study, found, fitted.result)  # no-op if another driver was faster
