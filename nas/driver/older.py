"""Older studies to transfer from: their networks as features of the new study.

In the same space, networks are described by their parameters; those of another space by what all
networks have: costs, depth, width, the number of each layer.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.driver.asking import domains
from nas.driver.plan import Plan
from nas.driver.proposals import distributions
from nas.errors import NasError, StudyError
from nas.language.architecture import Architecture
from nas.language.expression import leaves
from nas.metrics import metric, scaled
from nas.samplers import LEARNING
from nas.samplers.encoding import Encoding
from nas.samplers.related import FEWEST, Older
from nas.spaces.draws import Draw
from nas.store import EVALUATED, StudyRow, TrialRow
from nas.store.reading import Record
from nas.text import counted

Floats = NDArray[np.float64]

SPREAD = 0.5  # scales a standardised feature to the distance between values of a choice
COSTS = ("params", "macs")  # features in addition to the parameters of the same space
FAR = 3.0  # standard deviations at which features are clipped
OFFERED = 3  # most studies considered, and suggested, at the start of a search


def older_studies(plan: Plan, record: Record) -> tuple[Older, ...]:
    """The plan's older studies, with the trials from before its own first trial: a resumed search
    knows what it knew.

    Raises StudyError for a study that is missing, is the plan's own, or has too few networks.
    """
    if not plan.older:
        return ()
    own = record.study_named(plan.study)
    first = next(record.trials(own.id, numbers=[0]), None) if own else None
    until = first.created if first else math.inf
    found = []
    for name in plan.older:
        if name == plan.study:
            raise StudyError(f"--from {name}: a study cannot warm-start from itself")
        study = record.find_study(name)
        rows = _rows(plan, record, study, until)
        if len(rows) < FEWEST:
            asked = " or ".join(_learned(plan)) or "a measured objective"
            raise StudyError(
                f"--from {name}: it has {counted(len(rows), 'network')} with {asked}; "
                f"{FEWEST} are needed"
            )
        found.append(_placed(plan, study, rows))
    return tuple(found)


def offers(plan: Plan, record: Record) -> str:
    """A sentence that suggests older studies of the record that a search would use: of the same
    space first, then those with the most networks. Empty where there is none."""
    studies = record.studies()
    if plan.older or plan.sampler not in LEARNING or plan.study in [row.name for row in studies]:
        return ""

    def ended(study: StudyRow) -> int:
        counts = record.counts(study.id)
        return sum(counts.get(state, 0) for state in EVALUATED)

    # Ordered by counts alone: trials are read only for the studies considered, and a few more.
    sizes = {study.name: ended(study) for study in studies}
    first = sorted(studies, key=lambda s: (s.space != plan.space.name, -sizes[s.name]))
    read = ((s, _rows(plan, record, s, math.inf)) for s in first if sizes[s.name] >= FEWEST)
    likely = itertools.islice((pair for pair in read if len(pair[1]) >= FEWEST), OFFERED)
    named = [
        f"{study.name} ({counted(len(rows), 'network')} of {study.searched})"
        for study, rows in likely
        if _serves(plan, study, rows)
    ]
    return f"--from STUDY would warm-start from an older study: {', '.join(named)}" if named else ""


def moved_on(plan: Plan, record: Record) -> str:
    """A sentence where a new study is made although its directory was searched before, as the
    images there have changed. Empty otherwise."""
    studies = record.studies()
    if not plan.job.data.dir or plan.study in [row.name for row in studies]:
        return ""
    before = [s for s in studies if s.directory == plan.job.data.dir and s.space == plan.space.name]
    if not before or any(study.images == plan.job.data.identity for study in before):
        return ""
    last = max(before, key=lambda study: study.id)
    return (
        f"{last.directory} was searched as study {last.name}, but its images "
        f"have changed: this is a new study, {plan.study}"
    )


def _learned(plan: Plan) -> list[str]:
    """The objectives that have to be measured."""
    return [name for name in plan.space.objectives if not metric(name).arithmetic]


def _rows(plan: Plan, record: Record, study: StudyRow, until: float) -> list[TrialRow]:
    rows = record.trials(study.id, states=EVALUATED)
    ended = [row for row in rows if not row.baseline and (row.finished or row.created) <= until]
    return [r for r in ended if any(math.isfinite(r.value(name)) for name in _learned(plan))]


def _serves(plan: Plan, study: StudyRow, rows: Sequence[TrialRow]) -> bool:
    """Whether a search would use the study, by the same test: 1.5 s of processor time at 200
    networks of the space mixed."""
    try:
        return _placed(plan, study, rows).useful
    except StudyError:
        return False


def _placed(plan: Plan, study: StudyRow, rows: Sequence[TrialRow]) -> Older:
    new = {n: d for n, d in distributions(plan.space) if not d.single()}
    old = {n for row in rows for n, d in domains(row).items() if not d.single()}
    # A parameter of late stages may not have been drawn yet.
    same = bool(new) and (study.space_text == plan.space.text or old == new.keys())
    encoding = Encoding.of({n: d for n, d in new.items() if same or n in old})
    try:
        described = [_described(row.architecture) for row in rows]
    except NasError as error:  # a layer of a plug-in that is not here
        raise StudyError(f"--from {study.name}: {error}") from None
    names = COSTS if same else sorted({n for costs in described for n in costs})
    table = np.array([[costs.get(n, 0.0) for n in names] for costs in described])
    middle, spread = table.mean(axis=0), np.where(table.std(axis=0) > 1e-9, table.std(axis=0), 1.0)

    def columns(params: Mapping[str, Any], costs: Mapping[str, float]) -> Floats:
        features = (np.array([costs.get(n, 0.0) for n in names]) - middle) / spread
        parts = [SPREAD * np.clip(features, -FAR, FAR)]
        if encoding.parameters:
            parts.insert(0, encoding.embed(encoding.row(params)[None])[0][0])
        return np.concatenate(parts)

    def place(params: Mapping[str, Any]) -> Floats:
        try:
            architecture = plan.space.suggest(Draw(random.Random(0), params))
        except NasError:  # arithmetic rejects it, whatever is predicted
            return columns(params, dict(zip(names, middle, strict=True)))
        return columns(params, _described(architecture))

    scales = np.zeros(0, dtype=np.intp)
    if encoding.parameters:
        _, scales = encoding.embed(encoding.draw(np.random.default_rng(0), 2))
    shared = int(scales[-1]) + 1 if len(scales) else 0
    values = {
        k: np.array([scaled(objective, row.value(objective)) for row in rows])
        for k, objective in enumerate(plan.space.objectives)
        if objective in _learned(plan)
    }
    return Older(
        name=study.name,
        place=place,
        x=np.array([columns(r.sampled, d) for r, d in zip(rows, described, strict=True)]),
        scales=np.concatenate([scales, shared + np.arange(len(names))]),
        values=values,
        shared=shared if same else 0,
    )


@functools.lru_cache(maxsize=4096)
def _described(architecture: Architecture) -> Mapping[str, float]:
    """Features that networks of all spaces have, by name, on a log scale. MACs are per pixel, so
    that the image size does not matter."""
    _, height, width = architecture.input
    found = [leaf for step in architecture.steps for leaf in leaves(step.node, step.x)]
    counts = Counter(type(leaf).__name__ for leaf, _ in found)
    blocks = Counter(step.name for step in architecture.steps)
    maps = [shape for shape in architecture.shapes if len(shape) == 3]
    return {
        "params": math.log(architecture.params + 1),
        "macs": math.log(architecture.macs / (height * width) + 1),
        "width": math.log(max(shape[0] for shape in maps)),
        "end": math.log(width / maps[-1][2]),
        "depth": math.log(len(found) + 1),
        **{f"layers {name}": math.log(n + 1) for name, n in counts.items()},
        **{f"blocks {name}": math.log(n + 1) for name, n in blocks.items()},
    }
