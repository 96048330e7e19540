"""YAML as plain data: no aliases, no duplicate keys, no tags, a bounded size and depth."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nas.errors import SpaceError, brief

MAX_BYTES = 64_000  # PyYAML reads 200 KB a second
MAX_DEPTH = 20
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# YAML 1.1 reads a leading 0 as octal and colons as base 60; YAML 1.2 does neither.
OTHERWISE = re.compile(r"[-+]?0[0-7_]+|.*:.*")
# What people mistype, by a part of PyYAML's words for it.
MISTYPED = {
    "'\\t'": "a tab: indent with spaces",
    "<block": "it is indented otherwise than the keys before it",
    "<stream end>": "a bracket, a brace or a quote before it is not closed",
    "expected ','": "a comma is missing, or the end of brackets before it",
    "end of stream": "a quote before it is not closed",
    "mapping values": "a colon within a value: put the value in quotes",
    "cannot start any token": "a value begins with a sign of YAML's own: put the value in quotes",
}


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses features that a declarative file does not need."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise SpaceError(f"{_line(event)}: aliases (*name) have no place here")
        if event.tag is not None:
            raise SpaceError(f"{_line(event)}: tags (!name) have no place here")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise SpaceError(f"{_line(event)}: nested more than {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        key = isinstance(parent, yaml.MappingNode) and index is None
        if node and node.tag in NUMBERS and not key and OTHERWISE.fullmatch(node.value):
            value = self.construct_object(node)
            raise SpaceError(
                f"{_line(event)}: {node.value} is {value} to YAML: write the number out"
            )
        return node


def _mapping(loader: _Loader, node: Any) -> dict[str, Any]:
    """A mapping whose keys are text, even ``no`` and ``1``, which YAML would convert."""
    data: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise SpaceError(f"{_line(key)}: a key must be a name")
        if key.value == "<<":
            raise SpaceError(f"{_line(key)}: merge keys (<<) have no place here")
        if key.value in data:
            raise SpaceError(f"{_line(key)}: key {key.value!r} is there twice")
        data[key.value] = loader.construct_object(value, deep=True)
    return data


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _line(marked: Any) -> str:
    return f"line {marked.start_mark.line + 1}"


def load_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a file. Raises SpaceError that names the file, the line and the rule."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise SpaceError(f"{path}: {size} bytes: must be at most {MAX_BYTES}")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpaceError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpaceError(f"{path}: not UTF-8 text at byte {error.start}") from None
    return parse_mapping(text, str(path))


def parse_mapping(text: str, source: str) -> dict[str, Any]:
    try:
        data = yaml.load(text, _Loader)  # a SafeLoader
    except SpaceError as error:
        raise SpaceError(brief(f"{source}: {error}")) from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        problem = error.problem or ""
        told = next((text for part, text in MISTYPED.items() if part in problem), problem)
        raise SpaceError(brief(f"{source}: {line}not YAML: {told}")) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise SpaceError(brief(f"{source}: not YAML: {error}")) from None
    except RecursionError:
        raise SpaceError(f"{source}: nested more than {MAX_DEPTH} deep") from None
    if not isinstance(data, dict):
        raise SpaceError(f"{source}: must be a mapping of keys such as name, pattern and where")
    return data


def write_mapping(data: Mapping[str, Any]) -> str:
    """The mapping as canonical YAML, independent of the file's comments and spacing."""
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=100)
