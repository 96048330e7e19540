"""``nas pareto``: the front as a table, as data or as a picture."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from nas.cli import output as files
from nas.driver.tradeoffs import pareto
from nas.errors import NasError
from nas.report import front, screens
from nas.store import StudyRow, TrialRow

FORMATS = ("table", "json", "csv", "svg", "png")


def front_out(study: StudyRow, rows: Sequence[TrialRow], form: str, output: Path | None) -> None:
    """Writes the front to ``output``, or to stdout: a PNG only where that is no terminal."""
    if form == "png" and output is None and sys.stdout.isatty():
        raise NasError("a PNG is not for a terminal: --output FILE.png, or -f png > FILE.png")
    if form in ("svg", "png"):
        drawn = front.svg(study, rows)
        data = front.png(drawn) if form == "png" else drawn.encode()
    else:
        listed = functools.partial(screens.rows_out, study, pareto(study, rows), form, among=rows)
        data = files.printed(listed) if output else b""
    if output:
        files.write(output, data)
    elif form == "png":
        sys.stdout.buffer.write(data)
    elif form == "svg":
        sys.stdout.write(data.decode())
    else:
        listed()
