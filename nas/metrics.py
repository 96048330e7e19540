"""Metrics: what can be an objective or a constraint, and all that is known of each.

Whoever names a metric asks this table. A new arithmetic metric is one entry here; a measured one
is one entry and the code that measures it. An evaluator of a user's may give metrics of other
names, of which nothing is known but their values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from nas.errors import NasError, brief, nearest
from nas.language.architecture import Architecture, parse

Direction = Literal["max", "min"]

LEAST = 1e-6  # of a metric that is weighed by its logarithm and is 0
# Of any metric: nothing that is measured is larger, and of squares and volumes of what is, no float
# runs over.
LARGEST = 1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """``direction`` is the usual one. ``arithmetic`` gives the value from the architecture alone;
    without, it is measured, and with ``device`` belongs to the device that it was measured on.

    ``logarithmic`` metrics are weighed so that half of them is worth as much to a small network as
    to a large one (as in LEMONADE, Elsken et al. 2019); in plain units all networks below a tenth
    of the largest would be a tenth of the front. ``shown`` prints a value, under ``title``; in
    tables that leave a choice it is a ``column`` even where it is no objective. ``least`` and
    ``most`` are what it can be; no network has the least itself of a ``positive`` one. Arithmetic
    that ``predicts`` what is measured on a device, in a runtime, at a batch, gives way to that
    where a training brings it.
    """

    about: str
    direction: Direction
    title: str
    shown: Callable[[float], str]
    arithmetic: Callable[[Architecture], float] | None = None
    logarithmic: bool = False
    device: bool = False
    column: bool = False
    least: float = -LARGEST
    most: float = LARGEST
    positive: bool = False
    predicts: tuple[str, str, int] | None = None


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def count(value: float) -> str:
    """1,234 as 1,234; 1,234,567 as 1.23M."""
    for unit, size in (("G", 1e9), ("M", 1e6)):
        if abs(value) >= size:
            return f"{value / size:.2f}{unit}"
    return f"{value:,.0f}"


def precise(value: float) -> str:
    """A value beside its bound: 1,234,567 whole, as what is told is how near it comes."""
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"


def milliseconds(value: float) -> str:
    return f"{value:.3f} ms"


ACCURACY = "accuracy"  # what a training is led by: rungs, baselines and finalists are about it

_table: dict[str, Metric] = {
    ACCURACY: Metric(
        about="fraction of the validation images that are classified correctly",
        direction="max",
        title="accuracy",
        shown=percent,
        column=True,
        least=0.0,
        most=1.0,
    ),
    "balanced_accuracy": Metric(
        about="mean over the classes of their recall on the validation images",
        direction="max",
        title="balanced",
        shown=percent,
        least=0.0,
        most=1.0,
    ),
    "params": Metric(
        about="weights of the network as deployed",
        direction="min",
        title="params",
        shown=count,
        arithmetic=lambda architecture: float(architecture.params),
        logarithmic=True,
        column=True,
        least=0.0,
    ),
    "macs": Metric(
        about="multiply-adds of one image, as deployed",
        direction="min",
        title="MACs",
        shown=count,
        arithmetic=lambda architecture: float(architecture.macs),
        logarithmic=True,
        column=True,
        least=0.0,
    ),
    "latency_ms": Metric(
        about="milliseconds for one image on the device",
        direction="min",
        title="latency",
        shown=milliseconds,
        logarithmic=True,
        device=True,
        column=True,
        least=0.0,
        positive=True,
    ),
}
METRICS: Mapping[str, Metric] = MappingProxyType(_table)  # only ``added`` writes

OBJECTIVES: Mapping[str, Direction] = {ACCURACY: "max", "params": "min"}  # unless a space says


HERE = "here"  # as a device: this machine

NAME = r"[A-Za-z0-9_]+(?:@[A-Za-z0-9._/-]+)?"  # of a metric, as people write it


@dataclass(frozen=True, slots=True)
class Located:
    """A metric on a named device: ``latency_ms@rpi5``, in full ``latency_ms@rpi5/onnx/t4/b64``.

    What is left open (None) is what the device has; a batch that is not told is of one image.
    """

    metric: str
    device: str
    runtime: str | None = None
    threads: int | None = None
    batch: int = 1

    def __str__(self) -> str:
        threads = f"t{self.threads}" if self.threads else ""
        batch = f"b{self.batch}" if self.batch != 1 else ""
        parts = [f"{self.metric}@{self.device}", self.runtime or "", threads, batch]
        return "/".join(part for part in parts if part)

    def admits(self, runtime: str, threads: int | None, batch: int) -> bool:
        """Whether what was measured so may be what the name means."""
        told = self.runtime in (None, runtime) and self.threads in (None, threads)
        return told and self.batch == batch


@functools.lru_cache(maxsize=1_000)
def located(name: str) -> Located | None:
    """What a metric's name says of a device; None where it names none, as an evaluator's hit@10.
    Raises NasError for one that begins so and goes on otherwise."""
    base, at, rest = name.partition("@")
    if not at or base not in METRICS or not METRICS[base].device:
        return None
    device, *parts = rest.split("/")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", device):
        raise NasError(f"{name}: {device!r} is not a device name: letters, digits and . _ -")
    fields: dict[str, Any] = {}
    for part in parts:
        match = re.fullmatch(r"([tb])([1-9][0-9]{0,5})", part)
        key = {"t": "threads", "b": "batch"}[match[1]] if match else "runtime"
        if key in fields or not (match or re.fullmatch(r"[a-z]+", part)):
            raise NasError(f"{name}: {part!r}: after the device a runtime, t4 and b64, each once")
        fields[key] = int(match[2]) if match else part
    return Located(base, device, **fields)


def metric(name: str) -> Metric:
    """The metric of this name; one that the table does not have is an evaluator's own, or that of a
    named device, whose values are its own and no other's."""
    if name in METRICS:
        return METRICS[name]
    with contextlib.suppress(NasError):
        if at := located(name):
            known = METRICS[at.metric]
            title = f"{known.title} on {str(at).partition('@')[2]}"
            return dataclasses.replace(known, title=title, device=False, column=False)
    return Metric(
        about="as returned by the evaluator", direction="max", title=name, shown="{:.4g}".format
    )


