"""The picture of an architecture, from its tree alone: ``nas.language.drawing.network.svg``."""
