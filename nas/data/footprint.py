"""The memory, in bytes, that a training's reading of images takes. No torch here.

The images themselves are one memory map, shared by all processes of a machine, and take none on
the CPU. A process holds only the batches being prepared.
"""

from __future__ import annotations

import math

import numpy as np

from nas.data.images import Images

# Images augmented and normalised at once: for digits an epoch is one chunk, which saves each step
# about ten small kernels.
CHUNK = 2048
# At most so many pixels (height times width) in a chunk: 2048 images of 3x224x224 would take 4 GB.
PIXELS = CHUNK * 32 * 32
SCORED = 512  # images of a batch that is only scored
READERS, AHEAD = 2, 3  # threads that read a streamed set, and chunks that they read ahead
# A part of up to so many bytes stays on the device: CIFAR is 0.2 GB, 50,000 images of 96x96 1.4 GB.
# Several trials may share a GPU.
RESIDENT = 2 << 30
ROOM = 8 / 7  # side to crop from: 256 pixels for 224, the usual choice


def streamed(images: Images) -> bool:
    """Whether a training streams these images: they are too large, or not decoded."""
    return images.nbytes > RESIDENT or not isinstance(images.pixels, np.ndarray)


def at_once(size: tuple[int, ...], most: int) -> int:
    """How many images of ``size``, (height, width), to hold as floats: at most ``most``, fewer of
    large ones."""
    return max(1, min(most, PIXELS // math.prod(size)))


def chunk(size: tuple[int, ...], batch: int) -> int:
    """How many images of ``size`` a training prepares at once: whole batches."""
    return max(1, at_once(size, CHUNK) // batch) * batch


def readers(shape: tuple[int, int, int], batch: int, ahead: int) -> int:
    """Bytes of the chunks of images of ``shape``, (channels, height, width), that a training holds:
    the current one, and those read ``ahead``."""
    return chunk(shape[1:], batch) * math.prod(shape) * (1 + ahead)
