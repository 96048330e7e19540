"""The blocks, as plug-ins import and register them; they live in ``nas.language.blocks``."""

from nas.language.blocks import *  # noqa: F403
