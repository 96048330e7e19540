"""Distillation: training on the outputs of trained models as well as the labels.

The teacher is one model or several, whose softened probabilities are averaged. Without augmentation
its outputs are computed once, and cached with the images; otherwise for each batch.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from nas import data
from nas.data import Images, Info
from nas.data.augment import carried
from nas.data.batches import Normal
from nas.data.footprint import RESIDENT
from nas.errors import NasError, RecipeError, brief
from nas.job import Job, Recipe
from nas.language.architecture import Architecture, parse
from nas.language.expression import Aux, show
from nas.text import counted
from nas.training.card import class_numbers
from nas.training.models import Model, load_model
from nas.training.outputs import outputs
from nas.training.predict import tempered


def digest_of(models: Sequence[Model]) -> str:
    """16 hexadecimal digits for models whose outputs are averaged; their order does not count."""
    each = sorted(model.digest for model in models)
    return each[0] if len(each) == 1 else hashlib.sha256(" ".join(each).encode()).hexdigest()[:16]


def check(model: Model, info: Info, where: str) -> None:
    """Raises NasError where a model cannot teach on images with these classes and of this shape, or
    not at all."""
    if {*model.classes} != {*info.classes}:
        counts = (
            f"{counted(len(model.classes), 'class', 'classes')} and the images {len(info.classes)}"
        )
        others = sorted({*model.classes} ^ {*info.classes})
        raise NasError(
            f"{where} cannot teach here: it knows {counts}, and {brief(others[0])} is known to one "
            "of them alone"
        )
    if model.input != info.shape:
        raise NasError(
            f"{where} cannot teach here: it takes images of {show(model.input)}, and these are "
            f"{show(info.shape)}"
        )
    for name, weight in model.network.named_parameters():
        if not weight.isfinite().all():
            raise NasError(f"{where} cannot teach: {name} holds values that are not finite")


@functools.lru_cache(maxsize=2)
def loaded(files: tuple[str, ...], digest: str) -> tuple[Model, ...]:
    """The models in these files. Raises NasError where their digest is not ``digest``."""
    if not files:
        raise RecipeError(f"recipe.teacher is {digest!r}: the models are given by --teacher")
    models = tuple(load_model(file) for file in files)
    if (here := digest_of(models)) != digest:
        raise NasError(
            f"the teacher in {', '.join(files)} is not the one of the recipe: its digest is "
            f"{here}, not {digest}"
        )
    return models


@dataclass(frozen=True, slots=True)
class Stage:
    """A place where feature maps of equal height and width are compared: the output of the
    student's element of this number, and of that of each teacher."""

    student: int
    teachers: tuple[int, ...]


