"""Several candidates on one GPU: how many of them it trains a minute.

    python benchmarks/card.py --data DIR [--seats 8] [--jobs 24] [--epochs 20] [--turns]

So many seats of one process, as a node has them, without Ray and a search. Each trains one small
network first, uncounted: what a process imports once, it imports there. ``--turns``: without CUDA's
MPS, the card by turns. Prints one line: the seats, candidates a minute, images a second of all
together, and how much of its time the card was busy, as nvidia-smi has it.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from nas import data
from nas.job import DataRef, Failure, Job, Recipe
from nas.workers.cluster import _environ
from nas.workers.seat import Seat

PATTERN = (
    "INPUT -> CONV({w}) -> BN -> RELU -> RESIDUAL({w})*2 -> POOL -> RESIDUAL({v})*2"
    " -> POOL -> RESIDUAL(64)*2 -> GAP -> FC"
)


def outcome_of(seat: Seat, ticket: int, job: Job) -> str:
    """What went wrong, or nothing."""
    *_, last = seat.run(ticket, job)
    return last.reason if isinstance(last, Failure) else ""


def busy(over: threading.Event) -> list[float]:
    """Percent of the time in which a kernel ran, twice a second."""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    found = []
    while not over.wait(0.5):
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        found.append(float(told.split()[0]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--seats", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--turns", action="store_true")
    told = parser.parse_args()
    ref = DataRef(name="imagefolder", dir=told.data)
    images = len(data.load(ref, "train"))
    share = 1 / told.seats
    seats = [
        Seat(environ=_environ(1, share), shares_gpu=told.seats > 1 and not told.turns)
        for _ in range(told.seats)
    ]
    through = all("CUDA_MPS_PIPE_DIRECTORY" in seat._environ for seat in seats)
    first = Job(pattern=PATTERN.format(w=16, v=32), data=ref, epochs=1, recipe=Recipe(crop=4))
    jobs = [
        replace(first, pattern=PATTERN.format(w=12 + 2 * k, v=24 + 4 * k), epochs=told.epochs)
        for k in itertools.islice(itertools.cycle(range(6)), told.jobs)
    ]
    turn, todo, over = threading.Lock(), list(enumerate(jobs, told.seats)), threading.Event()

    def drain(seat: Seat) -> list[str]:
        wrong = []
        while True:
            with turn:
                if not todo:
                    return wrong
                ticket, job = todo.pop(0)
            wrong.append(outcome_of(seat, ticket, job))

    with ThreadPoolExecutor(told.seats + 1) as pool:
        began = time.perf_counter()
        warm = list(pool.map(outcome_of, seats, range(told.seats), [first] * told.seats))
        ready = time.perf_counter() - began
        watched = pool.submit(busy, over)
        began = time.perf_counter()
        wrong = sum(pool.map(drain, seats), warm)
        seconds = time.perf_counter() - began
        over.set()
        used = watched.result()
    for seat in seats:
        seat.close()
    print(
        f"{told.seats} seats {'through MPS' if through else 'by turns'}: "
        f"{60 * told.jobs / seconds:.1f} candidates a minute, "
        f"{told.jobs * told.epochs * images / seconds:,.0f} images a second, "
        f"card busy {sum(used) / max(1, len(used)):.0f} % of {seconds:.0f} s, "
        f"ready after {ready:.1f} s, failed: {[each for each in wrong if each]}",
        flush=True,
    )


if __name__ == "__main__":
    main()
