"""Latencies of a study's networks: measured here, and as values of trials."""

from __future__ import annotations

import dataclasses
import platform
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas.driver.tradeoffs import nothing_found, pareto
from nas.errors import NasError, StudyError, brief, nearest
from nas.job import Latency
from nas.job.outcome import OWN_RUNTIME
from nas.metrics import HERE, Located, located
from nas.store import Store, StudyRow, TrialRow
from nas.store.devices import Device, Measured, all_profiles, keep, known_devices, measured
from nas.store.reading import Record
from nas.text import counted
from nas.training import timing

if TYPE_CHECKING:
    import torch


class Several(StudyError):
    """A device has latencies in several runtimes or numbers of threads: none is meant."""


def networks(study: StudyRow, rows: Sequence[TrialRow], which: str) -> list[TrialRow]:
    """The trials that ``which`` tells: front, all or numbers; of one architecture the first. Raises
    NasError for what is neither, and for a trial that is no network, and NothingFound where there
    is none."""
    if which in ("front", "all"):
        ended = [row for row in rows if row.evaluated or row.state == "stopped"]
        chosen = pareto(study, rows) if which == "front" else ended
        if not chosen:
            raise nothing_found(study, rows)
        rows = chosen
    elif re.fullmatch(r"\d{1,8}(,\d{1,8})*", which):
        known = {row.number: row for row in rows}
        numbers = [int(part) for part in which.split(",")]
        if missing := [n for n in numbers if n not in known]:
            raise NasError(f"--trials {which}: the study has no trial {missing[0]}")
        rows = [known[n] for n in numbers]
        for row in rows:
            if not row.is_network:
                raise NasError(f"--trials {which}: trial {row.number} is {row.baseline}, a "
                               "classical method: no network")  # fmt: skip
    else:
        raise NasError(f"--trials {which}: must be front, all or numbers such as 9,12")
    found = {row.fingerprint: row for row in reversed(rows) if row.is_network}
    if not found:
        raise NasError(f"--trials {which}: the study has no such network")
    return sorted(found.values(), key=lambda row: row.number)


# --- measured here -------------------------------------------------------------------------------


def named(name: str, what: str) -> str:
    """The name that a device is given, or none. Raises NasError for what is no name."""
    if name == HERE or (name and not re.fullmatch(timing.NAME, name)):
        raise NasError(
            f"{what} {brief(name, 60)}: a device's name has letters, digits and . _ -, and {HERE} "
            "is any machine itself"
        )
    return name


def own_name() -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", platform.node()).strip("-._")[:64] or "machine"


def device_here(
    record: Record, name: str, runtime: str, threads: int, device: torch.device
) -> Device:
    """This machine as the record knows it: without a name, by the name that it has there, or by the
    machine's own. Raises NasError for a runtime that does not work here, and for more threads than
    cores."""
    from nas.training import latency

    where = latency.fingerprint(latency.device_of(runtime, device, threads), threads, runtime)
    if not name:
        name = {each.device: each.name for each in known_devices(record)}.get(where, own_name())
    about = {"cpu": timing.cpu_name(), "clock": timing.governor()}
    return Device(device=where, name=name, threads=threads, about=about)


def measure(
    store: Store,
    rows: Iterable[TrialRow],
    *,
    name: str,
    runtime: str,
    threads: int,
    batch: int,
    again: bool,
    told: Callable[[TrialRow, Latency, bool], None],
) -> Device:
    """Measures networks here and keeps each at once; ``told`` of each trial, and whether its number
    is new. Returns this device. What the record has of it is not measured again unless asked.
    """
    from nas.training import latency
    from nas.training.device import available
    from nas.training.network import build

    taken = [(row, row.architecture) for row in rows]  # what is none is refused before all else
    here = device_here(store, name, runtime, threads, available())
    keep(store, here, [])
    known = {
        row.fingerprint: row.latency
        for row in measured(store)
        if row.latency.place == (here.device, runtime, batch)
    }
    for row, architecture in taken:
        if row.fingerprint in known and not again:
            told(row, known[row.fingerprint], False)
            continue
        found = latency.measure(
            build(architecture, seed=0),
            architecture.input,
            available(),
            runtime=runtime,
            threads=threads,
            batch=batch,
            memory=True,
        )
        keep(store, None, [(row.fingerprint, found)], again=True)
        told(row, found, True)
    return here


# --- as values of trials -------------------------------------------------------------------------


def with_latencies(
    record: Record, study: StudyRow, rows: Sequence[TrialRow]
) -> tuple[list[TrialRow], list[str]]:
    """Trials with what the record has of them on the devices that the study's objectives and
    constraints name, and a sentence for each such name that says how many have a value, and on
    what.

    A name that leaves the runtime or the threads open is of those by which it was predicted in the
    search, or else of the only ones, or else of those in which the search itself measured
    ``latency_ms``. Raises StudyError where that leaves several, or none."""
    names = dict.fromkeys([*dict(study.objectives), *study.constraints])
    places = {name: at for name in names if (at := located(name))}
    if not places:
        return list(rows), []
    devices = known_devices(record)
    searched = {row.latency_device for row in rows if row.latency_device}
    everything = measured(record, {row.fingerprint for row in rows})
    values: dict[str, dict[str, float]] = {}
    notes = []
    for name, at in places.items():
        predicted = sum(name in row.metrics for row in rows)  # by a profile, in a search
        try:
            at = _searched(record, study, name, at, predicted > 0)
            values[name], where = _values(everything, at, devices, searched)
        except StudyError as error:
            if not predicted or isinstance(error, Several):
                raise
            notes.append(
                f"{name}: {predicted} of {counted(len(rows), 'trial')}, all of them predicted"
            )
            continue
        have = sum(row.fingerprint in values[name] for row in rows)
        only = sum(name in row.metrics and row.fingerprint not in values[name] for row in rows)
        more = f", {only} more predicted" if only else ""
        notes.append(f"{name}: {have} of {counted(len(rows), 'trial')}, measured on {where}{more}")
    return [
        dataclasses.replace(row, metrics={**row.metrics, **_of(values, row)}) for row in rows
    ], notes


