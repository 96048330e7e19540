"""``nas latency``: the latencies of a study's networks on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.arguments import (
    HOW,
    RECORD,
    STORAGE,
    WHAT,
    WHERE,
    Data,
    Dataset,
    Grouped,
    Plugin,
    Seed,
    Size,
    Space,
    Storage,
    StudyName,
)

app = typer.Typer(
    help="Latencies on devices, measured here or elsewhere by a pack.",
    invoke_without_command=True,
)

Trials = Annotated[
    str,
    typer.Option(
        "--trials", metavar="front|all|9,12", help="Whose networks.", rich_help_panel=WHAT
    ),
]
Name = Annotated[
    str,
    typer.Option(
        "--name",
        help="Name for this machine.  [default: its host name]",
        rich_help_panel=WHERE,
    ),
]
Runtime = Annotated[
    str,
    typer.Option(
        "--runtime",
        metavar="eager|compile|cudagraph|onnx",
        help="Runtime that runs the networks.",
        rich_help_panel=WHERE,
    ),
]
Threads = Annotated[
    int,
    typer.Option("--threads", min=1, help="CPU threads of the runtime.", rich_help_panel=WHERE),
]
Batch = Annotated[
    int,
    typer.Option("--batch", min=1, max=65_536, help="Images per batch.", rich_help_panel=WHERE),
]
Again = Annotated[
    bool, typer.Option("--again", help="Measure again what is already known.", rich_help_panel=HOW)
]


RESUMES = "the same command resumes"
AGAIN = "what was measured is kept, and without --again the same command resumes"


@app.callback()
def measure(
    context: typer.Context,
    study: StudyName = None,
    storage: Storage = STORAGE,
    trials: Trials = "front",
    runtime: Runtime = "eager",
    threads: Threads = 1,
    batch: Batch = 1,
    name: Name = "",
    again: Again = False,
    plugin: Plugin = None,
) -> None:
    """Measure a study's networks here, for `--objective latency_ms@NAME:min`."""
    if context.invoked_subcommand:
        return
    from nas.cli.latencies import measure_and_show
    from nas.cli.output import resumable

    with resumable(AGAIN if again else RESUMES):
        measure_and_show(
            storage,
            study,
            trials,
            name=name,
            runtime=runtime,
            threads=threads,
            batch=batch,
            again=again,
            plugins=plugin or [],
        )


@app.command()
def pack(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="New directory.")],
    study: StudyName = None,
    storage: Storage = STORAGE,
    trials: Trials = "front",
    plugin: Plugin = None,
) -> None:
    """Write ONNX files and a script that needs only onnxruntime and numpy, for another machine."""
    from nas.cli.latencies import pack_and_show

    pack_and_show(storage, study, trials, output, plugin or [])


@app.command()
def read(
    answers: Annotated[
        Path, typer.Argument(metavar="ANSWERS.json", help="File that the script wrote.")
    ],
    study: Annotated[
        str | None,
        typer.Option(
            "--study",
            help="Study that the pack must be from.  [default: any]",
            rich_help_panel=RECORD,
        ),
    ] = None,
    storage: Storage = STORAGE,
) -> None:
    """Import the measurements of a pack into the record."""
    from nas.cli.latencies import read_and_show

    read_and_show(storage, study, answers)


@app.command(cls=Grouped)
def profile(
    space: Space,
    storage: Storage = STORAGE,
    runtime: Runtime = "eager",
    threads: Threads = 1,
    batch: Batch = 1,
    name: Name = "",
    networks: Annotated[
        int,
        typer.Option(
            "--networks",
            min=1,
            max=10_000,
            help="Networks to measure whole, from which, if 8 or more, a correction is learned; "
            "three times as many are taken apart.",
            rich_help_panel=HOW,
        ),
    ] = 80,
    again: Again = False,
    dataset: Dataset = None,
    data: Data = "",
    size: Size = 0,
    seed: Seed = 0,
    plugin: Plugin = None,
) -> None:
    """Measure pieces of a space's networks here, so that a search predicts `latency_ms@NAME`."""
    from nas.cli.latencies import profile_and_show
    from nas.cli.output import resumable

    with resumable(AGAIN if again else RESUMES):
        profile_and_show(
            storage,
            space,
            name=name,
            runtime=runtime,
            threads=threads,
            batch=batch,
            networks=networks,
            dataset=dataset,
            data=data,
            size=size,
            seed=seed,
            again=again,
            plugins=plugin or [],
        )
