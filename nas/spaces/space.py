"""Search spaces: a pattern plus the domains of its open symbols, from a declarative file."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import Any

from nas.errors import NasError, PatternError, ShapeError, SpaceError, brief, nearest
from nas.job import Recipe
from nas.language.architecture import (
    DEFAULT_CLASSES,
    DEFAULT_INPUT,
    LARGEST,
    Architecture,
    class_count,
    close,
    image_shape,
    opening,
)
from nas.language.domains import Choice, Domain, Progression, Trial, read_domain
from nas.language.elements import Scalar
from nas.language.expression import Shape
from nas.language.pattern import Chain, Tree, read
from nas.language.symbols import alternatives, check, symbols
from nas.metrics import OBJECTIVES, Direction, arithmetic
from nas.spaces.bounds import Bound, read_bound, read_direction
from nas.spaces.draws import Chosen, Draw
from nas.spaces.yaml_mapping import load_mapping, parse_mapping, write_mapping

KEYS = ("name", "about", "pattern", "where", "constraints", "objectives", "recipe", "input",
        "classes", "large")  # fmt: skip
LARGE = 96  # pixels of the smaller side from which the section "large" applies


@dataclass(frozen=True)
class Space:
    """A search space on data of one shape. A closed space, without open symbols, is one network."""

    name: str
    pattern: str
    about: str = ""
    domains: Mapping[str, Domain] = field(default_factory=dict)
    elements: Mapping[str, Mapping[str, Tree]] = field(default_factory=dict)
    constraints: Mapping[str, Bound] = field(default_factory=dict)
    objectives: Mapping[str, Direction] = field(default_factory=lambda: OBJECTIVES)
    recipe: Mapping[str, Domain] = field(default_factory=dict)
    input: Shape = DEFAULT_INPUT
    classes: int = DEFAULT_CLASSES
    source: str = ""
    text: str = ""  # the file's content, as recorded

    def __repr__(self) -> str:
        return f"Space({self.name!r}: {brief(self.pattern, 150)})"

    def suggest(self, trial: Trial) -> Architecture:
        """The architecture of the values that the trial suggests; parameters without effect are not
        sampled. Raises ShapeError where it does not fit the data."""
        return self.chosen(Chosen(self.domains, self.elements, trial))

    def chosen(self, chooser: Chosen) -> Architecture:
        """The architecture of a chooser's values. Raises ShapeError as ``suggest``, and SpaceError
        where a plug-in rejects the values."""
        try:
            return close(
                read_cached(self.pattern),
                chooser,
                input=self.input,
                classes=self.classes,
                text=self.pattern,
            )
        except PatternError as error:
            raise SpaceError(f"{self.source or self.name}: {error}") from None

    def suggest_recipe(self, trial: Trial, base: Recipe | None = None) -> Recipe:
        """``base`` with the settings that the space fixes or searches."""
        settings = {key: d.values.ask(trial, f"recipe.{key}") for key, d in self.recipe.items()}
        return (base or Recipe()).but(settings)

    @property
    def fixed(self) -> dict[str, Scalar]:
        """The recipe's fixed settings."""
        some = {key: {*domain.values.some()} for key, domain in self.recipe.items()}
        return {key: next(iter(values)) for key, values in some.items() if len(values) == 1}

    def fixing(self, key: str, value: Scalar) -> Space:
        """The space with a setting of the recipe fixed, as if by its file."""
        data = parse_mapping(self.text, self.source)
        data["recipe"] = {**(data.get("recipe") or {}), key: value}
        own = {**self.recipe, key: Domain(Choice((value,)))}
        return dataclasses.replace(self, recipe=own, text=write_mapping(data))

    def sample(self, seed: int) -> Architecture:
        """A valid architecture, each value drawn uniformly in turn, deterministic in ``seed``.
        Raises SpaceError where 100 draws in a row do not fit the data."""
        if not isinstance(seed, Integral):
            raise NasError(f"seed is {brief(repr(seed), 60)}: must be a whole number")
        return self.draw(random.Random(int(seed)))[1]

    def draw(self, rng: random.Random) -> tuple[dict[str, Scalar], Architecture]:
        """Parameters and architecture of a valid draw. Raises SpaceError as ``sample``."""
        return self.complete({}, rng)

    def complete(
        self, params: Mapping[str, Scalar], rng: random.Random
    ) -> tuple[dict[str, Scalar], Architecture]:
        """Completes given parameters to a valid draw: applicable ones are kept, missing ones drawn,
        those without effect dropped. Raises SpaceError where 100 draws do not fit the data."""
        for _ in range(100):
            trial = Draw(rng, params)
            try:
                return trial.params, self.suggest(trial)
            except ShapeError as error:
                reason = error
                params = {}
        raise SpaceError(f"{self.source or self.name}: no draw in 100 fits; the last: {reason}")

    def excess(self, architecture: Architecture) -> dict[str, float]:
        """The arithmetic constraints that the architecture breaks, each with its excess."""
        known = arithmetic(architecture, self.constraints)
        over = {m: self.constraints[m].excess(value) for m, value in known.items()}
        return {metric: by for metric, by in over.items() if by > 0}

    @property
    def closed(self) -> bool:
        return not self.open_keys()

    def open_keys(self) -> frozenset[str]:
        """The names of the pattern's open parts; optional elements may have no domain."""
        found = symbols(read_cached(self.pattern), self.elements)
        return frozenset(
            name
            for symbol in found
            for name in symbol.names
            if symbol.kind != "argument" or name in self.domains
        )


