"""What a model says of a data set's images, computed once: a teacher's outputs, a cascade's."""

from __future__ import annotations

import contextlib

import numpy as np

from nas.data import Images, cache
from nas.data.batches import beside
from nas.training.models import Model
from nas.training.predict import Probabilities, of_images


def outputs(model: Model, images: Images) -> Probabilities:
    """The model's probabilities (images, classes) in the order of its classes, computed once on a
    machine of images that are in the cache."""
    kept = beside(images, f"outputs-{model.digest}-{model.mean.device.type}", "npy")
    if kept:
        with contextlib.suppress(*cache.LOST):
            found: Probabilities = np.load(kept)
            if found.shape == (len(images), len(model.classes)):
                return found
    found = of_images(model, images)
    if kept:
        with contextlib.suppress(OSError), cache.whole(kept) as part, part.open("wb") as file:
            np.save(file, found)
    return found
