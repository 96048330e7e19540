"""The memory that reading images takes of a training, in bytes. No torch here.

The images themselves take none on the CPU: they are one map, which all processes of a machine
share. What a process holds is the batches on their way.
"""

from __future__ import annotations

import math

# Images augmented and normalised in one go: on digits an epoch is one chunk, which spares each step
# about ten small kernels.
CHUNK = 2048
# Their pixels together (height times width): 2048 images of 3x224x224 would take 4 GB on the way.
PIXELS = CHUNK * 32 * 32
READERS, AHEAD = 2, 3  # threads that read a streamed set, and chunks that they are ahead


def readers(shape: tuple[int, int, int], streamed: bool) -> int:
    """Bytes of the chunks of images of ``shape``, (channels, height, width), that are being read,
    and of those that wait where a set is streamed."""
    images = max(1, min(CHUNK, PIXELS // math.prod(shape[1:])))
    return images * math.prod(shape) * (1 + (AHEAD if streamed else 0))
