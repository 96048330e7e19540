"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Storage = Annotated[
    str,
    typer.Option(
        envvar=["NAS_STORAGE", "OPTUNA_STORAGE"],
        metavar="URL",
        help="The record: sqlite:///FILE or postgresql+psycopg://...",
        show_envvar=True,
    ),
]
STORAGE = "sqlite:///nas.db"
Dataset = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it at run time
    typer.Option(
        "--dataset",
        help="The images; `nas doctor` lists the names.  [default: imagefolder with --data, "
        "otherwise digits]",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The directory they are in, a .csv with file and label, or tar files of WebDataset.",
    ),
]
Size = Annotated[
    int,
    typer.Option("--size", min=0, max=16_384, help="Resize images to SIZE x SIZE pixels (0: no)."),
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
]
GroupBy = Annotated[
    str,
    typer.Option(
        "--group-by",
        metavar="REGEX",
        help="Images alike in this part of their path are never split (of a .csv: its column).",
    ),
]
StudyName = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it at run time
    typer.Option("--study", help="The study; where there is one only, that one."),
]
Plugin = Annotated[
    Optional[list[Path]],  # noqa: UP045
    typer.Option(
        "--plugin", metavar="FILE.py", help="Registers layers, blocks and data sets; repeatable."
    ),
]


Seed = Annotated[int, typer.Option("--seed", help="The same seed draws the same.")]
SpaceName = Annotated[str, typer.Argument(metavar="SPACE", help="A shipped space or a file.")]
