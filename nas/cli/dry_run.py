"""``nas search --dry-run``: what the search would do, and how long it would take."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nas.cli.searches import predicted, tell_older, tell_predicted
from nas.data.datasets import streamed, trained
from nas.driver import widening
from nas.driver.baselines import architectures
from nas.driver.plan import Plan
from nas.driver.profiles import in_full
from nas.errors import NoRecord, StudyError
from nas.job import Recipe
from nas.language.architecture import Architecture
from nas.report import screens
from nas.report import spaces as pages
from nas.report.images import tell as tell_images
from nas.store import ENDED, TrialRow, open_store
from nas.training import footprint

if TYPE_CHECKING:
    from nas.driver.time_budget import TimeBudget

START, BETWEEN = 5.0, 0.5  # seconds before the first training step, and between two trainings
TELLING, FREE = 0.5, 0.85  # seconds of a timing that tell, and the share of an idle core it has
QUIET, TIMING = 1.5, "nas: timing a few training steps"  # seconds after which this is printed


def rehearse(
    plan: Plan, storage: str, workers: int | None, memory: float, baselines: Sequence[str] = ()
) -> None:
    """Checks all that can be checked without running the search, an existing study of its name
    included, and prints what it would do and how long that would take on this machine: with
    ``workers`` trainings at once, or as many as fit with ``memory`` bytes each (0: as predicted).
    """
    networks = architectures(plan, baselines)
    store, rows = None, []
    with contextlib.suppress(NoRecord):
        store = open_store(storage, create=False, write=False)
        store.check(plan.row())
        widening.rehearsed(plan, store)
        if study := store.study_named(plan.study):
            rows = list(store.trials(study.id))
    done = sum(row.budgeted for row in rows if row.state in ENDED)
    known = {row.baseline for row in rows if row.state in ENDED}
    beside = [name for name in baselines if name not in known]
    if store:
        from nas.driver.older import older_studies

        tell_older(older_studies(plan, store), plan, store)
    elif plan.older:
        raise StudyError(f"--from {plan.older[0]}: there is no record yet")
    plan = in_full(store, plan)
    with predicted(store, plan) as descriptions:
        tell_predicted(descriptions, plan, store)
        tell_images(replace(plan.job, recipe=plan.recipe), objectives=plan.space.objectives)
        screens.out(pages.space_page(plan.space))
        left = None if plan.trials is None else max(0, plan.trials - done)
        new = [network for name, network in networks.items() if name in beside]
        expected = expected_time(plan, workers, memory, left, new, rows)
        screens.out(screens.plan_table(plan, expected, done, beside))
    if store:
        store.close()


def expected_time(
    plan: Plan,
    workers: int | None,
    memory: float,
    left: int | None,
    baselines: Sequence[Architecture],
    rows: Sequence[TrialRow] = (),
) -> str:
    """The predicted time of the ``left`` trainings of a plan (None: no limit) and those of
    ``baselines`` on this machine, in words: from the study's trials here, or if there are none by
    timing a few steps of a few networks, which is less accurate on a busy machine."""
    job = plan.job
    if left == 0 and not baselines:
        return "none: nothing left to train"
    images = job.recipe.batch if job.evaluator else trained(job.data)
    draws = list(footprint.feasible(plan.space, job.recipe, images))
    recorded = _recorded(rows)
    if not draws or ((job.evaluator or job.teachers) and not recorded):
        return f"unknown before the first {'evaluation' if job.evaluator else 'training'}"
    from nas.training import pace  # torch
    from nas.training.device import available
    from nas.workers.machine import at_once

    def seconds(network: Architecture, recipe: Recipe) -> float:
        found = recorded.expected(network.macs, job.epochs) if recorded else None
        if found is not None:
            return found
        asked = replace(job, pattern=str(network), recipe=recipe)
        return job.epochs * pace.epoch_seconds(asked, threads)

    need = memory or max(footprint.trial(*draw, streamed(job.data)) for draw in draws)
    most, threads = at_once(workers, int(need))
    some = pace.spread(draws)
    telling = threading.Timer(QUIET, print, [TIMING], {"file": sys.stderr, "flush": True})
    telling.start()
    began, before = time.perf_counter(), time.process_time()
    try:
        own = footprint.batched(plan.recipe, images)
        every = pace.timed([*some, *((network, own) for network in baselines)], seconds)
    finally:
        telling.cancel()
    wall, processor = time.perf_counter() - began, time.process_time() - before
    took, beside = every[: len(some)], [of_one + BETWEEN for of_one in every[len(some) :]]
    mean = sum(took) / len(took) + BETWEEN
    least, longest = (screens.span(seconds) for seconds in (min(took), max(took)))
    each = f"{least} to {longest} per training, {most} at once"
    if recorded:
        each += ", based on the study's trials"
    elif threads == 1 and available().type == "cpu":
        each += busy(wall, processor)
    if plan.rungs:
        each += ", less because rungs stop some"
    if left is not None:
        whole = START + math.ceil(left / most) * mean + sum(beside) / most
        return f"about {screens.span(whole)}: {each}"
    if plan.seconds is None:
        return each
    count = max(0.0, (plan.seconds - START) * most - sum(beside)) / mean
    start = f"after a start-up of about {screens.span(START)}, longer on a busy machine"
    return f"about {count:,.0f} trainings {start}: {each}"


def busy(wall: float, processor: float) -> str:
    """A clause where a timing of one thread, of so many seconds, had less of a core than it could
    use; empty where it was too short to tell."""
    if wall < TELLING or processor >= FREE * wall:
        return ""
    share = f"{100 * processor / wall:.0f} % of a core"
    return f", on a machine as busy as now, which left {share} to the timing"


def _recorded(rows: Sequence[TrialRow]) -> TimeBudget | None:
    """The times of trainings on this machine; None where no trial was trained on it."""
    if not rows:
        return None
    from nas.driver.time_budget import TimeBudget  # scipy
    from nas.training.device import machine  # torch

    found = TimeBudget.recorded(rows, machine())
    return None if found.expected(0, 1) is None else found
