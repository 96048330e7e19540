"""A trial as it is asked for, the training that it needs next, the file that it goes on from, and
that of its weights; and what counts as an answer."""

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
    """A trial of an architecture by ``job``, with a seed of its own: the same whoever asks."""
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
    """The next training of what was trained: with the first seed of which none is in ``trained``,
    what ``evaluation_key`` says of them."""
    for number in itertools.count(2):
        seed = seed_of(f"{job.seed} {ask.fingerprint} training {number}")
        again = dataclasses.replace(ask, seed=seed)
        if evaluation_key(again) not in trained:
            return again
    raise AssertionError


def evaluation_key(ask: Ask) -> str:
    """What is never evaluated twice in a study: a network by a job with a seed."""
    return f"{ask.fingerprint} {ask.job_key} {ask.seed}"


def seed_of(key: str) -> int:
    """A seed that is another for every text, of 31 bits."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) >> 1


def next_job(plan: Plan, row: TrialRow) -> Job:
    """The training that a trial needs next: up to its next rung, or to the end."""
    shared = plan.job
    epochs = next_epochs(plan, row)
    # A verdict needs what the objectives and constraints are about; anything else can wait.
    asked = bool(on_device(plan.measured))
    return dataclasses.replace(
        shared,
        pattern=row.pattern,
        recipe=Recipe.of(row.recipe),
        seed=row.seed,
        epochs=epochs,
        latency=shared.latency and (asked or epochs == shared.epochs),
        # A baseline stands beside the search whatever it costs; at a rung the ladder judges.
        most_ms={} if row.baseline or row.rungs else most_ms(plan),
        checkpoint=checkpoint_file(plan, row),
        model=model_file(plan, row) if epochs == shared.epochs else "",
    )


def most_ms(plan: Plan) -> dict[str, float]:
    """The upper bounds on latencies that a search itself measures, by device; under an empty name,
    on any device."""
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
    """A network's latencies on the devices that the plan names, by their profiles. Where its
    training ``measured`` one in the same place, that counts, not the prediction: a bound kept by
    one percent in a prediction may be broken in truth."""
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
    """The epochs that must be trained to get there, from the checkpoint on where there is one."""
    reached, epochs = _reached(row), next_epochs(plan, row)
    if not (reached and plan.artifacts):
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


def checkpoint_file(plan: Plan, row: TrialRow) -> str:
    """The file for a trial's checkpoint, named after all that its training depends on."""
    if not plan.folder or plan.job.evaluator:
        return ""
    return _file(plan, f"{row.fingerprint}-{row.job_key}-{row.seed}.checkpoint")


def _file(plan: Plan, name: str) -> str:
    return f"{plan.folder}/{name}"


def fault(plan: Plan, row: TrialRow, outcome: Outcome, source: TrialRow | None) -> str:
    """Why a result cannot be taken, which makes it a failure of the evaluator: it lacks a metric
    that an objective or a constraint needs, or differs from arithmetic in one that arithmetic
    knows. Empty for a result that will do."""
    if isinstance(outcome, Failure) or outcome.refused:
        return ""
    who = plan.job.evaluator or "the training"
    given = {*outcome.metrics, *(on_device(METRICS) if outcome.latency else ())}
    given |= {*source.metrics} if source else set()
    if missing := [name for name in plan.measured if name not in given]:
        gave = brief(", ".join(sorted(outcome.metrics))) or "nothing"
        return f"{who} gave no {', '.join(missing)}: it gave {gave}"
    # A latency that a profile predicts is no knowledge: there a measured one is the better.
    for name in (n for n in by_arithmetic() if n in outcome.metrics and not metric(n).predicts):
        own, theirs = of_pattern(name, row.pattern), outcome.metrics[name]
        if not math.isclose(own, theirs, rel_tol=1e-9) and not math.isnan(own):
            return (
                f"{who} gave {name} {precise(theirs)}, and by arithmetic the network has "
                f"{precise(own)}: a metric counted otherwise needs another name"
            )
    return ""
