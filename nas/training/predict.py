"""From images to predictions: files as they stream, arrays, Pillow's images.

A file is decoded by what decodes for a training (``nas.data.picture.decode``). Decoding runs
in threads, a batch ahead of the network; what is held is two batches, however many files there are.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas.data import kinds
from nas.data.augment import resize
from nas.data.batches import tensor
from nas.data.footprint import at_once
from nas.data.images import Images, Pixels
from nas.data.picture import decode, fitted, reason
from nas.errors import DataError, NasError
from nas.processes import cores

Shape = tuple[int, int, int]  # channels, height, width

T = TypeVar("T")

UNSURE = 0.5  # below, the best class is less likely than all others together
BATCH = 256  # images decoded and predicted at once, fewer of large ones

DEEPEST = 20  # lists within lists: one that holds itself has no end

LEAST = 1e-30  # of a probability before its logarithm is taken, which is finite in float32

Probabilities = npt.NDArray[np.float32]


def tempered(probabilities: Tensor, temperature: float) -> Tensor:
    """Probabilities (images, classes) with the logits behind them divided by the temperature."""
    return (probabilities.clamp_min(LEAST).log() / temperature).softmax(1)


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model says of one image: a probability for each class."""

    classes: tuple[str, ...]
    probabilities: Probabilities

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[int(self.probabilities.argmax())]

    @property
    def probability(self) -> float:
        """That of the most probable class."""
        return float(self.probabilities.max())

    @property
    def unsure(self) -> bool:
        """Whether the most probable class is less likely than all others together."""
        return self.probability < UNSURE

    def top(self, count: int) -> list[tuple[str, float]]:
        """The ``count`` most probable classes with their probabilities, the first the most so."""
        best = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[i])) for i in best]

    def __repr__(self) -> str:
        return f"Prediction({self.label!r}, {self.probability:.4f})"


class Predictor(Protocol):
    """A network that predicts: a Model, or one in ONNX Runtime."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def input(self) -> Shape: ...
    def probabilities(self, pixels: Tensor) -> Probabilities:
        """(N, classes) of pixels (N, channels, height, width), from 0 to 255."""


def predict(model: Predictor, images: Any) -> list[Prediction]:
    """A prediction for each of ``images``: paths, Pillow's images or arrays, one or a sequence.

    Arrays and tensors are uint8, (channels, height, width) or with the images first; those of
    another size are resized as a data set's are. Raises DataError for what is none of these, or
    cannot be read, and NasError where an answer is not finite.
    """
    found: list[Prediction] = []
    every = _batches(_each(images, model.input), at_once(model.input[1:], BATCH))
    for batch in every:
        pixels = torch.cat(batch)
        for row in model.probabilities(pixels):
            found.append(_prediction(model, row, "the model", f"image {len(found)}"))
    return found


def _prediction(model: Predictor, row: Probabilities, name: str, image: str) -> Prediction:
    """What a row of probabilities says. Raises NasError where it says nothing."""
    if not np.isfinite(row).all():
        raise NasError(f"{name}: its answer for {image} is not finite: there is no prediction")
    return Prediction(model.classes, row)


def _each(images: Any, shape: Shape, depth: int = 0) -> Iterator[Tensor]:
    """Batches of pixels, of a single image each but where an array holds more."""
    if isinstance(images, str | os.PathLike):
        yield torch.from_numpy(_decoded(Path(images), shape))[None]
    elif isinstance(images, np.ndarray | Tensor):
        yield from _of_array(images, shape).split(1)
    elif hasattr(images, "getexif"):  # Pillow's
        try:
            pixels = np.array(fitted(images, shape), order="C")
        except Exception as error:  # Pillow reads them only now, and raises nearly anything
            raise DataError(f"an image of Pillow's cannot be read: {reason(error)}") from error
        yield torch.from_numpy(pixels)[None]
    elif isinstance(images, Iterable) and depth < DEEPEST:
        for image in images:
            yield from _each(image, shape, depth + 1)
    else:
        inside = f" within {depth} others, or itself," if depth == DEEPEST else ""
        raise DataError(
            f"a {type(images).__name__}{inside} is no image: must be a path, an image of Pillow's "
            "or an array of uint8"
        )


def _of_array(images: npt.NDArray[Any] | Tensor, shape: Shape) -> Tensor:
    if lacking := _lacking(images):
        raise DataError(f"{lacking} is no image: must hold a value from 0 to 255 for each pixel")
    pixels = images[None] if images.ndim == 3 else images
    kind, sizes = str(pixels.dtype).removeprefix("torch."), tuple(pixels.shape)
    if kind != "uint8" or len(sizes) != 4 or sizes[1] != shape[0] or 0 in sizes[2:]:
        raise DataError(
            f"an array of {kind} of {sizes} is no image for this model: must be uint8, from 0 to "
            f"255, of ({shape[0]}, height, width) or (images, {shape[0]}, height, width)"
        )
    if isinstance(pixels, np.ndarray):
        pixels = tensor(np.ascontiguousarray(pixels))  # torch takes no mirrored array
    return resize(pixels, shape[1:])


def _lacking(images: npt.NDArray[Any] | Tensor) -> str:
    """What an array or a tensor is that does not hold each of its values; empty for others."""
    if isinstance(images, np.ndarray):
        return "an array with masked values" if np.ma.is_masked(images) else ""
    if images.is_nested:
        return "a nested tensor"
    if images.layout != torch.strided:
        return f"a tensor of layout {str(images.layout).removeprefix('torch.')}"
    return "a tensor on the device meta" if images.is_meta else ""


def _decoded(file: Path, shape: Shape) -> Pixels:
    pixels: Pixels = np.array(decode(file, shape), order="C")  # a copy: Pillow's is read-only
    return pixels


# --- the images of a data set --------------------------------------------------------------------


def of_images(model: Predictor, images: Images) -> Probabilities:
    """(images, classes) of a part of a data set; its images have the model's channels, or one."""
    count = at_once(model.input[1:], BATCH)
    every = np.array_split(images.rows, range(count, len(images), count))
    found = [model.probabilities(sized(images, rows, model.input)) for rows in every]
    return np.concatenate(found)


