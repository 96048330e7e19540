"""The memory that reading images takes of a training, in bytes. No torch here.

The images themselves take none on the CPU: they are one map, which all processes of a machine
share. What a process holds is the batches on their way.
"""

from __future__ import annotations

import math

import numpy as np

from nas.data.images import Images

# Images augmented and normalised in one go: on digits an epoch is one chunk, which spares each step
# about ten small kernels.
CHUNK = 2048
# Their pixels together (height times width): 2048 images of 3x224x224 would take 4 GB on the way.
PIXELS = CHUNK * 32 * 32
SCORED = 512  # images of a batch that is only scored
READERS, AHEAD = 2, 3  # threads that read a streamed set, and chunks that they are ahead
# Up to here (bytes, a part) the images stay on the device: CIFAR is 0.2 GB, 50,000 images of 96x96
# 1.4 GB. Several trials may share a GPU.
RESIDENT = 2 << 30
ROOM = 8 / 7  # of the side, to crop from: 256 pixels for 224, as practitioners have it


def streamed(images: Images) -> bool:
    """Whether a training reads these images as it goes: they are many, or not decoded."""
    return images.nbytes > RESIDENT or not isinstance(images.pixels, np.ndarray)


def at_once(size: tuple[int, ...], most: int) -> int:
    """How many images of ``size``, (height, width), to hold as floats: ``most``, and fewer of large
    ones."""
    return max(1, min(most, PIXELS // math.prod(size)))


def chunk(size: tuple[int, ...], batch: int) -> int:
    """How many images of ``size`` a training makes ready in one go: whole batches."""
    return max(1, at_once(size, CHUNK) // batch) * batch


def readers(shape: tuple[int, int, int], batch: int, ahead: int) -> int:
    """Bytes of the chunks of images of ``shape``, (channels, height, width), that a training reads:
    the one that it takes from, and those that are read ``ahead``."""
    return chunk(shape[1:], batch) * math.prod(shape) * (1 + ahead)
