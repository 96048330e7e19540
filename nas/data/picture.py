"""One image file as the picture that a person sees: upright, in 8 bits, on one ground.

Every mode of Pillow comes to grey or RGB (``nas.data.modes``). 16-bit values are scaled by the
type's range, so that one scale holds for a whole set; floats and 32-bit integers have no range that
a scan would fill, and are scaled each by its own least and greatest value. What is transparent
shows a grey ground, on which drawings in black and in white are both seen. Of several frames the
first is taken. Colours of another embedded profile than sRGB's are taken to sRGB
(``nas.data.colours``).

A plain JPEG is read by simplejpeg (libjpeg-turbo, as Pillow's, to the same bytes): 6 times as fast
at 32x32 pixels, where Pillow's own Python is what takes the time, and scaled by eighths (Pillow: by
halves), which is 1.2 times as fast from 500x375 to 224 (``benchmarks/decoders.py``).
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
SMALL = 4096  # bytes
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG"


@dataclass(frozen=True, slots=True)
class Header:
    """What an image says of itself: its upright size, and how it is read."""

    height: int
    width: int
    grey: bool
    frames: bool  # there are more after the first
    own_range: bool


def opened(data: bytes) -> Image.Image:
    from PIL import Image

    return Image.open(io.BytesIO(data), formats=sorted(kinds.readable()))


def reason(error: BaseException, data: bytes | None = None) -> str:
    """Why an image, of these bytes where they are known, cannot be read, without Pillow's words for
    our own buffer."""
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
    """Raises DataError for what is no image. Reads no pixels, but of a turned PNG."""
    if known := plain_jpeg(data):
        return Header(known[0], known[1], known[2] == "Gray", frames=False, own_range=False)
    # Pillow's readers raise nearly anything on a broken file: OSError, SyntaxError, struct.error.
    try:
        with opened(data) as image:
            width, height = image.size
            # A PNG may have its tags at the end, and Pillow decodes all to look for them. TIFF's
            # reader has turned the size already.
            tags = image.format != "PNG" or b"eXIf" in data or b"rientation" in data
            if image.format != "TIFF" and tags and image.getexif().get(ORIENTATION, 1) >= 5:
                width, height = height, width
            frames = image.format != "MPO" and bool(getattr(image, "is_animated", False))
            own = image.mode in OWN_RANGE and not known_range(image)
            return Header(height, width, image.mode in GREY, frames, own)
    except Exception as error:
        raise DataError(reason(error, data)) from error


def plain_jpeg(data: bytes) -> tuple[int, int, str] | None:
    """Height, width and colours of a JPEG that needs nothing of Pillow: its tags turn nothing, and
    it has no colours of print, nor of another profile than sRGB's. None of all else, what is broken
    included: Pillow tells why."""
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
    """What stands before a JPEG's pixels, where its tags and its profile are: to search 100 kB for
    a word takes 77 us, and a thumbnail less than to find that place. All of what is none, or not
    quite right."""
    if len(data) < SMALL:
        return data
    at = 2 if data.startswith(JPEG) else len(data)
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"\xda", b"\xff", b""):
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return data[:at] if data[at : at + 2] == b"\xff\xda" else data


def converted(data: bytes) -> bool:
    """Whether the colours of an image are taken to sRGB; not so where it cannot be read."""
    mark = b"iCCP" if data.startswith(PNG) else b"acsp"  # that of a PNG is packed
    if mark not in head(data):
        return False
    try:
        with opened(data) as image:
            return colours.foreign(image) is not None
    except Exception:
        return False


def decode(path: str | Path, shape: tuple[int, int, int]) -> Any:
    """The image of a file as ``decoded`` makes it. Raises DataError, which names the file."""
    try:
        return decoded(Path(path).read_bytes(), shape)
    except (OSError, DataError) as error:
        raise DataError(f"{path} is not a readable image: {error}") from error


def decoded(data: bytes, shape: tuple[int, int, int]) -> Any:
    """The image as channels x height x width bytes: turned upright, scaled to cover the size, and
    cut to it about the centre. Raises DataError."""
    if plain_jpeg(data):
        with contextlib.suppress(ValueError):
            return fast(data, shape)
    try:
        with opened(data) as image:
            # A JPEG is decoded at 1/2 to 1/8 where that covers, whichever way it is turned.
            grey = shape[0] == 1 and not colours.foreign(image)
            image.draft("L" if grey else "RGB", (max(shape[1:]),) * 2)
            return fitted(image, shape)
    except Exception as error:
        raise DataError(reason(error, data)) from error


def fast(data: bytes, shape: tuple[int, int, int]) -> Any:
    """A plain JPEG, decoded at the least of 1/8 to 8/8 that covers. Raises ValueError for one that
    is not whole, or not quite right."""
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
    """The same of an open image, which stays as it is."""
    from PIL import Image, ImageOps

    channels, height, width = shape
    known, turn = known_range(image), colours.foreign(image)  # the turned copy does not tell
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if turn:
        image = colours.turned(image, turn)
    seen = picture(image, "L" if channels == 1 else "RGB", known)
    if seen.size != (width, height):
        seen = ImageOps.fit(seen, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(seen).reshape(height, width, channels).transpose(2, 0, 1)
