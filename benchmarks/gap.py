"""From a candidate's end to the next one's first step on the same seat, and what it is made of.

    python benchmarks/gap.py [--trials 24] [--workers 2]

A real ``nas search`` on digits, in which ``nas.failpoints.reach`` writes the time down, in the
driver and in the seats' processes; the first step is noted by the training itself. The first job of
each process is left out. Prints medians and 90 % quantiles in milliseconds: of the whole, and of
its parts one behind the other. Two minutes on two idle cores; what else runs is in the figures.
"""

from __future__ import annotations

import argparse
import bisect
import statistics
import subprocess
import sys
import tempfile

from notes import Note, environment, read

PARTS = ("received", "recorded", "told", "begun", "dispatched", "job_taken", "first_step")


def gaps(told: list[Note]) -> list[dict[str, float]]:
    """The parts of each gap, in seconds."""
    driver: dict[str, list[float]] = {}
    seats: dict[str, list[tuple[str, float]]] = {}
    for note in told:
        if note.name in ("job_taken", "job_done", "first_step"):
            seats.setdefault(note.pid, []).append((note.name, note.moment))
        else:
            driver.setdefault(note.name, []).append(note.moment)
    found = []
    for events in seats.values():
        for k, (name, ended) in enumerate(events[:-2]):
            if name != "job_done" or events[k + 2][0] != "first_step":
                continue
            own, last, gap = dict(events[k + 1 : k + 3]), ended, {}
            for part in PARTS:
                # The next of the kind in the driver.
                times = sorted(driver.get(part, []))
                at = bisect.bisect_left(times, last)
                when = own.get(part, times[at] if at < len(times) else last)
                when = min(max(when, last), own["job_taken"]) if part not in own else when
                gap[part], last = when - last, when
            found.append({"all": last - ended, **gap})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "nas.cli", "search", "--space", "resnet_like"]
        command += ["--trials", str(told.trials), "--workers", str(told.workers)]
        environ = environment(folder)
        subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True)
        found = gaps(read(folder))
    print(f"{len(found)} gaps, milliseconds | median | 90 %\n---|--:|--:")
    for part in found[0]:
        times = [1e3 * gap[part] for gap in found]
        print(
            f"{part} | {statistics.median(times):.0f} | {statistics.quantiles(times, n=10)[-1]:.0f}"
        )


if __name__ == "__main__":
    main()