def _searched(record: Record, study: StudyRow, name: str, at: Located, predicted: bool) -> Located:
    """What a search predicted by that name, in full. A study of an older nas does not tell: it is
    what the record's only profile of that device is of."""
    full = study.settings.get("devices", {}).get(name)
    if full or not predicted:
        return located(full or name) or at
    known = {
        dataclasses.replace(at, runtime=each.runtime, threads=each.device.threads)
        for each in all_profiles(record)
        if each.device.name == at.device
        and at.admits(each.runtime, each.device.threads, each.batch)
    }
    if len(known) > 1:
        told = " or ".join(sorted(map(str, known)))
        raise Several(f"{at}: the record does not say which profile predicted it; name one: {told}")
    return known.pop() if known else at


def _of(values: Mapping[str, Mapping[str, float]], row: TrialRow) -> dict[str, float]:
    return {
        name: known[row.fingerprint] for name, known in values.items() if row.fingerprint in known
    }


def is_here(device: str, about: Mapping[str, Any]) -> bool:
    """Whether a device of the record is this machine, as far as its processor tells."""
    cpu = timing.cpu_name()
    return about.get("cpu") == cpu or (not about and device.startswith(f"{cpu} "))


def _values(
    everything: Sequence[Measured],
    at: Located,
    devices: Sequence[Device],
    searched: Collection[str],
) -> tuple[dict[str, float], str]:
    """By fingerprint, of the device that has most; and which that is. Of several runtimes or
    numbers of threads it is that in which the trials were ``searched``, on these devices. Raises
    StudyError where the name is unknown, or of several and none of them is."""
    about = {device.device: device.about for device in devices}
    on_it = [
        row
        for row in everything
        if (row.name == at.device)
        or (at.device == HERE and is_here(row.latency.device, about.get(row.latency.device, {})))
    ]
    names = sorted({device.name for device in devices})
    if not on_it and at.device not in (*names, HERE):
        known = nearest(at.device, names) if names else "the record names no device yet"
        raise StudyError(f"{at}: there is no device {at.device}; {known}")
    fits = [row for row in on_it if at.admits(*_how(row), row.latency.batch)]
    settings = {_how(row) for row in fits}
    others = ""
    if len(settings) > 1:
        named = {
            (runtime, threads): str(dataclasses.replace(at, runtime=runtime, threads=threads))
            for runtime, threads in sorted(settings, key=str)
        }
        here = [row for row in fits if row.latency.device in searched]
        own = next((_how(row) for row in here if row.latency.runtime == OWN_RUNTIME), None)
        if own is None:
            raise Several(f"{at}: the record has several; name one: {' or '.join(named.values())}")
        rest = ", ".join(name for how, name in named.items() if how != own)
        others = f" as {named[own]}, as the study was searched (not {rest})"
        fits = [row for row in fits if _how(row) == own]
    if not fits:
        how = ((*_how(row), row.latency.batch) for row in on_it)
        had = sorted({f"{runtime}/t{threads}/b{batch}" for runtime, threads, batch in how})
        told = f"; it has {', '.join(had)}" if had else ""
        step = _step(at, devices)
        raise StudyError(f"{at}: no such latency of these trials was measured{told}; {step}")
    (most, _), *versions = Counter(row.latency.device for row in fits).most_common()
    told = f"{most}" + (f" (not on {len(versions)} other versions of it)" if versions else "")
    told += others
    return {r.fingerprint: r.latency.ms for r in fits if r.latency.device == most}, told


def _step(at: Located, devices: Sequence[Device]) -> str:
    """How a latency comes into the record that is not there."""
    own = [device for device in devices if device.name == at.device]
    if at.device != HERE and not any(is_here(device.device, device.about) for device in own):
        return f"`nas latency pack` makes what measures them on {at.device}"
    options = {
        "name": "" if at.device == HERE else at.device,
        "runtime": at.runtime,
        "threads": at.threads,
        "batch": at.batch if at.batch != 1 else None,
    }
    told = "".join(f" --{name} {value}" for name, value in options.items() if value)
    return f"`nas latency{told}` measures the front here"


def _how(row: Measured) -> tuple[str, int | None]:
    """In which runtime, in how many threads; of a device without a name its fingerprint says it."""
    if row.threads is not None:
        return row.latency.runtime, row.threads
    match = re.search(r"(\d+) threads?,", row.latency.device)
    return row.latency.runtime, int(match[1]) if match else None
