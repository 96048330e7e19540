"""Several candidates on one GPU: how many it trains per minute.

    python benchmarks/card.py --data DIR [--seats 8] [--jobs 24] [--epochs 20] [--turns]
    python benchmarks/card.py --data DIR --search 45 [--epochs 20]

The seats run in one process, as on a node, without Ray and a search. Each first trains one small
network, uncounted, so that imports are done. ``--turns``: without CUDA's MPS, so that processes
take turns on the GPU. Prints one line: the seats, candidates per minute, total images per second,
the GPU's busy share of the time (nvidia-smi), and how many processes were not fit for another job.
``--search``: a whole ``nas search`` of that many seconds instead, with Ray and its default number
of workers; candidates per minute are counted from the first result.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from nas import data, processes
from nas.job import DataRef, Failure, Job, Recipe
from nas.workers import mps
from nas.workers.machine import environ
from nas.workers.seat import Seat

PATTERN = (
    "INPUT -> CONV({w}) -> BN -> RELU -> RESIDUAL({w})*2 -> POOL -> RESIDUAL({v})*2"
    " -> POOL -> RESIDUAL(64)*2 -> GAP -> FC"
)


def outcome_of(seat: Seat, ticket: int, job: Job) -> tuple[str, bool]:
    """What went wrong, or nothing; and whether the seat's process is kept for the next job."""
    *_, last = seat.run(ticket, job)
    return last.reason if isinstance(last, Failure) else "", seat._child is not None


def busy(over: threading.Event) -> list[float]:
    """Percent of the time in which a kernel ran, sampled twice a second; empty where unknown."""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    found = []
    while not over.wait(0.5):
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
            answer = subprocess.run(query, capture_output=True, text=True, check=True).stdout
            found.append(float(answer.split()[0]))
    return found


def busy_text(used: list[float]) -> str:
    return f"{sum(used) / len(used):.0f} %" if used else "unknown"


def search(folder: str, seconds: int, epochs: int) -> None:
    """A whole search of a space of small networks, in a process of its own."""
    over = threading.Event()
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(1) as pool:
        command = [sys.executable, "-m", "nas.cli", "search", "--space", "resnet_like"]
        command += ["--data", str(Path(folder).resolve()), "--epochs", str(epochs)]
        command += ["--budget", f"{seconds}s", "--recipe", "crop=4", "--keep", "none"]
        command += ["--storage", "sqlite:///nas.db"]
        watched = pool.submit(busy, over)
        try:
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        finally:
            over.set()
        if done.returncode:
            raise SystemExit(done.stderr)
        with contextlib.closing(sqlite3.connect(Path(place, "nas.db"))) as record:
            rows = record.execute("SELECT state, created, finished, reason FROM nas_trials")
            trials = rows.fetchall()
    ends = sorted(finished for state, _, finished, _ in trials if state == "finished")
    if not ends:
        raise SystemExit(f"no candidate ended: {trials}")
    first = ends[0] - min(created for _, created, _, _ in trials)
    rate = 60 * (len(ends) - 1) / max(1e-9, ends[-1] - ends[0])
    folder_of_mps = processes.own_folder() / "mps"
    works = folder_of_mps.exists() and not mps._failed(folder_of_mps)
    print(
        f"a search through Ray{' and MPS' * works}: {len(ends)} candidates, "
        f"the first after {first:.1f} s, then {rate:.1f} a minute, "
        f"card busy {busy_text(watched.result())} of the whole, "
        f"failed: {[reason for *_, reason in trials if reason]}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--seats", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--turns", action="store_true")
    parser.add_argument("--search", type=int, metavar="SECONDS")
    told = parser.parse_args()
    if told.search:
        search(told.data, told.search, told.epochs)
        return
    ref = DataRef(name="imagefolder", dir=told.data)
    images = len(data.load(ref, "train"))
    share = 1 / told.seats
    seats = [
        Seat(environ=environ(1, share), shares_gpu=told.seats > 1 and not told.turns)
        for _ in range(told.seats)
    ]
    through = all("CUDA_MPS_PIPE_DIRECTORY" in seat._environ for seat in seats)
    first = Job(pattern=PATTERN.format(w=16, v=32), data=ref, epochs=1, recipe=Recipe(crop=4))
    jobs = [
        replace(first, pattern=PATTERN.format(w=12 + 2 * k, v=24 + 4 * k), epochs=told.epochs)
        for k in itertools.islice(itertools.cycle(range(6)), told.jobs)
    ]
    turn, todo, over = threading.Lock(), list(enumerate(jobs, told.seats)), threading.Event()

    def drain(seat: Seat) -> list[tuple[str, bool]]:
        outcomes = []
        while True:
            with turn:
                if not todo:
                    return outcomes
                ticket, job = todo.pop(0)
            outcomes.append(outcome_of(seat, ticket, job))

    with ThreadPoolExecutor(told.seats + 1) as pool:
        began = time.perf_counter()
        outcomes = list(pool.map(outcome_of, seats, range(told.seats), [first] * told.seats))
        ready = time.perf_counter() - began
        watched = pool.submit(busy, over)
        began = time.perf_counter()
        outcomes += itertools.chain.from_iterable(pool.map(drain, seats))
        seconds = time.perf_counter() - began
        over.set()
        used = watched.result()
    for seat in seats:
        seat.close()
    print(
        f"{told.seats} seats {'through MPS' if through else 'by turns'}: "
        f"{60 * told.jobs / seconds:.1f} candidates a minute, "
        f"{told.jobs * told.epochs * images / seconds:,.0f} images a second, "
        f"card busy {busy_text(used)} of {seconds:.0f} s, ready after {ready:.1f} s, "
        f"{sum(not kept for _, kept in outcomes)} processes ended after a job, "
        f"failed: {[reason for reason, _ in outcomes if reason]}",
        flush=True,
    )


if __name__ == "__main__":
    main()
