"""From a proposal to a job and back: keys and seeds, the next training of a trial with its files,
and which results are accepted."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Container, Mapping
from typing import Any

from nas.driver import rungs
from nas.driver.plan import Plan
from nas.errors import brief
from nas.job import Failure, Job, Latency, Outcome, Recipe
from nas.job.outcome import OWN_BATCH, OWN_RUNTIME
from nas.language.architecture import Architecture
from nas.metrics import METRICS, by_arithmetic, located, metric, of_pattern, on_device, precise
from nas.store import Ask, TrialRow


def ask_of(
    job: Job,
    architecture: Architecture,
    sampled: Mapping[str, Any],
    distributions: Mapping[str, str] | None = None,
) -> Ask:
    """A trial of an architecture by ``job``, with its own seed: the same for every driver."""
    return Ask(
        sampled=sampled,
        distributions=distributions or {},
        pattern=str(architecture),
        fingerprint=architecture.fingerprint,
        params=architecture.params,
        macs=architecture.macs,
        recipe=job.recipe.plain(),
        job_key=job.key,
        epochs=job.epochs,
        seed=first_seed(job, architecture.fingerprint),
    )


def first_seed(job: Job, fingerprint: str) -> int:
    """The seed of an architecture's first training in a search."""
    return seed_of(f"{job.seed} {fingerprint}")


def with_next_seed(job: Job, ask: Ask, trained: Container[str]) -> Ask:
    """A repeated training: ``ask`` with the next seed whose ``evaluation_key`` is not in
    ``trained``."""
    for number in itertools.count(2):
        seed = seed_of(f"{job.seed} {ask.fingerprint} training {number}")
        again = dataclasses.replace(ask, seed=seed)
        if evaluation_key(again) not in trained:
            return again
    raise AssertionError


def evaluation_key(ask: Ask) -> str:
    """Identifies an evaluation, which a study never repeats: a network, a job, a seed."""
    return f"{ask.fingerprint} {ask.job_key} {ask.seed}"


def seed_of(key: str) -> int:
    """A 31-bit seed, the hash of ``key``."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) >> 1


def next_job(plan: Plan, row: TrialRow) -> Job:
    """A trial's next training: up to its next rung, or the end."""
    shared = plan.job
    epochs = next_epochs(plan, row)
    # At a rung only objectives and constraints are needed; other latencies can wait.
    asked = bool(on_device(plan.measured))
    return dataclasses.replace(
        shared,
        pattern=row.pattern,
        recipe=Recipe.of(row.recipe),
        seed=row.seed,
        epochs=epochs,
        latency=shared.latency and (asked or epochs == shared.epochs),
        # A baseline is trained whatever its latency; past a rung the ladder decides.
        most_ms={} if row.baseline or row.rungs else most_ms(plan),
        checkpoint=checkpoint_file(plan, row),
        model=model_file(plan, row) if epochs == shared.epochs else "",
    )


def most_ms(plan: Plan) -> dict[str, float]:
    """The upper bounds in milliseconds of latencies that the search measures itself, by device; ""
    is any device."""
    found: dict[str, float] = {}
    for name, bound in plan.space.constraints.items():
        bounded = metric(name)
        place, *how = bounded.predicts or ("", OWN_RUNTIME, OWN_BATCH)
        if (bounded.device or bounded.predicts) and how == [OWN_RUNTIME, OWN_BATCH] and bound.upper:
            found[place] = bound.limit
    return found


def predicted_metrics(
    plan: Plan, pattern: str, measured: Latency | None = None
) -> dict[str, float]:
    """A network's latencies on the devices that the plan names, predicted by their profiles, or as
    its training ``measured`` them in the same place: a bound met by one percent in a prediction may
    be broken in a measurement."""
    return {
        name: measured.ms
        if measured and metric(name).predicts == measured.place
        else of_pattern(name, pattern)
        for name in plan.asked
        if located(name)
    }


def next_epochs(plan: Plan, row: Ask) -> int:
    """The epochs of a trial at its next rung, or the end."""
    if row.baseline or not plan.rungs:
        return plan.job.epochs
    return rungs.after(plan.rungs, reached[-1] if (reached := _reached(row)) else 0)


def epochs_ahead(plan: Plan, row: Ask) -> int:
    """The epochs to train until ``next_epochs``, from the checkpoint if there is one."""
    reached, epochs = _reached(row), next_epochs(plan, row)
    if not (reached and checkpoint_file(plan, row)):
        return epochs
    before, after = rungs.costs([*reached, epochs], int(row.recipe.get("freeze", 0)))[-2:]
    return after - before


def _reached(row: Ask) -> list[int]:
    return [rung for rung, _ in row.rungs] if isinstance(row, TrialRow) else []


def model_file(plan: Plan, row: TrialRow) -> str:
    """The file for a trial's weights."""
    if plan.keep == "none" or not plan.folder or plan.job.evaluator:
        return ""
    return _file(plan, f"trial-{row.number}.safetensors")


def checkpoint_file(plan: Plan, row: Ask) -> str:
    """The file for a trial's checkpoint, named by all that its training depends on; empty where it
    has none, as with an evaluator."""
    if not plan.folder or plan.job.evaluator:
        return ""
    return _file(plan, f"{row.fingerprint}-{row.job_key}-{row.seed}.checkpoint")


def _file(plan: Plan, name: str) -> str:
    return f"{plan.folder}/{name}"


def fault(plan: Plan, row: TrialRow, outcome: Outcome, source: TrialRow | None) -> str:
    """Why a result is rejected, as a fault of the evaluator: it lacks a metric that an objective or
    constraint needs, or contradicts arithmetic. Empty for an acceptable result."""
    if isinstance(outcome, Failure) or outcome.refused:
        return ""
    who = plan.job.evaluator or "the training"
    given = {*outcome.metrics, *(on_device(METRICS) if outcome.latency else ())}
    given |= {*source.metrics} if source else set()
    if missing := [name for name in plan.measured if name not in given]:
        gave = brief(", ".join(sorted(outcome.metrics))) or "nothing"
        return f"{who} gave no {', '.join(missing)}: it gave {gave}"
    # Not for a latency that a profile predicts: a measured one is better.
    for name in (n for n in by_arithmetic() if n in outcome.metrics and not metric(n).predicts):
        own, theirs = of_pattern(name, row.pattern), outcome.metrics[name]
        if not math.isclose(own, theirs, rel_tol=1e-9) and not math.isnan(own):
            return (
                f"{who} gave {name} {precise(theirs)}, and by arithmetic the network has "
                f"{precise(own)}: a metric counted otherwise needs another name"
            )
    return ""
