"""Reads untrusted JSON field by field; errors name the file, the place, the value and the rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from nas.errors import NasError, brief

MOST = 1e30  # bound of numbers without one of their own
KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    str: "text",
    list: "a list",
    dict: "an object",
}
_MISSING = object()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Field:
    """A value in a file and its ``place`` there, such as ``answers[2].ms``. Reading it as another
    type raises NasError."""

    file: str
    place: str
    value: Any

    def refuse(self, rule: str) -> NoReturn:
        if self.value is _MISSING:
            raise NasError(f"{self.file}: {self.place} is missing: must be {rule}")
        told = json.dumps(self.value, ensure_ascii=False)
        # Unprintable characters are escaped, not removed: they may be the error.
        told = brief(told if told.isprintable() else json.dumps(self.value), 60)
        where = f": {self.place} is" if self.place else " holds"
        raise NasError(f"{self.file}{where} {told}: must be {rule}")

    def __getitem__(self, key: str) -> Field:
        """A member of an object; a missing one raises when it is read."""
        place = f"{self.place}.{key}" if self.place else key
        return Field(self.file, place, self.of(dict).get(key, _MISSING))

    @property
    def given(self) -> bool:
        return self.value is not _MISSING and self.value is not None

    def of(self, kind: type[T], rule: str = "") -> T:
        """The value, of a kind of ``KINDS``."""
        if type(self.value) is not kind:
            self.refuse(rule or KINDS[kind])
        if isinstance(self.value, str) and not encodable(self.value):
            self.refuse("text without half of a surrogate pair")
        return self.value

    def items(self, rule: str = "a list") -> list[Field]:
        listed = self.of(list, rule)
        return [Field(self.file, f"{self.place}[{n}]", each) for n, each in enumerate(listed)]

    def text(self) -> str:
        """The value as text, printable and not blank."""
        value = self.value
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            self.refuse("text of one line")
        return value

    def number(self, least: float = -MOST, most: float = MOST, rule: str = "") -> float:
        value = self.value
        if type(value) not in (int, float) or not least <= value <= most:
            self.refuse(rule or f"a number from {least:g} to {most:g}")
        return float(value)

    def version(self, known: int) -> None:
        """Refuses a format other than the ``known`` one."""
        if type(self.value) is not int or self.value != known:
            self.refuse(f"{known}, the format that this nas reads")

    def whole(self, least: int, most: int) -> int:
        if type(self.value) is not int or not least <= self.value <= most:
            self.refuse(f"a whole number from {least} to {most}")
        return self.value


class Twice(Exception):
    """An object has a key twice."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without duplicate keys, of which Python would take the last, and others the first.
    Raises Twice."""
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise Twice(key)
        made[key] = value
    return made


def encodable(text: str) -> bool:
    """Whether UTF-8 can hold it: JSON may escape half of a surrogate pair, which no file can."""
    return text == text.encode(errors="ignore").decode()


def read(file: str, data: bytes | str, what: str) -> Field:
    """Parses ``data``, the content of ``file``, as JSON. Raises NasError where it is invalid, which
    says ``what`` was expected."""
    try:
        text = data if isinstance(data, str) else data.decode()
        return Field(file, "", json.loads(text, object_pairs_hook=once))
    except Twice as error:
        told = f"has two values of {brief(json.dumps(error.args[0]), 60)} in one object"
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        told = f"is no JSON from {where} on"
    except UnicodeDecodeError as error:
        told = f"is no text in UTF-8 from byte {error.start} on"
    except RecursionError:
        told = "is no JSON that can be read: it is too deep"
    except ValueError:  # a whole number of more digits than Python reads
        told = "is no JSON that can be read: a number in it has too many digits"
    raise NasError(f"{file} {told}: must be {what}")
