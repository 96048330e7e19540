"""Augmentation, a batch at a time on the device.

All random numbers are drawn on the CPU from one generator, a few per image, and copied to the
device: a seed gives the same images on every device, and a checkpoint stores only that generator's
state. Operations on pixels map bytes to bytes, as torchvision's transforms do; after normalisation
the mean is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.job import Recipe

RATIO = (3 / 4, 4 / 3)  # width over height of a resized crop (Szegedy et al. 2014)
TRIES = 10  # draws of a rectangle until one fits into the image, as in torchvision
ERASED = (0.02, 0.33)  # share of the area that is erased
ERASED_RATIO = (0.3, 1 / 0.3)
LEVELS = 31  # of an operation's strength (Müller and Hutter 2021, section 3)


def augmented(
    pixels: Tensor, size: tuple[int, int], recipe: Recipe, generator: torch.Generator
) -> Tensor:
    """Augments images of any size, before normalisation: N x channels x height x width, bytes or
    floats from 0 to 255. Returns images of ``size``."""
    if recipe.resized_crop:
        pixels = resized_crop(pixels, size, recipe.resized_crop, generator)
    else:
        pixels = resize(pixels, size)
    if recipe.crop:
        pixels = crop(pixels, recipe.crop, generator, recipe.padding)
    if recipe.flip:
        pixels = flip(pixels, generator)
    return photometric(as_bytes(pixels), generator) if recipe.photometric else pixels


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if pixels.shape[-2:] == size:
        return pixels
    return F.interpolate(pixels.float(), size, mode="bilinear", antialias=True)


def as_bytes(pixels: Tensor) -> Tensor:
    return pixels if pixels.dtype == torch.uint8 else pixels.round().clamp_(0, 255).byte()


def carried(numbers: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device, copied asynchronously: a plain copy to a GPU blocks until the GPU
    has finished all earlier work."""
    if device.type != "cuda":
        return numbers.to(device)
    return numbers.pin_memory().to(device, non_blocking=True)


# --- geometry ------------------------------------------------------------------------------------


def resized_crop(
    pixels: Tensor, size: tuple[int, int], least: float, generator: torch.Generator
) -> Tensor:
    """A random box of each image, of ``least`` to 1 of its area, resized to ``size`` (Szegedy et
    al. 2014, section 6; boxes drawn as in torchvision's RandomResizedCrop).

    One image at a time on the CPU, where torch resizes an image of 224 pixels in 0.15 ms on one
    core and the matrix products of ``resized`` take 2.5 ms (at 32 pixels both 0.03 ms). Elsewhere,
    launching kernels for each image would dominate.
    """
    height, width = pixels.shape[-2:]
    drawn = boxes(len(pixels), (height, width), least, generator)
    if pixels.device.type != "cpu":
        return resized(pixels, size, *(carried(side, pixels.device) for side in drawn))
    places = zip(pixels, *(side.tolist() for side in drawn), strict=True)
    seen = (image[None, :, t : t + h, l : l + w] for image, t, l, h, w in places)  # noqa: E741
    return torch.cat([F.interpolate(x, size, mode="bilinear", antialias=True) for x in seen])


def resized(
    pixels: Tensor, size: tuple[int, int], top: Tensor, left: Tensor, high: Tensor, wide: Tensor
) -> Tensor:
    """A box of each image, resized to ``size``, as one batch: the filter is separable, so two
    matrix products apply it."""
    rows = taps(top, high, size[0], pixels.shape[2])
    columns = taps(left, wide, size[1], pixels.shape[3])
    return as_bytes(rows[:, None] @ (pixels.float() @ columns.mT[:, None]))


def boxes(
    count: int, size: tuple[int, int], least: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of ``count`` random boxes in images of ``size``; where no draw
    fits, the largest centred box of an allowed ratio."""
    height, width = size
    high, wide, fits = rectangles(count, size, size, (least, 1.0), RATIO, generator)
    high = torch.where(fits, high, min(height, round(width / RATIO[0])))
    wide = torch.where(fits, wide, min(width, round(height * RATIO[1])))
    y, x = torch.where(fits, torch.rand(2, count, generator=generator), 0.5)
    return (y * (height - high + fits)).long(), (x * (width - wide + fits)).long(), high, wide


def rectangles(
    count: int,
    size: tuple[int, int],
    most: tuple[int, int],
    area: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Heights and widths of ``count`` random rectangles of at most ``most``, and whether one of
    ``TRIES`` draws fits. The area is uniform over ``area``, as a share of that of ``size``; the
    width over the height is log-uniform over ``ratio``."""
    u, v = torch.rand(2, TRIES, count, generator=generator)
    pixels = size[0] * size[1] * (area[0] + (area[1] - area[0]) * u)
    shape = torch.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * v)
    high, wide = (pixels / shape).sqrt().round().long(), (pixels * shape).sqrt().round().long()
    fits = (high > 0) & (high <= most[0]) & (wide > 0) & (wide <= most[1])
    first, each = fits.int().argmax(0), torch.arange(count)
    return high[first, each], wide[first, each], fits.any(0)


