"""Compares a recorded study with a requested one: equal, reconcilable, or how they differ."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from nas.errors import SpaceError, StudyError
from nas.spaces.yaml_mapping import parse_mapping
from nas.store.rows import Study

NAMED = 4  # differences that a refusal names

# Settings not compared: locations of files, and names resolved from the record.
# The first three are the record's own, which a study keeps when it is redefined.
KEPT_SETTINGS = ("folder", "taught", "verdicts", "devices")
PLACES = re.compile(rf"settings\.({'|'.join(KEPT_SETTINGS)}|teachers)(\.|$)")


def check_same(was: Study, now: Study) -> None:
    """Raises StudyError where a study exists with other settings, naming those that differ."""
    # Objectives and constraints only where nothing else differs: some studies may change them.
    fixed = dataclasses.replace(now, objectives=was.objectives, constraints=was.constraints)
    if found := [*differences(was, fixed)] or [*differences(was, now)]:
        more = f"; {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise StudyError(
            f"study {was.name!r} exists with other settings: {'; '.join(found[:NAMED])}{more}; "
            "repeat the settings of the study, or give another --study name"
        )


def differs_only_in_goals(was: Study, now: Study) -> bool:
    """Whether two studies differ only in their objectives or constraints."""
    same = dataclasses.replace(was, objectives=now.objectives, constraints=now.constraints)
    return first_difference(was, now) is not None and first_difference(same, now) is None


def widens(was: Study, now: Study) -> bool:
    """Whether two studies differ only in their spaces' text or their constraints, so that the old
    trials may belong to the new space (``nas.driver.widening``)."""
    same = dataclasses.replace(was, space_text=now.space_text, constraints=now.constraints)
    return first_difference(was, now) is not None and first_difference(same, now) is None


def moved(was: Study, now: Study) -> dict[str, Any]:
    """The columns to update for images and teachers whose location changed; the studies are
    otherwise the same."""
    columns: dict[str, Any] = {}
    if now.directory and now.directory != was.directory:
        columns["directory"] = now.directory
    old, files = was.settings.get("teachers", []), now.settings.get("teachers", [])
    if files and files != old:
        columns["settings"] = {**was.settings, "teachers": files}
        taught = was.settings.get("taught", {})
        known = {digest: names for digest, names in taught.items() if not {*names} & {*old}}
        if taught:  # teachers named by file get the new path; those named by trial stay
            columns["settings"]["taught"] = now.settings.get("taught", {}) | known
    return columns


def made_on(was: Study, images: str, about: str) -> str:
    """A clause: which images a study used, and that these, with ``about`` them, are others."""
    earlier = was.images_about or "images that nas did not yet identify"
    if earlier == about:
        earlier, about = f"{earlier} [{was.images[:8]}]", f"others by content [{images[:8]}]"
    return f"made on {earlier}, and now they are {about}"


def first_difference(was: Study, now: Study) -> str | None:
    """The first of the ``differences``; None where there is none."""
    return next(differences(was, now), None)


def differences(was: Study, now: Study) -> Iterator[str]:
    """A clause for each setting that differs, with both values."""
    evaluators = {study.settings.get("evaluator") for study in (was, now)}  # they need no images
    if was.images != now.images and len(evaluators) == 1:
        yield f"it was {made_on(was, now.images, now.images_about or 'none')}"
        return  # the rest follows from it
    old, new = dict(_leaves(was)), dict(_leaves(now))
    for key in old | new:
        a, b = old.get(key), new.get(key)
        if key == "settings.source" and a and b and a != b:
            yield "the module of its evaluator, or of a plug-in, has changed since"
        elif a != b:
            yield f"{key} is {_shown(a)} in the study and {_shown(b)} now"


def _leaves(study: Study) -> Iterator[tuple[str, Any]]:
    # The space last: it may be widened, so any other difference is the one to report.
    for name in sorted(Study.__dataclass_fields__, key="space_text".__eq__):
        value = getattr(study, name)
        if name == "space_text":
            yield from _space_leaves(value)
        elif name not in ("images", "images_about", "directory"):
            yield from ((key, leaf) for key, leaf in _flat(name, value) if not PLACES.match(key))


def _space_leaves(text: str) -> Iterator[tuple[str, Any]]:
    """The space by the keys of its file, so that a difference names the domain, not a line."""
    try:
        yield from _flat("space", parse_mapping(text, "the space"))
    except SpaceError:  # an invalid space, never searched
        yield "space_text", text


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from _flat(f"{name}.{key}", value[key])
    elif name.startswith("constraints."):
        sign, _, limit = str(value).partition(" ")
        yield name, f"{sign} {float(limit):.15g}"  # independent of how many digits were written
    else:
        # As read back from the record, where a tuple is a list.
        yield name, json.loads(json.dumps(value))


def _shown(value: Any) -> str:
    match value:
        case None:
            return "absent"
        case [[str(), str()], *_]:  # objectives, in the syntax of --objective
            return ",".join(map(":".join, value))
        case _:
            return repr(value)
