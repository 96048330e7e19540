"""``nas pareto``: the front as a table, as data or as a picture."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from nas.cli import output as files
from nas.driver.latencies import with_latencies
from nas.driver.tradeoffs import nothing_found, pareto
from nas.errors import NasError
from nas.report import devices, front, screens
from nas.store import Store, StudyRow

FORMATS = ("table", "json", "csv", "svg", "png")


def front_out(
    store: Store,
    study: StudyRow,
    form: str,
    output: Path | None,
    *,
    believed: bool = False,
) -> None:
    """Writes the front to ``output``, or to stdout: a PNG only where that is no terminal. With what
    is ``believed`` of it, which at 300 trials takes 4 s of processor time. Raises NothingFound
    where there is none."""
    named = [*dict(study.objectives), *study.constraints]
    rows, notes = with_latencies(store, list(store.trials(study.id)), named)
    for note in notes:
        print(f"nas: {note}", file=sys.stderr)
    if form == "png" and output is None and sys.stdout.isatty():
        raise NasError("a PNG is not for a terminal: --output FILE.png, or -f png > FILE.png")
    if believed and form in ("svg", "png"):
        raise NasError(f"--believed: a front as {form} has no room for it; table, json and csv do")
    best = pareto(study, rows)
    if not best:
        raise nothing_found(study, rows)
    if form in ("svg", "png"):
        drawn = (devices if devices.of_devices(study) else front).svg(study, rows)
        data = front.png(drawn) if form == "png" else drawn.encode()
    else:
        beliefs = None
        if believed:
            from nas.driver.beliefs import believed as beliefs_of  # a second of imports

            beliefs = beliefs_of(study, rows)
        listed = functools.partial(screens.rows_out, study, best, form, rows, beliefs)
        data = files.printed(listed) if output else b""
    if output:
        files.write(output, data)
    elif form == "png":
        sys.stdout.buffer.write(data)
    elif form == "svg":
        sys.stdout.write(data.decode())
    else:
        listed()
