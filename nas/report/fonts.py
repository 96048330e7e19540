"""The font of pictures, and what of a text it can show."""

from __future__ import annotations

import contextlib
import functools
import sys
import unicodedata
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

# Pillow looks for them where the system has its fonts.
FILES = ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf", "Arial.ttf")
# Of other scripts, as Linux, macOS and Windows call them.
OTHERS = ("NotoSansCJK-Regular.ttc", "DroidSansFallbackFull.ttf", "wqy-microhei.ttc",
          "Hiragino Sans GB.ttc", "msyh.ttc", "YuGothM.ttc", "malgun.ttf", "Arial Unicode.ttf",
          "NotoSansThai-Regular.ttf", "Loma.ttf", "LeelawUI.ttf", "Thonburi.ttc")  # fmt: skip
SHOWN = 20  # characters that are named
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


@functools.cache
def files() -> tuple[Path | None, ...]:
    """The fonts that texts are drawn with: the usual one (None: Pillow's own), then those of other
    scripts."""
    from PIL import ImageFont

    found: list[Path | None] = [file()]
    for name in OTHERS:
        with contextlib.suppress(OSError):
            found.append(Path(str(ImageFont.truetype(name).path)))
    return tuple(found)


def file_for(text: str) -> Path | None:
    """The font that has the most of a text's characters, of equals the usual one."""
    characters = set(_composed(text))
    if all(_has(file(), c) for c in characters):
        return file()  # without a look for others
    return max(files(), key=lambda each: sum(_has(each, c) for c in characters))


def font(size: float, text: str = "") -> FreeTypeFont | ImageFont:
    """The font for a text."""
    return _font(file_for(text), size)


def showable(text: str) -> str:
    """The text with ? for each character that its font lacks. Letters with their accents apart, as
    macOS writes the names of files, become one where there is one."""
    used = file_for(text)
    return "".join(c if _has(used, c) else "?" for c in _composed(text))


def tell_lacking(texts: Iterable[str]) -> None:
    """Prints to stderr which characters no font here draws."""
    lacking = {c: None for each in texts for c in _composed(each) if not _has(file_for(each), c)}
    if lacking:
        shown = "".join([*lacking][:SHOWN]) + ("..." if len(lacking) > SHOWN else "")
        print(
            f"nas: no font here has {shown}: on pictures ? stands for them (Debian: "
            "fonts-noto-cjk for Chinese, Japanese and Korean, fonts-noto-core for most other "
            "scripts)",
            file=sys.stderr,
        )


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@functools.lru_cache(maxsize=64)
def _font(found: Path | None, size: float) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.truetype(found, size) if found else ImageFont.load_default(size)


@functools.lru_cache(maxsize=10_000)
def _has(found: Path | None, character: str) -> bool:
    return character.isspace() or _drawn(found, character) != _drawn(found, NOWHERE)


def _drawn(found: Path | None, character: str) -> tuple[object, bytes]:
    from PIL.ImageFont import FreeTypeFont, Layout

    used = _font(found, 32)
    if isinstance(used, FreeTypeFont):  # by glyph: shaping hides some that are lacking
        used = used.font_variant(layout_engine=Layout.BASIC)
    mask = used.getmask(character)
    return mask.size, bytes(mask)
