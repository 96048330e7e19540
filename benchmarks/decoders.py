"""JPEGs decoded a second by one core, of 32x32 pixels and of 500x375 to 224: by each decoder here.

    python benchmarks/decoders.py [--seconds 1]

Images are made (smooth noise, quality 90, half the colour resolution, as photographs have it). Each
decoder makes RGB bytes of at least 224 pixels a side, at the scale that its library offers; then,
where it does not come out at that size, Pillow resizes the middle to 224x224, for all alike. What
is not installed is left out: ``pip install simplejpeg PyTurboJPEG opencv-python-headless``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from nas.data import picture

SIDE = 224


def made(count: int, height: int, width: int) -> list[bytes]:
    rng, files = np.random.default_rng(0), []
    for _ in range(count):
        small = rng.integers(0, 255, (height // 8, width // 8, 3), np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        noisy = np.asarray(image).astype(int) + rng.normal(0, 6, (height, width, 1)).round()
        kept = io.BytesIO()
        shown = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        shown.save(kept, "JPEG", quality=90, subsampling="4:2:0")
        files.append(kept.getvalue())
    return files


def decoders() -> dict[str, Callable[[bytes, int], Any]]:
    """Each takes a file and the side that is needed, and gives height x width x 3 bytes."""

    def pillow(data: bytes, side: int) -> Any:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def draft(data: bytes, side: int) -> Any:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (side, side))
        return np.asarray(image.convert("RGB"))

    found: dict[str, Callable[[bytes, int], Any]] = {"Pillow": pillow, "Pillow, draft": draft}
    with contextlib.suppress(ImportError):
        import simplejpeg

        found["simplejpeg"] = lambda data, side: simplejpeg.decode_jpeg(
            data, "RGB", min_height=side, min_width=side
        )
        found["simplejpeg, fast dct"] = lambda data, side: simplejpeg.decode_jpeg(
            data, "RGB", fastdct=True, fastupsample=True, min_height=side, min_width=side
        )
    with contextlib.suppress(ImportError, RuntimeError, OSError):
        import turbojpeg

        turbo = turbojpeg.TurboJPEG()
        found["PyTurboJPEG"] = lambda data, side: turbo.decode(data, turbojpeg.TJPF_RGB)
    with contextlib.suppress(ImportError):
        import cv2

        cv2.setNumThreads(1)
        found["opencv"] = lambda data, side: cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB
        )
    with contextlib.suppress(ImportError):
        import imagecodecs

        found["imagecodecs"] = lambda data, side: imagecodecs.jpeg_decode(data)
    with contextlib.suppress(ImportError):
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        torch.set_num_threads(1)
        found["torchvision.io"] = lambda data, side: (
            decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
            .permute(1, 2, 0)
            .contiguous()
            .numpy()
        )
    return found


def second(function: Callable[[bytes], Any], files: list[bytes], seconds: float) -> float:
    """Files a second of processor time."""
    began, done = time.process_time(), 0
    while time.process_time() - began < seconds:
        function(files[done % len(files)])
        done += 1
    return done / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0)
    seconds = parser.parse_args().seconds
    for height, width, side in ((32, 32, 32), (375, 500, SIDE)):
        files = made(64, height, width)
        print(f"{width}x{height}, {sum(map(len, files)) // len(files):,} bytes, to {side}x{side}:")
        ours = second(lambda data, s=side: picture.decoded(data, (3, s, s)), files, seconds)
        print(f"  {'nas.data.picture.decoded':24} {ours:8,.0f} a second")
        for name, decode in decoders().items():

            def cut(data: bytes, decode: Any = decode, side: int = side) -> Any:
                pixels = decode(data, side)
                if pixels.shape[:2] == (side, side):
                    return pixels
                image = Image.fromarray(pixels)
                return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR))

            def plain(data: bytes, decode: Any = decode, side: int = side) -> Any:
                return decode(data, side)

            alone, whole = (second(f, files, seconds) for f in (plain, cut))
            size = "x".join(map(str, decode(files[0], side).shape[1::-1]))
            print(f"  {name:24} {whole:8,.0f} a second, {alone:8,.0f} without the resize ({size})")


if __name__ == "__main__":
    main()
