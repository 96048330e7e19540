"""``nas search``: runs a plan and prints its results."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from nas import durations
from nas.cli.output import begin_work
from nas.data.datasets import describe, load, roomy, streamed, trained
from nas.data.images import most_frequent
from nas.driver import widening
from nas.driver.baselines import architectures, enter
from nas.driver.plan import Plan
from nas.driver.profiles import in_full, offer, predicting
from nas.driver.tradeoffs import nothing_found
from nas.errors import brief
from nas.interrupts import deferred
from nas.job.pool import Pool
from nas.language.architecture import Architecture
from nas.metrics import ACCURACY, BALANCED, metric, percent, shown
from nas.report import screens
from nas.report.images import tell as tell_images
from nas.report.progress import Progress, beside
from nas.report.trials import REFUSED, rows_out
from nas.store import ENDED, Store, StudyRow, TrialRow, open_store
from nas.store.teachers import teacher_names
from nas.text import counted, shown_url
from nas.training import footprint
from nas.workers.run import evaluator

if TYPE_CHECKING:
    from nas.driver.beliefs import Beliefs
    from nas.driver.outlook import Outlook
    from nas.driver.tally import Status
    from nas.samplers.related import Older

# Takes what predicts the bytes of a trial (0: unknown), and how many jobs come at most (or None).
Opener = Callable[[Callable[[], int], int | None], Pool]

NOTHING = ", but does not use them: they do not even predict one another"
REASONS = 3  # commonest reasons of failure that are printed
OWN = 3  # the search's best networks that are printed where none is on the front


def predicted(record: Store | None, plan: Plan) -> AbstractContextManager[dict[str, str]]:
    """While entered, predicts the plan's latencies on named devices; yields their descriptions."""
    return predicting(record, plan.asked, plan.space, plan.devices)


def tell_predicted(descriptions: dict[str, str], plan: Plan, record: Store | None) -> None:
    for name, how in descriptions.items():
        print(f"nas: {name}: {how}", file=sys.stderr)
    if not plan.job.evaluator and (better := offer(record, plan.space.constraints)):
        print(f"nas: {better}", file=sys.stderr)


def tell_fitted(baseline: str) -> None:
    print(f"nas: fitting {baseline}, in minutes if there are many images", file=sys.stderr)


def tell_older(known: Sequence[Older], plan: Plan, store: Store) -> None:
    from nas.driver.older import moved_on, offers

    for study in known:
        knows = f"knows {counted(len(study.x), 'network')} of {study.name}"
        print(f"nas: {knows}{'' if study.useful else NOTHING}", file=sys.stderr)
    for sentence in filter(None, (moved_on(plan, store), offers(plan, store))):
        print(f"nas: {sentence}", file=sys.stderr)


def tell_chance(plan: Plan, front: Sequence[Mapping[str, float]]) -> None:
    """Warns where the best accuracy, or balanced accuracy, of a front's metrics is not clearly
    above that of always answering one class, by two standard errors of that."""
    images = load(plan.job.data, "validation")
    labels = images.labels[images.rows]
    sizes = np.bincount(labels)
    sizes = sizes[sizes > 0]
    number, share = most_frequent(labels)
    often, even = brief(describe(plan.job.data).classes[number], 40), 1 / len(sizes)
    constant = {
        ACCURACY: (
            share,
            share * (1 - share) / len(labels),
            f"always answering {often} is right for {percent(share)} of the validation images",
        ),
        BALANCED: (
            even,
            even * (1 - even) * float((1 / sizes).mean()) / len(sizes),
            f"always answering one class has a balanced accuracy of {percent(even)}",
        ),
    }
    for name, (value, variance, told) in constant.items():
        found = [metrics[name] for metrics in front if name in plan.space.objectives]
        if found and max(found) <= value + 2 * math.sqrt(variance):
            print(f"nas: warning: {told}, and no network here is clearly better", file=sys.stderr)


