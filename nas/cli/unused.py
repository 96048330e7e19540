"""Refuses options that other options make ineffective, as the user relies on them.

Those of a search that ``nas.search`` also has are refused in ``nas.cli.options``.
"""

from __future__ import annotations

from collections.abc import Iterable

import typer

from nas.cli.usage import name_of
from nas.errors import NasError

FOR_TRIALS = "is for trials of a record, and none is given"


def refuse_typed(context: typer.Context, why: str, *options: str) -> None:
    """Raises NasError for the first of ``options`` that was given on the command line: a default,
    or a variable of the environment, is for all commands."""
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if source and source.name == "COMMANDLINE" and {*options}.intersection(param.opts):
            raise NasError(f"{name_of(param)}: {why}")


def refuse_unused(
    *,
    evaluator: str,
    artifacts: str,
    keep: str,
    baselines: Iterable[str],
    workers: int | None,
    address: str | None,
    gpus_per_trial: float | None,
    cpus_per_trial: float,
    memory_per_trial: float,
    time_limit: float,
) -> None:
    """Raises NasError, with the option, its value and the reason why it has no effect."""
    if workers == 0:
        here = "--workers 0 runs the trials in this process"
        _refuse("--address", address, here)
        _refuse("--gpus-per-trial", gpus_per_trial, here)
        _refuse("--memory-per-trial", memory_per_trial or None, here)
        if evaluator:
            why = f"{here}, where no evaluator can be stopped unless it reports; --workers 1 can"
            _refuse("--time-limit", time_limit or None, why)
    if not address:
        why = "without --address, the cores of this machine are shared out equally"
        _refuse("--cpus-per-trial", None if cpus_per_trial == 1 else cpus_per_trial, why)
    if evaluator:
        why = "an evaluator keeps its own checkpoints and weights"
        _refuse("--artifacts", artifacts or None, why)
        _refuse("--keep", "all" if keep == "all" else None, why)
        why = "it is fitted on the images of --data, which an evaluator does not use"
        for name in baselines:
            from nas.training.classical import METHODS  # scikit-learn

            _refuse("--baseline", name if name in METHODS else None, why)


def _refuse(option: str, value: object, why: str) -> None:
    if value is not None:
        shown = f"{value:g}" if isinstance(value, float) else value
        raise NasError(f"{option} {shown}: {why}")
