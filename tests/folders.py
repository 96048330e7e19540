"""Small image folders for tests: pictures whose class shows in where they are bright."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from nas.data import datasets, imagefolder
from nas.job import DataRef

Bytes = npt.NDArray[np.uint8]


def grey(seed: int, label: int = 0, height: int = 32, width: int = 32) -> Bytes:
    """Bright on top (label 0) or at the bottom, with noise, from 0 to 254."""
    ends = (1, 0) if label == 0 else (0, 1)
    rows = np.linspace(*ends, height)[:, None] * 200
    return (rows + np.random.RandomState(seed).randint(0, 55, (height, width))).astype(np.uint8)


def colour(seed: int, label: int = 0, height: int = 32, width: int = 32) -> Bytes:
    return np.dstack([grey(3 * seed + n, label, height, width) for n in range(3)])


def folder(
    root: Path,
    count: int = 10,
    classes: Iterable[str] = ("a", "b"),
    ending: str = "png",
    seed: int = 0,
    height: int = 32,
    width: int = 32,
    **save: Any,
) -> Path:
    """``count`` images a class, each another."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            image = Image.fromarray(colour(seed + 1000 * label + n, label, height, width))
            image.save(root / name / f"{n:04}.{ending}", **save)
    return root


def ref(root: Path, **more: Any) -> DataRef:
    return DataRef(name="imagefolder", dir=str(root), **more)


def anew() -> None:
    """As in another process."""
    kept = (datasets.split, datasets.read, imagefolder.first, imagefolder.look)
    for function in (*kept, imagefolder.prepared):
        function.cache_clear()