def search_and_show(
    plan: Plan, storage: str, opened: Opener, baselines: Sequence[str], since: float
) -> None:
    """Runs the search in the pool that ``opened`` gives, with live progress on stderr, and prints
    the front to stdout. A time budget begins at ``since``, by time.monotonic().

    Interrupted, it loses nothing: the same command resumes.
    """
    begin_work()

    study, ended, status, ahead = run(plan, storage, opened, baselines, since=since)
    _tell_end(plan, status)
    if not status.front:
        raise nothing_found(study, ended)
    from nas.driver.beliefs import believed  # optuna is loaded by now

    alone = all(row.baseline for row in status.front)
    beliefs = believed(study, ended)
    rows_out(study, status.front, "table", ended, None if alone else beliefs)
    if not plan.job.evaluator:
        tell_chance(plan, [row.metrics for row in status.front])
    if alone:
        _own_out(study, status.own, ended, beliefs)
    front = {row.number for row in status.front}
    beaten = [row for row in ended if row.baseline and row.number not in front]
    for called, rows in {
        "baselines": [row for row in beaten if not row.made],
        "distilled and pruned networks": [row for row in beaten if row.made],
    }.items():
        if rows:
            print(f"\n{called} not on the front:")
            rows_out(study, rows, "table")
    _tell_next(plan, storage, status, ahead)


def _own_out(
    study: StudyRow, own: Sequence[TrialRow], ended: Iterable[TrialRow], beliefs: Beliefs
) -> None:
    """Prints the best of the search's ``own`` front, where only baselines are on the study's."""
    lacking = "no network of the search is on the front"
    candidates = [row for row in ended if not row.baseline]
    if not own:
        print(f"\n{lacking}: {nothing_found(study, candidates)}")
        return
    of = f", {OWN} of {len(own)}" if len(own) > OWN else ""
    print(f"\n{lacking}; its best{of}:")
    rows_out(study, own[:OWN], "table", candidates, beliefs)


def run(
    plan: Plan,
    storage: str,
    opened: Opener,
    baselines: Sequence[str] = (),
    progress: bool = True,
    since: float | None = None,
) -> tuple[StudyRow, list[TrialRow], Status, Outlook | None]:
    """Runs the search in the pool that ``opened`` gives. Returns the study, its ended trials, the
    status, and where ``progress`` is shown, a forecast for as many trials again."""
    tell_images(replace(plan.job, recipe=plan.recipe), progress, plan.space.objectives)
    if plan.recipe.resized_crop and not plan.job.evaluator:
        load(roomy(plan.job.data), "train")  # decoded here, with progress
    # Unknown names are refused before anything is written.
    networks = architectures(plan, baselines)
    if plan.job.evaluator:
        evaluator(plan.job.evaluator)
    with contextlib.ExitStack() as held:
        store = held.enter_context(contextlib.closing(open_store(storage, study=plan.row())))
        # Its workers import torch while this process imports Optuna.
        need = partial(_need, plan, networks.values())  # 0.1 to 1.6 s, where a pool asks
        opening = opened(need, _jobs(plan, store, baselines))
        pool = held.enter_context(contextlib.closing(opening))
        plan = replace(in_full(store, plan), taught=tuple(teacher_names(store, plan.job.teachers)))
        descriptions = held.enter_context(predicted(store, plan))
        if progress:
            tell_predicted(descriptions, plan, store)
        from nas.driver.older import older_studies

        begun_with = older_studies(plan, store)
        if progress:
            tell_older(begun_with, plan, store)
        _, changed = widening.open_study(plan, store)
        if changed and progress:
            print(f"nas: {changed}", file=sys.stderr)
        # Imported only now, as that takes half a second: wrong input is refused at once.
        with deferred():  # compiled modules may swallow an interrupt during their import
            import optuna

            from nas.driver.loop import search

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if baselines:
            enter(plan, baselines, store, tell_fitted if progress else lambda _: None)
        shown = Progress(plan.study, tuple(plan.space.objectives)) if progress else None
        with shown or contextlib.nullcontext():
            watch = shown.update if shown else lambda _: None
            status = search(plan, store, pool, watch, since, begun_with)
        pool.close()  # nothing trains during what follows
        study = store.find_study(plan.study)
        # A reused trial has the weights of the trial that it reused.
        front, own = (
            tuple(replace(row, model=store.model(row) or None) for row in rows)
            for rows in (status.front, status.own)
        )
        rows = list(store.trials(study.id, states=ENDED))
        more, ahead = _more(plan, status), None
        if progress and more and not status.exhausted:
            from nas.driver.outlook import outlook

            ahead = outlook(plan, study, rows, more, begun_with)
        return study, rows, replace(status, front=front, own=own), ahead


def _jobs(plan: Plan, store: Store, baselines: Sequence[str]) -> int | None:
    """The most jobs that the search may have, 0 where its study has all trials; None: unknown."""
    if plan.trials is None:
        return None
    study = store.study_named(plan.study)
    if study and store.begun(study.id) >= plan.trials:  # else the rows need not be read
        rows = list(store.trials(study.id, states=ENDED))
        left = {*baselines} - {row.baseline for row in rows}
        if not left and sum(row.budgeted for row in rows) >= plan.trials:
            return 0
    return plan.trials + len(baselines)


