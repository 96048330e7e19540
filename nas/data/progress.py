"""Progress of a long pass over images, on stderr; silent for the first two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from nas.text import counted

T = TypeVar("T")

QUIET = 2.0  # seconds before the first line
SECONDS = (0.2, 10.0)  # between lines: on a terminal, and in a log


def shown(pieces: Iterable[tuple[int, T]], total: int, doing: str) -> Iterator[T]:
    """Yields the second of each (count, piece), and shows the sum of the counts so far of
    ``total``."""
    began = last = time.monotonic()
    done = 0
    terminal = sys.stderr.isatty()
    start, end = ("\r\x1b[K", "") if terminal else ("", "\n")
    lines = 0
    for count, piece in pieces:
        yield piece
        done += count
        now = time.monotonic()
        if now - began > QUIET and now - last > SECONDS[not terminal] * bool(lines):
            left = (now - began) * (total - done) / done
            line = f"nas: {doing}: {done:,} of {counted(total, 'image')}, {left:.0f} s left"
            print(start + line, end=end, file=sys.stderr, flush=True)
            last, lines = now, lines + 1
    if lines:
        line = f"nas: {doing}: {counted(total, 'image')} in {time.monotonic() - began:.0f} s"
        print(start + line, file=sys.stderr, flush=True)
