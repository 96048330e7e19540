"""Decodes one image file as a viewer shows it: upright, 8 bits, on an opaque background.

Every Pillow mode becomes grey or RGB (``nas.data.modes``). 16-bit values are scaled by the type's
range, so one scale serves a whole set; floats and 32-bit integers rarely fill their range and are
scaled per image, from its minimum to its maximum. Transparent pixels get a grey background, on
which both black and white drawings show. Of several frames the first is used. Colours with an
embedded profile other than sRGB's are converted to sRGB (``nas.data.colours``).

Plain JPEGs are read with simplejpeg (libjpeg-turbo, as in Pillow, giving the same bytes): 6 times
as fast at 32x32 pixels, where Pillow's Python code dominates, and 1.2 times as fast from 500x375 to
224, because it scales by eighths where Pillow scales by halves (``benchmarks/decoders.py``).
"""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.data import colours, kinds
from nas.data.modes import DEEP, OWN_RANGE, known_range, picture
from nas.errors import DataError, brief

if TYPE_CHECKING:
    from PIL import Image

GREY = frozenset({"1", "L", "LA", "La", *DEEP})
ORIENTATION = 0x0112
SIDEWAYS = range(5, 9)
SMALL = 4096  # bytes
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG"


@dataclass(frozen=True, slots=True)
class Header:
    """What an image's header says: its upright size, and how to read it."""

    height: int
    width: int
    grey: bool
    frames: bool  # more than one
    own_range: bool


def opened(data: bytes) -> Image.Image:
    from PIL import Image

    return Image.open(io.BytesIO(data), formats=sorted(kinds.readable()))


def reason(error: BaseException, data: bytes | None = None) -> str:
    """Why an image cannot be read; ``data`` are its bytes, where known. Pillow's message is left
    out where it describes our own buffer."""
    from PIL import Image

    message = brief(str(error), 120)
    if data is not None and not data:
        return "it is empty"
    if isinstance(error, Image.DecompressionBombError):
        pixels, most = (int(number) for number in re.findall(r"\d+", message)[:2])
        return f"it has {pixels:,} pixels: must be {most:,} at most; make it smaller"
    if "cannot identify" not in message:
        return message or type(error).__name__
    kind = kinds.unreadable(data or b"")
    return kinds.lacking(kind) if kind else "it is no image"


def header(data: bytes) -> Header:
    """An image's header. Reads no pixels, except of a PNG with tags. Raises DataError."""
    if known := plain_jpeg(data):
        return Header(known[0], known[1], known[2] == "Gray", frames=False, own_range=False)
    # Pillow's readers raise nearly anything on a broken file: OSError, SyntaxError, struct.error.
    try:
        with opened(data) as image:
            width, height = image.size
            # A PNG may have its tags at the end, and Pillow decodes it all to find them. For TIFF,
            # ``image.size`` is upright already.
            tags = image.format != "PNG" or b"eXIf" in data or b"rientation" in data
            if image.format != "TIFF" and tags and image.getexif().get(ORIENTATION) in SIDEWAYS:
                width, height = height, width
            frames = image.format != "MPO" and bool(getattr(image, "is_animated", False))
            own = image.mode in OWN_RANGE and not known_range(image)
            return Header(height, width, image.mode in GREY, frames, own)
    except Exception as error:
        raise DataError(reason(error, data)) from error


def plain_jpeg(data: bytes) -> tuple[int, int, str] | None:
    """Height, width and colour space of a JPEG that needs no Pillow: no rotation, neither CMYK nor
    a profile other than sRGB's. None for everything else, broken files included: Pillow says what
    is wrong with them."""
    first = head(data)
    if not data.startswith(JPEG) or b"Exif" in first or b"rientation" in first:
        return None
    if converted(data):
        return None
    import simplejpeg

    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width, space) if space in ("YCbCr", "Gray") else None


def head(data: bytes) -> bytes:
    """The bytes before a JPEG's pixels, which hold its tags and profile: searching 100 kB for a
    word takes 77 us, and a small file less than finding that place. All bytes of a small file, of
    another format, or where the markers are broken."""
    if len(data) < SMALL:
        return data
    at = 2 if data.startswith(JPEG) else len(data)
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"\xda", b"\xff", b""):
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return data[:at] if data[at : at + 2] == b"\xff\xda" else data


def converted(data: bytes) -> bool:
    """Whether decoding converts the image's colours to sRGB; False for an unreadable image."""
    mark = b"iCCP" if data.startswith(PNG) else b"acsp"  # a PNG's profile is compressed
    if mark not in head(data):
        return False
    try:
        with opened(data) as image:
            return colours.foreign(image) is not None
    except Exception:
        return False


def decode(path: str | Path, shape: tuple[int, int, int]) -> Any:
    """The image of a file as ``decoded`` returns it. Raises DataError, which names the file."""
    try:
        return decoded(Path(path).read_bytes(), shape)
    except (OSError, ValueError, DataError) as error:  # ValueError: no file has such a name
        raise DataError(f"{path} is not a readable image: {error}") from error


def decoded(data: bytes, shape: tuple[int, int, int]) -> Any:
    """The image as uint8 channels x height x width: turned upright, scaled to cover ``shape``, and
    cropped to it about the centre. Raises DataError."""
    if plain_jpeg(data):
        with contextlib.suppress(ValueError):
            return fast(data, shape)
    try:
        with opened(data) as image:
            # Decodes a JPEG at 1/2 to 1/8 where that covers the size, however it is rotated.
            grey = shape[0] == 1 and not colours.foreign(image)
            image.draft("L" if grey else "RGB", (max(shape[1:]),) * 2)
            return fitted(image, shape)
    except Exception as error:
        raise DataError(reason(error, data)) from error


def fast(data: bytes, shape: tuple[int, int, int]) -> Any:
    """A plain JPEG, decoded at the smallest of 1/8 to 8/8 that covers ``shape``. Raises ValueError
    for one that is truncated or otherwise broken."""
    import simplejpeg

    channels, height, width = shape
    side = max(height, width)
    pixels = simplejpeg.decode_jpeg(
        data, "GRAY" if channels == 1 else "RGB", min_height=side, min_width=side
    )
    if pixels.shape[:2] != (height, width):
        from PIL import Image

        return fitted(Image.fromarray(pixels.squeeze()), shape)
    return pixels.transpose(2, 0, 1)


def fitted(image: Image.Image, shape: tuple[int, int, int]) -> Any:
    """An open image, which is not modified, as ``decoded`` returns it."""
    from PIL import Image, ImageOps

    channels, height, width = shape
    if 0 in image.size:  # Pillow would scale it to black
        raise DataError(f"it is {image.width} x {image.height}: must have pixels")
    known, turn = known_range(image), colours.foreign(image)  # lost in the rotated copy
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if turn:
        image = colours.turned(image, turn)
    seen = picture(image, "L" if channels == 1 else "RGB", known)
    if seen.size != (width, height):
        seen = ImageOps.fit(seen, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(seen).reshape(height, width, channels).transpose(2, 0, 1)
