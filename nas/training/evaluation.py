"""Evaluates models on labelled images, and tests whether two differ.

Counts are scikit-learn's, intervals and tests SciPy's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from nas import data
from nas.data import Images, Part, digests
from nas.data.datasets import read
from nas.data.images import most_frequent
from nas.errors import DataError, NasError
from nas.fields import Field
from nas.job import DataRef
from nas.text import counted, twins
from nas.training.card import Card, class_numbers
from nas.training.predict import Predictor, Probabilities, of_images

PARTS = ("test", "validation", "train", "all")
LEVEL = 0.95
BINS = 15  # Guo et al. 2017 have as many


@dataclass(frozen=True, slots=True)
class ClassScore:
    """A class's number of images, precision and recall; NaN where undefined."""

    name: str
    images: int
    precision: float
    recall: float


@dataclass(frozen=True)
class Evaluation:
    """A model's probabilities (images, classes) for images with class indices ``labels``; these are
    ``images`` of ``ref``, in the same order."""

    classes: tuple[str, ...]
    part: str
    labels: npt.NDArray[np.int64]
    probabilities: Probabilities
    images: tuple[Images, ...] = ()
    ref: DataRef = field(default_factory=DataRef)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"Evaluation({self.accuracy:.4f} ({low:.4f} to {high:.4f}) of "
            f"{counted(len(self), 'image')})"
        )

    @cached_property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The index of the most probable class of each image, (images,)."""
        return np.asarray(self.probabilities.argmax(1), np.int64)

    @cached_property
    def right(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.predicted == self.labels)

    @property
    def accuracy(self) -> float:
        """The fraction classified correctly."""
        return float(self.right.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the accuracy's 95% interval over other images (Wilson 1927)."""
        found = binomtest(int(self.right.sum()), len(self)).proportion_ci(LEVEL, "wilson")
        return float(found.low), float(found.high)

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts (true class, predicted class)."""
        counts: npt.NDArray[np.int64] = confusion_matrix(
            self.labels, self.predicted, labels=range(len(self.classes))
        )
        return counts

    @property
    def by_class(self) -> tuple[ClassScore, ...]:
        counts, right = self.confusion, self.confusion.diagonal()
        with np.errstate(invalid="ignore"):
            precision, recall = right / counts.sum(0), right / counts.sum(1)
        scores = zip(self.classes, counts.sum(1), precision, recall, strict=True)
        return tuple(ClassScore(n, int(c), float(p), float(r)) for n, c, p, r in scores)

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have images (Brodersen et al. 2010)."""
        return float(np.nanmean([score.recall for score in self.by_class]))

    @property
    def constant(self) -> tuple[str, float]:
        """The most frequent class, and the accuracy of always answering it."""
        number, share = most_frequent(self.labels)
        return self.classes[number], share

    @property
    def calibration_error(self) -> float:
        """The expected calibration error (Guo et al. 2017, equation 3) with 15 bins of equal
        width."""
        certain = self.probabilities.max(1).astype(float)
        bins = np.clip(np.ceil(certain * BINS).astype(int) - 1, 0, BINS - 1)
        differences = np.bincount(bins, weights=self.right - certain, minlength=BINS)
        return float(np.abs(differences).sum() / len(self))

    def mistakes(self, count: int) -> list[int]:
        """The indices of the ``count`` misclassified images with the lowest probability of their
        true class."""
        of_truth = self.probabilities[np.arange(len(self)), self.labels]
        wrong = np.flatnonzero(~self.right)
        order = np.lexsort((wrong, of_truth[wrong]))
        return [int(i) for i in wrong[order][:count]]

    def pixels(self, number: int) -> npt.NDArray[np.uint8]:
        """An image of the data set: uint8 (channels, height, width)."""
        images, row = self._place(number)
        return np.asarray(images.pixels[row])

    def name(self, number: int) -> str:
        """An image's file, relative to the data's directory, or else its index in the data set."""
        _, row = self._place(number)
        return self._names[row] if self._names else f"image {row}"

    @cached_property
    def _names(self) -> Sequence[str]:
        return data.names(self.ref)

    def _place(self, number: int) -> tuple[Images, int]:
        for images in self.images:
            if number < len(images):
                return images, int(images.rows[number])
            number -= len(images)
        raise IndexError(number)


@dataclass(frozen=True, slots=True)
class Comparison:
    """McNemar's (1947) test of two models on the same images: how many only one classifies right,
    and the exact two-sided p-value."""

    only_first: int
    only_second: int
    p: float


