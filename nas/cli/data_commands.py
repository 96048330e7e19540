"""``nas data``: what a folder of images is, before anything trains on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.arguments import GroupBy, Grouped, Size, SkipUnreadable

app = typer.Typer(help="The images.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The images."""


@app.command(cls=Grouped)
def check(
    data: Annotated[
        str, typer.Argument(metavar="DIR", help="A folder of images, or a table (.csv) of them.")
    ],
    size: Size = 0,
    skip_unreadable: SkipUnreadable = False,
    group_by: GroupBy = "",
    format: Annotated[
        str, typer.Option("--format", "-f", metavar="text|json", help="How it is printed.")
    ] = "text",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="SHEET.png", help="A few images a class, drawn."),
    ] = None,
) -> None:
    """Look at all images: classes, parts, sizes, what is skipped, what cannot be learned."""
    from nas.cli.options import data_ref
    from nas.report import images

    images.check(data_ref("imagefolder", data, size, skip_unreadable, group_by), format, output)
