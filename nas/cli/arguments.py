"""Options that several commands take, and the groups in which ``--help`` shows them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from nas.cli.usage import name_of
from nas.errors import NasError

WHAT = "What to search"
ON = "Images"
HOW = "Training"
WHERE = "Where it runs"
RECORD = "The record"
OUTPUT = "Output"


# Possible endings of a model's file.
MODELS = (".safetensors", ".onnx", ".pt2", ".pt", ".pth", ".json")


def a_file(path: str | Path) -> Path:
    """Parses an --output that is a file. Raises NasError for a name that ends like a directory's:
    a Path would drop the final slash and take it for a file."""
    if str(path).endswith(os.sep):
        raise NasError(f"--output {path}: ends like a directory, but must name a file")
    if not Path(path).name:  # "" and "."
        raise NasError(f"--output {str(path)!r}: is a directory, but must name a file")
    return Path(path)


def a_file_or_directory(path: str | Path) -> Path:
    """Parses an --output that is a file if its name has an ending, else a directory."""
    return a_file(path) if Path(path).suffix else Path(path)


def formats(names: str, help: str = "Output format.") -> Any:
    """The --format of a command that writes any of ``names``, such as "table|json"."""
    return typer.Option("--format", "-f", metavar=names, help=help, rich_help_panel=OUTPUT)


def output_to(metavar: str, help: str, parser: Callable[[str], Path] | None = None) -> Any:
    """The --output of a command."""
    return typer.Option(
        "--output", "-o", metavar=metavar, help=help, parser=parser, rich_help_panel=OUTPUT
    )


def as_setting(option: str, arguments: Sequence[str]) -> str:
    """An option as a setting of the recipe, with its value among ``arguments``, such as ``--recipe
    lr=0.1`` for ``--lr``; empty where the recipe has none of its name."""
    from nas.job import Recipe

    name = option.lstrip("-").replace("-", "_")
    if name not in Recipe.__dataclass_fields__:
        return ""
    value = "VALUE"
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == option and following and not following.startswith("-"):
            value = following
        elif argument.startswith(f"{option}="):
            value = argument.partition("=")[2]
    return f"--recipe {name}={value}"


class Grouped(TyperCommand):
    """Its help lists the options by group, in the order of each group's first option, as plain
    text: typer groups them only in rich's boxes, which take 0.1 s to load."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises NasError for an unknown option that is a setting of the recipe, with how to give
        it."""
        given = list(args)  # the parser consumes its own
        try:
            *_, found = self.make_parser(ctx).parse_args(list(args))
            for param, times in Counter(found).items():
                valued = param.param_type_name == "option" and not getattr(param, "is_flag", False)
                if times > 1 and valued and not getattr(param, "multiple", False):
                    raise NasError(f"{name_of(param)}: is given twice, and takes one value")
            return super().parse_args(ctx, args)
        except Exception as error:  # typer's NoSuchOption is in no public module
            option = getattr(error, "option_name", "")
            setting = as_setting(option, given)
            if setting and any("--recipe" in param.opts for param in self.get_params(ctx)):
                raise NasError(
                    f"{option}: no such option; as a setting of the recipe, {setting}"
                ) from None
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            help_record = param.get_help_record(ctx)
            if help_record is not None:
                argument = param.param_type_name == "argument"
                name = "Arguments" if argument else getattr(param, "rich_help_panel", None)
                groups.setdefault(name or "Options", []).append(help_record)
        for name in sorted(groups, key=lambda name: name == "Options"):  # those without one last
            with formatter.section(name):
                formatter.write_dl(groups[name])


Storage = Annotated[
    str,
    typer.Option(
        envvar=["NAS_STORAGE", "OPTUNA_STORAGE"],
        metavar="URL",
        help="Database: sqlite:///FILE or postgresql+psycopg://...",
        show_envvar=True,
        rich_help_panel=RECORD,
    ),
]
STORAGE = "sqlite:///nas.db"
StudyName = Annotated[
    str | None,
    typer.Option(
        "--study", help="Study name; optional if there is only one.", rich_help_panel=RECORD
    ),
]
Trial = Annotated[
    int | None,
    typer.Option(
        "--trial",
        metavar="N",
        min=0,
        max=10_000_000,
        help="Number of a trial in the record.",
        rich_help_panel=RECORD,
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Data set; `nas doctor` lists the names.  [default: imagefolder with --data, "
        "otherwise digits]",
        rich_help_panel=ON,
    ),
]
KindOfImages = Annotated[
    str,
    typer.Option(
        "--dataset",
        help="Data set; a folder needs --data.  [default: as in training]",
        rich_help_panel=ON,
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Image directory, .csv with columns file and label, or WebDataset tar files.",
        rich_help_panel=ON,
    ),
]
MOST_PIXELS = 16_384  # of a side
Size = Annotated[
    int,
    typer.Option(
        "--size",
        min=0,
        max=MOST_PIXELS,
        help="Resize images to SIZE x SIZE pixels (0: automatic).",
        rich_help_panel=ON,
    ),
]
Download = Annotated[
    bool, typer.Option("--download", help="Download the data set first.", rich_help_panel=ON)
]
SkipUnreadable = Annotated[
    bool,
    typer.Option(
        "--skip-unreadable",
        help="Skip images that cannot be read, and class folders without images.",
        rich_help_panel=ON,
    ),
]
GroupBy = Annotated[
    str,
    typer.Option(
        "--group-by",
        metavar="REGEX",
        help="Keep images with the same match in their path in one split (.csv: a column).",
        rich_help_panel=ON,
    ),
]
Recipe = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        metavar="lr=0.05",
        help="Training setting, or first a recipe's name; repeatable.",
        rich_help_panel=HOW,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs",
        help="Training epochs.  [default: as in the study, or 20]",
        rich_help_panel=HOW,
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Random seed.")]
Space = Annotated[
    str,
    typer.Option("--space", help="Shipped space or space file.", rich_help_panel=WHAT),
]
SpaceName = Annotated[str, typer.Argument(metavar="SPACE", help="Shipped space or space file.")]
Plugin = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", metavar="FILE.py", help="Registers layers, blocks or data sets; repeatable."
    ),
]
Artifacts = Annotated[
    str,
    typer.Option(
        "--artifacts",
        metavar="DIR|URL",
        help="Where checkpoints and models go.  [default: artifacts, next to the database]",
        rich_help_panel=RECORD,
    ),
]
