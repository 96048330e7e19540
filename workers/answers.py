"""Converts what an evaluator returns or reports to an Outcome, for every pool.

An evaluator is a user's code. Its answers are rebuilt from plain, bounded numbers and text, or
refused with a sentence: the record, the sampler and other processes never see its own objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import islice
from numbers import Complex, Real
from typing import Any, get_args

from nas.errors import brief
from nas.job import Epoch, Failure, FailureKind, Latency, Outcome, Result
from nas.metrics import ACCURACY, LARGEST, impossible

METRICS = 1000  # of one candidate
NAME_LENGTH = 200  # characters of a metric's or a device's name
REASON_LENGTH = 600  # characters; a reason is a line in a table, not a log
POINTS = 100_000  # of one curve, and as many epochs as a training may have
LONGEST = 1e9  # seconds; some thirty years

# The other kinds of failure are set by the machinery only.
KINDS = tuple(k for k in get_args(FailureKind) if k not in ("worker_died", "cancelled"))


def outcome(
    answer: Any,
    curve: Iterable[Epoch],
    seconds: float,
    model: str = "",
    bounded: bool = False,
) -> Outcome:
    """Converts an evaluator's dict of metrics, Result or Failure.

    ``curve`` and ``seconds`` are what it reported and how long it took, for an answer without them;
    ``model`` is the file for its weights; ``bounded``: its latency may have been refused. Raises
    TypeError or ValueError, naming the wrong part, for anything else.
    """
    match answer:
        case Failure():
            if answer.kind not in KINDS:
                known = ", ".join(KINDS)
                raise ValueError(f"a Failure's kind is {_shown(answer.kind)}: must be of {known}")
            return Failure(
                kind=answer.kind,
                reason=text(answer.reason, "a Failure's reason", REASON_LENGTH),
                seconds=_seconds(answer.seconds or seconds, "a Failure"),
                curve=_curve(answer.curve or curve),
            )
        case Result():
            return Result(
                metrics=metrics(answer.metrics),
                curve=_curve(answer.curve or curve),
                latency=None if answer.latency is None else latency(answer.latency),
                seconds=_seconds(answer.seconds or seconds, "a Result"),
                device=text(answer.device, "a Result's device", NAME_LENGTH),
                model=model if answer.model == model else "",  # no other file is the search's
                refused=bounded and answer.refused is True,
            )
        case Mapping():
            return Result(metrics=metrics(answer), curve=tuple(curve), seconds=seconds)
    raise TypeError(f"the evaluator returned {type(answer).__name__}, not a dict of metrics")


def metrics(answer: Any) -> dict[str, float]:
    if not isinstance(answer, Mapping):
        raise TypeError(f"the metrics are {_shown(answer)}: must be a dict")
    made = {}
    for name, value in islice(answer.items(), METRICS + 1):
        if not isinstance(name, str):
            raise TypeError(f"metric {_shown(name)}: a metric's name must be text")
        if not 0 < len(name) <= NAME_LENGTH or not name.isprintable():
            rule = f"a name has 1 to {NAME_LENGTH} printable characters"
            raise ValueError(f"metric {_shown(name)}: {rule}")
        made["".join(name)] = number(value, f"metric {name}")
        if reason := impossible(name, made[name]):
            raise ValueError(reason)
    if len(made) > METRICS:
        raise ValueError(f"more than {METRICS} metrics")
    return made


def latency(answer: Any) -> Latency:
    if not isinstance(answer, Latency):
        raise TypeError(f"the latency is {_shown(answer)}: must be a nas.job.Latency")
    ms, low, high = (
        number(getattr(answer, name), f"a Latency's {name}", 0.0) for name in ("ms", "low", "high")
    )
    if not 0 < low <= ms <= high:  # the record refuses to read another
        told = f"a Latency is {ms:g} ms, from {low:g} to {high:g}"
        raise ValueError(f"{told}: must be above 0, and from low to high")
    return Latency(
        ms=ms,
        low=low,
        high=high,
        device=text(answer.device, "a Latency's device", NAME_LENGTH),
        busy=None if answer.busy is None else number(answer.busy, "a Latency's busy", 0.0),
    )


def epoch(answer: Any) -> Epoch:
    """A point of a curve. Its loss and accuracy may be no finite numbers: it may diverge."""
    if not isinstance(answer, Epoch):
        raise TypeError(f"report takes a nas.job.Epoch, not {type(answer).__name__}")
    count = number(answer.epoch, "an Epoch's epoch", 0.0)
    if count != int(count) or count >= 1 << 53:
        raise ValueError(f"an Epoch's epoch is {count:g}: must be a whole number")
    accuracy = _float(answer.accuracy, "an Epoch's accuracy")
    if math.isfinite(accuracy) and (reason := impossible(ACCURACY, accuracy)):
        raise ValueError(f"an Epoch's {reason}")
    return Epoch(
        epoch=int(count),
        train_loss=_float(answer.train_loss, "an Epoch's train_loss"),
        accuracy=accuracy,
        seconds=_seconds(answer.seconds, "an Epoch"),
    )


def number(value: Any, what: str, least: float = -LARGEST, most: float = LARGEST) -> float:
    """A finite float, of Python's numbers or of another library's scalar."""
    made = _float(value, what)
    if not math.isfinite(made):
        raise ValueError(f"{what} is {made}: must be finite")
    if made < least:
        raise ValueError(f"{what} is {made:.10g}: must be {least:g} or more")
    if made > most:
        raise ValueError(f"{what} is {made:.10g}: must be {most:g} at most")
    return made + 0.0  # of -0.0 it makes 0.0


def _float(value: Any, what: str) -> float:
    """Numpy's and torch's scalars are numbers too, by the protocol that says so; text has none."""
    truth = type(value).__name__ in ("bool", "bool_")
    imaginary = isinstance(value, Complex) and not isinstance(value, Real)
    if truth or imaginary or not hasattr(type(value), "__float__"):
        raise TypeError(f"{what} is {_shown(value)}: must be a number")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise TypeError(f"{what} is {_shown(value)}: must be a number") from error


def text(value: Any, what: str, most: int) -> str:
    """One line, bounded."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is {_shown(value)}: must be text")
    return brief(value, most)


def _seconds(value: Any, what: str) -> float:
    return number(value, f"{what}'s seconds", 0.0, LONGEST)


def _curve(answer: Any) -> tuple[Epoch, ...]:
    points = tuple(map(epoch, islice(answer, POINTS + 1)))
    if len(points) > POINTS:
        raise ValueError(f"a curve of more than {POINTS:,} points")
    return points


def _shown(value: Any) -> str:
    """What it is, on a short line; by its type alone where it cannot say."""
    try:
        return brief(repr(value), 60)
    except Exception:
        return f"a {type(value).__name__}"
