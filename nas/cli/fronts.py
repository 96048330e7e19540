"""``nas pareto``: the front as a table, as data or as a picture."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nas.cli import output as files
from nas.driver.latencies import with_latencies
from nas.driver.tradeoffs import nothing_found, pareto
from nas.errors import NasError
from nas.metrics import finite
from nas.report import devices, front, trials
from nas.store import Store, StudyRow

FORMATS: Mapping[str, str] = {
    "table": "",
    "json": ".json",
    "csv": ".csv",
    "svg": ".svg",
    "png": ".png",
}


def front_out(
    store: Store,
    study: StudyRow,
    form: str,
    output: Path | None,
    *,
    believed: bool = False,
    cascades: Sequence[Path] = (),
) -> None:
    """Writes the front to ``output``, or to stdout: a PNG only where that is no terminal. With what
    is ``believed`` of it, which at 300 trials takes 4 s of processor time; a picture has
    ``cascades``, by their files, beside it. Raises NothingFound where there is none."""
    rows, notes = with_latencies(store, study, list(store.trials(study.id)))
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
        if devices.of_devices(study) and cascades:
            raise NasError(f"--cascade {cascades[0]}: has no latency on another device")
        drawn = (
            devices.svg(study, rows)
            if devices.of_devices(study)
            else front.svg(study, rows, [expected(file) for file in cascades])
        )
        data = front.png(drawn) if form == "png" else drawn.encode()
    else:
        beliefs = None
        if believed:
            import optuna

            from nas.driver.beliefs import believed as beliefs_of  # a second of imports

            optuna.logging.set_verbosity(optuna.logging.WARNING)
            beliefs = beliefs_of(study, rows)
            if not beliefs.by:
                print("nas: too few trials to believe more than was measured", file=sys.stderr)
        listed = functools.partial(trials.rows_out, study, best, form, rows, beliefs)
        data = files.printed(listed) if output else b""
    if output:
        files.write(output, data)
    elif form == "png":
        sys.stdout.buffer.write(data)
    elif form == "svg":
        sys.stdout.write(data.decode())
    else:
        listed()


def expected(file: Path) -> dict[str, float]:
    """What a cascade does: its accuracy, its mean costs an image, and as its params those that it
    holds, which are of all members as a network's are of all layers. Raises NasError."""
    from nas.training.cascade import load_cascade  # torch

    try:
        made = load_cascade(file)
        told = {str(name): finite(value) for name, value in made.about["expected"].items()}
    except NasError as error:
        raise NasError(f"--cascade {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise NasError(f"--cascade {file}: does not tell what is expected of it") from None
    return told | {"params": float(sum(m.model.architecture.params for m in made.members))}
