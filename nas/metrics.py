"""The table of metrics, which can be objectives and constraints.

A new arithmetic metric is one entry here; a measured one is one entry and the code that measures
it. A user's evaluator may return metrics of other names, of which only the values are known.
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

LEAST = 1e-6  # what 0 counts as, in a logarithmic metric
# The bound of any metric, so that squares and volumes do not overflow.
LARGEST = 1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric. ``direction`` is the usual one. ``arithmetic`` computes it from an architecture;
    without, it is measured, with ``device`` on a specific device.

    ``logarithmic`` metrics are compared by their logarithms, so that halving counts the same for
    small and large networks (as in LEMONADE, Elsken et al. 2019); in plain units all networks below
    a tenth of the largest would share a tenth of the front. ``shown`` formats a value, under
    ``title``; a ``column`` is in tables even where it is no objective. ``least`` and ``most`` bound
    it; a ``positive`` one never equals ``least``. An arithmetic metric that ``predicts`` a latency
    on (device, runtime, batch) is replaced by a measurement where there is one.
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

    @property
    def range(self) -> str:
        """What its values may be, in words."""
        if self.most < LARGEST:
            return f"a fraction from {self.least:g} to {self.most:g}"
        return f"{self.least:g} or more" * (self.least > -LARGEST) or f"{self.most:g} at most"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def count(value: float) -> str:
    """1,234 as 1,234; 1,234,567 as 1.23M."""
    for unit, size in (("G", 1e9), ("M", 1e6)):
        if abs(value) >= size:
            return f"{value / size:.2f}{unit}"
    return f"{value:,.0f}"


def precise(value: float) -> str:
    """A value in full, to be compared with its bound: 1,234,567."""
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"


def milliseconds(value: float) -> str:
    return f"{value:.3f} ms"


ACCURACY = "accuracy"  # the metric of rungs, baselines and finalists
BALANCED = "balanced_accuracy"

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
    BALANCED: Metric(
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

OBJECTIVES: Mapping[str, Direction] = {ACCURACY: "max", "params": "min"}  # the default


HERE = "here"  # as a device: this machine

NAME = r"[A-Za-z0-9_]+(?:@[A-Za-z0-9._/-]+)?"  # of a metric, as people write it


@dataclass(frozen=True, slots=True)
class Located:
    """A metric on a named device: ``latency_ms@rpi5``, in full ``latency_ms@rpi5/onnx/t4/b64``.

    A runtime or threads of None match any; the default batch is one image.
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
        """Whether a measurement in this setting matches the name."""
        matches = self.runtime in (None, runtime) and self.threads in (None, threads)
        return matches and self.batch == batch


@functools.lru_cache(maxsize=1_000)
def located(name: str) -> Located | None:
    """Parses a name with a device; None for any other, such as an evaluator's hit@10. Raises
    NasError for a malformed one."""
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
    """The metric of this name. A name that is not in the table is that of a metric on a named
    device, or an evaluator's own."""
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
    """Raises NasError for a name that is neither known nor one of an evaluator's ``own``, with the
    nearest of both."""
    for name in names:
        if name not in METRICS and name not in own and not located(name):
            known = nearest(name, dict.fromkeys([*METRICS, *own]))
            raise NasError(f"{where} {name}: there is no such metric; {known}")


def impossible(name: str, value: float) -> str:
    """Why a value is out of the metric's range, as a clause; empty if it is not."""
    known = metric(name)
    if known.least <= value <= known.most:
        return ""
    return f"{name} is {value:.10g}: must be {known.range}"


def shown(name: str, value: float | None) -> str:
    """A value formatted for people; empty for None and NaN."""
    return "" if value is None or math.isnan(value) else metric(name).shown(value)


def scaled(name: str, value: float) -> float:
    """A value on the scale of trade-offs: the logarithm of a logarithmic metric."""
    return math.log10(max(value, LEAST)) if metric(name).logarithmic else value


def arithmetic(architecture: Architecture, names: Iterable[str] = METRICS) -> dict[str, float]:
    """The values of those of ``names`` that are arithmetic."""
    known = {name: METRICS[name].arithmetic for name in names if name in METRICS}
    return {name: f(architecture) for name, f in known.items() if f is not None}


def by_arithmetic() -> list[str]:
    """The arithmetic metrics, known of an architecture before any training."""
    return [name for name, metric in METRICS.items() if metric.arithmetic]


def usual() -> list[str]:
    """The metrics that a table of trials shows even where they are no objective."""
    return [name for name, metric in METRICS.items() if metric.column]


def on_device(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that belong to the device on which they are measured."""
    return [name for name in names if metric(name).device]


@functools.lru_cache(maxsize=100_000)  # a resumed study calls it for each of its trials
def of_pattern(name: str, pattern: str) -> float:
    """An arithmetic metric of a canonical pattern; NaN for a measured metric, and for a pattern
    that is not a network or needs a plug-in that is not loaded."""
    known = metric(name).arithmetic
    try:
        return math.nan if known is None else known(parse(pattern))
    except NasError:
        return math.nan


@contextlib.contextmanager
def added(entries: Mapping[str, Metric]) -> Iterator[None]:
    """While entered, the table also has these entries. Raises NasError for a name it has already:
    two concurrent searches would read each other's values."""
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
    """A finite number from a file. Raises ValueError for text, a boolean, NaN, infinity, and what
    exceeds ``LARGEST``."""
    if type(value) in (int, float) and abs(value) <= LARGEST:
        return float(value)
    raise ValueError(f"{brief(repr(value), 40)} is no finite number of at most {LARGEST:g}")