def sized(images: Images, rows: npt.NDArray[np.int64], shape: Shape) -> Tensor:
    """Some images in a model's shape: resized as for a training, grey ones in all its channels."""
    channels, height, width = shape
    pixels = torch.from_numpy(images.pixels[rows])
    return resize(pixels, (height, width)).expand(-1, channels, -1, -1)


# --- files ---------------------------------------------------------------------------------------


def files(paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """The files that paths name, those of directories at every depth in the order of their names;
    with each whether it is to be read: in a directory, images by their ending that are not hidden.

    What is held is the names of one directory at a time. Raises DataError for a path that is not
    there, before anything is read.
    """
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist: must be an image or a directory of images")
    return itertools.chain.from_iterable(
        _inside(path, ()) if path.is_dir() else [(path, True)] for path in paths
    )


def _inside(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[Path, bool]]:
    stat = folder.stat()
    here = (stat.st_dev, stat.st_ino)
    if here in above:  # a link to a directory that it is in
        return
    for name in sorted(os.listdir(folder)):
        path = folder / name
        dropping = kinds.is_dropping(name)
        if not dropping and path.is_dir():
            yield from _inside(path, (*above, here))
        elif not (dropping and path.is_dir()):
            yield path, not (dropping or kinds.unread(name) or path.is_fifo())


def stream(
    model: Predictor, paths: Iterable[Path], name: str = "the model"
) -> Iterator[tuple[Path, Prediction | NasError]]:
    """Each file with its prediction, or with why it cannot be read, in their order. Raises NasError
    with the ``name`` of the model where an answer is not finite."""
    threads = cores()

    def read(path: Path) -> Pixels | NasError:
        try:
            return _decoded(path, model.input)
        except NasError as error:
            return error

    def read_all(part: Sequence[Path]) -> list[Pixels | NasError]:
        return [read(path) for path in part]

    with ThreadPoolExecutor(threads) as pool:  # Pillow decodes outside Python's lock

        def begun(batch: list[Path]) -> tuple[list[Path], Iterator[list[Pixels | NasError]]]:
            length = -(-len(batch) // threads)
            parts = [batch[at : at + length] for at in range(0, len(batch), length)]
            return batch, pool.map(read_all, parts)

        for batch, parts in _ahead(map(begun, _batches(paths, at_once(model.input[1:], BATCH)))):
            read_in = [image for part in parts for image in part]
            whole = [image for image in read_in if not isinstance(image, NasError)]
            rows: Iterator[Any] = iter(())
            if whole:
                rows = iter(model.probabilities(torch.from_numpy(np.stack(whole))))
            for path, image in zip(batch, read_in, strict=True):
                if isinstance(image, NasError):
                    yield path, image
                else:
                    yield path, _prediction(model, next(rows), name, str(path))


def _batches(items: Iterable[T], count: int) -> Iterator[list[T]]:
    every = iter(items)
    while batch := list(itertools.islice(every, count)):
        yield batch


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same, each begun before the one before it is used."""
    for current in (following := iter(items)):
        for after in following:
            yield current
            current = after
        yield current
