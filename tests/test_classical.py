"""The classical baselines, against scikit-learn and scikit-image used by hand on digits."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from skimage.feature import hog
from skimage.transform import resize
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from nas import data
from nas.data.images import Images, Info
from nas.errors import DataError, NasError
from nas.job import DataRef
from nas.training import classical

DIGITS = DataRef()


def part(name: Any) -> tuple[Any, Any]:
    images = data.load(DIGITS, name)
    return images.pixels[images.rows], images.labels[images.rows]


def pictures(monkeypatch: pytest.MonkeyPatch, pixels: Any, labels: Any) -> DataRef:
    """A data set of its own for arrays of two classes."""
    _, channels, height, width = pixels.shape
    info = Info(channels=channels, height=height, width=width, classes=("a", "b"))
    kind = data.Dataset(
        about="", describe=lambda ref: info, read=lambda ref, part: Images.of(pixels, labels)
    )
    name = f"pictures{pixels.shape}{labels.sum()}"  # what is loaded is remembered by name
    monkeypatch.setitem(data.DATASETS, name, kind)
    return DataRef(name=name)


@pytest.mark.parametrize(
    ("name", "params", "least"), [("hog_svm", 1764 * 10 + 10, 0.98), ("logistic", 650, 0.94)]
)
def test_classical_methods_reach_their_accuracy_on_digits_and_repeat_it(
    name: str, params: int, least: float
) -> None:
    fitted = classical.fit(name, DIGITS)
    assert (fitted.params, fitted.macs) == (params, params - 10)
    assert fitted.accuracy == fitted.score(DIGITS, "validation") >= least
    assert fitted.score(DIGITS) >= least - 0.03
    assert fitted.result.metrics == {"accuracy": fitted.accuracy}
    assert (fitted.params, fitted.macs) == (params, params - 10)
    again = classical.fit(name, DIGITS)
    assert (again.accuracy, again.strength) == (fitted.accuracy, fitted.strength)


def test_validation_images_choose_the_strength() -> None:
    (x, y), (held_out, labels) = part("train"), part("validation")
    flat, held_out = x.reshape(len(x), -1), held_out.reshape(len(held_out), -1)
    scale = StandardScaler().fit(flat)
    accuracies = {
        c: LogisticRegression(C=c, max_iter=5_000)
        .fit(scale.transform(flat), y)
        .score(scale.transform(held_out), labels)
        for c in classical.STRENGTHS
    }
    fitted = classical.fit("logistic", DIGITS)
    assert fitted.accuracy == pytest.approx(max(accuracies.values()), abs=1 / len(labels))


def test_hog_is_scikit_images_at_every_size() -> None:
    (x, _) = part("test")
    for ours, image in zip(classical.hog_features(x[:3]), x, strict=False):
        enlarged = resize(image[0] / 255, (32, 32), order=1)  # type: ignore[no-untyped-call]
        told = hog(enlarged, pixels_per_cell=(4, 4), cells_per_block=(2, 2))
        np.testing.assert_allclose(ours, told, atol=1e-4)
    for side in ((1, 1), (3, 5), (8, 28), (28, 28), (32, 32), (96, 64), (100, 131)):
        found = classical.hog_features(np.zeros((1, 3, *side), np.uint8))
        assert 7 * 7 * 36 <= found.shape[1] <= 8 * 9 * 36


def test_two_classes_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.RandomState(0)
    pixels = random.randint(0, 60, (60, 3, 8, 8)).astype(np.uint8)
    labels = np.arange(60) % 2
    pixels[labels == 0, 1, :, 4:] += 190  # an upright edge
    pixels[labels == 1, 1, 4:] += 190  # a level one
    ref = pictures(monkeypatch, pixels, labels)
    for name in classical.METHODS:
        fitted = classical.fit(name, ref)
        assert fitted.score(ref) == fitted.accuracy == 1
        assert fitted.params == fitted.macs + 1  # one separating plane for two classes


def test_what_cannot_be_fitted_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NasError, match=r"no classical baseline hog_svn; did you mean hog_svm\?"):
        classical.fit("hog_svn", DIGITS)
    alike = pictures(monkeypatch, np.zeros((20, 1, 4, 4), np.uint8), np.zeros(20, np.int64))
    with pytest.raises(DataError, match="all of one class"):
        classical.fit("logistic", alike)
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(NasError, match=r"hog_svm needs scikit-image: install"):
        classical.fit("hog_svm", DIGITS)
