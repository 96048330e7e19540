"""``nas audit`` and ``nas report``: run, with progress on stderr, and show on stdout."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import optuna

from nas import metrics
from nas.cli import output as files
from nas.cli.record import data_of
from nas.data.datasets import streamed, trained
from nas.driver.audit import Subject, audit
from nas.driver.beliefs import believed
from nas.driver.equal_cost import random_plan, whole_seconds
from nas.driver.finalists import SEEDS, Report, report
from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.driver.profiles import predicting
from nas.errors import NasError
from nas.job import DataRef, Job
from nas.report import html, pages, screens
from nas.report.progress import Progress, Trainings
from nas.spaces.space import Space
from nas.store import Store, StudyRow, TrialRow
from nas.text import shown_file
from nas.training import footprint
from nas.training.device import available
from nas.training.evaluation import Evaluation, evaluate
from nas.training.models import load_model
from nas.workers import open_pool


def audit_and_show(space: Space, job: Job, levels: Sequence[int], count: int) -> None:
    """Runs the audit's trainings, with a line each on stderr, and prints its page."""

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
    seeds: int | None,
    top: int,
    compare: str,
    workers: int | None,
    output: Path | None,
    plugins: tuple[str, ...],
    folder: str,
) -> None:
    """Retrains the finalists, and with ``compare`` "random" first runs a random search for as many
    epochs as the study; shows the report, and writes it to ``output`` in the format of its ending.
    With a ``top`` of 0 nothing is trained: the page shows the record. Trainings are kept in
    ``folder`` and not repeated."""
    if compare not in ("", "random"):
        raise NasError(f"--compare {compare}: must be random")
    form = files.form_of("", output, {"html": ".html", "md": ".md"}, "md")
    if output:
        files.writable(output)
    if top < 0:
        raise NasError(f"--top {top}: must be 0 or more")
    if not top and seeds is not None:
        raise NasError(f"--seeds {seeds}: --top 0 retrains nothing")
    seeds = SEEDS if seeds is None else seeds
    if seeds < 1:
        raise NasError(f"--seeds {seeds}: must be 1 or more")
    if workers is not None and not compare:
        raise NasError(f"--workers {workers}: is for the search of --compare random")
    if not top and (compare or form != "html"):
        reason = f"--compare {compare}" if compare else "a report in Markdown"
        raise NasError(f"--top 0: {reason} needs retrained networks; -o FILE.html does not")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    files.begin_work()
    rows = list(store.trials(study.id))
    found, errors = None, None
    if top:
        ref = data_of(study, data)
        random: list[TrialRow] = []
        if compare:
            random = searched(random_plan(study, rows, ref, plugins), store, workers)
        if made := [row.called for row in rows if row.made]:
            reason = (
                "already trained with other seeds and a control when it was made: not retrained"
            )
            print(f"nas: {', '.join(made)} {reason}", file=sys.stderr)
        epochs = study.settings["epochs"]
        with Trainings(epochs) as progress:
            found = report(
                study,
                rows,
                ref,
                seeds=seeds,
                top=top,
                random=random,
                folder=folder,
                plugins=plugins,
                begin=lambda trained: progress.begin([whole_seconds(r, epochs) for r in trained]),
                tell=progress.tell,
            )
        screens.out(pages.report_page(found))
        if form == "html":
            errors = judged(found, ref)
    if output and form == "html":
        curves, beliefs = store.curves(study.id), believed(study, rows)
        files.write(output, html.page(study, rows, curves, found, beliefs, errors).encode())
    elif output and found:
        files.write(output, pages.report_markdown(found).encode())
    if found and found.winner.model:
        tell_next(found)


def tell_next(found: Report) -> None:
    model = shlex.quote(shown_file(found.winner.model))
    print(f"\nnext, with the winning model, {model}", file=sys.stderr)
    trained = len(found.winner.trainings)
    best = f", of its {trained} the best on validation" if trained > 1 else ""
    print(f"(trial {found.winner.row.number} as trained again{best}):", file=sys.stderr)
    print(f"  nas export {model} -f onnx -o model.onnx", file=sys.stderr)
    print(f"  nas predict {model} IMAGE_OR_DIR", file=sys.stderr)
    if (alike := found.cheaper) and alike.model:
        choice = f"or with trial {alike.row.number}, which may be as good"
        print(f"{choice}, with {pages.saved(found, alike)}:", file=sys.stderr)
        model = shlex.quote(shown_file(alike.model))
        print(f"  nas export {model} -f onnx -o model.onnx", file=sys.stderr)


def judged(found: Report, data: DataRef) -> Evaluation | None:
    """The evaluation of the winner's model on the test images, on which its training was already
    scored."""
    if not found.winner.model:
        return None
    return evaluate(load_model(found.winner.model).to(available()), data)


def searched(plan: Plan, store: Store, workers: int | None) -> list[TrialRow]:
    images = plan.job.data
    told = plan.space, plan.job.recipe, trained(images)
    need = partial(footprint.greatest, *told, streamed=streamed(images))
    pool = open_pool(workers, memory_need=need, training=not plan.job.evaluator, jobs=plan.trials)
    try:
        progress = Progress(plan.study, tuple(plan.space.objectives))
        with predicting(store, plan.asked, devices=plan.devices), progress:
            search(plan, store, pool, progress.update)
    finally:
        pool.close()
    return list(store.trials(store.find_study(plan.study).id))
