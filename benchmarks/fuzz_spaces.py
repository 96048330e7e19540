"""Mutated space files: each must be a space or one sentence, in under a second and 200 MB.

    python benchmarks/fuzz_spaces.py [--count 10000] [--seed 0]

A seed replays a failure. Takes about two minutes for 10,000.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from nas.errors import NasError
from nas.spaces.space import load_space, shipped

SECONDS = 1.0
MEGABYTES = 200
INPUTS = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224)]

NASTY = [
    "", "0", "-1", "1000000000", "9" * 400, "2e6", "1.5", ".nan", "-.inf", "1e400", "null", "~",
    "yes", "[]", "{}", "[1, [2, [3]]]", "{int: [3, 1]}", "{choice: []}", "{per: M}", "''", "&a",
    "*a", "!!python/object:x", "!!set {a}", "<<", "? :", "|", ">", "- -", "---", "\t", "\0",
    "\x1b[31m", "é", "\u2028", "\ufeff", "%", "@", "`", "#", "INPUT", "FC", "RESIDUAL", "BLOCK",
    "M", "POOL?",
    "[" * 10_000, "{a: " * 200, "- " * 5_000, "x" * 70_000, "RELU*4096", "[[RELU]*4096]*4096",
    "CONV(65536, 1024)", "->", "*", "?", "(", ")", "2020-01-01", "0x10", "1_000", "0o7", "1:30",
]  # fmt: skip


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed))
        changed[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
    return bytes(changed) or b"x"


def change_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            lines.insert(i, lines[j])
        case 1:
            del lines[i]
        case 2:
            lines[i], lines[j] = lines[j], lines[i]
        case 3:
            lines[i] = b" " * rng.randint(1, 6) + lines[i]
        case 4:
            lines[i] = lines[i].lstrip()
    return b"\n".join(lines)


def change_words(data: bytes, rng: random.Random) -> bytes:
    """Puts something nasty, or a word from elsewhere in the file, for a word."""
    words = data.split(b" ")
    i = rng.randrange(len(words))
    words[i] = rng.choice([rng.choice(NASTY).encode(), rng.choice(words), words[i] * 2])
    return b" ".join(words)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    change_bytes, change_lines, change_words, change_words, cut,
]  # fmt: skip


def mutant(files: list[bytes], seed: int) -> bytes:
    rng = random.Random(seed)
    data = rng.choice(files)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        data = rng.choice(MUTATIONS)(data, rng) or b"x"
    return data


def answer(path: Path, seed: int) -> str:
    """What a person gets: ``valid``, or the name of the error. Raises AssertionError or whatever
    the library lets through."""
    try:
        space = load_space(path, input=random.Random(seed).choice(INPUTS))
        str(space.sample(seed))
    except NasError as error:
        message = str(error)
        assert str(path) in message, "does not name the file"
        assert len(message) <= 500, "too long"
        assert message.isprintable(), "not one printable line"
        return type(error).__name__
    return "valid"


def peak() -> float:
    """The most memory this process has had, in MB. Linux's ru_maxrss would begin with the parent's,
    VmHWM begins anew."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--count", type=int, default=10_000)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    # The zoo's many files have no domains: a few of them do.
    files = [path.read_bytes() for path in list(shipped().values())[:14]]
    answers: Counter[str] = Counter()
    slowest, failures = 0.0, 0
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "mutant.yaml")
        for seed in range(given.seed, given.seed + given.count):
            path.write_bytes(mutant(files, seed))
            began = time.process_time()
            try:
                answers[answer(path, seed)] += 1
            except BaseException as error:  # whatever it is, it is what we look for
                failures += 1
                print(f"seed {seed}: {type(error).__name__}: {error}"[:300])
                print("".join(traceback.format_tb(error.__traceback__, -2)))
                if isinstance(error, KeyboardInterrupt):
                    return 130
            seconds = time.process_time() - began
            slowest = max(slowest, seconds)
            if seconds > SECONDS:
                failures += 1
                print(f"seed {seed}: took {seconds:.2f} s")
    memory = peak()
    failures += memory > MEGABYTES
    told = ", ".join(f"{count} {name}" for name, count in answers.most_common())
    print(f"{given.count} mutants: {told}; slowest {slowest:.2f} s of CPU; {memory:.0f} MB at most")
    print(f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