@dataclass(eq=False, slots=True)
class Teacher:
    """The teacher of one training. ``held`` are the soft targets (images, classes) of its images,
    in order, or None where they are computed per batch; ``columns`` select the data's classes from
    each model's. ``seen`` are the student's maps in the current step, by element number, and ``at``
    the positions of the batch among all images."""

    recipe: Recipe
    models: tuple[Model, ...]
    columns: tuple[Tensor, ...]
    mean: Tensor
    std: Tensor
    held: Tensor | None
    student: nn.Module
    stages: tuple[Stage, ...]
    seen: dict[int, Tensor] = field(default_factory=dict)
    at: Tensor | None = None

    @classmethod
    def of(
        cls,
        job: Job,
        student: nn.Module,
        normal: Normal,
        device: torch.device,
        images: Images,
    ) -> Teacher:
        """The teacher of a job, on its training ``images``; ``normal`` is the student's
        normalisation. Raises NasError where a model cannot teach there."""
        recipe, info = job.recipe, data.describe(job.data)
        models = tuple(m.to(device).eval() for m in loaded(job.teachers, recipe.teacher))
        for model, file in zip(models, job.teachers, strict=True):
            check(model, info, file)
        columns = tuple(
            torch.tensor(class_numbers(info.classes, m.classes), device=device) for m in models
        )
        held = None
        once = not recipe.augments and 4 * len(images) * len(info.classes) <= RESIDENT
        if once:
            each = [torch.from_numpy(outputs(m, images)).to(device) for m in models]
            held = softened(each, columns, recipe.temperature)
        stages: tuple[Stage, ...] = ()
        if recipe.attention:
            own = parse(job.pattern, info.shape, len(info.classes))
            stages = shared_stages(own, [model.architecture for model in models])
        return cls(
            recipe=recipe,
            models=models,
            columns=columns,
            mean=torch.tensor(normal.mean, device=device).mul(255).view(-1, 1, 1),
            std=torch.tensor(normal.std, device=device).mul(255).view(-1, 1, 1),
            held=held,
            student=student,
            stages=stages,
        )

    def following(
        self, epoch: Iterable[tuple[Tensor, Tensor]], positions: Iterable[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches of an epoch, whose images are at these ``positions``: ``loss`` is for
        the batch yielded last."""
        for batch, self.at in zip(epoch, positions, strict=True):
            yield batch

    def loss(self, loss: Tensor, output: Tensor | tuple[Tensor, list[Tensor]], x: Tensor) -> Tensor:
        """(1 - w) times the student's ``loss`` on the labels plus w T² KL(teacher, student), with
        both softmaxes at temperature T (Hinton et al. 2015, section 2: T² keeps the scale of the
        gradients), plus the attention loss at each stage.

        ``output``: the student's for the images ``x``, which are normalised for it.
        """
        recipe = self.recipe
        logits = output[0] if isinstance(output, tuple) else output
        watched = dict(self.seen)  # copied, as a teacher's forward pass may add maps
        targets = None
        if self.held is not None and self.at is not None:
            targets = self.held[carried(self.at, self.held.device)]
        found = self._answers(x) if targets is None or self.stages else []
        if targets is None:
            targets = softened([p for p, _ in found], self.columns, recipe.temperature)
        soft = log_softmax(logits.float() / recipe.temperature, 1)
        far = recipe.temperature**2 * kl_div(soft, targets, reduction="batchmean")
        loss = (1 - recipe.distill) * loss + recipe.distill * far
        for stage in self.stages:
            own = attention(watched[stage.student])
            for (_, maps), element in zip(found, stage.teachers, strict=True):
                apart = own - attention(maps[element])
                weight = recipe.attention / (len(self.stages) * len(self.models))
                loss = loss + weight * apart.square().sum(1).mean()
        return loss

    @torch.no_grad()
    def _answers(self, x: Tensor) -> list[tuple[Tensor, dict[int, Tensor]]]:
        """Each model's probabilities for images normalised for the student, in float32, and its
        maps at the stages."""
        with torch.autocast(x.device.type, enabled=False):
            pixels = x.float() * self.std + self.mean
            return [self._answer(pixels, k) for k in range(len(self.models))]

    def _answer(self, pixels: Tensor, number: int) -> tuple[Tensor, dict[int, Tensor]]:
        model = self.models[number]
        maps: dict[int, Tensor] = {}
        with noting(model.network, [stage.teachers[number] for stage in self.stages], maps):
            return model(pixels).softmax(1), maps

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within it, the student's maps are recorded for ``loss``."""
        with noting(self.student, [stage.student for stage in self.stages], self.seen):
            yield
        self.seen.clear()


def softened(each: Sequence[Tensor], columns: Sequence[Tensor], temperature: float) -> Tensor:
    """The mean of several models' probabilities (images, classes), each softened by the
    temperature, in the order of the data's classes."""
    soft = [tempered(p[:, own].float(), temperature) for p, own in zip(each, columns, strict=True)]
    return torch.stack(soft).mean(0)


# --- attention transfer --------------------------------------------------------------------------


def attention(maps: Tensor) -> Tensor:
    """The attention of a map (images, channels, height, width): the mean square over its channels,
    flattened and normalised to length 1 (Zagoruyko and Komodakis 2017, section 3.1, F² and equation
    2)."""
    return nn.functional.normalize(maps.float().square().mean(1).flatten(1))


def shared_stages(student: Architecture, teachers: Sequence[Architecture]) -> tuple[Stage, ...]:
    """For each map size that all networks have, the last element of each with that size. Widths may
    differ. Raises RecipeError where no size is shared."""
    own, *theirs = [_ends(each) for each in (student, *teachers)]
    sizes = [size for size in own if all(size in each for each in theirs)]
    if not sizes:
        raise RecipeError(
            "recipe.attention needs a map of equal height and width in student and teacher: they "
            "have none"
        )
    return tuple(Stage(own[size], tuple(each[size] for each in theirs)) for size in sizes)


def _ends(architecture: Architecture) -> dict[tuple[int, ...], int]:
    """The last element for each output size (height, width) over 1; auxiliary classifiers, whose
    modules answer logits, do not count."""
    shapes = {
        number: step.cost.shape
        for number, step in enumerate(architecture.steps)
        if not isinstance(step.node, Aux)
    }
    return {s[1:]: k for k, s in shapes.items() if len(s) == 3 and max(s[1:]) > 1}


@contextlib.contextmanager
def noting(network: nn.Module, elements: Sequence[int], into: dict[int, Tensor]) -> Iterator[None]:
    """Within it, the outputs of these elements of a network are put ``into``, by number."""

    def note(number: int, module: nn.Module, inputs: object, output: Tensor) -> None:
        into[number] = output

    children = list(network.children())
    hooks = [
        children[number].register_forward_hook(functools.partial(note, number))
        for number in elements
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