def _need(plan: Plan, beside: Iterable[Architecture]) -> int:
    """The bytes of memory that a trial or baseline is predicted to need; 0: unknown."""
    need, job = 0, plan.job
    if not job.evaluator:
        images = trained(job.data)
        need = footprint.greatest(plan.space, plan.recipe, images, beside, streamed(job.data))
    if job.teachers:
        from nas.training.models import card_of  # torch: 0.9 s

        need += sum(footprint.scoring(card_of(file).architecture) for file in job.teachers)
    return need


def _tell_end(plan: Plan, status: Status) -> None:
    counts = [f"{status.finished} evaluated", f"{status.reused} reused", f"{status.failed} failed"]
    if plan.rungs:
        counts.insert(1, f"{status.stopped} stopped at a rung")
    counts += beside(status)
    if status.refused:
        counts.append(f"{status.refused} {REFUSED}")
    print(f"nas: study {plan.study}: {', '.join(counts)}", file=sys.stderr)
    for reason, times in [*status.failures.items()][:REASONS]:
        print(f"nas: {times} failed: {brief(reason, 200)}", file=sys.stderr)
    if more := sum([*status.failures.values()][REASONS:]):
        print(f"nas: {more} failed for other reasons: nas trials ls -f json", file=sys.stderr)
    if status.left == 0:
        print("nas: every network of the space has been evaluated", file=sys.stderr)
    elif status.exhausted:
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
    """Why a search with a time budget ended."""
    allowed, left = durations.show(seconds), max(0.0, status.time_left or 0.0)
    trials = counted(status.done, "trial")
    if not status.out_of_time:
        return f"all {trials} are done, with {durations.show(left)} of the {allowed} left"
    why = f"the budget of {allowed} is used up: {trials}"
    # Every budget leaves up to a twentieth unused.
    short = left > seconds / 20
    return f"{why}; the {durations.show(left)} left are too short for another" if short else why


def _more(plan: Plan, status: Status) -> int:
    """How many more trials to suggest: as many as this run had within its time budget, or as the
    study has; no more than its space has networks left."""
    more = status.ended if status.out_of_time else max(plan.trials or 0, status.done)
    return more if status.left is None else min(more, status.left)


def _expected_gain(ahead: Outlook, status: Status) -> str:
    """The forecast in words."""
    fraction = not ahead.metric or metric(ahead.metric).most == 1.0
    digits = 2 if ahead.metric else 1  # decimals of points, or of percent of the hypervolume

    def text(gain: float) -> str:
        return f"{100 * gain:.{digits}f}" if fraction else shown(ahead.metric, gain)

    pace = status.seconds / max(1, status.ended)
    about = f", about {screens.span(ahead.trials * pace)}" if status.ended else ""
    more = f"{counted(ahead.trials, 'more trial')}{about}:"
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
    # Where no network is on the front, the best of the search's own.
    best = next((row for row in (*status.front, *status.own) if row.is_network), status.front[0])
    arguments = f"{best.number}{study}{given}"
    if best.model:
        print(f"  nas export --trial {arguments} -f onnx -o model.onnx", file=sys.stderr)
    if best.is_network and plan.job.evaluator:  # its weights are the evaluator's
        print(f"  nas export --trial {arguments} -f python -o network.py", file=sys.stderr)
    elif best.is_network:
        if not best.made:
            print(
                f"  nas train --trial {arguments} --epochs {3 * plan.job.epochs}", file=sys.stderr
            )
        print(f"  nas report{study}{given} -o report.html", file=sys.stderr)
    print(f"  nas trials show {arguments}", file=sys.stderr)
    more = _more(plan, status)
    if status.exhausted or not more:
        return
    if status.out_of_time:
        allowed = durations.show(plan.seconds or 0.0)
        print(f"  the same command resumes, for another {allowed}", file=sys.stderr)
    else:
        trials = max(plan.trials or 0, status.done) + more
        print(f"  the same command with --trials {trials} resumes", file=sys.stderr)
    if ahead:
        print(f"  ({_expected_gain(ahead, status)})", file=sys.stderr)


def _option(name: str, value: str) -> str:
    if value == "sqlite:///nas.db":
        return ""
    shown = value if name != "--storage" else shown_url(value)
    return f" {name} {shlex.quote(shown)}"
