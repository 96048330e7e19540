"""Converts every Pillow mode to 8 bits, grey or RGB, on an opaque background: deeper values are
scaled by their type's range, transparency shows a grey background.

Exported Python code contains this module's source (``nas.training.python_source``), so NumPy is
imported only where an image needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

GROUND = 128
OWN_RANGE = ("F", "I")
DEEP = (*OWN_RANGE, "I;16", "I;16B", "I;16L", "I;16N")


def picture(image: Image.Image, mode: str, known: tuple[float, float] | None = None) -> Image.Image:
    """The image in ``mode``, L or RGB; ``known`` is its type's range, where known."""
    from PIL import Image

    if image.mode in DEEP:
        return deep(image, known).convert(mode)
    if image.mode == "LAB":
        image = from_lab(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (GROUND, GROUND, GROUND, 255))
        image = Image.alpha_composite(ground, image)
    return image.convert(mode)


def deep(image: Image.Image, known: tuple[float, float] | None) -> Image.Image:
    """An image of more than 8 bits per pixel, scaled to 8."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    key = image.info.get("transparency")
    hidden = values == key if isinstance(key, int) else np.zeros(values.shape, bool)
    low, high = known or (own_range(values) if image.mode in OWN_RANGE else (0.0, 65535.0))
    scaled = np.nan_to_num((values - low) * (255 / (high - low) if high > low else 0))
    seen = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    seen[hidden] = GROUND
    return Image.fromarray(seen)


def known_range(image: Image.Image) -> tuple[float, float] | None:
    """The range of the file's type, where Pillow widened it to 16 or 32 bits and it is known."""
    if image.format == "PPM" and image.mode == "I":
        return 0.0, 65535.0  # Pillow scales any maximum value to this
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I;16" and tags.get(258) == (12,):  # bits a sample
        return 0.0, 4095.0
    if image.mode == "I" and tags.get(258) == (16,):
        return (-32768.0, 32767.0) if tags.get(339) == (2,) else (0.0, 65535.0)  # signed
    return None


def own_range(values: Any) -> tuple[float, float]:
    import numpy as np

    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    turned = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert turned is not None  # None only when in place
    return turned