def taps(start: Tensor, length: Tensor, to: int, of: int) -> Tensor:
    """Matrices, N x ``to`` x ``of``, that resize ``length`` pixels from ``start`` on to ``to``
    pixels with a triangle filter: bilinear when enlarging, antialiased when shrinking."""
    device = start.device
    scale = (length / to)[:, None, None]
    centre = start[:, None, None] + scale * (torch.arange(to, device=device)[:, None] + 0.5)
    pixel = torch.arange(of, device=device) + 0.5
    weights = (1 - (pixel - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    begin, end = start[:, None, None], (start + length)[:, None, None]
    weights = weights * ((pixel > begin) & (pixel < end))
    return weights / weights.sum(-1, keepdim=True)


def crop(
    images: Tensor, most: int, generator: torch.Generator, padding: str = "constant"
) -> Tensor:
    """Shifts each image by up to ``most`` pixels each way; the border is filled with 0 (black), or
    with the image mirrored at its edge."""
    count, _, height, width = images.shape
    shift = torch.randint(0, 2 * most + 1, (2, count), generator=generator)
    shift = carried(shift, images.device)
    rows = shift[0, :, None] + torch.arange(height, device=images.device)
    columns = shift[1, :, None] + torch.arange(width, device=images.device)
    if padding == "reflect":
        rows, columns = mirrored(rows - most, height), mirrored(columns - most, width)
    else:
        images = F.pad(images, (most,) * 4)
    each = torch.arange(count, device=images.device)[:, None, None]
    # This indexing moves channels last; permute returns a view with them second.
    return images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def mirrored(places: Tensor, length: int) -> Tensor:
    """Maps coordinates outside an image to those of its mirror image, without repeating the edge:
    ``reflect`` padding."""
    period = max(1, 2 * length - 2)
    places = places % period
    return torch.minimum(places, period - places)


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors each image left to right with probability 1/2."""
    chosen = carried(torch.rand(len(images), generator=generator) < 0.5, images.device)
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


# --- colours and sharpness -----------------------------------------------------------------------


def photometric(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """One of ``PHOTOMETRIC``'s operations on each image (bytes), at one of 31 strengths: the part
    of TrivialAugment (Müller and Hutter 2021, "wide") that moves no pixel."""
    count = len(pixels)
    operations = list(PHOTOMETRIC.values())
    chosen = torch.randint(len(operations), (count,), generator=generator)
    strength = torch.randint(LEVELS, (count,), generator=generator) / (LEVELS - 1)
    strength *= 2 * torch.randint(2, (count,), generator=generator) - 1
    result = pixels.clone()
    for number, operation in enumerate(operations):
        (rows,) = torch.nonzero(chosen == number, as_tuple=True)  # on the CPU: no device sync
        if len(rows):
            at, by = carried(rows, pixels.device), carried(strength[rows], pixels.device)
            result[at] = operation(pixels[at], by.view(-1, 1, 1, 1))
    return result


def identity(pixels: Tensor, strength: Tensor) -> Tensor:
    return pixels


def brightness(pixels: Tensor, strength: Tensor) -> Tensor:
    return blend(pixels, torch.zeros((), device=pixels.device), strength)


def color(pixels: Tensor, strength: Tensor) -> Tensor:
    return blend(pixels, grey(pixels), strength)


def contrast(pixels: Tensor, strength: Tensor) -> Tensor:
    return blend(pixels, grey(pixels).mean((1, 2, 3), keepdim=True), strength)


def sharpness(pixels: Tensor, strength: Tensor) -> Tensor:
    """As in Pillow, the border pixels do not change."""
    if min(pixels.shape[-2:]) < 3:
        return pixels
    floats = pixels.float()
    three = floats[..., :-2] + floats[..., 1:-1] + floats[..., 2:]
    nine = three[..., :-2, :] + three[..., 1:-1, :] + three[..., 2:, :]
    smooth = floats.clone()
    smooth[..., 1:-1, 1:-1] = nine.add_(floats[..., 1:-1, 1:-1], alpha=4).div_(13).round_()
    return blend(floats, smooth, strength)


def posterize(pixels: Tensor, strength: Tensor) -> Tensor:
    """Keeps the upper 8 to 2 bits of each byte."""
    return pixels & (255 << (6 * strength.abs()).round().int()).byte()


def solarize(pixels: Tensor, strength: Tensor) -> Tensor:
    """Inverts pixels at or above a threshold, which goes from 255 down to 0."""
    threshold = (255 * (1 - strength.abs()) - 0.25).ceil().byte()  # of multiples of a half
    return torch.where(pixels >= threshold, 255 - pixels, pixels)


def autocontrast(pixels: Tensor, strength: Tensor) -> Tensor:
    """Stretches each channel from black to white."""
    low, high = pixels.amin((2, 3), True).float(), pixels.amax((2, 3), True).float()
    stretched = (pixels - low) * 255 / (high - low).clamp(min=1)
    return torch.where(high > low, stretched.byte(), pixels)


def equalize(pixels: Tensor, strength: Tensor) -> Tensor:
    """Equalises the histogram of each channel: torchvision's, which takes batches."""
    from torchvision.transforms.v2.functional import equalize as torchvisions

    equalized: Tensor = torchvisions(pixels)
    return equalized


PHOTOMETRIC: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    f.__name__: f
    for f in (identity, brightness, color, contrast, sharpness, posterize, solarize, autocontrast,
              equalize)
}  # fmt: skip


def blend(pixels: Tensor, other: Tensor, strength: Tensor) -> Tensor:
    """Moves away from ``other`` by ``strength``, or towards it where negative: by at most 0.99, so
    that an image never becomes ``other`` itself."""
    return as_bytes(torch.lerp(other, pixels.float(), 1 + 0.99 * strength))


def grey(pixels: Tensor) -> Tensor:
    """N x 1 x height x width: of three channels the luma (ITU-R 601-2), otherwise their mean."""
    if pixels.shape[1] != 3:
        return pixels.float().mean(1, keepdim=True)
    weights = carried(torch.tensor((0.299, 0.587, 0.114)), pixels.device)
    return (pixels * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)


# --- after normalisation -------------------------------------------------------------------------


def cleared(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """The recipe's augmentation of normalised images."""
    if recipe.cutout:
        images = cutout(images, recipe.cutout, generator)
    return erase(images, recipe.erase, generator) if recipe.erase else images


def inside(images: Tensor, top: Tensor, left: Tensor, high: Tensor, wide: Tensor) -> Tensor:
    """Whether each pixel lies in its image's box, which may cross the edge: N x 1 x height x width
    on the images' device, from boxes on the CPU."""
    top, left, high, wide = (
        carried(side, images.device)[:, None] for side in (top, left, high, wide)
    )
    y = torch.arange(images.shape[2], device=images.device)
    x = torch.arange(images.shape[3], device=images.device)
    inside_y = (y >= top) & (y < top + high)
    inside_x = (x >= left) & (x < left + wide)
    return (inside_y[:, :, None] & inside_x[:, None, :])[:, None]


def cutout(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Sets a square of ``side`` pixels about a random centre to 0, the mean of normalised images;
    it may cross the edge (DeVries and Taylor 2017)."""
    count, _, height, width = images.shape
    draw = torch.rand(2, count, generator=generator)
    top = (draw[0] * height).long() - side // 2
    left = (draw[1] * width).long() - side // 2
    sides = torch.full((count,), side)
    return torch.where(inside(images, top, left, sides, sides), 0, images)


def erase(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """With a probability, sets a rectangle of 2 to 33% of the area to 0, the mean of normalised
    images (Zhong et al. 2020, algorithm 1; the ranges of torchvision's RandomErasing)."""
    count, _, height, width = images.shape
    most = height - 1, width - 1
    high, wide, fits = rectangles(count, (height, width), most, ERASED, ERASED_RATIO, generator)
    chance, y, x = torch.rand(3, count, generator=generator)
    high = torch.where(fits & (chance < probability), high, 0)
    top, left = (y * (height - high + 1)).long(), (x * (width - wide + 1)).long()
    return torch.where(inside(images, top, left, high, wide), 0, images)


def mix(
    images: Tensor, labels: Tensor, recipe: Recipe, generator: torch.Generator, classes: int
) -> tuple[Tensor, Tensor]:
    """Each image mixed with another of them, and the probabilities of its classes: N x ``classes``.

    ``recipe.mixup``: a part of each, lambda, everywhere (Zhang et al. 2018, eq. 1).
    ``recipe.cutmix``: a rectangle, 1 - lambda of the area before the edges cut it, is the other's
    (Yun et al. 2019, eq. 1 and 2). Lambda is drawn from Beta(alpha, alpha), for each image its own;
    with both, each image gets one of them, by a toss.
    """
    count, _, height, width = images.shape
    partner = carried(torch.randperm(count, generator=generator), images.device)
    # What stays of an image, by its pixels.
    share = torch.ones(count, 1, 1, 1, device=images.device)
    if recipe.mixup:
        share = carried(beta(recipe.mixup, count, generator), images.device).view(-1, 1, 1, 1)
    if recipe.cutmix:
        side = (1 - beta(recipe.cutmix, count, generator)).sqrt()
        y, x, toss = torch.rand(3, count, generator=generator)
        high, wide = (side * height).round().long(), (side * width).round().long()
        top, left = (y * height).long() - high // 2, (x * width).long() - wide // 2
        cut = (~inside(images, top, left, high, wide)).float()
        chosen = carried(toss < 0.5 if recipe.mixup else toss >= 0, images.device)
        share = torch.where(chosen.view(-1, 1, 1, 1), cut, share)
    own = F.one_hot(labels, classes).float()
    probabilities = torch.lerp(own[partner], own, share.mean((1, 2, 3))[:, None])
    return torch.lerp(images[partner], images, share), probabilities


def beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """``count`` draws of Beta(alpha, alpha). torch's take no generator: one number of it seeds
    numpy's, whose RandomState promises never to change."""
    seed = int(torch.randint(1 << 32, (), generator=generator))
    return torch.from_numpy(np.random.RandomState(seed).beta(alpha, alpha, count)).float()
