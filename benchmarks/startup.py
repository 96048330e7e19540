"""How long the command line takes to answer, beside the import of its library.

    python benchmarks/startup.py [--rounds 20]

Commands take turns, so that a busy machine slows all alike; the least of each counts. In seconds,
on the wall and of the processor, which others do not blur. Takes half a minute.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time

COMMANDS = {
    'python -c "import typer"': ["-c", "import typer"],
    "nas --help": ["-m", "nas.cli", "--help"],
    "nas show resnet50": ["-m", "nas.cli", "show", "resnet50"],
    "nas search, unknown space": ["-m", "nas.cli", "search", "--space", "resnet_lik"],
    "nas search, no data": ["-m", "nas.cli", "search", "--space", "mixed", "--dataset", "mnist"],
}


def seconds(arguments: list[str], folder: str) -> tuple[float, float]:
    """On the wall, and of the processor."""
    begun, used = time.perf_counter(), spent()
    subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=False)
    return time.perf_counter() - begun, spent() - used


def spent() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        taken = [{name: seconds(c, folder) for name, c in COMMANDS.items()} for _ in range(rounds)]
    least = {name: [min(one[name][i] for one in taken) for i in (0, 1)] for name in COMMANDS}
    base = next(iter(least.values()))
    print("| command | wall | processor | times the import (processor) |\n|---|---|---|---|")
    for name, (wall, processor) in least.items():
        print(f"| `{name}` | {wall:.3f} | {processor:.3f} | {processor / base[1]:.2f} |")


if __name__ == "__main__":
    main()
