"""Runs jobs on a worker: resolves a job to a function and calls it; its errors become Failures.

``run`` does this in any process. ``serve`` is the main loop of a ``Seat``'s child: it takes jobs
from a pipe, one after another, and sends back what happened.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import inspect
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from nas import sources
from nas.errors import NasError, brief
from nas.failpoints import reach
from nas.job import Epoch, Failure, Job, Outcome, Report
from nas.plugins import module_name
from nas.processes import children
from nas.workers import answers
from nas.workers.keeper import adopt_orphans


def run(
    job: Job, report: Report, passing: tuple[type[BaseException], ...] = (KeyboardInterrupt,)
) -> Outcome:
    """Evaluates the job in this process. Each epoch goes to ``report``; an exception becomes a
    ``Failure``, except for those in ``passing``, which propagate."""
    curve: list[Epoch] = []
    over, here, start = False, os.getpid(), time.perf_counter()

    def tell(*given: Any, **named: Any) -> None:
        if len(given) + len(named) != 1 or named.keys() - {"epoch"}:
            kinds = [type(each).__name__ for each in given] + [f"{name}=" for name in named]
            wrong = ", ".join(kinds) or "nothing"
            raise TypeError(f"report takes one nas.job.Epoch (docs/evaluators.md), not {wrong}")
        if over or os.getpid() != here:  # a thread of it, or a fork
            raise RuntimeError("report was called from outside of the job")
        if len(curve) >= answers.POINTS:
            raise ValueError(f"report was called more than {answers.POINTS:,} times")
        point = answers.epoch(*given, *named.values())
        curve.append(point)
        report(point)

    try:
        answer = resolve(job)(job, tell)
        seconds = time.perf_counter() - start
        return answers.outcome(answer, curve, seconds, job.model, bounded=bool(job.most_ms))
    except passing:
        raise
    except BaseException as error:
        # torch's OutOfMemoryError by name: an evaluator without torch should not pay for its import
        # to have it recognised
        no_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        return Failure(
            kind="out_of_memory" if no_memory else "error",
            reason=_reason(error),
            seconds=time.perf_counter() - start,
            curve=tuple(curve),
        )
    finally:
        over = True
        if os.getpid() != here:  # a fork of the candidate that returned here: it has no driver
            os._exit(1)


def resolve(job: Job) -> Callable[[Job, Report], Any]:
    """The function that evaluates the job, its plug-ins registered and its modules imported.

    Raises NasError for an evaluator that cannot be found, and what a plug-in or module raises.
    """
    for path in job.plugins:
        _register(path)
    if job.source and (here := source(job.evaluator, job.plugins)) != job.source:
        raise NasError(
            f"evaluator or plug-ins here ({here}) are not those where the search was started "
            f"({job.source})"
        )
    if not job.evaluator:
        from nas.training.candidate import evaluate

        return functools.partial(evaluate, checkpoint=job.checkpoint or None)
    function, taught = evaluator(job.evaluator), takes_recipe(job.evaluator)

    def call(job: Job, report: Report) -> Any:
        from nas.language.architecture import parse

        architecture = parse(job.pattern)
        more = {"recipe": job.recipe} if taught else {}
        return function(architecture, fidelity=job.epochs, seed=job.seed, report=report, **more)

    return call


def refuse_removed(directory: str, job: Job) -> None:
    """Raises NasError for a job of an evaluator whose working ``directory`` was removed: each would
    fail, and the networks would be blamed."""
    if job.evaluator and not os.path.isdir(directory):
        raise NasError(f"{directory}, in which {job.evaluator} ran, was removed")


def evaluator(name: str) -> Callable[..., Any]:
    """The function that ``module:function`` names; the working directory is searched as well.

    Raises NasError, with the part that is wrong.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise NasError(f"evaluator {name!r}: must be MODULE:FUNCTION, such as tables:look_up")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise NasError(f"evaluator {name!r}: {error}, in {os.getcwd()} or installed") from error
    except SyntaxError as error:
        raise NasError(
            f"evaluator {name!r}: {error.filename}, line {error.lineno}: {error.msg}"
        ) from error
    function: Any = module
    for part in path.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise NasError(f"evaluator {name!r}: {module.__file__} has no function {path!r}")
    _refuse_other_arguments(name, function)
    named: Callable[..., Any] = function
    return named


