"""``nas data``: inspects, packs and caches images before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.arguments import GroupBy, Grouped, Size, SkipUnreadable, a_file

app = typer.Typer(help="The images.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The images."""


@app.command(cls=Grouped)
def check(
    data: Annotated[
        str, typer.Argument(metavar="DIR", help="Folder of images, or a .csv table of them.")
    ],
    size: Size = 0,
    skip_unreadable: SkipUnreadable = False,
    group_by: GroupBy = "",
    format: Annotated[
        str, typer.Option("--format", "-f", metavar="text|json", help="Output format.")
    ] = "text",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="SHEET.png",
            parser=a_file,
            help="Draw a few images of each class.",
        ),
    ] = None,
) -> None:
    """Inspect all images: classes, splits, sizes, what is skipped, what cannot be learned."""
    from nas.cli.options import data_ref
    from nas.cli.output import form_of, writable
    from nas.report import images

    form_of("", output, {"png": ".png"}, "png")
    if output:
        writable(output)
    images.check(data_ref("imagefolder", data, size, skip_unreadable, group_by), format, output)


@app.command()
def pack(
    data: Annotated[
        str, typer.Argument(metavar="DIR", help="Folder of images, or a .csv table of them.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="New folder for the tar files.")
    ],
    megabytes: Annotated[int, typer.Option(min=1, help="Approximate size of a tar file.")] = 1000,
    group_by: GroupBy = "",
) -> None:
    """Pack a folder of images into a few WebDataset tar files with an index, for --data."""
    from nas.cli.options import data_ref
    from nas.cli.output import directory
    from nas.data.pack import pack as write
    from nas.text import counted, size_text

    images = data_ref("imagefolder", data, 0, group_by=group_by)
    done = write(images, directory(output, "tars"), megabytes * 1_000_000)
    packed = f"{counted(done.images, 'image')} in {counted(done.files, 'tar')}"
    print(f"{packed}, {size_text(done.bytes)}: {output}")


@app.command()
def cache(
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="NAME", help="Remove this one, or all unused ones: all."),
    ] = None,
    older: Annotated[
        float | None,
        typer.Option("--older", metavar="DAYS", help="Remove those unused for this many days."),
    ] = None,
) -> None:
    """List the cached decoded images, or remove some; those in use stay."""
    from nas.report import images

    images.kept(remove or [], older)
