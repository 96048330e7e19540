"""From bytes to batches on the device: resident or streamed, augmented, normalised.

Everything random here draws from one CPU generator, so that the same seed gives the same batches on
every device, resident or streamed, and a checkpoint needs to keep only that generator's state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nas.data import augment
from nas.data.images import Images
from nas.job import Recipe

# Up to here (bytes, a part) the images stay on the device: CIFAR is 0.2 GB, 50,000 images of 96x96
# 1.4 GB. Several trials may share a GPU.
RESIDENT = 2 << 30
# Images augmented and normalised in one go: on digits an epoch is one chunk, which spares each step
# about ten small kernels.
CHUNK = 2048
# Their pixels together (height times width): 2048 images of 3x224x224 would take 4 GB on the way.
PIXELS = CHUNK * 32 * 32


@dataclass(frozen=True, slots=True)
class Normal:
    """Mean and standard deviation of each channel, of pixel values from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def statistics(images: Images) -> Normal:
    """Each channel's mean and standard deviation, over at most 10,000 images drawn at random.

    From counts of the 256 values: exact, whatever the order of the sum. Not every sixth image, say:
    MNIST alternates between two sources, and the mean comes out at 0.123 instead of 0.131.
    """
    rows = np.random.RandomState(0).permutation(images.rows)[:10_000]
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.pixels.shape[1]):
        counts = np.bincount(images.pixels[rows, channel].ravel(), minlength=256)
        mean.append(float(np.average(values, weights=counts)))
        variance = float(np.average((values - mean[-1]) ** 2, weights=counts))
        std.append(max(variance**0.5, 1 / 255))  # a blank channel stays finite
    return Normal(tuple(mean), tuple(std))


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """The images by arrays of positions, for a DataLoader."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, positions: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        rows = self.images.rows[positions]
        return torch.from_numpy(self.images.pixels[rows]), torch.from_numpy(
            self.images.labels[rows]
        )


@dataclass(frozen=True, slots=True)
class Source:
    """Images that the device can take from: held there whole, or streamed."""

    images: Images
    device: torch.device
    resident: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, images: Images, device: torch.device, budget: int = RESIDENT) -> Source:
        """Resident where the images take at most ``budget`` bytes, otherwise streamed."""
        if images.nbytes > budget:
            return cls(images, device, None)
        pixels, labels = Rows(images)[np.arange(len(images))]
        return cls(images, device, (pixels.to(device), labels.to(device)))

    def __len__(self) -> int:
        return len(self.images)

    def chunks(self, order: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(pixels, labels) on the device, ``size`` at a time; ``order``: positions, on the CPU."""
        if self.resident:
            for positions in order.to(self.device).split(size):
                yield self.resident[0][positions], self.resident[1][positions]
            return
        cuda = self.device.type == "cuda"
        # Two processes read ahead: the pages of a mapped file come from the disk meanwhile.
        loader = DataLoader(
            Rows(self.images),
            batch_size=None,
            sampler=[positions.numpy() for positions in order.split(size)],
            num_workers=2,
            pin_memory=cuda,
            generator=torch.Generator(),  # it would draw from torch's own, as dropout does
            multiprocessing_context="fork",  # the images are shared, not copied to the processes
        )
        for pixels, labels in loader:
            yield (
                pixels.to(self.device, non_blocking=cuda),
                labels.to(self.device, non_blocking=cuda),
            )


@dataclass(frozen=True, slots=True)
class Prepare:
    """Turns bytes into normalised floats of ``size``, (height, width); ``mix`` then mixes images,
    and their labels into probabilities of the classes."""

    size: tuple[int, int]
    images: Callable[[Tensor], Tensor]
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.images(pixels)

    def at_once(self, most: int) -> int:
        """How many images to hold as floats: ``most``, and fewer of large ones."""
        height, width = self.size
        return max(1, min(most, PIXELS // (height * width)))


def batches(
    source: Source, order: Tensor, batch: int, prepare: Prepare
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels), ``batch`` at a time in that order; labels are class numbers, or where
    images are mixed the probabilities of the classes."""
    for pixels, labels in source.chunks(order, max(1, prepare.at_once(CHUNK) // batch) * batch):
        images = prepare(pixels)
        if prepare.mix:
            images, labels = prepare.mix(images, labels)
        yield from zip(images.split(batch), labels.split(batch), strict=True)


def preparation(normal: Normal, size: tuple[int, int]) -> Prepare:
    """Resizes to (height, width) where needed, and normalises: floats, channels last."""

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
    """``preparation`` with the recipe's augmentation, each image by its own draw."""

    def images(pixels: Tensor) -> Tensor:
        seen = augment.augmented(pixels, size, recipe, generator)
        return augment.cleared(normalise(seen, normal), recipe, generator)

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return augment.mix(images, labels, recipe, generator, classes)

    return Prepare(size, images, mix if recipe.mixup or recipe.cutmix else None)


def normalise(pixels: Tensor, normal: Normal) -> Tensor:
    images = pixels.to(torch.float32, memory_format=torch.channels_last)
    mean = images.new_tensor(normal.mean).mul_(255).view(-1, 1, 1)
    std = images.new_tensor(normal.std).mul_(255).view(-1, 1, 1)
    return images.sub(mean).div_(std)
