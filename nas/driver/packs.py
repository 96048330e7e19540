"""Packs: exports networks as ONNX to be timed on another machine, and reads its answers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    Weights are drawn with a fixed seed, so that the same networks give the same pack. Raises
    NasError for a folder that is not empty.
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
    with artifacts.together() as new:

        def put(file: str, data: bytes) -> str:
            artifacts.replace(new(folder / file), data)
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
    return name


@dataclass(frozen=True, slots=True)
class _Answer:
    """The latency of a network of a pack, with the ``sha256`` of the file that was timed."""

    fingerprint: str
    sha256: str
    threads: int
    latency: Latency


def read_answers(
    store: Store, file: Path, study: StudyRow | None = None
) -> tuple[StudyRow, Device, list[tuple[str, Latency]]]:
    """Records the answers to a pack; returns its study, the device, and the latencies by
    fingerprint. Raises NasError, with nothing recorded, for a file of another form, a pack that the
    record does not know or that is of another ``study``, networks that are not in it, changed
    files, and a device name that belongs to another machine."""
    try:
        written = fields.read(str(file), content(file), WHAT)
    except OSError as error:
        raise NasError(f"{file}: {error.strerror}: must be {WHAT}") from None
    written.of(dict, WHAT)
    entries, pack = written["answers"].items("a list of answers"), written["pack"].text()
    if written["runtime"].text() != "onnx":
        written["runtime"].refuse(f"onnx, in which {SCRIPT} times")
    about = {"cpu": written["cpu"].text(), "clock": written["clock"].text()}
    version, device_name = written["versions"]["onnxruntime"].text(), written["device"].text()
    name = named(device_name, f"{file}: device") or own_name()
    of, networks = _known_pack(store, file, pack, study)
    answers: dict[tuple[str, int, int], _Answer] = {}  # by network, threads and batch
    for entry in entries:
        answer = _answer(entry, name, about["cpu"], version)
        if answer.fingerprint not in networks:
            entry["fingerprint"].refuse(f"that of a network of pack {pack}")
        network = networks[answer.fingerprint]
        if answer.sha256 != network["sha256"]:
            changed = network["file"]
            raise NasError(f"{file}: {changed} was changed after it was packed: pack it again")
        key = (answer.fingerprint, answer.threads, answer.latency.batch)
        first = answers.setdefault(key, answer)
        if first.latency != answer.latency:
            raise NasError(
                f"{file}: network {answer.fingerprint} has two answers of "
                f"{timing.threads_text(answer.threads)} and batch {answer.latency.batch}: "
                f"{first.latency.ms:g} and {answer.latency.ms:g} ms"
            )
    if not answers:
        raise NasError(f"{file}: has no answers")
    device = _record(store, name, about, [*answers.values()])
    return of, device, [(answer.fingerprint, answer.latency) for answer in answers.values()]


def _known_pack(
    store: Store, file: Path, pack: str, study: StudyRow | None
) -> tuple[StudyRow, dict[str, Any]]:
    """The study of a recorded pack, and its networks by fingerprint."""
    known = find_pack(store, pack)
    if known is None:
        raise NasError(
            f"{file}: pack is {brief(pack, 40)}: must be one that `nas latency pack` made from "
            "this record"
        )
    of = next(each for each in store.studies() if each.id == known[0])
    if study and study.id != of.id:
        raise StudyError(f"--study {study.name}: pack {pack} of {file} is of study {of.name}")
    return of, {network["fingerprint"]: network for network in known[1]}


def _answer(entry: Field, name: str, cpu: str, version: str) -> _Answer:
    """Parses an answer. Raises NasError for a field of another form."""
    threads = entry["threads"].whole(1, COUNT)
    where = f"{name}: {cpu}, {timing.threads_text(threads)}, onnxruntime {version}"
    latency = _latency(entry, where)
    return _Answer(entry["fingerprint"].text(), entry["sha256"].text(), threads, latency)


def _record(
    store: Store, name: str, about: Mapping[str, str], answers: Sequence[_Answer]
) -> Device:
    """Records answers, each number of threads as a device of its own; returns that with the most
    threads."""
    for threads in sorted({answer.threads for answer in answers}):
        here = [(each.fingerprint, each.latency) for each in answers if each.threads == threads]
        device = Device(device=here[0][1].device, name=name, threads=threads, about=about)
        keep(store, device, here, again=True)
    return device


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