def check(names: Iterable[str], where: str, own: Collection[str] = ()) -> None:
    """Raises NasError for a name that nothing here can measure, and that is none of an evaluator's
    ``own``, with the nearest known."""
    for name in names:
        if name not in METRICS and name not in own and not located(name):
            known = nearest(name, dict.fromkeys([*METRICS, *own]))
            raise NasError(f"{where} {name}: there is no such metric; {known}")


def impossible(name: str, value: float) -> str:
    """Why a metric cannot have this value, as a clause; empty where it can."""
    known = metric(name)
    if known.least <= value <= known.most:
        return ""
    rule = f"{known.least:g} or more" if value < known.least else f"{known.most:g} at most"
    if known.most < LARGEST:
        rule = f"a fraction from {known.least:g} to {known.most:g}"
    return f"{name} is {value:.10g}: must be {rule}"


def shown(name: str, value: float | None) -> str:
    """A value as people read it; empty where there is none."""
    return "" if value is None or math.isnan(value) else metric(name).shown(value)


def scaled(name: str, value: float) -> float:
    """A value as a trade-off weighs it."""
    return math.log10(max(value, LEAST)) if metric(name).logarithmic else value


def arithmetic(architecture: Architecture, names: Iterable[str] = METRICS) -> dict[str, float]:
    """Those of ``names`` that are known of an architecture before any training."""
    known = {name: METRICS[name].arithmetic for name in names if name in METRICS}
    return {name: f(architecture) for name, f in known.items() if f is not None}


def by_arithmetic() -> list[str]:
    """The metrics that are known of an architecture before any training."""
    return [name for name, metric in METRICS.items() if metric.arithmetic]


def usual() -> list[str]:
    """The metrics that a table of trials shows even where they are no objective."""
    return [name for name, metric in METRICS.items() if metric.column]


def on_device(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that belong to the device on which they are measured."""
    return [name for name in names if metric(name).device]


@functools.lru_cache(maxsize=100_000)  # a resumed study asks for each of its trials
def of_pattern(name: str, pattern: str) -> float:
    """An arithmetic metric of a canonical pattern; NaN where it is measured, or the pattern is of
    a plug-in that is not loaded, or of no network."""
    known = metric(name).arithmetic
    try:
        return math.nan if known is None else known(parse(pattern))
    except NasError:
        return math.nan


@contextlib.contextmanager
def added(entries: Mapping[str, Metric]) -> Iterator[None]:
    """The table with these entries too, for as long as a search needs them. Raises NasError for a
    name that it has: of two searches side by side each would read the other's values."""
    for name in entries:
        if name in _table:
            raise NasError(f"{name}: a search of this process has it already: one after the other")
    _table.update(entries)
    of_pattern.cache_clear()
    try:
        yield
    finally:
        for name in entries:
            del _table[name]
        of_pattern.cache_clear()


def finite(value: Any) -> float:
    """A number as a file has it. Raises ValueError for text, a truth value, NaN, an infinity, and
    what is larger than any metric."""
    if type(value) in (int, float) and abs(value) <= LARGEST:
        return float(value)
    raise ValueError(f"{brief(repr(value), 40)} is no finite number of at most {LARGEST:g}")
