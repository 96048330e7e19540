"""What searches leave behind: processes, and entries of the temporary folder.

    python benchmarks/left_over.py          # ten searches to their end, ten killed, seed 0

Each search has two workers, and candidates that leave orphaned processes. Of those killed, half are
stopped by SIGTERM and half by SIGKILL, all in the middle. Counted are all processes that a search
started, found by a mark in their environment or as orphans adopted here; and all files in its own
temporary folder, which is empty before. Exit status 0 where nothing is left, else 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from waiting import counts, eventually, wait  # noqa: E402

from nas.processes import descendants  # noqa: E402
from nas.workers.keeper import adopt_orphans  # noqa: E402

MARK = f"NAS_LEFT_OVER={os.getpid()}"
TRIALS = 12


def start(folder: Path, temporary: str) -> subprocess.Popen[bytes]:
    told = ["search", "--space", "faults_space.yaml", "--workers", "2", "--sampler", "random"]
    told += ["--trials", str(TRIALS), "--epochs", "2", "--study", "s"]
    told += ["--evaluator", "faults_evaluators:strays"]
    name, value = MARK.split("=")
    environ = {
        name: value,
        "TMPDIR": temporary,
        "FAULTS_SECONDS": "0.2",
        "NAS_STORAGE": url(folder),
    }
    environ |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    code = "import nas.cli; nas.cli.main()"
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code, *told],
            cwd=ROOT / "tests",
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/record.db"


def processes() -> list[str]:
    """The command lines of what a search has started and still runs."""
    ours, found = set(descendants(os.getpid())), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue
        if (
            command
            and int(entry.name) != os.getpid()
            and (MARK.encode() in told or int(entry.name) in ours)
        ):
            found.append(command)
    return found


def bury() -> None:
    """The orphans that died, as init would."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                return
        except ChildProcessError:
            return


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--searches", type=int, default=20, help="every second one is killed")
    options.add_argument("--seed", type=int, default=0)
    told = options.parse_args()
    rng = random.Random(told.seed)
    adopt_orphans(True)
    ways: dict[str, int] = {}
    wrong: list[str] = []
    begun = time.monotonic()
    place = tempfile.TemporaryDirectory(prefix="t")  # a short name, as Ray's sockets need it
    for number in range(told.searches):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            search, way = start(folder, place.name), "ended"
            if number % 2:
                how = (signal.SIGTERM, signal.SIGKILL)[number // 2 % 2]
                way = how.name
                wait("no trial", lambda folder=folder: counts(url(folder), "s").get("finished"))
                time.sleep(rng.uniform(0, 0.5))
                search.send_signal(how)
            search.wait()
            if way == "ended" and search.returncode:
                wrong.append((folder / "log").read_text()[-300:])
            ways[way] = ways.get(way, 0) + 1
            eventually(lambda: bury() or not (processes() or os.listdir(place.name)))
    left = os.listdir(place.name)
    place.cleanup()
    print(json.dumps({
        "searches": ways,
        "processes left": processes(),
        "entries left": left,
        "seconds": round(time.monotonic() - begun),
        "wrong": wrong,
    }, indent=1))  # fmt: skip
    sys.exit(bool(wrong or left or processes()))


if __name__ == "__main__":
    main()
