"""Converts images to sRGB, as viewers do, where they embed another colour profile (ICC): Display P3
from phones, Adobe RGB from cameras, CMYK for print.

Exported Python code contains this module's source (``nas.training.python_source``).
"""

from __future__ import annotations

import functools
import io
import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


@functools.lru_cache(maxsize=64)
def to_srgb(profile: bytes, mode: str) -> Any:
    """The transform from a profile to sRGB. None where it changes no pixel by more than 4, whatever
    the profile is called, and for a profile that is broken or of another mode: viewers ignore
    it."""
    from PIL import Image, ImageChops, ImageCms

    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        turn = ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    levels = range(0, 256, 51 if mode == "CMYK" else 17)
    grid = [*itertools.product(levels, repeat=len(Image.new(mode, (1, 1)).getbands()))]
    some = Image.frombytes(mode, (len(grid), 1), bytes(itertools.chain(*grid)))
    converted: Any = ImageCms.applyTransform(some, turn)
    off = ImageChops.difference(converted, some.convert("RGB"))
    return turn if max(off.tobytes()) > 4 else None


def foreign(image: Image.Image) -> Any:
    """The transform that takes an open image to sRGB, or None where none is needed."""
    profile = image.info.get("icc_profile")
    if not profile or (image.mode == "L" and image.has_transparency_data):
        return None
    mode = "RGB" if image.mode in ("P", "PA", "RGBA") else image.mode
    return to_srgb(profile, mode) if mode in ("RGB", "CMYK", "L") else None


def turned(image: Image.Image, turn: Any) -> Image.Image:
    """The image in sRGB, by the transform that ``foreign`` returned; transparency is kept."""
    from PIL import ImageCms

    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if image.mode in ("P", "PA", "RGBA"):
        image = image.convert("RGB")
    seen = ImageCms.applyTransform(image, turn)
    assert seen is not None  # None only when in place
    if alpha:
        seen.putalpha(alpha)
    return seen
