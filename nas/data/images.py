"""The description of a data set (Info), and the images of one of its parts (Images). No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nas.errors import DataError
from nas.job import DataRef

Part = Literal["train", "validation", "test"]
Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def most_frequent(labels: Labels) -> tuple[int, float]:
    """The most frequent class number, and the accuracy of always answering it."""
    counts = np.bincount(labels)
    return int(counts.argmax()), float(counts.max() / len(labels))


def refuse_placeless(ref: DataRef) -> None:
    """Raises DataError where images in files are told without their directory."""
    if not ref.dir:
        raise DataError(
            f"--dataset {ref.name} is a folder of files of yours: give it with --data DIR"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """The shape of a data set's images, its class names, and the parts that it comes in."""

    channels: int
    height: int
    width: int
    classes: tuple[str, ...]
    parts: tuple[Part, ...] = ("train",)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Some rows of an array of images.

    ``pixels``: N x channels x height x width, possibly memory-mapped, so that parts share it and
    differ in their ``rows``; or a ``nas.data.encoded.Encoded``, which is indexed alike and decodes
    them. ``labels``: N class indices. ``groups``: N numbers, equal for images that splits keep
    together.
    """

    pixels: Pixels
    labels: Labels
    rows: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64] | None = None

    @classmethod
    def of(cls, pixels: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Images:
        """All rows of the arrays."""
        return cls(pixels, labels.astype(np.int64), np.arange(len(labels)))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes that the rows would take in memory."""
        return len(self.rows) * int(np.prod(self.pixels.shape[1:]))
