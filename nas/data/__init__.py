"""Data sets: what images are, and their train, validation and test parts (``nas.data.datasets``).

No torch here but in ``nas.data.batches``, which carries the images to the device for a training,
and ``nas.data.augment``.
"""

from nas.data.datasets import (
    DATASETS,
    Dataset,
    describe,
    download,
    identity,
    load,
    names,
    roomy,
    sketch,
    summary,
)
from nas.data.images import Images, Info, Part

__all__ = [
    "DATASETS",
    "Dataset",
    "Images",
    "Info",
    "Part",
    "describe",
    "download",
    "identity",
    "load",
    "names",
    "roomy",
    "sketch",
    "summary",
]
