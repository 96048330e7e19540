"""The command line's work as functions: ``nas.search``, ``nas.train``, ``nas.evaluate``."""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from nas.cli import options, record
from nas.cli.arguments import MOST_PIXELS
from nas.cli.settings import starting
from nas.driver.plan import Keep
from nas.errors import NasError, RecipeError, StudyError, brief
from nas.job import Epoch, Report
from nas.language.architecture import Architecture
from nas.store import StudyRow, TrialRow
from nas.text import counted
from nas.training.cascade import Cascade
from nas.training.evaluation import Evaluation, data_for
from nas.training.models import Model
from nas.training.onnx import OnnxModel

if TYPE_CHECKING:
    import pandas

    from nas.report.front import Picture

STORAGE = "sqlite:///nas.db"

P = ParamSpec("P")
R = TypeVar("R")


def _checked(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function check its arguments against its annotations, and convert numpy's scalars to
    Python's."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        hints = get_type_hints(function)  # at call time, when all modules are imported
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            rule = str(signature.parameters[name].annotation)
            bound.arguments[name] = _taken(name, value, hints[name], rule)
        return function(*bound.args, **bound.kwargs)

    return call


def _taken(name: str, value: Any, hint: Any, rule: str) -> Any:
    """The value converted to its hint's type. Raises NasError, with ``rule`` or the hint's meaning
    in words."""
    if get_origin(hint) is Iterable and isinstance(value, Iterator):
        value = tuple(value)  # an iterator, iterated twice
    try:
        return _own(value, hint)
    except TypeError:
        if get_origin(hint) is Literal:
            rule = "one of " + ", ".join(get_args(hint))
        elif get_origin(hint) is Callable:
            rule = "a function"
        raise NasError(f"{name} is {brief(repr(value), 60)}: must be {rule}") from None


def _own(value: Any, hint: Any) -> Any:
    """The value as a Python object of the hint's type; numpy's integers and strings are accepted.
    Raises TypeError for any other type."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is UnionType:
        for each in inner:
            with contextlib.suppress(TypeError):
                return _own(value, each)
    elif kind is Literal:
        if isinstance(value, str) and value in inner:
            return str(value)
    elif hint is Any or (hint is None and value is None):
        return value
    elif hint is int:
        if isinstance(value, Integral) and not isinstance(value, bool):
            return int(value)
    elif hint is str:
        if isinstance(value, str):
            return str(value)
    elif kind is Mapping:
        if isinstance(value, Mapping):
            return {_own(k, inner[0]): _own(v, inner[1]) for k, v in value.items()}
    elif kind is Iterable:  # but not a string's letters or a mapping's keys
        if isinstance(value, Iterable) and not isinstance(value, str | bytes | Path | Mapping):
            return tuple(_own(each, inner[0]) for each in value)
    elif isinstance(value, kind or hint):
        return value
    raise TypeError(hint)


@dataclass(frozen=True)
class Study:
    """A recorded study, read on first use. Its trials have ``number``, ``state``, ``pattern``,
    ``params``, ``macs``, ``accuracy``, ``latency_ms``, ``metrics``, ``recipe``, ``model`` (the file
    of its weights, if kept, for ``nas.load_model``) and more."""

    name: str
    storage: str = STORAGE

    def __post_init__(self) -> None:
        _taken("name", self.name, str, "str")
        _taken("storage", self.storage, str, "str")

    @cached_property
    def _read(self) -> tuple[StudyRow, tuple[TrialRow, ...]]:
        store = record.open_record(self.storage)
        try:
            row = store.find_study(self.name)
            return row, tuple(store.trials(row.id))
        finally:
            store.close()

    @property
    def objectives(self) -> dict[str, str]:
        """Each objective's direction, "max" or "min"."""
        return dict(self._read[0].objectives)

    @property
    def trials(self) -> tuple[TrialRow, ...]:
        """All trials, by number."""
        return self._read[1]

    @property
    def front(self) -> tuple[TrialRow, ...]:
        """The nondominated finished trials within the constraints, the best by the first objective
        first; of a network trained more than once the first trial, with mean metrics."""
        from nas.driver.tradeoffs import pareto

        return pareto(self._read[0], list(self.trials))

    @property
    def best(self) -> TrialRow:
        """The trial of the front that is best by the first objective. Raises StudyError where the
        front is empty."""
        front = self.front
        if not front:
            raise StudyError(f"study {self.name!r} has no finished trial within its constraints")
        name, direction = next(iter(self.objectives.items()))
        return (max if direction == "max" else min)(front, key=lambda row: row.value(name))

    def plot(self) -> Picture:
        """The front as ``nas pareto -f svg`` draws it: displays in a notebook, and
        ``.save("front.svg")`` (or .png) writes it. Raises StudyError where there is nothing to
        draw."""
        from nas.report.front import Picture, svg

        return Picture(svg(*self._read))

    def trials_dataframe(self) -> pandas.DataFrame:
        """One row per trial, with its sampled parameters. Raises NasError without pandas."""
        from nas.report.trials import trial_dict

        try:
            import pandas
        except ImportError:
            raise NasError("a DataFrame needs pandas: pip install pandas") from None
        study, rows = self._read
        return pandas.DataFrame([trial_dict(study, row) | dict(row.sampled) for row in rows])

    def __repr__(self) -> str:
        return (
            f"Study({self.name!r}: {counted(len(self.trials), 'trial')}, "
            f"{len(self.front)} on the front)"
        )


@_checked
def search(
    space: str | Path,
    *,
    data: str | Path = "",
    dataset: str = "",
    trials: int | None = None,
    budget: str | None = None,
    epochs: int = 20,
    objectives: Mapping[str, str] | None = None,
    constraints: Iterable[str] = (),
    storage: str = STORAGE,
    study: str | None = None,
    size: int = 0,
    seed: int = 0,
    sampler: str = "default",
    recipe: str | Mapping[str, Any] = "",
    baselines: Iterable[str] = (),
    rungs: str = "off",
    evaluator: str = "",
    keep: Keep = "front",
    plugins: Iterable[str | Path] = (),
    workers: int | None = None,
    progress: bool = True,
    skip_unreadable: bool = False,
    group_by: str = "",
    teachers: Iterable[str | Path] = (),
    older: Iterable[str] = (),
) -> Study:
    """Searches a space, or resumes the study of that name, and returns it.

    ``space``: a shipped space, or a file.
    ``data``, ``dataset``: a directory of images and its kind (default: class folders; without a
    directory, the digits). ``size`` resizes them to size x size pixels (0: automatic),
    ``skip_unreadable`` leaves out images that cannot be read, and ``group_by``, a regular
    expression over paths, keeps images with the same match in one split.
    ``trials``, ``budget``: the total trials of the study (default 40, without a budget), and the
    time limit of this call: "2h", "1h30m", "45min" or "90s".
    ``epochs``, ``recipe``, ``teachers``: how candidates are trained; a recipe is a name, or
    settings such as ``{"lr": 0.05}``; teachers are files of models whose outputs they learn.
    ``evaluator``: "module:function", called instead of training; ``plugins``: Python files that
    register layers, blocks or data sets.
    ``rungs``: epochs at which candidates may be stopped early: "3,7,20", "auto" or "off".
    ``objectives``, ``constraints``: ``{"accuracy": "max", "params": "min"}``; "params<=1e6".
    ``sampler``, ``seed``: a name in ``nas.samplers.SAMPLERS``; ``older`` studies of the record
    warm-start it.
    ``baselines``: networks of the zoo or classical methods to train as well.
    ``storage``, ``study``: the record's URL, ``sqlite:///FILE`` or ``postgresql+psycopg://...``.
    ``keep``: whose weights are kept, "front", "all" or "none"; ``row.model`` is their file.
    ``workers``: parallel trials; 0: in this process, None: as many as fit.
    ``progress``: shown on stderr.

    Raises NasError for invalid arguments, before anything is trained.
    """
    since = time.monotonic()
    _pixels(size)
    from nas.cli.searches import run
    from nas.workers import open_pool

    plan = options.plan(
        str(space),
        options.data_ref(dataset or None, str(data), size, skip_unreadable, group_by),
        epochs=epochs,
        study=study,
        trials=trials,
        budget=budget,
        seed=seed,
        sampler=sampler,
        objectives=[f"{name}:{direction}" for name, direction in (objectives or {}).items()],
        constraints=list(constraints),
        recipe=_settings(recipe),
        plugins=[Path(path) for path in plugins],
        evaluator=evaluator,
        rungs=rungs,
        artifacts=record.artifacts_dir("", storage),
        keep=keep,
        teachers=[str(file) for file in teachers],
        older=list(older),
    )
    run(
        plan,
        storage,
        lambda need, jobs: open_pool(workers, memory_need=need, training=not evaluator, jobs=jobs),
        tuple(baselines),
        progress,
        since,
    )
    return Study(plan.study, storage)


@_checked
def train(
    network: str | Architecture | TrialRow,
    *,
    data: str | Path = "",
    dataset: str = "",
    epochs: int = 20,
    size: int | None = None,
    seed: int | None = None,
    init: str | Path = "",
    freeze: int = 0,
    recipe: str | Mapping[str, Any] = "",
    plugins: Iterable[str | Path] = (),
    output: str | Path | None = None,
    report: Report = lambda _: None,
    progress: bool = True,
    skip_unreadable: bool = False,
    group_by: str = "",
    teachers: Iterable[str | Path] = (),
) -> Model:
    """Trains a pattern, a network of the zoo or a trial of a search (with its recipe), and returns
    the model; ``output`` is a .safetensors file to write it to.

    ``data``, ``dataset``, ``recipe``, ``plugins``, ``skip_unreadable``, ``group_by`` and
    ``teachers`` (which a trial's study does not provide) are as in ``search``. ``size`` defaults to
    the trial's, to what ``init`` requires, or to the images' own; ``seed`` to the trial's or 0.
    ``init`` gives the initial weights: a file, or torchvision's, as "resnet50:IMAGENET1K_V1"; for
    the first ``freeze`` epochs only the head is trained. ``report`` is called with each epoch, and
    ``progress`` prints a line per epoch on stderr. Raises NasError.
    """
    from nas.report.images import tell
    from nas.report.progress import epoch_printer
    from nas.training import single

    _pixels(size)
    if output is not None and not str(output).lower().endswith(".safetensors"):
        raise NasError(f"output={str(output)!r}: must end in .safetensors")
    settings = _settings(recipe)
    if isinstance(network, TrialRow):
        if not isinstance(recipe, str) or not recipe:
            settings = [*_settings(network.recipe), *settings]
        seed = network.seed if seed is None else seed
        if (digest := network.recipe.get("teacher")) and not teachers:
            raise RecipeError(
                f"trial {network.number} was taught by the models of digest {digest}: give their "
                f"files as teachers=, or use `nas train --trial {network.number}`"
            )
        options.load_plugins(map(Path, plugins))
        pattern, (_, height, width) = record.network_of(network), network.architecture.input
        size = height if size is None and height == width else size
        network = pattern
    job = options.single_job(
        str(network),
        options.data_ref(dataset or None, str(data), 0, skip_unreadable, group_by),
        epochs=epochs,
        size=size,
        seed=seed or 0,
        recipe=starting(settings, init, freeze),
        plugins=[Path(path) for path in plugins],
        teachers=[str(file) for file in teachers],
    )
    tell(job, progress)
    shown = epoch_printer(job.epochs) if progress else lambda _: None

    def told(point: Epoch) -> None:
        shown(point)
        report(point)

    return single.train(job, told, file=None if output is None else Path(output)).model


@_checked
def evaluate(
    model: Model | OnnxModel | Cascade | str | Path,
    *,
    data: str | Path = "",
    dataset: str = "",
    part: str = "",
) -> Evaluation:
    """Scores a model, or the one in a file, on a part of the data: "test", "validation", "train" or
    "all". The default is test, or all of a folder without splits that the model was not trained on.
    Raises NasError where its classes differ from the data's."""
    from nas.cli.models import predictor
    from nas.training import evaluation

    found = predictor(Path(model)) if isinstance(model, str | Path) else model
    folder = str(Path(data).resolve()) if data else ""
    name = str(model) if isinstance(model, str | Path) else "the model"
    ref = data_for(found.card, dataset, folder, name)
    return evaluation.evaluate(found, ref, part or evaluation.usual_part(found.card, ref))


def _pixels(size: int | None) -> None:
    if size is not None and not 0 <= size <= MOST_PIXELS:
        rule = f"must be from 0 (automatic) to {MOST_PIXELS} pixels"
        raise NasError(f"size is {brief(str(size), 40)}: {rule}")


def _settings(recipe: str | Mapping[str, Any]) -> list[str]:
    if isinstance(recipe, str):
        return [recipe] if recipe else []
    return [f"{name}={value}" for name, value in recipe.items()]