def takes_recipe(name: str) -> bool:
    """Whether an evaluator takes the recipe: whether it has a parameter of that name. Raises
    NasError as ``evaluator``."""
    try:
        return "recipe" in inspect.signature(evaluator(name)).parameters
    except (TypeError, ValueError):  # compiled functions may have no signature
        return False


def _refuse_other_arguments(name: str, function: Callable[..., Any]) -> None:
    """Raises NasError for a function that cannot be called as an evaluator: before the first trial,
    as each would fail."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # compiled functions may have no signature
        return
    try:
        more = {"recipe": None} if "recipe" in signature.parameters else {}
        signature.bind(None, fidelity=1, seed=0, report=None, **more)
    except TypeError as error:
        raise NasError(
            f"evaluator {name!r}: its arguments are {signature} ({error}); it is called as "
            "f(architecture, *, fidelity, seed, report) and returns the metrics by name"
        ) from None


def source(name: str, plugins: Sequence[str] = ()) -> str:
    """A digest of the source of an evaluator ``module:function`` (empty: none) and of plug-in
    files, which are loaded. Raises NasError as ``evaluator``."""
    modules = [module_name(path) for path in plugins]
    if name:
        function = inspect.unwrap(evaluator(name))
        modules += [name.partition(":")[0], getattr(function, "__module__", "")]
    return sources.digest(*modules)


@functools.cache
def _register(path: str) -> None:
    from nas import plugins

    plugins.load(path)


def _reason(error: BaseException) -> str:
    """The error on one line, with the place that raised it."""
    frames = list(traceback.extract_tb(error.__traceback__))
    # The innermost frames may be ours: the place to name is the evaluator's.
    frames = [f for f in frames if f.filename not in (__file__, answers.__file__)]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    text = "".join(traceback.format_exception_only(error))
    return brief(text, answers.REASON_LENGTH) + place


# GPU memory, in bytes, that may remain between jobs: cuBLAS keeps a workspace of 8 to 32 MiB for
# each thread and stream that used it, while the process lives. A new process costs seconds.
WORKSPACES = 256 * 2**20


# -- the process of a seat ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The job was received: from here on the process ends through the candidate, or a kill."""


@dataclass(frozen=True, slots=True)
class Imported:
    """The job's modules are imported. Preparing its images, once per machine, has no time limit, as
    an interrupted preparation would start over."""


@dataclass(frozen=True, slots=True)
class Started:
    """All is ready: the candidate's time limit begins."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome, and whether the process is clean: fit for the next job."""

    outcome: Outcome
    clean: bool


Message = Ready | Imported | Started | Epoch | Ended


def serve(fd: int, training: bool, directory: str) -> None:
    """Takes jobs from the pipe ``fd`` until it closes. Sends Ready, Imported, Started, Epochs and
    Ended for each. What a ``training`` needs is imported while the first job is awaited. Each job
    begins in ``directory``, or in / where that was removed: in a removed one torch does not find
    its own libraries."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to answer
    os.set_inheritable(fd, False)
    adopt_orphans(True)
    pipe, turn = Connection(fd), threading.Lock()

    def send(message: Message) -> None:
        with turn:  # a candidate's threads may report
            pipe.send(message)

    if training:
        with contextlib.suppress(BaseException):  # what fails here fails again in run
            importlib.import_module("nas.training.candidate")
    try:
        while True:
            job: Job = pipe.recv()
            reach("job_taken")
            os.chdir(directory if os.path.isdir(directory) else "/")
            send(Ready())
            with contextlib.suppress(BaseException):  # what fails here fails again in run
                resolve(job)
                if not job.evaluator:
                    from nas.training.train import prepare

                    send(Imported())
                    prepare(job)
            send(Started())
            outcome = run(job, send, passing=())
            reach("job_done")
            send(Ended(outcome, _clean()))
    except (EOFError, ConnectionError):  # the seat is gone
        pass
    except Exception as error:  # a candidate closed the pipe, or emptied sys.modules
        sys.exit(f"nas: a worker can no longer answer: {type(error).__name__}: {brief(str(error))}")


def _clean() -> bool:
    """No child process is left from the job, and no GPU memory beyond what libraries keep."""
    if any(children(os.getpid())):
        return False
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    gc.collect()
    try:
        torch.cuda.empty_cache()
        # Reserved, not allocated: a failed capture leaves its pool without an owner.
        held = sum(map(torch.cuda.memory_reserved, range(torch.cuda.device_count())))
    except RuntimeError:  # a kernel of the job failed, and with it the process's whole context
        return False
    return bool(held <= WORKSPACES)
