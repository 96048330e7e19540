"""``nas audit`` and ``nas report``: run, with progress on stderr, and show on stdout."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import optuna

from nas import metrics
from nas.cli import output as files
from nas.cli.options import data_of
from nas.data.datasets import streamed
from nas.driver.audit import Subject, audit
from nas.driver.finalists import Report, random_plan, report
from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.errors import NasError
from nas.job import Job
from nas.report import html, pages, screens
from nas.report.progress import Progress, Trainings
from nas.spaces.space import Space
from nas.store import Store, StudyRow, TrialRow
from nas.training import footprint
from nas.workers import open_pool


def audit_and_show(space: Space, job: Job, levels: Sequence[int], count: int) -> None:
    """Trains what the audit needs, a line each on stderr; at the end its page."""

    def tell(number: int, subject: Subject) -> None:
        scores = ", ".join(f"{metrics.percent(a)} at {e}" for e, a in subject.scores.items())
        size = metrics.count(subject.architecture.params)
        print(f"nas: {number + 1} of {count}, {size} params: {scores}", file=sys.stderr, flush=True)

    screens.out(pages.audit_page(audit(space, job, levels, count, tell)))


def report_and_show(
    store: Store,
    study: StudyRow,
    data: str,
    *,
    seeds: int,
    top: int,
    compare: str,
    workers: int | None,
    output: Path | None,
    plugins: tuple[str, ...],
) -> None:
    """Trains the finalists again, and with ``compare`` "random" first searches at random for as
    many epochs as the study; shows the report, and writes it to ``output`` as its name ends. With a
    ``top`` of 0 nothing is trained: the page has what the record has."""
    if compare not in ("", "random"):
        raise NasError(f"--compare {compare}: must be random")
    form = files.form_of("", output, ("html", "md"), "md")
    if top < 0:
        raise NasError(f"--top {top}: must be 0 or more")
    if not top and (compare or form != "html"):
        told = f"--compare {compare}" if compare else "a report in Markdown"
        raise NasError(f"--top 0: {told} needs networks trained again; -o FILE.html does not")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.basicConfig(format="nas: %(message)s", level=logging.WARNING, stream=sys.stderr)
    rows = list(store.trials(study.id))
    found = None
    if top:
        found = trained(store, study, rows, data, seeds, top, compare, workers, plugins)
        screens.out(pages.report_page(found))
    if output and form == "html":
        files.write(output, html.page(study, rows, store.curves(study.id), found).encode())
    elif output and found:
        files.write(output, pages.report_markdown(found).encode())


def trained(
    store: Store,
    study: StudyRow,
    rows: Sequence[TrialRow],
    data: str,
    seeds: int,
    top: int,
    compare: str,
    workers: int | None,
    plugins: tuple[str, ...],
) -> Report:
    ref = data_of(study, data)
    random: list[TrialRow] = []
    if compare:
        random = searched(random_plan(study, rows, ref, plugins), store, workers)
    with Trainings(seeds, study.settings["epochs"]) as progress:
        return report(study, rows, ref, seeds=seeds, top=top, random=random, tell=progress.tell)


def searched(plan: Plan, store: Store, workers: int | None) -> list[TrialRow]:
    need = footprint.greatest(plan.space, plan.job.recipe, streamed=streamed(plan.job.data))
    pool = open_pool(workers, memory_need=need)
    try:
        with Progress(plan.study, tuple(plan.space.objectives)) as progress:
            search(plan, store, pool, progress.update)
    finally:
        pool.close()
    return list(store.trials(store.find_study(plan.study).id))
