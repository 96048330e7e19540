"""``nas pareto``: the front as a table, as data or as a picture."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli import output as files
from nas.driver.latencies import with_latencies
from nas.driver.tradeoffs import nothing_found, pareto, uncertain
from nas.errors import NasError
from nas.fields import Field
from nas.metrics import metric
from nas.report import devices, front, trials
from nas.store import Store, StudyRow, TrialRow

if TYPE_CHECKING:
    from nas.training.cascade import Cascade

FORMATS: Mapping[str, str] = {
    "table": "",
    "json": ".json",
    "csv": ".csv",
    "svg": ".svg",
    "png": ".png",
}


def front_out(
    store: Store,
    study: StudyRow,
    form: str,
    output: Path | None,
    *,
    believed: bool = False,
    cascades: Sequence[Path] = (),
    asked: bool = False,
) -> None:
    """Writes the front to ``output``, or to stdout (a PNG only if that is not a terminal), with
    estimates if ``believed``, which takes 4 s of processor time at 300 trials. A picture also shows
    ``cascades``, given as files, and has their cost as its axis, unless the objectives were
    ``asked`` for. Raises NothingFound where there is no front."""
    rows, notes = with_latencies(store, study, list(store.trials(study.id)))
    for note in notes:
        print(f"nas: {note}", file=sys.stderr)
    if form == "png" and output is None and sys.stdout.isatty():
        raise NasError("a PNG cannot go to a terminal: use --output FILE.png, or -f png > FILE.png")
    if believed and form in ("svg", "png"):
        raise NasError(f"--believed: a front as {form} has no room for it; use table, json or csv")
    best = pareto(study, rows)
    if not best:
        raise nothing_found(study, rows)
    if form in ("svg", "png"):
        if devices.of_devices(study) and cascades:
            raise NasError(f"--cascade {cascades[0]}: has no latency on another device")
        beside = {file: load(file) for file in cascades}
        if beside and not asked:
            study = by_cost(study, rows, beside)
        drawn = (
            devices.svg(study, rows)
            if devices.of_devices(study)
            else front.svg(study, rows, [expected(file, made) for file, made in beside.items()])
        )
        data = front.png(drawn) if form == "png" else drawn.encode()
    else:
        beliefs = None
        if believed:
            import optuna

            from nas.driver.beliefs import believed as beliefs_of  # a second of imports

            optuna.logging.set_verbosity(optuna.logging.WARNING)
            # By the study's own objectives: few trials may have another one that was asked for.
            recorded, name = store.find_study(study.name), uncertain(study)
            own = name in dict(recorded.objectives)
            beliefs = beliefs_of(recorded if own else study, rows, name)
        listed = functools.partial(trials.rows_out, study, best, form, rows, beliefs)
        data = files.printed(listed) if output else b""
    if output:
        files.write(output, data)
    elif form == "png":
        sys.stdout.buffer.write(data)
    elif form == "svg":
        sys.stdout.write(data.decode())
    else:
        listed()
        if form == "table" and not believed and (name := uncertain(study)):
            luck = f"{metric(name).title} includes the luck of one {study.once}"
            print(f"{luck}; --believed adds estimates without it")


def load(file: Path) -> Cascade:
    from nas.training.cascade import load_cascade  # torch

    try:
        return load_cascade(file)
    except NasError as error:
        raise NasError(f"--cascade {error}") from None


def expected(file: Path, made: Cascade) -> dict[str, float]:
    """A cascade's metrics: its accuracy, its mean costs per image, and as params those of all its
    members. Raises NasError."""
    about = _about(file, made)
    values = {name: about["expected"][name].number() for name in about["expected"].of(dict)}
    return values | {"params": float(sum(m.model.architecture.params for m in made.members))}


def chosen_by(file: Path, made: Cascade) -> str:
    """The cost that a cascade was chosen by. Raises NasError."""
    from nas.cli.cascades import COSTS  # torch, which the cascade has loaded

    cost = _about(file, made)["cost"]
    if cost.value not in COSTS:
        cost.refuse(f"one of {', '.join(COSTS)}")
    return str(cost.value)


def _about(file: Path, made: Cascade) -> Field:
    return Field(f"--cascade {file}", "about", dict(made.about))


def by_cost(
    study: StudyRow, rows: Sequence[TrialRow], cascades: Mapping[Path, Cascade]
) -> StudyRow:
    """The study with the cost by which its cascades were chosen as the front's second objective:
    they are optimal only for that cost. Prints a note where the axis changes. Raises NasError where
    they were chosen by different costs."""
    costs = {file: chosen_by(file, made) for file, made in cascades.items()}
    if len({*costs.values()}) > 1:
        chosen = ", ".join(f"{file} by {cost}" for file, cost in costs.items())
        raise NasError(f"--cascade: chosen by several costs, {chosen}: pick one with --objective")
    (cost,) = {*costs.values()}
    (first, direction), *others = study.objectives
    if cost == front.axes(study)[0]:
        return study
    named = ",".join(f"{name}:{way}" for name, way in study.objectives)
    if not any(math.isfinite(row.value(cost)) for row in rows):
        print(
            f"nas: drawn over {named}: the cascade was chosen by {cost}, which no trial has",
            file=sys.stderr,
        )
        return study
    if cost in dict(others):
        others.sort(key=lambda other: other[0] != cost)
    else:
        others = [(cost, metric(cost).direction)]
    drawn = dataclasses.replace(study, objectives=((first, direction), *others))
    axes = ",".join(f"{name}:{way}" for name, way in drawn.objectives)
    print(
        f"nas: drawn over {axes}, as the cascade was chosen by {cost}; use --objective {named} to "
        "draw over those",
        file=sys.stderr,
    )
    return drawn
