"""Packs: ONNX networks to be timed on another machine, and reading its answers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

from nas import artifacts, fields
from nas.driver.latencies import named, own_name
from nas.errors import NasError, StudyError, brief
from nas.fields import Field
from nas.files import content
from nas.job import Latency
from nas.store import Store, StudyRow, TrialRow
from nas.store.devices import Device, add_pack, find_pack, keep
from nas.training import timing

MANIFEST, SCRIPT, ANSWERS = "manifest.json", "measure.py", "answers.json"

WHAT = f"what {SCRIPT} of a pack has written"
LEAST = math.ulp(0.0)  # the smallest number above 0
COUNT = (1 << 20) - 1  # most threads, and most images per batch


def pack(store: Store, study: StudyRow, rows: Sequence[TrialRow], folder: Path) -> str:
    """Writes ONNX files, the script and the manifest, records the pack and returns its name.

    Weights are drawn with a fixed seed: the same networks give the same pack. Raises NasError for a
    folder that is not empty.
    """
    from nas.training.network import build
    from nas.training.runtimes import to_graph

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise NasError(f"--output {folder}: must be a new or an empty directory")
    taken = [(row, row.architecture) for row in rows]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NasError(f"--output {folder}: {error.strerror}") from None
    listed = []
    with contextlib.ExitStack() as undone:  # half a pack would be in the way of a whole one

        def put(file: str, data: bytes) -> str:
            undone.callback((folder / file).unlink, missing_ok=True)
            artifacts.replace(folder / file, data)
            return hashlib.sha256(data).hexdigest()

        for row, architecture in taken:
            graph = to_graph(build(architecture, seed=0).eval(), architecture.input)
            file = f"trial-{row.number}.onnx"
            known = {"fingerprint": row.fingerprint, "trial": row.number, "file": file}
            listed.append({**known, "sha256": put(file, graph)})
        script = {"file": SCRIPT, "sha256": put(SCRIPT, Path(timing.__file__).read_bytes())}
        name = hashlib.sha256(json.dumps([study.name, study.id, listed]).encode()).hexdigest()[:16]
        manifest = {"pack": name, "study": study.name, "networks": listed, "script": script}
        put(MANIFEST, json.dumps(manifest, indent=1).encode())
        add_pack(store, name, study.id, listed)
        undone.pop_all()
    return name


def read_answers(
    store: Store, file: Path, study: StudyRow | None = None
) -> tuple[StudyRow, Device, list[tuple[str, Latency]]]:
    """Records the answers of a pack; returns its study, the device, and the latencies by
    fingerprint. Raises NasError, with nothing recorded, for a file of another form, a pack that the
    record does not know or of another ``study``, networks that are not in it, changed files, and a
    device name that belongs to another machine."""
    try:
        told = fields.read(str(file), content(file), WHAT)
    except OSError as error:
        raise NasError(f"{file}: {error.strerror}: must be {WHAT}") from None
    told.of(dict, WHAT)
    answers, pack = told["answers"].items("a list of answers"), told["pack"].text()
    if told["runtime"].text() != "onnx":
        told["runtime"].refuse(f"onnx, in which {SCRIPT} times")
    cpu, clock = told["cpu"].text(), told["clock"].text()
    version, device_name = told["versions"]["onnxruntime"].text(), told["device"].text()
    name = named(device_name, f"{file}: device") or own_name()
    known = find_pack(store, pack)
    if known is None:
        raise NasError(
            f"{file}: pack is {brief(pack, 40)}: must be one that `nas latency pack` made from "
            "this record"
        )
    of = next(each for each in store.studies() if each.id == known[0])
    if study and study.id != of.id:
        raise StudyError(f"--study {study.name}: pack {pack} of {file} is of study {of.name}")
    files = {network["fingerprint"]: network for network in known[1]}
    found: dict[tuple[int, int, str], Latency] = {}  # by threads, batch and network
    for answer in answers:
        threads = answer["threads"].whole(1, COUNT)
        where = f"{name}: {cpu}, {timing.threads_text(threads)}, onnxruntime {version}"
        taken = _latency(answer, where)
        fingerprint, sha256 = answer["fingerprint"].text(), answer["sha256"].text()
        if fingerprint not in files:
            answer["fingerprint"].refuse(f"that of a network of pack {pack}")
        if sha256 != files[fingerprint]["sha256"]:
            changed = files[fingerprint]["file"]
            raise NasError(f"{file}: {changed} was changed after it was packed: pack it again")
        setting = (threads, taken.batch, fingerprint)
        if found.setdefault(setting, taken) != taken:
            raise NasError(
                f"{file}: network {fingerprint} has two answers of {timing.threads_text(threads)} "
                f"and batch {taken.batch}: {found[setting].ms:g} and {taken.ms:g} ms"
            )
    if not found:
        raise NasError(f"{file}: has no answers")
    for threads in sorted({threads for threads, _, _ in found}):
        each = [(key[2], taken) for key, taken in found.items() if key[0] == threads]
        about = {"cpu": cpu, "clock": clock}
        device = Device(device=each[0][1].device, name=name, threads=threads, about=about)
        keep(store, device, each, again=True)
    return of, device, [(fingerprint, taken) for (_, _, fingerprint), taken in found.items()]


def _latency(answer: Field, device: str) -> Latency:
    low, ms, high = (
        answer[name].number(LEAST, rule="milliseconds above 0") for name in ("low", "ms", "high")
    )
    if not low <= ms <= high:
        answer["ms"].refuse(f"from low, {low:g}, to high, {high:g}")
    answer["reference"].number(LEAST, rule="seconds above 0")
    busy, peak = answer["busy"], answer["peak_bytes"]
    return Latency(
        ms=ms,
        low=low,
        high=high,
        device=device,
        runtime="onnx",
        batch=answer["batch"].whole(1, COUNT),
        busy=busy.number(0, 1) if busy.given else None,
        peak_bytes=peak.whole(0, (1 << 63) - 1) if peak.given else None,
    )
