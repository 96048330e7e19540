"""From bytes to batches on the device: resident or streamed, augmented, normalised.

All random numbers come from one CPU generator: a seed gives the same batches on every device,
resident or streamed, and a checkpoint stores only that generator's state.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas.data import augment, cache
from nas.data.digests import digest
from nas.data.encoded import Encoded
from nas.data.footprint import AHEAD, CHUNK, READERS, RESIDENT, chunk
from nas.data.images import Images
from nas.job import Recipe

COUNTED = 1 << 22  # bytes whose values are counted at once


@dataclass(frozen=True, slots=True)
class Normal:
    """Mean and standard deviation of each channel, of pixel values from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def statistics(images: Images) -> Normal:
    """Each channel's mean and standard deviation, over at most 10,000 images drawn at random.

    Computed from counts of the 256 values: exact, whatever the order of summation. Every sixth
    image would not do: MNIST alternates between two sources, and the mean comes out at 0.123
    instead of 0.131. For images in the cache the result is stored with them.
    """
    kept = beside(images)
    with contextlib.suppress(OSError, ValueError):
        if kept:
            return Normal(*map(tuple, json.loads(kept.read_text())))
    rows = np.random.RandomState(0).permutation(images.rows)[:10_000]
    channels = images.pixels.shape[1]
    counts = np.zeros((channels, 256), np.int64)
    # In pieces: counting widens each byte to eight.
    for few in np.array_split(rows, 1 + images.pixels[0].size * len(rows) // COUNTED):
        pixels = images.pixels[few]
        for channel in range(channels):
            counts[channel] += np.bincount(pixels[:, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = [float(np.average(values, weights=each)) for each in counts]
    variance = [
        float(np.average((values - m) ** 2, weights=each))
        for m, each in zip(mean, counts, strict=True)
    ]
    std = [max(each**0.5, 1 / 255) for each in variance]  # no division by 0 for a constant channel
    if kept:
        with contextlib.suppress(OSError), cache.whole(kept) as part:
            part.write_text(json.dumps([mean, std]))
    return Normal(tuple(mean), tuple(std))


def beside(images: Images, what: str = "statistics", ending: str = "json") -> Path | None:
    """The file, beside a cached array, that caches a result on these rows; None if not cached."""
    name = getattr(images.pixels, "filename", None)
    # Both resolved, as numpy resolves a map's name: a home directory is often a link.
    if name is None or not Path(name).resolve().is_relative_to(cache.folder().resolve()):
        return None
    return Path(name).with_name(f"{what}-{digest(images.rows.tobytes()).hex()}.{ending}")


@dataclass(frozen=True, slots=True)
class Source:
    """Images from which batches are taken: resident on the device, or streamed.

    On the CPU nothing is copied, resident or not: all processes read one map of a set. Encoded
    images are streamed, and decoded by as many threads as torch may use. ``rows`` selects from
    ``pixels`` and ``labels``; all are on one device, when streaming the CPU, where threads read
    ahead.
    """

    pixels: Tensor | Encoded
    labels: Tensor
    rows: Tensor
    device: torch.device
    streamed: bool

    @classmethod
    def of(cls, images: Images, device: torch.device, budget: int = RESIDENT) -> Source:
        """Resident where the images take at most ``budget`` bytes, otherwise streamed."""
        labels, rows = tensor(images.labels), tensor(images.rows)
        if isinstance(images.pixels, Encoded):
            return cls(images.pixels, labels, rows, device, True)
        pixels = tensor(images.pixels)
        streamed = images.nbytes > budget
        if device.type == "cpu" or streamed:
            return cls(pixels, labels, rows, device, streamed)
        # Copied in parts, so that the host never holds a second copy.
        held = torch.empty((len(rows), *pixels.shape[1:]), dtype=torch.uint8, device=device)
        for positions in torch.arange(len(rows)).split(CHUNK):
            held[positions[0] : positions[-1] + 1] = pixels[rows[positions]].to(device)
        every = torch.arange(len(rows), device=device)
        return cls(held, labels[rows].to(device), every, device, streamed)

    def __len__(self) -> int:
        return len(self.rows)

    def chunks(self, order: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(pixels, labels) on the device, ``size`` at a time; ``order``: positions, on the CPU."""
        if not self.streamed:
            for positions in augment.carried(order, self.device).split(size):
                yield self.take(positions)
            return
        cuda = self.device.type == "cuda"

        def read(positions: Tensor) -> tuple[Tensor, Tensor]:
            pixels, labels = self.take(positions)
            return (pixels.pin_memory(), labels.pin_memory()) if cuda else (pixels, labels)

        # Threads, not processes: disk and copies, which take the time, release the GIL, and batches
        # need no shared memory, of which a container has 64 MiB.
        pieces = iter(order.split(size))
        readers, chunks = READERS, AHEAD
        if isinstance(self.pixels, Encoded):
            readers = max(READERS, torch.get_num_threads())
            chunks = readers + 1
        with ThreadPoolExecutor(readers) as pool:
            ahead = deque(pool.submit(read, piece) for piece in itertools.islice(pieces, chunks))
            while ahead:
                pixels, labels = ahead.popleft().result()
                ahead += [pool.submit(read, piece) for piece in itertools.islice(pieces, 1)]
                yield (
                    pixels.to(self.device, non_blocking=cuda),
                    labels.to(self.device, non_blocking=cuda),
                )

    def take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(pixels, labels) at these positions, copied."""
        rows = self.rows[positions]
        if isinstance(self.pixels, Encoded):
            return torch.from_numpy(self.pixels[rows.numpy()]), self.labels[rows]
        return self.pixels[rows], self.labels[rows]


def tensor(array: npt.NDArray[Any]) -> Tensor:
    """The array as a tensor that shares its memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # read-only memory: nobody writes to it
        return torch.from_numpy(array)


@dataclass(frozen=True, slots=True)
class Prepare:
    """Turns bytes into normalised floats of ``size``, (height, width); ``mix`` then mixes images,
    and turns their labels into class probabilities."""

    size: tuple[int, int]
    images: Callable[[Tensor], Tensor]
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.images(pixels)


def batches(
    source: Source, order: Tensor, batch: int, prepare: Prepare
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels), ``batch`` at a time, in the given order; labels are class indices, or class
    probabilities where images are mixed."""
    for pixels, labels in source.chunks(order, chunk(prepare.size, batch)):
        images = prepare(pixels)
        if prepare.mix:
            images, labels = prepare.mix(images, labels)
        yield from zip(images.split(batch), labels.split(batch), strict=True)


def preparation(normal: Normal, size: tuple[int, int]) -> Prepare:
    """Resizes to (height, width) where needed, and normalises: float32, channels last."""

    def images(pixels: Tensor) -> Tensor:
        return normalise(augment.resize(pixels, size), normal)

    return Prepare(size, images)


def augmentation(
    normal: Normal,
    size: tuple[int, int],
    recipe: Recipe,
    generator: torch.Generator,
    classes: int,
) -> Prepare:
    """``preparation`` with the recipe's augmentation, drawn for each image separately."""

    def images(pixels: Tensor) -> Tensor:
        seen = augment.augmented(pixels, size, recipe, generator)
        return augment.cleared(normalise(seen, normal), recipe, generator)

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return augment.mix(images, labels, recipe, generator, classes)

    return Prepare(size, images, mix if recipe.mixup or recipe.cutmix else None)


def normalise(pixels: Tensor, normal: Normal) -> Tensor:
    images = pixels.to(torch.float32, memory_format=torch.channels_last)
    scale = augment.carried(torch.tensor([normal.mean, normal.std]).mul_(255), images.device)
    mean, std = scale.view(2, -1, 1, 1)
    return images.sub(mean).div_(std)
