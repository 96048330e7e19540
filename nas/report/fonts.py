"""The font of pictures, and what of a text it can show."""

from __future__ import annotations

import functools
import unicodedata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

# Pillow looks for them where the system has its fonts.
FILES = ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf", "Arial.ttf")
NOWHERE = "\U0010ffff"  # no character: a font draws it as it draws those that it lacks


@functools.cache
def file() -> Path | None:
    """The font's file: matplotlib's DejaVu Sans, which has the letters of Latin, Greek, Cyrillic
    and more, or else the system's. None where there is none: Pillow's own font is drawn then, which
    has few letters besides ASCII."""
    from PIL import ImageFont

    if (found := find_spec("matplotlib")) and found.origin:
        own = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / FILES[0]
        if own.exists():
            return own
    for name in FILES:
        try:
            return Path(str(ImageFont.truetype(name).path))
        except OSError:
            continue
    return None


def font(size: float) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    found = file()
    return ImageFont.truetype(found, size) if found else ImageFont.load_default(size)


def showable(text: str) -> str:
    """The text with ? for each character that the font lacks. Letters with their accents apart, as
    macOS writes the names of files, become one where there is one."""
    return "".join(c if _has(c) else "?" for c in unicodedata.normalize("NFC", text))


@functools.lru_cache(maxsize=10_000)
def _has(character: str) -> bool:
    return character.isspace() or _drawn(character) != _drawn(NOWHERE)


def _drawn(character: str) -> tuple[object, bytes]:
    from PIL.ImageFont import FreeTypeFont, Layout

    used = font(32)
    if isinstance(used, FreeTypeFont):  # by glyph: shaping hides some that are lacking
        used = used.font_variant(layout_engine=Layout.BASIC)
    mask = used.getmask(character)
    return mask.size, bytes(mask)