@lru_cache(maxsize=256)
def read_cached(pattern: str) -> Chain:
    return read(pattern)


# --- space files ---------------------------------------------------------------------------------


def spaces_dir() -> Path:
    """The directory of the shipped spaces, in a checkout as in an installed wheel."""
    import nas.search_spaces

    return Path(nas.search_spaces.__path__[0])


def shipped() -> dict[str, Path]:
    """The shipped spaces by name, the zoo's closed patterns after the others."""
    root = spaces_dir()
    files = [*sorted(root.glob("*.yaml")), *sorted(root.glob("zoo/*.yaml"))]
    return {path.stem: path for path in files}


def open_spaces() -> list[str]:
    """The names of the shipped spaces, without the zoo's closed patterns."""
    return [name for name, path in shipped().items() if path.parent.name != "zoo"]


def load_space(
    name_or_path: str | Path,
    input: Shape | None = None,
    classes: int | None = None,
    size: int = 0,
) -> Space:
    """A shipped space by its name, or a space file, for data of the shape ``input`` (channels,
    height, width) and a number of classes.

    They default to the file's own, or else to those of the digits data set; ``size`` then replaces
    height and width. Raises SpaceError, which names the file, the place and the rule.
    """
    if not isinstance(name_or_path, str | Path):
        value = brief(repr(name_or_path), 60)
        raise SpaceError(f"{value}: must be the name of a space, or its file as text or a Path")
    if not isinstance(size, Integral) or isinstance(size, bool) or not 0 <= size <= LARGEST:
        value = brief(repr(size), 60)
        raise SpaceError(f"size is {value}: must be a whole number from 0 to {LARGEST}")
    known = shipped()
    path = known.get(str(name_or_path), Path(name_or_path))
    if not os.path.isfile(path):  # Path.is_file raises where the name is too long
        if path.suffix or "/" in str(name_or_path):
            raise SpaceError(brief(f"{path}: no such space file"))
        near = nearest(str(name_or_path), known)
        raise SpaceError(brief(f"unknown space {name_or_path}; {near}"))
    data = load_mapping(path)
    if size and input is None:
        data = {**data, "input": [_own_input(data)[0], int(size), int(size)]}
    return read_space(data, str(path), input, classes)


