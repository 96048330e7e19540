"""Readers of the well-known data sets' files, without torch.

torchvision downloads them (``nas.data.download``), but its classes read only files of a known MD5,
and raise a traceback for any other. Here a file that is missing, truncated or of another kind is a
DataError that names it.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.data import digests
from nas.data.images import Images, Info, Part, refuse_placeless
from nas.errors import DataError
from nas.job import DataRef

TEN = tuple("0123456789")
CLOTHES = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


def directory(ref: DataRef) -> Path:
    """The directory that ``ref`` names. Raises DataError where there is none."""
    refuse_placeless(ref)
    path = Path(ref.dir)
    if not path.is_dir():
        state = "is not a directory" if path.exists() else "does not exist"
        raise DataError(f"{path} {state}: the data set {ref.name} is read from there")
    return path


def identity(
    files: Callable[[DataRef], Sequence[Path]], classes: Sequence[str]
) -> Callable[[DataRef], str]:
    """A function that digests a set of a few files: their bytes, in order, and the classes."""

    def told(ref: DataRef) -> str:
        paths = files(ref)
        found = digests.of_files(directory(ref), paths)
        return digests.identity(classes, [("all", np.arange(len(paths)), found)])

    return told


def present(ref: DataRef, files: Iterable[Path]) -> None:
    """Raises DataError for the first of ``files`` that is missing."""
    for path in files:
        if not path.is_file():
            raise DataError(f"{path} is missing: the data set {ref.name} needs it")


# digits: 1,797 images of 8x8 in 17 greys, with scikit-learn (Alpaydin and Kaynak 1998).


def digits_info(ref: DataRef) -> Info:
    if ref.dir:
        raise DataError(
            f"the data set digits comes with scikit-learn: it is not read from {ref.dir}"
        )
    return Info(channels=1, height=8, width=8, classes=TEN)


def digits(ref: DataRef, part: Part) -> Images:
    """Reads scikit-learn's file without importing it, which takes a second in each process."""
    rows = np.loadtxt(digits_file(), delimiter=",")
    pixels = np.rint(rows[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Images.of(pixels, rows[:, -1])


def digits_file() -> Path:
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("the data set digits comes with scikit-learn: pip install scikit-learn")
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


# MNIST and its relatives: IDX files. A header of big-endian 32-bit integers (0x800 + dimensions,
# then the length of each), then the bytes.

IDX: Mapping[Part, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx_info(folder: str, classes: tuple[str, ...]) -> Callable[[DataRef], Info]:
    def describe(ref: DataRef) -> Info:
        shapes = {}
        for part in IDX:
            images, labels = idx_files(ref, folder, part)
            shapes[part] = idx_shape(images, 3)
            if shapes[part][0] != idx_shape(labels, 1)[0]:
                raise DataError(f"{labels} has not one label for each image of {images.name}")
        height, width = shapes["train"][1:]
        if shapes["test"][1:] != (height, width):
            raise DataError(f"{images} has images of another size than {height}x{width}")
        return Info(
            channels=1, height=height, width=width, classes=classes, parts=("train", "test")
        )

    return describe


def idx_paths(folder: str) -> Callable[[DataRef], list[Path]]:
    return lambda ref: [path for part in IDX for path in idx_files(ref, folder, part)]


def idx(folder: str) -> Callable[[DataRef, Part], Images]:
    def read(ref: DataRef, part: Part) -> Images:
        images, labels = idx_files(ref, folder, part)
        return Images.of(idx_array(images, 3)[:, None], idx_array(labels, 1))

    return read


def idx_files(ref: DataRef, folder: str, part: Part) -> list[Path]:
    """The image and label files, in torchvision's layout or in the directory itself."""
    root = directory(ref)
    every = [name for pair in IDX.values() for name in pair]
    for place in (root / folder / "raw", root / "raw", root):
        plain = any((place / name).is_file() for name in every)
        ending = "" if plain else ".gz"
        if plain or any((place / f"{name}.gz").is_file() for name in every):
            present(ref, [place / (name + ending) for name in every])
            return [place / (name + ending) for name in IDX[part]]
    raise DataError(
        f"{root} holds no {IDX['train'][0]}, with or without .gz, nor does {folder}/raw in it: "
        f"the data set {ref.name} is read from there"
    )


def idx_shape(path: Path, dimensions: int) -> tuple[int, ...]:
    """The shape in the header, checked against the file's length without reading the rest."""
    length = 4 * (1 + dimensions)
    try:
        with path.open("rb") as file:
            size = file.seek(-4, io.SEEK_END) + 4
            if path.suffix == ".gz":  # the last four bytes are the uncompressed length
                size = int.from_bytes(file.read(4), "little")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic, *shape = np.frombuffer(file.read(length), ">i4").tolist()
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} is not a whole IDX file: {error}") from error
    if magic != 0x800 + dimensions or len(shape) != dimensions or min(shape) < 1:
        raise DataError(f"{path} is not an IDX file of bytes in {dimensions} dimensions")
    if size != length + math.prod(shape):
        expected = length + math.prod(shape)
        raise DataError(f"{path} holds {size} bytes where its header says {expected}")
    return tuple(shape)


def idx_array(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    shape = idx_shape(path, dimensions)
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole IDX file: {error}") from error
    return np.frombuffer(data, np.uint8, math.prod(shape), 4 * (1 + dimensions)).reshape(shape)


# CIFAR: pickled dictionaries of labels and of rows of 3,072 bytes (channel, row, column).

Files = Mapping[Part, tuple[str, ...]]

CIFAR10: Files = {
    "train": tuple(f"data_batch_{n}" for n in range(1, 6)),
    "test": ("test_batch",),
}
CIFAR100: Files = {"train": ("train",), "test": ("test",)}


def cifar_info(folder: str, files: Files, names: str, meta: str) -> Any:
    def describe(ref: DataRef) -> Info:
        root = cifar_root(ref, folder)
        paths = [root / name for part in files.values() for name in part]
        present(ref, [*paths, root / meta])
        for path in paths:
            if not ends_with(path, b"."):  # a pickle's last byte
                raise DataError(f"{path} is cut short or no pickle: CIFAR's files are")
        classes = unpickle(root / meta).get(names)
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise DataError(f"{root / meta} has no list {names!r} of class names")
        return Info(
            channels=3, height=32, width=32, classes=tuple(classes), parts=("train", "test")
        )

    return describe


def cifar_paths(folder: str, files: Files, meta: str) -> Callable[[DataRef], list[Path]]:
    return lambda ref: [cifar_root(ref, folder) / name for name in [meta, *chain(*files.values())]]


def cifar(folder: str, files: Files, key: str) -> Callable[[DataRef, Part], Images]:
    def read(ref: DataRef, part: Part) -> Images:
        pixels, labels = [], []
        for name in files[part]:
            path = cifar_root(ref, folder) / name
            batch = unpickle(path)
            data, numbers = batch.get("data"), batch.get(key)
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
                raise DataError(f"{path} has no array of bytes under 'data'")
            if not isinstance(numbers, list) or data.shape != (len(numbers), 3072):
                raise DataError(f"{path} has not a row of 3072 bytes under 'data' for each {key!r}")
            pixels.append(data.reshape(-1, 3, 32, 32))
            labels += numbers
        return Images.of(np.concatenate(pixels), np.asarray(labels))

    return read


def cifar_root(ref: DataRef, folder: str) -> Path:
    root = directory(ref)
    return root if root.name == folder else root / folder


class _Arrays(pickle.Unpickler):
    """Unpickles only arrays and plain data: a pickle can call any function, and a file from
    elsewhere is not trusted to."""

    ALLOWED = frozenset(
        {("_codecs", "encode"), ("numpy", "ndarray"), ("numpy", "dtype")}
        | {("numpy._core.multiarray", "_reconstruct"), ("numpy._core.numeric", "_frombuffer")}
    )

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")  # as numpy 1 called it
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def unpickle(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of arrays and plain data. Raises DataError for anything else."""
    try:
        with path.open("rb") as file:
            content = _Arrays(file, encoding="latin1").load()
        return {k.decode() if isinstance(k, bytes) else k: v for k, v in content.items()}
    # On anything but a pickle, the unpickler may raise nearly any error.
    except Exception as error:
        raise DataError(f"{path} is not a pickle of arrays: {error}") from error


# SVHN: MATLAB 5 files with X (row, column, channel, image) and y, where the digit 0 is labelled 10.

SVHN: Mapping[Part, str] = {"train": "train_32x32.mat", "test": "test_32x32.mat"}


def svhn_info(ref: DataRef) -> Info:
    root = directory(ref)
    present(ref, [root / name for name in SVHN.values()])
    for name in SVHN.values():
        mat_elements(root / name)
    return Info(channels=3, height=32, width=32, classes=TEN, parts=("train", "test"))


def svhn_paths(ref: DataRef) -> list[Path]:
    return [directory(ref) / name for name in SVHN.values()]


def svhn(ref: DataRef, part: Part) -> Images:
    from scipy.io import loadmat

    path = directory(ref) / SVHN[part]
    mat_elements(path)
    try:
        content = loadmat(path, variable_names=["X", "y"])
        pixels, labels = content["X"], content["y"].ravel() % 10
        return Images.of(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), labels)
    except Exception as error:
        raise DataError(f"{path} holds no images X and labels y: {error}") from error


def mat_elements(path: Path) -> None:
    """Walks the elements' tags (type and length, from byte 128 on), which shows a truncated file
    without reading it all. Raises DataError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if not file.read(128).startswith(b"MATLAB 5.0"):
            raise DataError(f"{path} is not a MATLAB 5 file")
        while (place := file.tell()) < size:
            length = int.from_bytes(file.read(8)[4:], "little")
            if place + 8 + length > size:
                raise DataError(f"{path} is cut short: {size} bytes of {place + 8 + length}")
            file.seek(length, io.SEEK_CUR)


def ends_with(path: Path, tail: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(tail)))
        return file.read() == tail
