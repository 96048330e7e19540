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
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

# Loaded by every Python that the search starts, before its modules take the name ``reach``.
NOTES = """
import os, time
import nas.failpoints

def note(name):
    with open(os.environ["NAS_NOTES"], "a") as file:
        file.write(f"{os.getpid()} {name} {time.monotonic():.6f}\\n")

def reach(name):
    note(name)
    if name == "job_taken" and not hasattr(nas.failpoints, "noted"):
        nas.failpoints.noted = True
        from nas.training import train
        step_of = train.step_of
        def noting(*told):
            step, first = step_of(*told), [True]
            def call(*batch):
                if first:
                    note("first_step")
                    first.clear()
                return step(*batch)
            return call
        train.step_of = noting

nas.failpoints.reach = reach
"""
PARTS = ("received", "recorded", "told", "begun", "dispatched", "job_taken", "first_step")


def gaps(lines: list[str]) -> list[dict[str, float]]:
    """The parts of each gap, in seconds."""
    driver: dict[str, list[float]] = {}
    seats: dict[str, list[tuple[str, float]]] = {}
    for line in lines:
        pid, name, moment = line.split()
        if name in ("job_taken", "job_done", "first_step"):
            seats.setdefault(pid, []).append((name, float(moment)))
        else:
            driver.setdefault(name, []).append(float(moment))
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
        Path(folder, "sitecustomize.py").write_text(NOTES)
        notes = Path(folder, "notes")
        command = [sys.executable, "-m", "nas.cli", "search", "--space", "resnet_like"]
        command += ["--trials", str(told.trials), "--workers", str(told.workers)]
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH", "")]))
        environ = {**os.environ, "PYTHONPATH": path, "NAS_NOTES": str(notes)}
        subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True)
        found = gaps(notes.read_text().splitlines())
    print(f"{len(found)} gaps, milliseconds | median | 90 %\n---|--:|--:")
    for part in found[0]:
        times = [1e3 * gap[part] for gap in found]
        print(
            f"{part} | {statistics.median(times):.0f} | {statistics.quantiles(times, n=10)[-1]:.0f}"
        )


if __name__ == "__main__":
    main()
