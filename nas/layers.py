"""Layers and combinators as plug-ins import them; they live in ``nas.language.layers``."""

from nas.language.layers import *  # noqa: F403
