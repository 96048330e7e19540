"""``nas latency``: what networks of a study cost on a device."""

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
    help="Latencies on devices: measured here, or elsewhere by a pack.",
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
        help="What this machine is called.  [default: its host name]",
        rich_help_panel=WHERE,
    ),
]
Runtime = Annotated[
    str,
    typer.Option(
        "--runtime",
        metavar="eager|compile|cudagraph|onnx",
        help="What runs them.",
        rich_help_panel=WHERE,
    ),
]
Threads = Annotated[
    int,
    typer.Option("--threads", min=1, help="Of the runtime, on the CPU.", rich_help_panel=WHERE),
]
Batch = Annotated[
    int,
    typer.Option("--batch", min=1, max=65_536, help="Images at once.", rich_help_panel=WHERE),
]
Again = Annotated[
    bool, typer.Option("--again", help="Measure what is known, too.", rich_help_panel=HOW)
]


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
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A new directory.")],
    study: StudyName = None,
    storage: Storage = STORAGE,
    trials: Trials = "front",
    plugin: Plugin = None,
) -> None:
    """ONNX files and a script that needs onnxruntime and numpy alone, for another machine."""
    from nas.cli.latencies import pack_and_show

    pack_and_show(storage, study, trials, output, plugin or [])


@app.command()
def read(
    answers: Annotated[Path, typer.Argument(metavar="ANSWERS.json", help="What the script wrote.")],
    study: Annotated[
        str | None,
        typer.Option(
            "--study", help="Whose pack it must be of.  [default: any]", rich_help_panel=RECORD
        ),
    ] = None,
    storage: Storage = STORAGE,
) -> None:
    """Take the answers of a pack into the record."""
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
            help="How many to measure whole; three times as many are taken apart.",
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
    """Measure pieces of a space's networks here: `latency_ms@NAME` is predicted in a search."""
    from nas.cli.latencies import profile_and_show

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
