"""Whether two studies have the same settings, or could have; and the differences, in words."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from nas.errors import SpaceError, StudyError
from nas.spaces.yaml_mapping import parse_mapping
from nas.store.rows import Study

# What a study goes on with as the record has it, or where it is now.
PLACES = re.compile(r"settings\.(folder$|teachers$|taught\.|devices\.)")


def check_same(was: Study, now: Study) -> None:
    """Raises StudyError where a study exists with other settings, naming the first that differs."""
    if difference := first_difference(was, now):
        raise StudyError(
            f"study {was.name!r} exists with other settings: {difference}; "
            "repeat the settings of the study, or give another --study name"
        )


def asks_anew(was: Study, now: Study) -> bool:
    """Whether two studies differ in what is asked of the trials alone: objectives, constraints."""
    same = dataclasses.replace(was, objectives=now.objectives, constraints=now.constraints)
    return first_difference(was, now) is not None and first_difference(same, now) is None


def widens(was: Study, now: Study) -> bool:
    """Whether two studies differ in their spaces' text or their constraints alone, so that the
    trials of the one may be of the other (``nas.driver.widening``)."""
    same = dataclasses.replace(was, space_text=now.space_text, constraints=now.constraints)
    return first_difference(was, now) is not None and first_difference(same, now) is None


def moved(was: Study, now: Study) -> dict[str, Any]:
    """Of two studies that are the same what lies elsewhere now, images and teachers, as the columns
    of the record."""
    columns: dict[str, Any] = {}
    if now.directory and now.directory != was.directory:
        columns["directory"] = now.directory
    old, files = was.settings.get("teachers", []), now.settings.get("teachers", [])
    if files and files != old:
        columns["settings"] = {**was.settings, "teachers": files}
        taught = was.settings.get("taught", {})
        known = {digest: names for digest, names in taught.items() if not {*names} & {*old}}
        if taught:  # who is known by a file is so by where it is; who is by a trial stays
            columns["settings"]["taught"] = now.settings.get("taught", {}) | known
    return columns


def first_difference(was: Study, now: Study) -> str | None:
    """A clause with the first setting in which two studies differ and both its values."""
    if was.images != now.images:
        earlier = was.images_about or "images that nas did not yet identify"
        if earlier == now.images_about:
            others = f"others by content [{now.images[:8]}]"
            return f"it was made on {earlier} [{was.images[:8]}], and now they are {others}"
        return f"it was made on {earlier}, and now they are {now.images_about or 'none'}"
    old, new = dict(_leaves(was)), dict(_leaves(now))
    for key in old | new:
        a, b = old.get(key), new.get(key)
        if key == "settings.source" and a and b and a != b:
            return "the module of its evaluator, or of a plug-in, has changed since"
        if a != b:
            return f"{key} is {_shown(a)} in the study and {_shown(b)} now"
    return None


def _leaves(study: Study) -> Iterator[tuple[str, Any]]:
    # The space last, as it may be wider: what else differs is the reason then.
    for name in sorted(Study.__dataclass_fields__, key="space_text".__eq__):
        value = getattr(study, name)
        if name == "space_text":
            yield from _space_leaves(value)
        elif name not in ("images", "images_about", "directory"):
            yield from ((key, leaf) for key, leaf in _flat(name, value) if not PLACES.match(key))


def _space_leaves(text: str) -> Iterator[tuple[str, Any]]:
    """The space file's values by key, so that a difference names the domain, not a line."""
    try:
        yield from _flat("space", parse_mapping(text, "the space"))
    except SpaceError:  # one that nobody could have searched
        yield "space_text", text


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from _flat(f"{name}.{key}", value[key])
    elif name.startswith("constraints."):
        sign, _, limit = str(value).partition(" ")
        yield name, f"{sign} {float(limit):.15g}"  # however many digits it was written with
    else:
        # As the record gives it back: a tuple is a list there.
        yield name, json.loads(json.dumps(value))


def _shown(value: Any) -> str:
    match value:
        case None:
            return "absent"
        case [[str(), str()], *_]:  # objectives, as they are typed
            return ",".join(map(":".join, value))
        case _:
            return repr(value)
