"""What runs beside the data: a job is resolved to a function and called; nothing it does raises.

``run`` is the whole of it, in any process. ``serve`` is the process that a ``Seat`` keeps: it takes
jobs from a pipe, one after another, and answers with what happened.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import hashlib
import importlib
import math
import numbers
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nas.errors import NasError
from nas.failpoints import reach
from nas.job import Epoch, Failure, FailureKind, Job, Outcome, Report, Result

REASON_LENGTH = 600  # characters; a reason is a line in a table, not a log


def run(job: Job, report: Report) -> Outcome:
    """Evaluates the job here and now. Each epoch goes to ``report``; an error is a ``Failure``."""
    curve: list[Epoch] = []

    def tell(epoch: Epoch) -> None:
        if not isinstance(epoch, Epoch):
            raise TypeError(f"report takes a nas.job.Epoch, not {type(epoch).__name__}")
        curve.append(epoch)
        report(epoch)

    start = time.perf_counter()
    failure = functools.partial(_failure, start, curve)
    try:
        answer = resolve(job)(job, tell)
        if isinstance(answer, Result | Failure):
            return answer
        metrics = _metrics(answer)
    except (MemoryError, Exception, SystemExit) as error:
        # torch's OutOfMemoryError by name: an evaluator that never imports torch should not pay
        # its import for being told apart
        no_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        return failure("out_of_memory" if no_memory else "error", _reason(error))
    return Result(metrics=metrics, curve=tuple(curve), seconds=time.perf_counter() - start)


def resolve(job: Job) -> Callable[[Job, Report], Any]:
    """The function that evaluates the job, its plug-ins registered and its modules imported.

    Raises NasError for an evaluator that cannot be found, and what a plug-in or module raises.
    """
    for path in job.plugins:
        _register(path)
    if not job.evaluator:
        from nas.training.train import evaluate

        return functools.partial(evaluate, checkpoint=job.checkpoint or None)
    function = evaluator(job.evaluator)
    if job.source and (here := source(job.evaluator)) != job.source:
        raise NasError(
            f"evaluator {job.evaluator!r}: its module is another ({here}) than where the search "
            f"was started ({job.source})"
        )

    def call(job: Job, report: Report) -> Any:
        import nas

        architecture = nas.parse(job.pattern)
        return function(architecture, fidelity=job.epochs, seed=job.seed, report=report)

    return call


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
    function: Any = module
    for part in path.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise NasError(f"evaluator {name!r}: {module.__file__} has no function {path!r}")
    named: Callable[..., Any] = function
    return named


@functools.cache
def source(name: str) -> str:
    """A digest of the file of the module that ``module:function`` is in, as it was when this
    process imported it; empty where the module has none. Raises NasError as ``evaluator``."""
    evaluator(name)
    file = sys.modules[name.partition(":")[0]].__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""


@functools.cache
def _register(path: str) -> None:
    from nas import plugins

    plugins.load(path)


def _metrics(answer: Any) -> dict[str, float]:
    if not isinstance(answer, Mapping):
        raise TypeError(f"the evaluator returned {type(answer).__name__}, not a dict of metrics")
    for name, value in answer.items():
        if not isinstance(name, str):
            raise TypeError(f"metric {name!r}: a metric's name must be text")
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"metric {name} is {value!r}: must be a number")
        if not math.isfinite(value):
            raise ValueError(f"metric {name} is {value!r}: must be finite")
    return {name: float(value) for name, value in answer.items()}


def _failure(start: float, curve: list[Epoch], kind: FailureKind, reason: str) -> Failure:
    seconds = time.perf_counter() - start
    return Failure(kind=kind, reason=reason, seconds=seconds, curve=tuple(curve))


def _reason(error: BaseException) -> str:
    """The error on one line, with the place that raised it."""
    text = " ".join("".join(traceback.format_exception_only(error)).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return text[:REASON_LENGTH] + place


# -- the process of a seat ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The job's modules are imported: from here on the time is the candidate's."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome, and whether the process is as it was before: fit to take the next job."""

    outcome: Outcome
    clean: bool


Message = Started | Epoch | Ended


def serve(fd: int) -> None:
    """Takes jobs from the pipe ``fd`` until it closes. Sends Started, Epochs and Ended for each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to answer
    os.set_inheritable(fd, False)
    _adopt_orphans()
    pipe = Connection(fd)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            job: Job = pipe.recv()
            reach("job_taken")
            with contextlib.suppress(Exception, SystemExit):
                resolve(job)  # what fails here fails again in run, which gives the reason
            pipe.send(Started())
            outcome = run(job, pipe.send)
            reach("job_done")
            pipe.send(Ended(outcome, _clean()))


def _adopt_orphans() -> None:
    """Grandchildren whose parent is gone become this process's children, so they are found."""
    if sys.platform == "linux":
        PR_SET_CHILD_SUBREAPER = 36
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _clean() -> bool:
    """No child process and no GPU memory is left from the job."""
    for children in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            if children.read_text():
                return False
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    gc.collect()
    torch.cuda.empty_cache()
    return bool(torch.cuda.memory_reserved() == 0)
