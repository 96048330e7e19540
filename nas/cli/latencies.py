"""``nas latency``, from options to output."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from nas.cli.options import data_ref, load_plugins
from nas.cli.output import directory
from nas.cli.patterns import space_on
from nas.cli.record import open_record, study_in
from nas.cli.settings import seed_within
from nas.driver import latencies, packs, profiles
from nas.job import Latency
from nas.metrics import Located, metric
from nas.report import screens
from nas.report.trials import body_of
from nas.store import Store, StudyRow, TrialRow
from nas.text import counted

COLUMNS = ("trial", "latency", "interval", "busy", "peak")
DOUBTFUL = 0.5  # a note is printed where a smaller fraction of predictions is within 10 %


def _chosen(
    storage: str, study: str | None, trials: str, plugins: Iterable[Path]
) -> tuple[Store, StudyRow, list[TrialRow]]:
    load_plugins(plugins)
    store = open_record(storage, write=True)
    row = study_in(store, study)
    return store, row, latencies.networks(row, list(store.trials(row.id)), trials)


def measure_and_show(
    storage: str,
    study: str | None,
    trials: str,
    *,
    name: str,
    runtime: str,
    threads: int,
    batch: int,
    again: bool,
    plugins: Iterable[Path],
) -> None:
    """Prints a line for each network, and at the end how to name the device."""
    name = latencies.named(name, "--name")
    store, row, rows = _chosen(storage, study, trials, plugins)
    listed = screens.table(*COLUMNS, "", "pattern", numbers=COLUMNS)

    def show(row: TrialRow, found: Latency, new: bool) -> None:
        print(f"nas: trial {row.number}: {found.ms:.3f} ms", file=sys.stderr)
        listed.add_row(
            str(row.number),
            metric("latency_ms").shown(found.ms),
            f"{found.low:.3f} to {found.high:.3f}",
            "" if found.busy is None else f"{100 * found.busy:.0f} %",
            "" if found.peak_bytes is None else f"{found.peak_bytes / 2**20:.1f} MiB",
            "" if new else "known",
            body_of(row),
        )

    here = latencies.measure(
        store, rows, name=name, runtime=runtime, threads=threads, batch=batch, again=again,
        on_measured=show,
    )  # fmt: skip
    screens.out(listed)
    _suggest_front(row, Located("latency_ms", here.name, runtime, threads, batch))


def pack_and_show(
    storage: str, study: str | None, trials: str, folder: Path, plugins: Iterable[Path]
) -> None:
    directory(folder, "networks and a script")
    store, row, rows = _chosen(storage, study, trials, plugins)
    name = packs.pack(store, row, rows, folder)
    print(
        f"nas: pack {name} of {counted(len(rows), 'network')} is in {folder}; on the "
        "device, with onnxruntime "
        f"and numpy: python {packs.SCRIPT} --device NAME; then back here: nas latency read "
        f"{folder / packs.ANSWERS}",
        file=sys.stderr,
    )


def read_and_show(storage: str, study: str | None, answers: Path) -> None:
    store = open_record(storage, write=True)
    wanted = None if study is None else store.find_study(study)
    row, device, found = packs.read_answers(store, answers, wanted)
    trials = len({fingerprint for fingerprint, _ in found})
    print(
        f"nas: {counted(len(found), 'latency', 'latencies')} of "
        f"{counted(trials, 'network')} on {device.name}",
        file=sys.stderr,
    )
    at = Located("latency_ms", device.name, "onnx", device.threads, found[-1][1].batch)
    _suggest_front(row, at)


def _suggest_front(row: StudyRow, at: Located) -> None:
    named = shlex.quote(row.name)
    print(f"next: nas pareto --study {named} --objective accuracy:max,{at}:min", file=sys.stderr)


def profile_and_show(
    storage: str,
    space: str,
    *,
    name: str,
    runtime: str,
    threads: int,
    batch: int,
    networks: int,
    dataset: str | None,
    data: str,
    size: int,
    seed: int,
    again: bool,
    plugins: Iterable[Path],
) -> None:
    """Prints progress, and at the end how far the predictions can be trusted."""
    name = latencies.named(name, "--name")
    seed_within(seed)
    load_plugins(plugins)
    loaded = space_on(space, data_ref(dataset, data, size))
    store = open_record(storage, create=True)

    now = dict.fromkeys(("pieces", "networks"), 0)

    def progress(what: str, done: int, of: int) -> None:
        now[what] = done
        if done == of or done % max(1, of // 10) == 0:
            print(f"nas: {done} of {of} {what} measured", file=sys.stderr)

    made, predictor = profiles.profile(
        store, loaded, name=name, runtime=runtime, threads=threads, batch=batch,
        networks=networks, seed=seed, again=again, on_progress=progress,
    )  # fmt: skip
    at = Located("latency_ms", made.device.name, runtime, threads, batch)
    listed, whole = screens.table("", ""), len(made.wholes)
    listed.show_header = False
    for key, text in {
        "device": made.device.device,
        "pieces": f"{len(predictor.table):,}, {now['pieces']:,} of them just measured",
        "networks": f"{whole:,} measured whole, {now['networks']:,} of them just now",
        "error": predictor.trust,
        "metric": str(at),
    }.items():
        listed.add_row(key, text)
    screens.out(listed)
    if predictor.errors and predictor.within < DOUBTFUL:
        note = "other work may have disturbed this: --again repeats all measurements"
        print(f"nas: {note}", file=sys.stderr)
