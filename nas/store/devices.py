"""Devices, latencies measured on them, packs to be measured elsewhere, and profiles."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Select, select

from nas.errors import StudyError
from nas.job import Latency
from nas.store.reading import Record
from nas.store.record import Store
from nas.store.steps import add_latency, put
from nas.store.tables import devices, latencies, now, packs, profiles, trials
from nas.store.values import checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A named device. ``device`` is its fingerprint, which includes threads and versions; ``about``
    holds its ``cpu`` and ``clock``."""

    device: str
    name: str
    threads: int
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A recorded latency; ``name`` and ``threads`` are those of its device, if that is named."""

    fingerprint: str
    latency: Latency
    name: str = ""
    threads: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    """A recorded latency profile (see ``nas.driver.profiles``): milliseconds of ``pieces`` by their
    keys and of ``wholes`` by their patterns, and the patterns of networks measured only in pieces,
    ``apart``."""

    device: Device
    runtime: str
    batch: int
    pieces: Mapping[str, float]
    wholes: Mapping[str, float]
    apart: Collection[str] = ()

    @property
    def place(self) -> tuple[str, str, int]:
        """Where its pieces were measured: see ``Latency.place``."""
        return self.device.device, self.runtime, self.batch


_DEVICE = {name: devices.c[name] for name in Device.__dataclass_fields__}
_LATENCY = {name: latencies.c[name] for name in Latency.__dataclass_fields__}
_NAMED = {"name": devices.c.name, "threads": devices.c.threads}  # of a latency's device
_MEASURED = {"fingerprint": latencies.c.fingerprint, **_NAMED, **_LATENCY}
_PACK = {name: packs.c[name] for name in ("pack", "study_id", "networks")}
_PROFILE = {name: profiles.c[name] for name in ("device", "runtime", "batch", "profile")}

_check_device = checked(_DEVICE, "device")
_check_measured = checked(_MEASURED, "fingerprint", _NAMED)
_check_pack = checked(_PACK, "pack")
_check_profile = checked(_PROFILE, "device")


def known_devices(record: Record) -> list[Device]:
    """All named devices, ordered by name."""
    query = _devices().order_by(devices.c.name, devices.c.device)
    return [_device(row) for row in record.rows(query)]


def measured(record: Record, fingerprints: Collection[str] | None = None) -> list[Measured]:
    """The latencies of the given architectures (None: all)."""
    query = select(*_MEASURED.values()).select_from(
        latencies.outerjoin(devices, devices.c.device == latencies.c.device)
    )
    found = []
    for row in record.rows(query.order_by(latencies.c.fingerprint, latencies.c.measured)):
        if fingerprints is None or row[0] in fingerprints:
            fields = dict(zip(_MEASURED, row, strict=True))
            _check_measured(fields)
            latency = Latency(**{name: fields[name] for name in _LATENCY})
            name, threads = fields["name"] or "", fields["threads"]
            found.append(Measured(fingerprint=row[0], latency=latency, name=name, threads=threads))
    return found


def patterns(record: Record, fingerprints: Collection[str]) -> dict[str, str]:
    """The pattern of each fingerprint for which there is a trial."""
    query = select(trials.c.fingerprint, trials.c.pattern).distinct()
    rows = record.rows(query.where(trials.c.fingerprint.in_(select(latencies.c.fingerprint))))
    return {row[0]: row[1] for row in rows if row[0] in fingerprints}


def keep(
    store: Store,
    device: Device | None,
    found: Iterable[tuple[str, Latency]],
    *,
    again: bool = False,
) -> None:
    """Records latencies by fingerprint, and their device. Known latencies are replaced only if
    measured ``again``. Raises StudyError where the device's name belongs to another machine."""
    found = list(found)

    def work(connection: Connection, _: bool) -> None:
        if device:
            _check_name(connection, device)
            put(connection, devices, _plain(device), replace=True)
        for fingerprint, latency in found:
            add_latency(connection, fingerprint, latency, replace=again)

    store.write(work)


def _plain(device: Device) -> dict[str, Any]:
    return {name: getattr(device, name) for name in Device.__dataclass_fields__}


def _check_name(connection: Connection, device: Device) -> None:
    for row in connection.execute(_devices().where(devices.c.name == device.name)):
        was, is_now = _device(row).about.get("cpu", ""), device.about.get("cpu", "")
        if was != is_now:
            raise StudyError(
                f"device {device.name} is a machine with {was} in this record, and here is one "
                f"with {is_now}: give it another name"
            )


def add_pack(store: Store, pack: str, study_id: int, networks: Sequence[Mapping[str, Any]]) -> None:
    """Records a pack; recording the same one again changes nothing."""
    row = {"pack": pack, "study_id": study_id, "networks": list(networks), "made": now()}
    store.write(lambda connection, _: put(connection, packs, row, replace=False))


def find_pack(record: Record, pack: str) -> tuple[int, list[dict[str, Any]]] | None:
    """The study's id and the networks of a pack; None if it was not made from this record."""
    rows = record.rows(select(*_PACK.values()).where(packs.c.pack == pack))
    if not rows:
        return None
    _check_pack(rows[0]._asdict())
    return rows[0].study_id, rows[0].networks


def keep_profile(store: Store, profiled: Profiled) -> None:
    """Records a profile, replacing the device's previous one."""
    row = {
        "device": profiled.device.device,
        "runtime": profiled.runtime,
        "batch": profiled.batch,
        "profile": {
            "pieces": dict(profiled.pieces),
            "wholes": dict(profiled.wholes),
            "apart": list(profiled.apart),
        },
        "made": now(),
    }

    def work(connection: Connection, _: bool) -> None:
        _check_name(connection, profiled.device)
        put(connection, devices, _plain(profiled.device), replace=True)
        put(connection, profiles, row, replace=True)

    store.write(work)


def all_profiles(record: Record) -> list[Profiled]:
    query = select(*_PROFILE.values(), *_DEVICE.values()).join(
        devices, devices.c.device == profiles.c.device
    )
    found = []
    for row in record.rows(query.order_by(devices.c.name)):
        fields = dict(zip(_PROFILE, row, strict=False))
        _check_profile(fields)
        device = _device(row[len(_PROFILE) :])
        profile = fields["profile"]
        found.append(
            Profiled(
                device=device,
                runtime=fields["runtime"],
                batch=fields["batch"],
                pieces=profile["pieces"],
                wholes=profile["wholes"],
                apart=profile.get("apart", ()),  # older versions recorded none
            )
        )
    return found


def _devices() -> Select[Any]:
    return select(*_DEVICE.values())


def _device(values: Sequence[Any]) -> Device:
    fields = dict(zip(_DEVICE, values, strict=True))
    _check_device(fields)
    return Device(**fields)
