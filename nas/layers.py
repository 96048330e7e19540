"""Layers and combinators as plug-ins import them; they live in ``nas.language``."""

from nas.language.expression import *  # noqa: F403
from nas.language.layers import *  # noqa: F403
