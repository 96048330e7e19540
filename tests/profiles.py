"""Colour profiles (ICC) as cameras, phones and print write them, made by their definitions."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from PIL import ImageCms

# Columns of the matrix to XYZ under D50: of Display P3, and of Adobe RGB (1998), as their
# published profiles have them.
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def matrix(primaries: Sequence[Sequence[float]], gamma: float | None = None) -> bytes:
    """The sRGB profile with other primaries; with a ``gamma``, and else with sRGB's own curve."""
    data = bytearray(srgb())
    (count,) = struct.unpack_from(">I", data, 128)
    table = [struct.unpack_from(">4sII", data, 132 + 12 * n) for n in range(count)]
    for name, offset, _ in table:
        if name in (b"rXYZ", b"gXYZ", b"bXYZ"):
            values = primaries[b"rgb".index(name[:1])]
            struct.pack_into(">3i", data, offset + 8, *(round(v * 65536) for v in values))
        if gamma and name == b"rTRC":  # one for all three, parametric: of type 0 it is a gamma
            struct.pack_into(">4sIHHi", data, offset, b"para", 0, 0, 0, round(gamma * 65536))
    return bytes(data)


def display_p3() -> bytes:
    return matrix(P3)


def adobe_rgb() -> bytes:
    return matrix(ADOBE, 563 / 256)


def cmyk() -> bytes:
    """Inks whose mixtures are all grey: each alone has the lightness L* 60, black 0, with two of
    them 30 and with three 10. Of a table with two places an ink, between which is interpolated."""
    lightness = (100, 60, 30, 10)
    places = []
    for number in range(16):
        inks = [number >> shift & 1 for shift in (3, 2, 1, 0)]
        found = 0 if inks[3] else lightness[sum(inks)]
        places += [round(found * 255 / 100), 128, 128]
    straight = bytes(range(256))
    one = struct.pack(">9i", *(65536 if n % 4 == 0 else 0 for n in range(9)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + one + 4 * straight + bytes(places) + 3 * straight
    head = struct.pack(">4x4xI4s4s4s12x4s28x3i48x", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp",
                       63190, 65536, 54061)  # fmt: skip
    tags = struct.pack(">I4sII", 1, b"A2B0", len(head) + 16, len(lut))
    whole = head + tags + lut
    return struct.pack(">I", len(whole)) + whole[4:]
