"""Converts rows to and from the columns of the database, and checks what is read."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from nas.job import Epoch, Failure, Latency, Outcome
from nas.metrics import LARGEST, METRICS, on_device
from nas.store.rows import BASELINE, OWN_METRICS, Ask, AttemptRow, Sampled, StudyRow, TrialRow
from nas.store.tables import attempts, curves, latencies, studies, trials
from nas.store.values import Settings, checked, domain, read_json, refuse, texts


def study_of(row: Any) -> StudyRow:
    """A study from its columns. Raises StoreError for an invalid value."""
    values = row._asdict()
    _check_study(values)
    values["objectives"] = tuple(map(tuple, values["objectives"]))
    return StudyRow(**values | {"settings": Settings(values["settings"])})


def trial_of(row: Sequence[Any]) -> TrialRow:
    """A trial from its columns and its study's domains. Raises StoreError for an invalid value, and
    for a parameter outside its domain."""
    *values, text = row
    columns = dict(zip(STORED, values, strict=True))
    _check_trial(columns)
    sampled = columns["sampled"]
    shared = _domains(text, columns["study_id"], sampled)
    columns["distributions"] = shared | own if (own := columns["distributions"]) else shared
    _check_sampled(columns["id"], sampled, columns["distributions"])
    metrics = columns["metrics"].items()
    columns["metrics"] = {k: math.nan if v is None else float(v) for k, v in metrics}
    columns["rungs"] = tuple((epochs, accuracy) for epochs, accuracy in columns["rungs"] or ())
    if columns["state"] in ("paused", "stopped") and not columns["rungs"]:
        rule = f"those that a {columns['state']} trial has reached"
        refuse("nas_trials", f"id {columns['id']}", "rungs", [], rule)
    return TrialRow(**columns)


def _check_sampled(key: int, sampled: Mapping[str, Any], domains: Mapping[str, str]) -> None:
    row = "nas_trials", f"id {key}"
    for name, text in domains.items():
        if (holds := domain(text)) is None:
            rule = f"a distribution of {name} as Optuna writes it"
            refuse(*row, "distributions", text, rule)
        if name not in sampled or not holds(sampled[name]):
            refuse(*row, "sampled", sampled, f"with a {name} of {text}")
    if len(domains) < len(sampled) and {*sampled} != {BASELINE}:
        rule = "names of which the study's domains or the trial's distributions tell all"
        refuse(*row, "sampled", [*sampled.keys() - domains.keys()], rule)


def attempt_of(row: Any) -> AttemptRow:
    values = row._asdict()
    _check_attempt(values)
    return AttemptRow(**values)


def curve_of(trial_id: int, points: Any) -> tuple[Epoch, ...]:
    """The training curve of a trial."""
    _check_curve({"trial_id": trial_id, "epochs": points})
    return tuple(map(epoch_of, points))


def own_domains(ask: Ask | Sampled, domains: dict[str, str]) -> dict[str, str]:
    """The distributions of a trial that differ from the study's ``domains``. Adds the domains of
    parameters that are new to the study to ``domains``."""
    for name in ask.sampled:
        if name != BASELINE and name in ask.distributions:
            domains.setdefault(name, ask.distributions[name])
    return {
        name: text
        for name, text in ask.distributions.items()
        if name not in ask.sampled or domains.get(name) != text
    }


def _domains(text: str, study_id: int, sampled: Iterable[str]) -> dict[str, str]:
    """The study's domains of a trial's parameters; one shared dict per set of parameters."""
    domains, made = _read(text, study_id)
    names = tuple(sampled)
    if names not in made:
        made[names] = {name: domains[name] for name in names if name in domains}
    return made[names]


@functools.lru_cache(maxsize=64)
def _read(text: str, study_id: int) -> tuple[dict[str, str], dict[tuple[str, ...], dict[str, str]]]:
    return domains_of(text, study_id), {}


def domains_of(text: str, study_id: int) -> dict[str, str]:
    """A study's domains by parameter name. Raises StoreError for an invalid value."""
    found = read_json(text)
    if not texts(found):
        rule = "names with distributions as text"
        refuse("nas_studies", f"id {study_id}", "domains", found, rule)
    return dict(found)


STORED = [f.name for f in fields(TrialRow) if f.name != "trainings"]
_check_study = checked({f.name: studies.c[f.name] for f in fields(StudyRow)}, "id")
_joined = {"latency_low": latencies.c.low, "latency_high": latencies.c.high}
_check_trial = checked(
    {n: _joined[n] if n in _joined else trials.c[n] for n in STORED}, "id", _joined
)
_check_attempt = checked(dict(attempts.c), "token")
_check_curve = checked(dict(curves.c), "trial_id")
_MEASURED = [name for name in sorted(OWN_METRICS) if not METRICS[name].arithmetic]


def columns_of(outcome: Outcome) -> dict[str, Any]:
    """An outcome as columns of its trial."""
    if isinstance(outcome, Failure):
        return {
            "failure": outcome.kind,
            "reason": clean(outcome.reason),
            "seconds": _number(outcome.seconds),
        }
    own = {name: _number(outcome.metrics.get(name)) for name in _MEASURED}
    device = {"latency_device": clean(outcome.latency.device)} if outcome.latency else {}
    return {
        **own,
        "metrics": finite(outcome.metrics),
        "seconds": _number(outcome.seconds),
        "device": clean(outcome.device),
        "model": clean(outcome.model) or None,
        **device,
    }


def reused(source: TrialRow) -> dict[str, Any]:
    """What a trial takes over from an earlier one: all but what was measured on a device."""
    left = on_device(METRICS) if source.latency_device else []
    return {
        **{name: _number(getattr(source, name)) for name in _MEASURED if name not in left},
        "reused_from": source.id,
        "metrics": finite({k: v for k, v in source.metrics.items() if k not in left}),
        "device": source.device,
        "rungs": source.rungs,
    }


def latency_of(fingerprint: str, latency: Latency) -> dict[str, Any]:
    """A latency as a row of its table."""
    return {
        "fingerprint": fingerprint,
        "device": clean(latency.device),
        "runtime": latency.runtime,
        "batch": latency.batch,
        "ms": float(latency.ms),
        "low": float(latency.low),
        "high": float(latency.high),
        "busy": latency.busy,
        "peak_bytes": latency.peak_bytes,
    }


def point_of(epoch: Epoch) -> list[float | None]:
    return [epoch.epoch, *map(_number, (epoch.train_loss, epoch.accuracy, epoch.seconds))]


def epoch_of(point: Sequence[Any]) -> Epoch:
    epoch, *others = point
    train_loss, accuracy, seconds = (math.nan if value is None else value for value in others)
    return Epoch(epoch=epoch, train_loss=train_loss, accuracy=accuracy, seconds=seconds)


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {clean(name): _number(value) for name, value in metrics.items()}


def _number(value: float | None) -> float | None:
    """A plain number; None for NaN and infinity, which not both databases can hold, and for what
    ``nas.store.values.number`` would not read."""
    if value is None or not abs(value) <= LARGEST:
        return None
    return value if type(value) is int else float(value)


def clean(text: str) -> str:
    """Text that both databases accept: no NUL, no lone surrogates, at most 10,000 characters."""
    return text[:10_000].replace("\0", "\\0").encode(errors="backslashreplace").decode()
