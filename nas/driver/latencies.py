"""Latencies of a study's networks: measuring them here, and using them as metrics of trials."""

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
    """An ambiguous name: the device has latencies in several runtimes or numbers of threads."""


def networks(study: StudyRow, rows: Sequence[TrialRow], which: str) -> list[TrialRow]:
    """The trials selected by ``which``, "front", "all" or numbers such as "9,12"; of each
    architecture the first. Raises NasError for anything else and for a trial that is not a network,
    and NothingFound where there is none."""
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
    """Checks a device's name, which may be empty. Raises NasError."""
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
    """This machine as a device; without ``name``, under the name it has in the record, or else its
    host name. Raises NasError for a runtime that does not work here, and for more threads than
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
    on_measured: Callable[[TrialRow, Latency, bool], None],
) -> Device:
    """Measures networks here, recording each at once, and returns this device. Calls
    ``on_measured`` with each trial, its latency, and whether it is new: networks with a known
    latency are measured only if ``again``."""
    from nas.training import latency
    from nas.training.device import available
    from nas.training.network import build

    taken = [(row, row.architecture) for row in rows]  # raises before anything is measured
    here = device_here(store, name, runtime, threads, available())
    keep(store, here, [])
    known = {
        row.fingerprint: row.latency
        for row in measured(store)
        if row.latency.place == (here.device, runtime, batch)
    }
    for row, architecture in taken:
        if row.fingerprint in known and not again:
            on_measured(row, known[row.fingerprint], False)
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
        on_measured(row, found, True)
    return here


# --- as values of trials -------------------------------------------------------------------------


def with_latencies(
    record: Record, study: StudyRow, rows: Sequence[TrialRow]
) -> tuple[list[TrialRow], list[str]]:
    """Adds to trials, as metrics, the recorded latencies on the devices named by the study's
    objectives and constraints; and per name a note on how many trials have a value, and from which
    device.

    A name without a runtime or threads means those with which the search predicted it, or else the
    only ones recorded, or else those with which the search measured ``latency_ms``. Raises
    StudyError where several remain, or none."""
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
            on_it = _measured_on(everything, at, devices)
            fits, others = _in_one_setting(at, on_it, searched)
            if not fits:
                raise _nothing_measured(at, on_it, devices)
            values[name], where = _of_one_device(fits)
            where += others
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
    """The full name of the latency that a search predicted as ``name``; in a study of an older nas,
    which did not record it, that of the record's only profile of the device."""
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
        names = " or ".join(sorted(map(str, known)))
        raise Several(
            f"{at}: the record does not say which profile predicted it; name one: {names}"
        )
    return known.pop() if known else at


def _of(values: Mapping[str, Mapping[str, float]], row: TrialRow) -> dict[str, float]:
    return {
        name: known[row.fingerprint] for name, known in values.items() if row.fingerprint in known
    }


def is_here(device: str, about: Mapping[str, Any]) -> bool:
    """Whether a recorded device is this machine, by the name of its processor."""
    cpu = timing.cpu_name()
    return about.get("cpu") == cpu or (not about and device.startswith(f"{cpu} "))


def _measured_on(
    everything: Sequence[Measured], at: Located, devices: Sequence[Device]
) -> list[Measured]:
    """The measurements on the device that ``at`` names, in any setting. Raises StudyError for an
    unknown device."""
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
    return on_it


def _in_one_setting(
    at: Located, on_it: Sequence[Measured], searched: Collection[str]
) -> tuple[list[Measured], str]:
    """The measurements that ``at`` admits, and a note on those left out. Of several runtimes or
    numbers of threads, the setting of the devices on which the trials were ``searched``. Raises
    Several where that does not decide."""
    fits = [row for row in on_it if at.admits(*_setting(row), row.latency.batch)]
    settings = {_setting(row) for row in fits}
    if len(settings) < 2:
        return fits, ""
    names = {
        (runtime, threads): str(dataclasses.replace(at, runtime=runtime, threads=threads))
        for runtime, threads in sorted(settings, key=str)
    }
    here = [row for row in fits if row.latency.device in searched]
    own = next((_setting(row) for row in here if row.latency.runtime == OWN_RUNTIME), None)
    if own is None:
        raise Several(f"{at}: the record has several; name one: {' or '.join(names.values())}")
    rest = ", ".join(name for setting, name in names.items() if setting != own)
    note = f" as {names[own]}, as the study was searched (not {rest})"
    return [row for row in fits if _setting(row) == own], note


def _of_one_device(fits: Sequence[Measured]) -> tuple[dict[str, float], str]:
    """Latencies by fingerprint on the device with the most of them, and the name of that device:
    after an upgrade, say of PyTorch, a machine counts as another device."""
    (most, _), *versions = Counter(row.latency.device for row in fits).most_common()
    name = f"{most} (not on {len(versions)} other versions of it)" if versions else most
    return {row.fingerprint: row.latency.ms for row in fits if row.latency.device == most}, name


def _nothing_measured(
    at: Located, on_it: Sequence[Measured], devices: Sequence[Device]
) -> StudyError:
    """The error for a latency that no trial has: the settings measured, and the next step."""
    settings = ((*_setting(row), row.latency.batch) for row in on_it)
    had = sorted({f"{runtime}/t{threads}/b{batch}" for runtime, threads, batch in settings})
    known = f"; it has {', '.join(had)}" if had else ""
    step = _next_step(at, devices)
    return StudyError(f"{at}: no such latency of these trials was measured{known}; {step}")


def _next_step(at: Located, devices: Sequence[Device]) -> str:
    """The command that would record a missing latency."""
    own = [device for device in devices if device.name == at.device]
    if at.device != HERE and not any(is_here(device.device, device.about) for device in own):
        return f"`nas latency pack` makes what measures them on {at.device}"
    options = {
        "name": "" if at.device == HERE else at.device,
        "runtime": at.runtime,
        "threads": at.threads,
        "batch": at.batch if at.batch != 1 else None,
    }
    given = "".join(f" --{name} {value}" for name, value in options.items() if value)
    return f"`nas latency{given}` measures the front here"


def _setting(row: Measured) -> tuple[str, int | None]:
    """The runtime and threads of a measurement; an unnamed device has its threads in its
    fingerprint."""
    if row.threads is not None:
        return row.latency.runtime, row.threads
    match = re.search(r"(\d+) threads?,", row.latency.device)
    return row.latency.runtime, int(match[1]) if match else None
