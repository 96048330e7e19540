"""All that docs/costs.md says of a GPU, by one command on a bare CUDA machine.

    python benchmarks/on_a_gpu.py [--data DIR] [--out on_a_gpu.txt] [--seconds 470] [PART ...]

DIR: a folder of images with a folder per class, such as CIFAR-10's, of which 1,000 per class are
used; without it images are generated, whose accuracies mean nothing for others. The parts, all or
those named, run one after the other, those never measured first. Their output goes to ``--out`` as
it comes, so that an interrupted run keeps what it has; each has a time limit, and one that fails
stops no other. Takes 6 to 8 minutes on an H100; exit status 1 where a part failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
CLASSES, EACH = 10, 1000
FAREWELL = 5.0  # seconds to end in, before it is killed


@dataclass(frozen=True, slots=True)
class Part:
    """A command of Python, and its time limit in seconds; IMAGES is replaced by the folder."""

    name: str
    seconds: float
    command: tuple[str, ...]


IMAGES = "IMAGES"
TESTS = [str(f) for f in sorted(ROOT.glob("tests/test_*.py")) if "pytest.mark.gpu" in f.read_text()]


def script(name: str, *arguments: str) -> tuple[str, ...]:
    return str(ROOT / "benchmarks" / f"{name}.py"), *arguments


def card(*arguments: str) -> tuple[str, ...]:
    return script("card", "--data", IMAGES, *arguments)


PARTS = [
    Part("doctor", 40, ("-m", "nas.cli", "doctor")),
    Part("tests", 90, ("-m", "pytest", "-v", "--tb=short", "-m", "gpu", *TESTS)),
    Part("search", 90, card("--search", "40", "--epochs", "10")),
    Part("eight seats", 60, card("--seats", "8", "--jobs", "24")),
    Part("eight by turns", 50, card("--seats", "8", "--jobs", "8", "--turns")),
    Part("one seat", 45, card("--seats", "1", "--jobs", "6")),
    Part("gap", 60, script("gap", "--trials", "16")),
    Part("one training", 150, script("gpu", "--data", IMAGES, "--seeds", "5")),
    Part("together", 120, script("gpu_together")),
]


def some(source: Path, place: Path) -> None:
    """``EACH`` images of each class of a folder."""
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        (place / folder.name).mkdir(parents=True)
        for file in sorted(path for path in folder.iterdir() if path.is_file())[:EACH]:
            shutil.copy(file, place / folder.name)


def made(place: Path) -> None:
    """Gratings of 32 pixels, a class each direction, in noise."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:32, :32] / 32
    for number in range(CLASSES):
        angle, folder = np.pi * number / CLASSES, place / f"{18 * number}-degrees"
        folder.mkdir(parents=True)
        for n in range(EACH):
            wave = np.sin(25 * (np.cos(angle) * x + np.sin(angle) * y) + rng.uniform(0, 6.3))
            pixels = 128 + 30 * wave[..., None] + rng.normal(0, 60, (32, 32, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{n:04}.jpg")


def run(part: Part, images: Path, out: Path, most: float) -> str:
    """Runs a part for ``most`` seconds, or as many as it may take; how it ended."""
    command = [str(images) if word == IMAGES else word for word in part.command]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environ = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    began, shown = time.monotonic(), out.stat().st_size
    limit = min(part.seconds, most)
    with tempfile.TemporaryDirectory() as here, out.open("ab") as prints:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=here,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=prints,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while process.poll() is None and time.monotonic() - began < limit:
            time.sleep(0.1)
            shown = show(out, shown)
        how = "cut off" if process.returncode is None else f"exit status {process.returncode}"
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):  # of a part that ended, what it has left
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(FAREWELL)
    show(out, shown)
    return f"{how}, {time.monotonic() - began:.0f} s"


def show(out: Path, shown: int) -> int:
    """Prints what has come since; how much is printed then."""
    with out.open("rb") as file:
        file.seek(shown)
        new = file.read()
    sys.stdout.write(new.decode(errors="replace"))
    sys.stdout.flush()
    return shown + len(new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [part.name for part in PARTS]
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(names))
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("on_a_gpu.txt"))
    parser.add_argument("--seconds", type=float, default=470.0, help="of all parts together")
    told = parser.parse_args()
    if others := set(told.parts) - {*names}:
        parser.error(f"{', '.join(sorted(others))}: must be of {', '.join(names)}")
    until, ends = time.monotonic() + told.seconds, {}
    told.out.write_bytes(b"")

    def tell(line: str) -> None:
        with told.out.open("a") as file:
            file.write(f"{line}\n")
        print(line, flush=True)

    with tempfile.TemporaryDirectory() as place:
        images = Path(place, "images")
        some(told.data, images) if told.data else made(images)
        for part in PARTS:
            if told.parts and part.name not in told.parts:
                continue
            if (left := until - time.monotonic()) < FAREWELL:
                ends[part.name] = "no time was left"
                continue
            tell(f"\n== {part.name}")
            ends[part.name] = run(part, images, told.out, left)
            tell(f"== {part.name}: {ends[part.name]}")
    tell("")
    for name, end in ends.items():
        tell(f"{name}: {end}")
    raise SystemExit(any(not end.startswith("exit status 0") for end in ends.values()))


if __name__ == "__main__":
    main()
