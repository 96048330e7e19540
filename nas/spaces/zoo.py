"""The networks of the literature: the closed patterns in ``search_spaces/zoo``."""

from __future__ import annotations

from nas.errors import NasError, brief, nearest
from nas.language.architecture import Architecture
from nas.language.expression import Shape
from nas.spaces.space import load_space, shipped


def names() -> list[str]:
    """The networks of the zoo."""
    return [name for name, path in shipped().items() if path.parent.name == "zoo"]


def network(name: str, input: Shape | None = None, classes: int | None = None) -> Architecture:
    """A network of the zoo, on the data of its paper unless other is given.

    Raises NasError for an unknown name, ShapeError where the network does not fit the input.
    """
    if not isinstance(name, str) or name not in names():
        raise NasError(brief(f"the zoo has no network {name}; {nearest(str(name), names())}"))
    own = load_space(name).sample(0)
    return own.on(
        own.input if input is None else input, own.classes if classes is None else classes
    )
