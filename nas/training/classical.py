"""Baselines without a network: HOG features with a linear SVM, and logistic regression on pixels.

For some work they are enough, and a search shows it. scikit-learn (a second) and scikit-image (an
extra) are imported where they are used: a search asks this module for its names first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nas import data
from nas.data.images import Images, Part, Pixels
from nas.errors import DataError, NasError, nearest
from nas.job import DataRef, Result
from nas.metrics import ACCURACY

Features = npt.NDArray[np.float32]

# The inverse strengths of regularisation among which the validation images choose.
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
# Train images beyond these are left out, evenly: memory (HOG of 20,000 images is 0.3 GB as the
# solver takes it) and time grow with them, the accuracy of a linear classifier hardly.
MOST = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """Features of images (N x channels x height x width -> N x features), and a linear classifier
    of scikit-learn for them, by its inverse strength of regularisation. ``uncounted`` names the
    features where their computation shows in neither params nor MACs."""

    about: str
    uncounted: str = ""
    features: Callable[[Pixels], Features]
    classifier: Callable[[float], Any]


def pixel_features(pixels: Pixels) -> Features:
    return pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255)


def hog_features(pixels: Pixels) -> Features:
    """Histograms of oriented gradients (Dalal and Triggs 2005): 9 orientations in about 8 x 8
    cells, whatever the size, normalised in blocks of 2 x 2 cells; of a colour image, each pixel's
    strongest channel. Raises NasError without scikit-image.

    Sides below 32 pixels are enlarged to 32: on digits that raises 0.944 validation accuracy, of
    cells of 2 x 2 pixels, to 0.989 (the mean of three splits: 0.950 to 0.992).
    """
    try:
        from skimage.feature import hog
        from skimage.transform import resize
    except ImportError:
        raise NasError("hog_svm needs scikit-image: install nas-patterns[classical]") from None
    height, width = (max(32, side) for side in pixels.shape[2:])

    def of(image: npt.NDArray[np.uint8]) -> Features:
        shape = (len(image), height, width)
        enlarged = resize(image / 255, shape, order=1)  # type: ignore[no-untyped-call]
        cell = (height // 8, width // 8)
        found = hog(enlarged, pixels_per_cell=cell, cells_per_block=(2, 2), channel_axis=0)
        return np.asarray(found, np.float32)

    return np.stack([of(image) for image in pixels])


def linear_svm(strength: float) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(C=strength, random_state=0)


def logistic_regression(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1_000))


METHODS: Mapping[str, Method] = {
    "hog_svm": Method(
        about="histograms of oriented gradients and a linear SVM (Dalal and Triggs 2005)",
        uncounted="HOG features",
        features=hog_features,
        classifier=linear_svm,
    ),
    "logistic": Method(
        about="logistic regression on the pixels",
        features=pixel_features,
        classifier=logistic_regression,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A classical classifier of some images.

    ``accuracy`` is of the validation images, which chose ``strength``, as a fraction. ``params``
    and ``macs`` are of the linear part, as deployed and for one image: scaling can be folded into
    it, and the arithmetic of HOG is not counted, as a network's normalisations are not.
    """

    name: str
    strength: float
    accuracy: float
    params: int
    macs: int
    seconds: float
    classifier: Any

    def score(self, ref: DataRef, part: Part = "test") -> float:
        """The accuracy on a part of the data, as a fraction. The test images are for the end."""
        images = data.load(ref, part)
        features = METHODS[self.name].features(images.pixels[images.rows])
        return _accuracy(self.classifier, features, images)

    @property
    def result(self) -> Result:
        """The same type as a network's evaluation."""
        return Result(metrics={ACCURACY: self.accuracy}, seconds=self.seconds, device="cpu")


def fit(name: str, ref: DataRef) -> Fitted:
    """Fits a method to the train images, the strength of its regularisation to the validation
    images. The images are taken in their own size, whatever ``ref.size``.

    Raises NasError for an unknown name or a missing library, DataError.
    """
    if name not in METHODS:
        raise NasError(f"there is no classical baseline {name}; {nearest(name, METHODS)}")
    began = time.perf_counter()
    method = METHODS[name]
    train, validation = data.load(ref, "train"), data.load(ref, "validation")
    rows = train.rows
    if len(rows) > MOST:
        # RandomState, as in the split: numpy promises that its stream never changes.
        rows = np.random.RandomState(ref.split_seed).choice(rows, MOST, replace=False)
    labels = train.labels[rows]
    if len(np.unique(labels)) < 2:
        raise DataError(f"the train images of {ref.dir or ref.name} are all of one class")
    features = method.features(train.pixels[rows])
    held_out = method.features(validation.pixels[validation.rows])
    best, best_accuracy, best_strength = None, -1.0, 0.0
    for strength in STRENGTHS:
        classifier = method.classifier(strength).fit(features, labels)
        accuracy = _accuracy(classifier, held_out, validation)
        if accuracy > best_accuracy:  # of equals, the most regularised
            best, best_accuracy, best_strength = classifier, accuracy, strength
    weights, biases = _linear(best)
    return Fitted(
        name=name,
        strength=best_strength,
        accuracy=best_accuracy,
        params=weights.size + biases.size,
        macs=weights.size,
        seconds=time.perf_counter() - began,
        classifier=best,
    )


def _linear(classifier: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    last = classifier[-1] if hasattr(classifier, "steps") else classifier
    return last.coef_, last.intercept_


def _accuracy(classifier: Any, features: Features, images: Images) -> float:
    return float(np.mean(classifier.predict(features) == images.labels[images.rows]))
