"""The command line: each command parses its options, calls one function and prints.

Data goes to stdout, logs and progress to stderr. Exit status: 0 done, 2 wrong input, 3 no feasible
candidate, 130 interrupted (Ctrl-C or SIGTERM) and resumable, 1 anything else. Torch, ray and optuna
are imported by the commands that need them, so that ``nas --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from nas.cli import (
    data_commands,
    latency_commands,
    model_commands,
    record_commands,
    search_commands,
    small_commands,
    space_commands,
    submit_commands,
    trial_commands,
)
from nas.cli.arguments import (
    STORAGE,
    Data,
    Dataset,
    Grouped,
    Plugin,
    Size,
    Storage,
    StudyName,
    Trial,
    a_file,
    output_to,
)
from nas.cli.usage import refuse_empty, told
from nas.errors import MachineError, NasError, brief, status
from nas.interrupts import ended_alike
from nas.text import open_terminal


class Root(TyperGroup):
    """Reports an interrupt, unless the command does, and what was typed wrongly."""

    def make_context(self, *given: Any, **settings: Any) -> Any:
        with told():
            return super().make_context(*given, **settings)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        refuse_empty(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            with told():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("interrupted", 130)


app = typer.Typer(
    name="nas",
    cls=Root,
    help="Neural architecture search over block patterns: which network for your images?",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich help takes longer to import than all the rest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_commands.app, name="data")
app.add_typer(latency_commands.app, name="latency")
app.add_typer(space_commands.app, name="space")
app.add_typer(trial_commands.app, name="trials")
app.add_typer(record_commands.db, name="db")
app.add_typer(submit_commands.app, name="submit")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("nas-patterns"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Neural architecture search over block patterns: which network for your images?"""


def main() -> None:
    """The entry point: reports bad input, or a full disk, as one sentence and an exit status; exits
    quietly when the reader of a pipe closes it. SIGTERM ends a command as Ctrl-C does."""
    with open_terminal(), ended_alike() as heard:
        try:
            try:
                with _as_interrupt(heard):
                    _refuse_removed_directory()
                    app(prog_name="nas")
            finally:
                sys.stdout.flush()
        except NasError as error:
            fail(str(error), status(error))
        except KeyboardInterrupt:
            fail("interrupted", 130)
        except OSError as error:
            try:
                sys.stdout.flush()
            except OSError:  # its buffer is discarded
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):
                sys.exit(1)
            where = error.filename or "standard output"
            fail(f"{where}: {error.strerror or error}", 1)


def _refuse_removed_directory() -> None:
    """Torch's libraries end a process in one with a sentence about themselves."""
    try:
        os.getcwd()
    except FileNotFoundError:
        place = os.environ.get("PWD", "")
        raise MachineError(
            f"the working directory {place} is no longer there: change to another"
        ) from None


@contextlib.contextmanager
def _as_interrupt(heard: Sequence[int]) -> Iterator[None]:
    """Replaces any error after a signal was ``heard`` by KeyboardInterrupt: a library may have
    turned the interrupt into another error."""
    try:
        yield
    except Exception:
        if heard:
            raise KeyboardInterrupt from None
        raise


def fail(message: str, status: int) -> NoReturn:
    with contextlib.suppress(OSError):  # stderr is closed
        print(f"nas: {brief(message, 2000)}", file=sys.stderr)
    sys.exit(status)


def show(
    context: typer.Context,
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="PATTERN_OR_NAME", help="Pattern, space or zoo network."),
    ] = None,
    trial: Trial = None,
    study: StudyName = None,
    storage: Storage = STORAGE,
    dataset: Dataset = None,
    data: Data = "",
    size: Size = 0,
    output: Annotated[
        Path | None,
        output_to("FILE.svg|FILE.png", "Write a picture instead.", a_file),
    ] = None,
    plugin: Plugin = None,
) -> None:
    """Draw an architecture, stage by stage; or a space, with the domains of its open symbols.

    A pattern may be pasted from a table as it is, without INPUT and the last FC.
    """
    from nas.cli.options import data_ref, load_plugins
    from nas.cli.patterns import closed_or_space, drawn
    from nas.cli.record import trial_network
    from nas.cli.unused import FOR_TRIALS, refuse_typed
    from nas.report import screens
    from nas.report import spaces as pages

    load_plugins(plugin or [])
    if (pattern is None) == (trial is None):
        raise NasError("give either a pattern or a name, or --trial N")
    if trial is not None:
        pattern = trial_network(storage, study, trial)
    else:
        refuse_typed(context, FOR_TRIALS, "--study", "--storage")
    assert pattern is not None
    ref = data_ref(dataset, data, size) if dataset or data else None
    architecture, space = closed_or_space(pattern, ref, size)
    if output is not None:
        drawn(architecture, space, output)
    elif architecture is not None:
        screens.out(screens.drawing(architecture, space))
    elif space is not None:
        screens.out(pages.space_page(space))


def doctor(storage: Storage = STORAGE) -> None:
    """Check versions, devices, database and a worker, and say how to fix what does not work."""
    from nas.report import screens
    from nas.report.doctor import examine

    findings = examine(storage)
    screens.out(screens.findings_table(findings))
    if any(not finding.works for finding in findings):
        raise typer.Exit(1)


for command in (  # in the order in which ``nas --help`` lists them
    search_commands.search,
    search_commands.audit,
    model_commands.train,
    model_commands.predict,
    model_commands.evaluate,
    model_commands.export,
    small_commands.distill,
    small_commands.cascade,
    small_commands.prune,
    show,
    record_commands.status,
    record_commands.pareto,
    record_commands.dashboard,
    record_commands.report,
    doctor,
):
    app.command(cls=Grouped)(command)