def evaluate(model: Predictor, ref: DataRef, part: str = "test") -> Evaluation:
    """Scores a model on a part of the data, or on "all"; some of its classes may have no images
    there. Raises DataError for other classes, or images that the model does not take."""
    if part not in PARTS:
        raise NasError(f"--part {part}: must be one of {', '.join(PARTS)}")
    ref = fitting(ref, model.input)
    info = data.describe(ref)
    where = ref.dir or ref.name
    if unknown := {*info.classes} - {*model.classes}:
        same = twins({*info.classes, *model.classes})
        theirs, known = (
            _few({ascii(name) if name in same else name for name in names})
            for names in (unknown, {*model.classes})
        )
        noun = "class" if len(unknown) == 1 else "classes"
        raise DataError(f"{where}: the model does not know the {noun} {theirs}, only {known}")
    images = parts(ref, part)
    numbers = np.array(class_numbers(info.classes, model.classes))
    labels = np.concatenate([numbers[i.labels[i.rows]] for i in images])
    found = np.concatenate([of_images(model, i) for i in images])
    if not np.isfinite(found).all():
        raise NasError("the model's answers are not finite: nothing to score")
    return Evaluation(model.classes, part, labels, found, images, ref)


def _few(names: set[str]) -> str:
    return ", ".join([*sorted(names)[:5], *(["..."] if len(names) > 5 else [])])


def parts(ref: DataRef, part: str) -> tuple[Images, ...]:
    if part == "all":
        unsplit = dataclasses.replace(ref, split_seed=0)
        return tuple(read(unsplit, own) for own in data.describe(ref).parts)
    return (data.load(ref, cast(Part, part)),)


def fitting(ref: DataRef, shape: tuple[int, int, int]) -> DataRef:
    """``ref`` resized to a model's input ``shape``; a model of colour images takes grey ones, too.
    Raises DataError."""
    found = data.describe(ref).shape
    if found[0] in (1, shape[0]):
        if found[1:] == shape[1:]:
            return ref
        if shape[1] == shape[2]:
            return dataclasses.replace(ref, size=shape[1])
    shapes = ["x".join(map(str, sizes)) for sizes in (found, shape)]
    raise DataError(
        f"{ref.dir or ref.name} holds images of {shapes[0]}: the model takes {shapes[1]}"
    )


def data_for(
    card: Card, dataset: str, folder: str, file: str, skip_unreadable: bool = False
) -> DataRef:
    """The data set ``dataset``, or the kind the model was trained on; a folder of images where that
    kind takes no directory and one is given. Splits the training's images as the training did.
    Raises NasError, naming the model's ``file``, where the data set is unknown."""
    name = dataset or card.dataset
    if name not in data.DATASETS and not (dataset or folder):
        Field(file, "dataset", name).refuse(
            f"one of {', '.join(sorted(data.DATASETS))}, or of a --plugin, unless --data or "
            "--dataset tells the images"
        )
    if not dataset and (name not in data.DATASETS or (folder and name == "digits")):
        name = "imagefolder"
    ref = DataRef(
        name=name, dir=folder, split_seed=card.split_seed, skip_unreadable=skip_unreadable
    )
    if not (card.skip_unreadable or card.group_by):
        return ref
    same = dataclasses.replace(ref, skip_unreadable=card.skip_unreadable or skip_unreadable)
    return (
        dataclasses.replace(same, group_by=card.group_by)
        if data.identity(same) == card.identity
        else ref
    )


def usual_part(card: Card, ref: DataRef) -> str:
    """The default part to score: test, or all of a folder without splits that the model was not
    trained on. Raises DataError for such a folder that holds some of the training's images, as its
    split is another one."""
    if not card.identity or "test" in data.describe(ref).parts:
        return "test"
    if data.identity(ref) == card.identity:
        return "test"
    if share := _seen(card, ref, "all"):
        raise DataError(
            f"{_percent(share)} of the images of {ref.dir} were there when the model was trained, "
            "and it may have learned them: give a folder of others alone, or score them anyway "
            'with --part all (in Python part="all")'
        )
    return "all"


def learned(card: Card, ref: DataRef, part: str) -> str:
    """How a part contains images that the model was trained on; empty where it contains none."""
    if not card.identity:
        return ""
    if data.identity(ref) == card.identity:
        if part not in ("train", "all"):
            return ""
        return f"was trained on images of this part ({part}), but on none of --part test"
    share = _seen(card, ref, part)
    return f"was trained where {_percent(share)} of these images were, too" if share else ""


def _seen(card: Card, ref: DataRef, part: str) -> float:
    """The estimated share of a part that was among the training's images."""
    asked = data.describe(ref).parts if part == "all" else [cast(Part, part)]
    here = digests.merged([data.sketch(ref, each) for each in asked])
    return digests.shared(here, np.frombuffer(bytes.fromhex(card.seen), ">u8").astype(np.uint64))


def _percent(share: float) -> str:
    return "all or nearly all" if share == 1 else f"about {max(1, round(100 * share))} %"


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Tests two evaluations on the same images. Raises DataError where they differ in images."""
    if not np.array_equal(first.labels, second.labels) or first.classes != second.classes:
        raise DataError("two models are compared on the same images with the same classes")
    only_first = int(np.sum(first.right & ~second.right))
    only_second = int(np.sum(second.right & ~first.right))
    differ = only_first + only_second
    p = float(binomtest(only_first, differ).pvalue) if differ else 1.0
    return Comparison(only_first, only_second, p)