def read_space(
    data: Mapping[str, Any], source: str, input: Shape | None = None, classes: int | None = None
) -> Space:
    """The space described by a file's data. Checks all that can be checked before a trial."""
    try:
        space = _read_space(data, input, classes)
        return dataclasses.replace(space, source=source, text=write_mapping(data))
    except NasError as error:
        raise SpaceError(brief(f"{source}: {error}")) from None


def _section(data: Mapping[str, Any], key: str, where: str = "") -> Mapping[str, Any]:
    section = data.get(key)
    if section is not None and not isinstance(section, dict):
        raise SpaceError(f"{where}{key}: {section!r}: must be a mapping")
    return section or {}


def _read_space(data: Mapping[str, Any], input: Shape | None, classes: int | None) -> Space:
    for key in data:
        if key not in KEYS:
            raise SpaceError(f"unknown key {key}; {nearest(key, KEYS)}")
    for key in ("name", "pattern"):
        if not isinstance(data.get(key), str):
            raise SpaceError(f"{key}: must be there, as text")
    if not data["name"].strip() or not data["name"].isprintable():
        raise SpaceError(f"name: {brief(repr(data['name']), 60)}: must be printable characters")
    own_input = _own_input(data)  # checked even where it is not used
    input = own_input if input is None else image_shape(input)
    own_classes = data.get("classes", DEFAULT_CLASSES)
    if type(own_classes) is not int or not 1 <= own_classes <= LARGEST:
        raise SpaceError(f"classes: {own_classes!r}: must be a whole number from 1 to {LARGEST}")
    where, bounds = dict(_section(data, "where")), dict(_section(data, "constraints"))
    large = _section(data, "large")
    for key in large:
        if key not in ("pixels", "where", "constraints"):
            raise SpaceError(f"large.{key}: unknown key; known: constraints, pixels, where")
    pixels = large.get("pixels", LARGE)
    if type(pixels) is not int:
        raise SpaceError(f"large.pixels: {pixels!r}: must be a whole number")
    if large and min(input[1:]) >= pixels:
        where |= _section(large, "where", "large.")
        bounds |= _section(large, "constraints", "large.")
    pattern = " ".join(data["pattern"].split())
    tree = read(pattern)
    domains = {key: read_domain(spec, f"where.{key}") for key, spec in where.items()}
    objectives = _section(data, "objectives") or OBJECTIVES
    if data.get("objectives") == {}:
        raise SpaceError("objectives: {}: must name one or more, such as {accuracy: max}")
    kinds = {f.name: f for f in dataclasses.fields(Recipe)}
    recipe_section = _section(data, "recipe")
    space = Space(
        name=data["name"],
        about=" ".join(str(data.get("about", "")).split()),
        pattern=pattern,
        domains=domains,
        elements=alternatives(tree, domains),
        constraints={k: read_bound(v, f"constraints.{k}") for k, v in bounds.items()},
        objectives={k: read_direction(v, f"objectives.{k}") for k, v in objectives.items()},
        recipe={k: read_domain(v, f"recipe.{k}") for k, v in recipe_section.items()},
        input=input,
        classes=own_classes if classes is None else class_count(classes),
    )
    for key in space.recipe:
        if key not in kinds:
            raise SpaceError(f"recipe.{key}: unknown setting; {nearest(key, kinds)}")
        domain = space.recipe[key]
        if isinstance(domain.values, Progression) or domain.per or domain.first:
            raise SpaceError(f"recipe.{key}: a setting has one value for the whole network")
        for value in domain.values.some():
            Recipe.of({key: value})
    opening(tree, space.input)
    check(tree, space.elements, domains)
    if space.closed:
        close(tree, input=space.input, classes=space.classes, text=pattern)
    return space


def _own_input(data: Mapping[str, Any]) -> Shape:
    own = data.get("input", list(DEFAULT_INPUT))
    fits = isinstance(own, list) and len(own) == 3
    if not fits or any(type(size) is not int or not 1 <= size <= LARGEST for size in own):
        raise SpaceError(f"input: {own!r}: must be [channels, height, width]")
    return tuple(own)
