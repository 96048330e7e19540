"""Images with another colour profile are converted to sRGB; sRGB images stay as they are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import profiles
import pytest
from folders import anew, colour, folder, ref
from PIL import Image

from nas.data import cache, picture
from nas.data import datasets as data
from nas.data.findings import examine

# From linear Display P3 and Adobe RGB to linear sRGB, white kept: CSS Color 4, section 17, and the
# matrices of Adobe RGB (1998), annex A, times sRGB's.
TO_SRGB = {
    "p3": np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]]),
    "adobe": np.array([[1.3983, -0.3983, 0.0], [0.0, 1.0, 0.0], [0.0, -0.0429, 1.0429]]),
}
PROFILES = {"p3": profiles.display_p3(), "adobe": profiles.adobe_rgb()}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))


def by_hand(pixels: np.ndarray, space: str) -> np.ndarray:
    values = pixels / 255
    curve = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = (curve if space == "p3" else values ** (563 / 256)) @ TO_SRGB[space].T
    linear = linear.clip(0, 1)
    out = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * out


def read(image: Image.Image, kind: str, channels: int = 3, **save: object) -> np.ndarray:
    kept = io.BytesIO()
    image.save(kept, kind, **save)
    pixels = picture.decoded(kept.getvalue(), (channels, image.height, image.width))
    return pixels.transpose(1, 2, 0).squeeze().astype(int)


def photograph() -> np.ndarray:
    """All colours, in steps that a JPEG keeps well."""
    levels = np.linspace(0, 255, 5)
    every = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3).round()
    return every.repeat(8, 0).reshape(25, 40, 3).repeat(8, 0).astype(np.uint8)


@pytest.mark.parametrize("space", ["p3", "adobe"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_a_wide_space_comes_to_srgb(space: str, kind: str) -> None:
    image = Image.fromarray(photograph())
    exact = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    plain = read(image, kind, **exact)
    found = read(image, kind, icc_profile=PROFILES[space], **exact)
    off = np.abs(found - by_hand(plain, space))
    # lcms rounds its matrices to 15 bits; a JPEG is decoded by Pillow here, by simplejpeg there.
    assert off.max() <= (6 if kind == "JPEG" else 2)
    assert np.abs(plain - by_hand(plain, space)).max() > 40


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    "profile", [profiles.srgb(), b"none at all", profiles.display_p3()[:300], profiles.cmyk()]
)
def test_srgb_a_broken_profile_and_that_of_other_pixels_change_nothing(
    kind: str, profile: bytes
) -> None:
    image = Image.fromarray(photograph())
    assert (read(image, kind, icc_profile=profile) == read(image, kind)).all()


def test_an_image_of_srgb_is_read_as_fast_as_without_its_profile() -> None:
    kept = io.BytesIO()
    Image.fromarray(photograph()).save(kept, "JPEG", icc_profile=profiles.srgb())
    assert picture.plain_jpeg(kept.getvalue())


def test_what_is_transparent_or_of_a_palette_or_made_grey_has_its_colours(tmp_path: Path) -> None:
    pixels = photograph()
    told = by_hand(pixels, "p3")
    more = {"icc_profile": PROFILES["p3"]}
    clear = Image.fromarray(np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]))
    clear.paste((9, 9, 9, 0), (0, 0, 20, 200))
    found = read(clear, "PNG", **more)
    assert (found[:, :20] == 128).all()
    assert np.abs(found - told)[:, 20:].max() <= 2
    palette = Image.fromarray(pixels).quantize(128)
    as_rgb = np.asarray(palette.convert("RGB"))
    assert np.abs(read(palette, "PNG", **more) - by_hand(as_rgb, "p3")).max() <= 2
    for kind in ("PNG", "JPEG"):  # a JPEG would come to its own grey by itself
        exact = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
        grey = read(Image.fromarray(pixels), kind, 1, **more, **exact)
        assert np.abs(grey - told @ [0.299, 0.587, 0.114]).max() <= 6
    turned = read(Image.fromarray(pixels), "JPEG", exif=tagged(3), **more, **exact)
    assert np.abs(turned[::-1, ::-1] - told).max() <= 6


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_the_colours_of_print_are_those_of_their_inks() -> None:
    """Each ink of this profile is grey on paper; of L* 60 sRGB's grey is 145, of 50 it is 119."""
    more = {"icc_profile": profiles.cmyk(), "quality": 100}
    for inks, told, naive in (
        ((0, 0, 0, 0), 255, (255, 255, 255)),
        ((255, 0, 0, 0), 145, (0, 255, 255)),
        ((0, 0, 0, 128), 119, (127, 127, 127)),
    ):
        image = Image.new("CMYK", (16, 16), inks)
        for kind in ("JPEG", "TIFF"):
            assert np.abs(read(image, kind, **more) - told).max() <= 2
            assert np.abs(read(image, kind) - naive).max() <= 2


@pytest.mark.parametrize("gigabytes", ["", "0"])
def test_a_folder_tells_them_and_is_another_than_without(
    gigabytes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded once, or where it is too large for that when batches ask."""
    if gigabytes:
        monkeypatch.setenv(cache.ROOM, gigabytes)
    plain = folder(tmp_path / "plain")
    own = folder(tmp_path / "own", icc_profile=profiles.srgb())
    wide = folder(tmp_path / "wide", icc_profile=PROFILES["p3"])
    found = examine(ref(wide))
    told = "20 images have a colour profile other than sRGB's: their colours are converted to sRGB"
    assert any(told in note for note in found.notes)
    assert not any("profile" in note for name in (plain, own) for note in examine(ref(name)).notes)
    images = data.load(ref(wide), "train")
    number = int(images.rows[0])
    first = colour(number if number < 10 else 1000 + number - 10, int(number >= 10))
    assert np.abs(images.pixels[number].transpose(1, 2, 0) - by_hand(first, "p3")).max() <= 2
    # The same bytes, read as they were before colours were looked at, are other images.
    whole = found.identity
    anew()
    monkeypatch.setattr("nas.data.picture.colours.foreign", lambda image: None)
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "before"))
    assert data.identity(ref(wide)) != whole
