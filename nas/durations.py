"""Reads and formats durations: ``90s``, ``45min``, ``2h``, ``1h30m``."""

from __future__ import annotations

import re

from nas.errors import NasError, brief

MOST = 10_000 * 3600  # seconds; more is taken for a mistake


def read(text: str, option: str) -> float:
    """Parses a duration to seconds. Raises NasError, which names the ``option``, unless it consists
    of hours, minutes and seconds, each with its unit, and is positive."""
    number = r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*"
    parts = rf"(?:{number}h)?(?:{number}(?:min|m))?(?:{number}s)?\s*"
    match = re.fullmatch(parts, text.lower())
    if match is None or not any(match.groups()):
        raise NasError(
            f"{option} {brief(repr(text), 40)}: must be a time with its unit, such as 90s, 45min, "
            "2h or 1h30m"
        )
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if not 1 <= total <= MOST:
        raise NasError(f"{option} {text}: must be 1 second or more, up to {MOST // 3600} hours")
    return total


def show(seconds: float) -> str:
    """The shortest form that is exact to the second: "2 h", "1 h 30 min", "90 s"."""
    whole = round(seconds)
    if whole < 120 and whole % 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
