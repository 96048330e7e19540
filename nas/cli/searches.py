"""``nas search`` from a plan to the screen: open what is needed, run, show."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from nas import durations
from nas.cli.output import begin_work
from nas.data.datasets import load, roomy, streamed
from nas.driver import widening
from nas.driver.baselines import architectures, enter
from nas.driver.plan import Plan
from nas.driver.profiles import in_full, offer, predicting
from nas.driver.tradeoffs import nothing_found
from nas.errors import NasError, NoRecord, StudyError, brief
from nas.interrupts import deferred
from nas.job import Recipe
from nas.job.pool import Pool
from nas.language.architecture import Architecture
from nas.metrics import metric, shown
from nas.report import screens
from nas.report import spaces as pages
from nas.report.images import tell as tell_images
from nas.report.progress import Progress
from nas.report.progress import baselines as baselines_of
from nas.report.trials import REFUSED, rows_out
from nas.store import ENDED, Store, StudyRow, TrialRow, open_store
from nas.store.teachers import teacher_names
from nas.text import counted, shown_url
from nas.training import footprint
from nas.workers import open_pool
from nas.workers.run import evaluator

if TYPE_CHECKING:
    from nas.driver.outlook import Outlook
    from nas.driver.tally import Status
    from nas.driver.time_budget import TimeBudget
    from nas.samplers.related import Older

NOTHING = ", but does not use them: they do not even predict one another"
REASONS = 3  # of failed trials, the commonest
START, BETWEEN = 12.0, 0.5  # seconds until the first step of a search, and between two trainings
QUIET, TIMING = 1.5, "nas: timing a few training steps"  # seconds before it is said


def rehearse(
    plan: Plan, storage: str, workers: int | None, memory: float, baselines: Sequence[str] = ()
) -> None:
    """What a search would still do, with everything checked that can be without running it, a
    study of the same name among it, and how long it would take on this machine, ``workers``
    trainings at once, or as many as have so many bytes of ``memory``."""
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
        from nas.driver.older import offers, older_studies

        tell_older(older_studies(plan, store), offers(plan, store))
    elif plan.older:
        raise StudyError(f"--from {plan.older[0]}: there is no record yet")
    plan = in_full(store, plan)
    with predicted(store, plan) as descriptions:
        _tell_predicted(descriptions, plan, store)
        tell_images(plan.job)
        screens.out(pages.space_page(plan.space))
        left = None if plan.trials is None else max(0, plan.trials - done)
        new = [network for name, network in networks.items() if name in beside]
        expected = _expected(plan, workers, memory, left, new, rows)
        screens.out(screens.plan_table(plan, expected, done, beside))
    if store:
        store.close()


def _expected(
    plan: Plan,
    workers: int | None,
    memory: float,
    left: int | None,
    baselines: Sequence[Architecture],
    rows: Sequence[TrialRow] = (),
) -> str:
    """How long the trainings of a plan that are ``left`` will take on this machine, in words, and
    those of ``baselines``: by what its trials took here, and before there are any by a few steps of
    a few networks, which tell less where others use the machine."""
    job = plan.job
    if left == 0 and not baselines:
        return "none: nothing left to train"
    draws = list(footprint.feasible(plan.space, job.recipe))
    recorded = _recorded(rows)
    if not draws or ((job.evaluator or job.teachers) and not recorded):
        return "unknown before the first training"
    from nas.training import pace  # torch
    from nas.workers.cluster import at_once

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
    try:
        every = pace.timed([*some, *((network, plan.recipe) for network in baselines)], seconds)
    finally:
        telling.cancel()
    took, beside = every[: len(some)], [of_one + BETWEEN for of_one in every[len(some) :]]
    mean = sum(took) / len(took) + BETWEEN
    least, longest = (screens.span(seconds) for seconds in (min(took), max(took)))
    each = f"{least} to {longest} per training, {most} at once"
    if recorded:
        each += ", based on the study's trials"
    if plan.rungs:
        each += ", less because rungs stop some"
    if left is not None:
        whole = START + math.ceil(left / most) * mean + sum(beside) / most
        return f"about {screens.span(whole)}: {each}"
    if plan.seconds is None:
        return each
    count = max(0.0, (plan.seconds - START) * most - sum(beside)) / mean
    return f"about {count:,.0f} trainings: {each}"


def _recorded(rows: Sequence[TrialRow]) -> TimeBudget | None:
    """What trials took on this machine; None where none was trained on it."""
    if not rows:
        return None
    from nas.driver.time_budget import TimeBudget  # scipy
    from nas.training.device import machine  # torch

    found = TimeBudget.recorded(rows, machine())
    return None if found.expected(0, 1) is None else found


def predicted(record: Store | None, plan: Plan) -> AbstractContextManager[dict[str, str]]:
    """Latencies of named devices as what arithmetic knows; what predicts each."""
    return predicting(record, plan.asked, plan.space, plan.devices)


def _tell_predicted(descriptions: dict[str, str], plan: Plan, record: Store | None) -> None:
    for name, how in descriptions.items():
        print(f"nas: {name}: {how}", file=sys.stderr)
    if not plan.job.evaluator and (better := offer(record, plan.space.constraints)):
        print(f"nas: {better}", file=sys.stderr)


def tell_older(known: Sequence[Older], offer: str) -> None:
    for study in known:
        knows = f"knows {counted(len(study.x), 'network')} of {study.name}"
        print(f"nas: {knows}{'' if study.useful else NOTHING}", file=sys.stderr)
    if offer:
        print(f"nas: {offer}", file=sys.stderr)


def search_and_show(
    plan: Plan,
    storage: str,
    *,
    workers: int | None,
    address: str | None,
    gpus_per_trial: float | None,
    cpus_per_trial: float,
    memory_per_trial: float,
    time_limit: float,
    baselines: Sequence[str] = (),
    since: float | None = None,
) -> None:
    """Runs the search with live progress on stderr; at the end the front on stdout. A budget of
    time begins at ``since``, by time.monotonic(), or with the search itself.

    Interrupted, it loses nothing: the same command resumes.
    """
    begin_work()
    limit = memory_per_trial * 2**30
    if (gpus_per_trial or 0) > 1 and not plan.job.evaluator:
        raise NasError(
            f"--gpus-per-trial is {gpus_per_trial:g}: a training uses one GPU, at most 1 "
            "(an --evaluator may use more)"
        )

    def opened(need: int) -> Pool:
        return open_pool(
            workers,
            address,
            gpus_per_trial,
            time_limit,
            limit,
            cpus_per_trial,
            0 if limit else need,
        )

    study, ended, status, ahead = run(plan, storage, opened, baselines, since=since)
    beside = [row for row in ended if row.baseline]
    _tell_end(plan, status)
    if not status.front:
        raise nothing_found(study, ended)
    from nas.driver.beliefs import believed  # optuna is loaded by now

    rows_out(study, status.front, "table", ended, believed(study, ended))
    if beaten := [row for row in beside if row.number not in {r.number for r in status.front}]:
        print("\nbaselines not on the front:")
        rows_out(study, beaten, "table")
    _tell_next(plan, storage, status, ahead)


def run(
    plan: Plan,
    storage: str,
    opened: Callable[[int], Pool],
    baselines: Sequence[str] = (),
    progress: bool = True,
    since: float | None = None,
) -> tuple[StudyRow, list[TrialRow], Status, Outlook | None]:
    """Runs the search in the pool that ``opened`` gives, told what a trial is predicted to hold
    (bytes; 0: unknown). Returns the study, the trials that have ended, how it stands, and where
    ``progress`` is shown what as much again is expected to bring."""
    tell_images(plan.job, progress)
    if plan.recipe.resized_crop and not plan.job.evaluator:
        load(roomy(plan.job.data), "train")  # decoded here, with progress
    # What is unknown is refused before anything begins.
    networks = architectures(plan, baselines)
    if plan.job.evaluator:
        evaluator(plan.job.evaluator)
    with contextlib.ExitStack() as held:
        store = held.enter_context(contextlib.closing(open_store(storage, study=plan.row())))
        plan = replace(in_full(store, plan), taught=tuple(teacher_names(store, plan.job.teachers)))
        descriptions = held.enter_context(predicted(store, plan))
        if progress:
            _tell_predicted(descriptions, plan, store)
        from nas.driver.older import offers, older_studies

        begun_with = older_studies(plan, store)
        if progress:
            tell_older(begun_with, offers(plan, store))
        # Other settings are refused before Ray starts.
        _, changed = widening.open_study(plan, store)
        if changed and progress:
            print(f"nas: {changed}", file=sys.stderr)
        # Only now, as they take half a second: wrong input is answered at once.
        with deferred():  # what is compiled may swallow an interrupt amid its import
            import optuna

            from nas.driver.loop import search

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with contextlib.closing(opened(_need(plan, networks.values()))) as pool:
            if baselines:
                enter(plan, baselines, store)
            shown = Progress(plan.study, tuple(plan.space.objectives)) if progress else None
            with shown or contextlib.nullcontext():
                watch = shown.update if shown else lambda _: None
                status = search(plan, store, pool, watch, since, begun_with)
        study = store.find_study(plan.study)
        # A reused one has the weights of the trial whose result it has.
        front = tuple(replace(row, model=store.model(row) or None) for row in status.front)
        rows = list(store.trials(study.id, states=ENDED))
        more, ahead = _more(plan, status), None
        if progress and more and not status.exhausted:
            from nas.driver.outlook import outlook

            ahead = outlook(plan, study, rows, more, begun_with)
        return study, rows, replace(status, front=front), ahead


def _need(plan: Plan, beside: Iterable[Architecture]) -> int:
    """The bytes that a trial, or a network beside them, is predicted to hold; 0: unknown."""
    need, job = 0, plan.job
    if not job.evaluator:
        need = footprint.greatest(plan.space, plan.recipe, beside, streamed(job.data))
    if job.teachers:
        from nas.training.models import card_of  # torch: 0.9 s

        need += sum(footprint.scoring(card_of(file).architecture) for file in job.teachers)
    return need


def _tell_end(plan: Plan, status: Status) -> None:
    counts = [f"{status.finished} evaluated", f"{status.reused} reused", f"{status.failed} failed"]
    if plan.rungs:
        counts.insert(1, f"{status.stopped} stopped at a rung")
    if status.baselines:
        counts.append(baselines_of(status))
    if status.refused:
        counts.append(f"{status.refused} {REFUSED}")
    print(f"nas: study {plan.study}: {', '.join(counts)}", file=sys.stderr)
    for reason, times in [*status.failures.items()][:REASONS]:
        print(f"nas: {times} failed: {brief(reason, 200)}", file=sys.stderr)
    if more := sum([*status.failures.values()][REASONS:]):
        print(f"nas: {more} failed for other reasons: nas trials ls -f json", file=sys.stderr)
    if status.exhausted:
        print("nas: every architecture drawn has been evaluated", file=sys.stderr)
    elif status.vain:
        print(
            f"nas: stopped, as the last {status.vain} candidates broke the latency bound; the "
            "study can be resumed with a looser bound, which reuses them",
            file=sys.stderr,
        )
    elif plan.seconds is not None:
        print(f"nas: {_why(plan.seconds, status)}", file=sys.stderr)


def _why(seconds: float, status: Status) -> str:
    """Why a search with a budget of time ended."""
    allowed, left = durations.show(seconds), max(0.0, status.time_left or 0.0)
    trials = counted(status.done, "trial")
    if not status.out_of_time:
        return f"all {trials} are done, with {durations.show(left)} of the {allowed} left"
    why = f"the budget of {allowed} is used up: {trials}"
    # Less than a twentieth is what the end of every budget leaves.
    short = left > seconds / 20
    return f"{why}; the {durations.show(left)} left are too short for another" if short else why


def _more(plan: Plan, status: Status) -> int:
    """How many trials the same command would add: in the same time as many again as this run had,
    else as many again as there are."""
    if status.out_of_time:
        return status.ended
    return max(plan.trials or 0, status.done)


def _expected_gain(ahead: Outlook, status: Status) -> str:
    """What going on is expected to bring, in words."""
    fraction = not ahead.metric or metric(ahead.metric).most == 1.0
    digits = 2 if ahead.metric else 1  # of points, or of percents of the hypervolume

    def text(gain: float) -> str:
        return f"{100 * gain:.{digits}f}" if fraction else shown(ahead.metric, gain)

    pace = status.seconds / max(1, status.ended)
    about = f", about {screens.span(ahead.trials * pace)}" if status.ended else ""
    more = f"{ahead.trials} more trials{about}:"
    if text(ahead.high) == text(0.0):
        return f"{more} not expected to improve the front"
    low, high = text(ahead.low), text(ahead.high)
    if not ahead.metric:
        gained = f"increase the front's hypervolume by {text(ahead.mean)} %"
        return f"{more} expected to {gained} (80 % interval {low} to {high} %)"
    given = f" at given {ahead.at_equal}" if ahead.at_equal else ""
    points = " points" if fraction else ""
    average = " on average" if ahead.at_equal else ""
    gained = f"improve the best {ahead.metric}{given} by {text(ahead.mean)}{points}{average}"
    return f"{more} expected to {gained} (80 % interval {low} to {high})"


def _tell_next(plan: Plan, storage: str, status: Status, ahead: Outlook | None) -> None:
    given = "" if os.environ.get("NAS_STORAGE") == storage else _option("--storage", storage)
    study = _option("--study", plan.study)
    print("\nnext:", file=sys.stderr)
    best = next((row for row in status.front if not row.made), status.front[0])
    arguments = f"{best.number}{study}{given}"
    if best.model:
        print(f"  nas export --trial {arguments} -f onnx -o model.onnx", file=sys.stderr)
    if best.is_network and plan.job.evaluator:  # its weights are the evaluator's
        print(f"  nas export --trial {arguments} -f python -o network.py", file=sys.stderr)
    elif best.is_network and not best.made:
        print(f"  nas train --trial {arguments} --epochs {3 * plan.job.epochs}", file=sys.stderr)
        print(f"  nas report{study}{given} -o report.html", file=sys.stderr)
    print(f"  nas trials show {arguments}", file=sys.stderr)
    if status.exhausted:
        return
    if status.out_of_time:
        allowed = durations.show(plan.seconds or 0.0)
        print(f"  the same command resumes, for another {allowed}", file=sys.stderr)
    else:
        more = _more(plan, status)
        print(f"  the same command with --trials {2 * more} resumes", file=sys.stderr)
    if ahead:
        print(f"  ({_expected_gain(ahead, status)})", file=sys.stderr)


def _option(name: str, value: str) -> str:
    if value == "sqlite:///nas.db":
        return ""
    shown = value if name != "--storage" else shown_url(value)
    return f" {name} {shlex.quote(shown)}"
