"""Batched augmentation, against torchvision's and torch's own, image by image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as torchvisions

from nas.data import augment
from nas.job import Recipe


def some_pixels(count: int = 23, shape: tuple[int, int, int] = (3, 9, 7)) -> Tensor:
    rng = np.random.RandomState(0)
    return torch.from_numpy(rng.randint(0, 256, (count, *shape), np.uint8))


def smooth_pixels(count: int, side: int, channels: int = 3) -> Tensor:
    """As photographs are: random blobs, each image in a range of brightness of its own."""
    coarse = torch.rand(count, channels, 5, 5, generator=seeded())
    blobs = F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    low, high = torch.rand(2, count, 1, 1, 1, generator=seeded()).sort(0).values
    return (255 * (low + (high - low) * blobs)).byte()


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- where the image is seen ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [(9, 7), (4, 5), (23, 31)])
def test_a_resized_crop_is_the_box_resized_as_torch_resizes_it(size: tuple[int, int]) -> None:
    """On the CPU and, by products of matrices, elsewhere."""
    pixels = some_pixels(300, (3, 14, 17))
    top, left, high, wide = augment.boxes(300, (14, 17), 0.08, seeded())
    found = augment.resized_crop(pixels, size, 0.08, seeded())
    at_once = augment.resized(pixels, size, top, left, high, wide)
    assert found.dtype == at_once.dtype == torch.uint8
    for n, (t, l, h, w) in enumerate(torch.stack([top, left, high, wide], 1).tolist()):  # noqa: E741
        box = pixels[n : n + 1, :, t : t + h, l : l + w].float()
        assert box.shape[2:] == (h, w)
        (expected,) = F.interpolate(box, size, mode="bilinear", antialias=True)
        assert (found[n] - expected).abs().max() < 1.5  # rounded after each of two passes
        assert (at_once[n] - expected).abs().max() <= 0.501


def test_crop_boxes_are_distributed_as_torchvisions() -> None:
    size, count = (40, 64), 3000
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(8)
    drawn = [transform.make_params([torch.zeros(3, *size)]) for _ in range(count)]
    expected = torch.tensor([[d["top"], d["left"], d["height"], d["width"]] for d in drawn])
    found = torch.stack(augment.boxes(count, size, 0.08, seeded()), 1)
    for ours, its in zip(found.double().T, expected.double().T, strict=True):
        error = 4 * math.sqrt(2 / count) * float(its.std())
        assert ours.mean() == pytest.approx(float(its.mean()), abs=error)
        assert ours.std() == pytest.approx(float(its.std()), rel=0.1)


@pytest.mark.parametrize("size", [(8, 8), (3, 40), (40, 3), (1, 1)])
def test_every_box_lies_in_its_image(size: tuple[int, int]) -> None:
    for least in (0.001, 0.08, 1.0):
        top, left, high, wide = augment.boxes(500, size, least, seeded())
        assert (high >= 1).all()
        assert (wide >= 1).all()
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (top + high <= size[0]).all()
        assert (left + wide <= size[1]).all()


def test_stored_images_may_be_larger_or_smaller_than_the_network_takes() -> None:
    recipe = Recipe(resized_crop=0.3, crop=2, flip=True, photometric=True)
    for shape in ((3, 30, 21), (3, 8, 8), (1, 12, 12)):
        pixels = some_pixels(5, shape)
        found = augment.augmented(pixels, (12, 12), recipe, seeded())
        assert found.shape == (5, shape[0], 12, 12)


def test_crop_is_a_window_of_the_padded_image() -> None:
    images = some_pixels()
    draws = seeded()
    shift = torch.randint(0, 7, (2, len(images)), generator=draws)
    cropped = augment.crop(images, 3, seeded())
    assert shift.unique().tolist() == list(range(7))  # every shift of 0 to 2 x 3 occurs
    for n, image in enumerate(images):
        padded = torch.zeros(3, 9 + 6, 7 + 6, dtype=torch.uint8)
        padded[:, 3:12, 3:10] = image
        top, left = shift[:, n].tolist()
        assert torch.equal(cropped[n], padded[:, top : top + 9, left : left + 7])


def test_flip_mirrors_some_and_leaves_others() -> None:
    images = some_pixels(400)
    flipped = augment.flip(images, seeded())
    mirrored = [torch.equal(f, i.flip(-1)) for f, i in zip(flipped, images, strict=True)]
    kept = [torch.equal(f, i) for f, i in zip(flipped, images, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250


def test_cutout_clears_one_square_and_nothing_else() -> None:
    images = torch.rand(200, 3, 12, 10) + 1
    for side in (4, 5):
        cleared = augment.cutout(images, side, seeded()) == 0
        centres = set()
        for mask in cleared:
            assert torch.equal(mask[0], mask[1])
            rows, columns = mask[0].any(1).nonzero().ravel(), mask[0].any(0).nonzero().ravel()
            assert mask[0].sum() == len(rows) * len(columns)
            assert rows.diff().eq(1).all()
            assert columns.diff().eq(1).all()
            edges = (rows[0] == 0, rows[-1] == 11, columns[0] == 0, columns[-1] == 9)
            assert any(edges) or len(rows) == len(columns) == side
            centres.add((rows[0].item(), columns[0].item()))
        assert len(centres) > 40


@pytest.mark.parametrize("most", [1, 3, 30])
def test_what_a_shift_brings_in_may_be_the_mirrored_image(most: int) -> None:
    pixels = some_pixels()
    shift = torch.randint(0, 2 * most + 1, (2, len(pixels)), generator=seeded())
    cropped = augment.crop(pixels, most, seeded(), "reflect")
    for n, image in enumerate(pixels.numpy()):
        padded = np.pad(image, ((0, 0), (most, most), (most, most)), mode="reflect")
        top, left = shift[:, n].tolist()
        assert torch.equal(cropped[n], torch.from_numpy(padded[:, top : top + 9, left : left + 7]))


# --- colours and sharpness -----------------------------------------------------------------------

THEIRS = {
    "identity": lambda image, s: image,
    "brightness": lambda image, s: torchvisions.adjust_brightness(image, 1 + 0.99 * s),
    "color": lambda image, s: torchvisions.adjust_saturation(image, 1 + 0.99 * s),
    "contrast": lambda image, s: torchvisions.adjust_contrast(image, 1 + 0.99 * s),
    "sharpness": lambda image, s: torchvisions.adjust_sharpness(image, 1 + 0.99 * s),
    "posterize": lambda image, s: torchvisions.posterize(image, 8 - round(6 * abs(s))),
    "solarize": lambda image, s: torchvisions.solarize(image, round(510 * (1 - abs(s))) / 2),
    "autocontrast": lambda image, s: torchvisions.autocontrast(image),
    "equalize": lambda image, s: torchvisions.equalize(image),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", augment.PHOTOMETRIC)
def test_each_augmentation_gives_the_pixels_of_torchvisions(name: str, channels: int) -> None:
    pixels = smooth_pixels(62, 32, channels)
    strength = [*torch.linspace(-1, 1, 61).tolist(), 0.5]
    pixels[-1] = 77  # blank
    found = augment.PHOTOMETRIC[name](pixels, torch.tensor(strength).view(-1, 1, 1, 1))
    assert found.dtype == torch.uint8
    changed = 0
    for image, s, ours in zip(pixels, strength, found, strict=True):
        expected = THEIRS[name](image, s)
        # Theirs cuts what ours rounds; of grey twice.
        most = 2 if name in ("color", "contrast") else 1
        assert (ours.int() - expected.int()).abs().max() <= most, s
        changed += not torch.equal(ours, image)
    assert changed > 20 or name == "identity" or (name, channels) == ("color", 1)


def test_every_image_gets_one_operation_at_one_of_31_strengths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, list[float]] = {name: [] for name in augment.PHOTOMETRIC}

    def noting(name: str):
        def note(pixels: Tensor, strength: Tensor) -> Tensor:
            seen[name] += strength.ravel().tolist()
            return pixels + 1

        return note

    monkeypatch.setattr(augment, "PHOTOMETRIC", {name: noting(name) for name in seen})
    pixels = torch.zeros(9000, 1, 2, 2, dtype=torch.uint8)
    assert torch.equal(augment.photometric(pixels, seeded()), pixels + 1)  # each once
    for strengths in seen.values():
        assert 800 < len(strengths) < 1200
        steps = torch.tensor(strengths) * 30
        assert (steps - steps.round()).abs().max() < 1e-4
        assert set(steps.round().abs().int().tolist()) == set(range(31))
        assert 0.4 < (steps > 0).float().mean() < 0.6


# --- after normalisation -------------------------------------------------------------------------


def test_erasing_clears_a_rectangle_of_some_images() -> None:
    images = torch.rand(4000, 3, 20, 30, generator=seeded()) + 1
    cleared = augment.erase(images, 0.25, seeded()) == 0
    assert torch.equal(augment.erase(images, 0.25, seeded())[~cleared], images[~cleared])
    erased = cleared.any(1).any(2).any(1)
    assert 0.22 < erased.float().mean() < 0.28
    parts = []
    for mask in cleared[erased]:
        assert torch.equal(mask[0], mask[1])
        rows, columns = mask[0].any(1).nonzero().ravel(), mask[0].any(0).nonzero().ravel()
        assert mask[0].sum() == len(rows) * len(columns)
        assert rows.diff().eq(1).all()
        assert columns.diff().eq(1).all()
        parts.append(len(rows) * len(columns) / 600)
    assert min(parts) > 0.01
    assert 0.3 < max(parts) < 0.36
    assert np.mean(parts) == pytest.approx(0.175, abs=0.02)


def test_erasing_leaves_images_too_small_for_it() -> None:
    images = torch.ones(50, 1, 1, 1)
    assert torch.equal(augment.erase(images, 1.0, seeded()), images)


def test_mixup_mixes_images_and_labels_by_the_same_part() -> None:
    count = 3000
    images = torch.randn(count, 2, 4, 3, generator=seeded(1))
    labels = torch.arange(count) % 7
    mixed, probabilities = augment.mix(images, labels, Recipe(mixup=0.2), seeded(), 7)
    partner = torch.randperm(count, generator=seeded())
    own = F.one_hot(labels, 7).float()
    # The part that each image keeps, from its pixels by least squares.
    apart = (images - images[partner]).flatten(1)
    kept = ((mixed - images[partner]).flatten(1) * apart).sum(1) / (apart * apart).sum(1)
    known = partner != torch.arange(count)
    assert torch.allclose(
        mixed[known],
        torch.lerp(images[partner], images, kept.view(-1, 1, 1, 1))[known],
        atol=1e-4,
    )
    expected = torch.lerp(own[partner], own, kept[:, None])
    assert torch.allclose(probabilities[known], expected[known], atol=1e-4)
    assert torch.allclose(probabilities.sum(1), torch.ones(count))
    # Beta(0.2, 0.2): mean 1/2, variance 1 / (4 (2 * 0.2 + 1)).
    assert kept[known].mean() == pytest.approx(0.5, abs=0.03)
    assert kept[known].var() == pytest.approx(1 / 5.6, rel=0.05)


def test_cutmix_pastes_a_rectangle_and_weighs_the_labels_by_its_area() -> None:
    count = 3000
    images = torch.arange(count).float().view(-1, 1, 1, 1).repeat(1, 3, 20, 30)
    labels = torch.arange(count)
    mixed, probabilities = augment.mix(images, labels, Recipe(cutmix=1.0), seeded(), count)
    areas = []
    for n, (image, told) in enumerate(zip(mixed, probabilities, strict=True)):
        other = image != n
        assert torch.equal(other[0], other[1])
        area = other[0].float().mean().item()
        assert told[n].item() == pytest.approx(1 - area, abs=1e-5) or told[n] == 1
        if area:
            rows, columns = other[0].any(1).nonzero().ravel(), other[0].any(0).nonzero().ravel()
            assert other[0].sum() == len(rows) * len(columns)
            (partner,) = image[0][other[0]].unique().tolist()
            assert told[int(partner)].item() == pytest.approx(area, abs=1e-5)
        assert told.sum().item() == pytest.approx(1, abs=1e-5)
        areas.append(area)
    assert len(set(areas)) > 100
    # A box of uniform area A about a uniform centre keeps of it on average, each side s = sqrt(A)
    # being cut at the edge, (1 - s/4)^2: the integral of that over A is 83/480... by quadrature.
    s = np.sqrt((np.arange(10_000) + 0.5) / 10_000)
    assert np.mean(areas) == pytest.approx(np.mean(s**2 * (1 - s / 4) ** 2), abs=0.02)


def test_with_both_each_image_is_mixed_one_way() -> None:
    count = 2000
    images = torch.arange(count).float().view(-1, 1, 1, 1).repeat(1, 1, 8, 8)
    labels = torch.arange(count)
    mixed, told = augment.mix(images, labels, Recipe(mixup=5.0, cutmix=1.0), seeded(), count)
    flat = mixed.flatten(1)
    everywhere = (flat == flat[:, :1]).all(1) & (flat[:, 0] != labels)
    in_part = (flat == labels[:, None]).any(1) & (flat != labels[:, None]).any(1)
    assert 850 < everywhere.sum() < 1150
    assert 800 < in_part.sum() < 1150
    assert not (everywhere & in_part).any()
    assert torch.allclose(told.sum(1), torch.ones(count), atol=1e-5)


@pytest.mark.parametrize("alpha", [1e-3, 0.2, 100.0])
def test_the_beta_draws_have_the_mean_and_variance_of_the_distribution(alpha: float) -> None:
    drawn = augment.beta(alpha, 20_000, seeded())
    assert drawn.isfinite().all()
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    assert not torch.equal(drawn[:100], augment.beta(alpha, 100, seeded(6)))


def test_images_stay_channels_last() -> None:
    """As the convolutions want them: masked_fill, which ``where`` stands for, gives rows."""
    images = torch.rand(8, 3, 6, 6).to(memory_format=torch.channels_last)
    for result in (
        augment.cutout(images, 2, seeded()),
        augment.erase(images, 0.5, seeded()),
        augment.mix(images, torch.zeros(8).long(), Recipe(mixup=0.2, cutmix=1), seeded(), 2)[0],
    ):
        assert result.is_contiguous(memory_format=torch.channels_last)
