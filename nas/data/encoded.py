"""Images that stay encoded in their files and are decoded when a batch needs them: for sets too
large to be cached decoded.

The pixels are the same as from a decoded array, and so are a training's results.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nas.data import arrays, cache, picture, survey
from nas.data.digests import digest
from nas.data.listing import Listing
from nas.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Indexed like an array of N x channels x height x width bytes.

    ``arrays``, mapped: ``paths`` below ``root``, each ending in NUL, and the ``starts`` of these;
    for each image its file's number (``file``), its ``offsets`` and ``sizes`` there, and the digest
    of its bytes, which is checked on each read.
    """

    filename: Path
    root: str
    shape: tuple[int, ...]
    arrays: arrays.Arrays
    used: IO[str]  # while open, the cached folder is not evicted

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> npt.NDArray[np.uint8]:
        """The image of a row, or those of an array of rows. Raises DataError where an image is
        missing or has changed."""
        if isinstance(rows, int | np.integer):
            return self._image(int(rows))
        numbers = np.arange(len(self))[rows]
        images = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        for place, number in enumerate(numbers):
            images[place] = self._image(int(number))
        return images

    def _image(self, row: int) -> npt.NDArray[np.uint8]:
        paths, starts, files = (self.arrays[key] for key in ("paths", "starts", "file"))
        number = files[row]
        name = os.fsdecode(paths[starts[number] : starts[number + 1] - 1].tobytes())
        place = os.path.join(self.root, name)
        offset, size = int(self.arrays["offsets"][row]), int(self.arrays["sizes"][row])
        try:
            data = survey.read(place, offset, size)
            if digest(data) != self.arrays["digests"][row].tobytes():
                raise DataError("it is another than when the training began")
            _, channels, height, width = self.shape
            image: npt.NDArray[np.uint8] = picture.decoded(data, (channels, height, width))
        except DataError as error:
            at = f", at byte {offset}" if offset else ""
            raise DataError(f"an image of {place}{at} cannot be read: {error}") from error
        return image


def keep(path: Path, found: Listing, digests: npt.NDArray[np.uint8]) -> None:
    """Writes the arrays that ``opened`` maps. Raises OSError."""
    packed = found.packed
    paths = b"\0".join(map(os.fsencode, packed.files)) if packed else found.names
    blob = np.frombuffer(paths + b"\0", np.uint8)
    starts = np.concatenate([[0], np.flatnonzero(blob == 0) + 1])
    every = np.arange(len(found))
    kept = {
        "paths": blob,
        "starts": starts,
        "file": packed.file if packed else every,
        "offsets": packed.offsets if packed else 0 * every,
        "sizes": found.sizes,
        "digests": digests,
    }
    arrays.save(path, kept, str(found.root))


def opened(path: Path, shape: Sequence[int]) -> Encoded:
    """Maps what ``keep`` wrote. Raises OSError, ValueError, KeyError."""
    kept, root = arrays.load(path)
    return Encoded(path, root, (len(kept["sizes"]), *shape), kept, cache.use(path.parent))
