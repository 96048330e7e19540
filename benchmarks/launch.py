"""What ``nas search`` is made of from the moment it is typed to its first training step.

    python benchmarks/launch.py [--rounds 5] [--workers 2] [--beside DIR]

A real ``nas search`` on digits, its command line run by a few lines that note when the driver comes
to each part; ``nas.failpoints.reach`` notes the rest, as in ``gap.py``. The search is ended at the
first step of its first training. Prints the median and the least of the rounds, in milliseconds:
each part from the end of the one above it, and the whole; and the processor time that the part took
of the process that it ends in, which others on the machine do not blur. ``--beside`` another
checkout, in turns with this one. A minute on two idle cores.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from notes import environment, read

# The driver: what is typed, with a note at each part.
DRIVER = """
from nas.failpoints import note
note("python")
import nas.workers
from nas.cli import app
note("command_imported")
def opened(*told, **more):
    note("pool_asked")
    pool = open_pool(*told, **more)
    note("pool_opened")
    return pool
open_pool, nas.workers.open_pool = nas.workers.open_pool, opened
from nas.cli.__main__ import main
main()
"""
PARTS = {
    "python": "Python's own start",
    "command_imported": "imports of the command line",
    "pool_asked": "the space, the images",
    "pool_opened": "the pool",
    "recovered": "the record, the study; imports of optuna and the driver",
    "asked": "the first ask",
    "dispatched": "its trial begun and handed over",
    "seat_taken": "the seat",
    "job_taken": "its process",
    "torch_imported": "its import of torch",
    "prepared": "the images, the network",
    "first_step": "until the first step",
}


def launch(workers: int, checkout: str) -> dict[str, tuple[float, float]]:
    """Seconds that each part took, on the wall and of its process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", DRIVER, "search", "--space", "resnet_like"]
        command += ["--workers", str(workers), "--storage", f"sqlite:///{folder}/record.db"]
        environ = environment(folder, checkout)
        with open(Path(folder, "log"), "w") as log:
            begun = time.monotonic()
            running = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)
            while not any(n.name == "first_step" for n in read(folder)) and running.poll() is None:
                time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        running.wait()
        first: dict[str, tuple[str, float, float]] = {}
        for note in read(folder):
            first.setdefault(note.name, (note.pid, note.moment, note.used))
        if "first_step" not in first:
            raise SystemExit(Path(folder, "log").read_text()[-2000:])
    took, last = {}, ("", begun, 0.0)
    for name in PARTS:
        pid, moment, used = first[name]
        took[name] = moment - last[1], used - (last[2] if pid == last[0] else 0.0)
        last = first[name]
    return took | {"all": (last[1] - begun, sum(used for _, used in took.values()))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--beside", help="another checkout")
    told = parser.parse_args()
    checkouts = [str(Path(__file__).parents[1]), *([told.beside] if told.beside else [])]
    runs = [[launch(told.workers, checkout) for checkout in checkouts] for _ in range(told.rounds)]
    head = " | median | least | processor" * len(checkouts)
    print(f"milliseconds{head}\n---{'|--:' * 3 * len(checkouts)}")
    for name, part in {**PARTS, "all": "all"}.items():
        row = part
        for k in range(len(checkouts)):
            wall, used = zip(*(run[k][name] for run in runs), strict=True)
            shown = statistics.median(wall), min(wall), statistics.median(used)
            row += "".join(f" | {1e3 * seconds:.0f}" for seconds in shown)
        print(row)


if __name__ == "__main__":
    main()
