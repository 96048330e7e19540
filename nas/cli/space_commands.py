"""``nas space``: search spaces."""

from __future__ import annotations

from typing import Annotated

import typer

from nas.cli.arguments import Data, Dataset, Grouped, Plugin, Seed, Size, SpaceName

app = typer.Typer(help="Search spaces: ls, show, check, sample.", no_args_is_help=True)


@app.command(cls=Grouped)
def ls() -> None:
    """List the shipped spaces and the zoo of closed patterns."""
    from nas.report import screens
    from nas.report import spaces as pages

    screens.out(pages.space_list())


@app.command(cls=Grouped)
def show(
    space: SpaceName,
    dataset: Dataset = None,
    data: Data = "",
    size: Size = 0,
    plugin: Plugin = None,
) -> None:
    """Show a space: its pattern, and the domains of its open symbols."""
    from nas.cli.options import data_ref, load_plugins
    from nas.cli.patterns import space_on
    from nas.report import screens
    from nas.report import spaces as pages

    load_plugins(plugin or [])
    screens.out(pages.space_page(space_on(space, data_ref(dataset, data, size))))


@app.command(cls=Grouped)
def check(
    space: SpaceName,
    dataset: Dataset = None,
    data: Data = "",
    size: Size = 0,
    draws: Annotated[
        int, typer.Option("--draws", min=10, max=1_000_000, help="Random draws to examine.")
    ] = 1000,
    seed: Seed = 0,
    plugin: Plugin = None,
) -> None:
    """Preflight: how many architectures, how large, how many fit, which choices never matter."""
    from nas.cli.options import data_ref, load_plugins
    from nas.cli.patterns import space_on
    from nas.report import screens
    from nas.report import spaces as pages
    from nas.spaces.preflight import check

    load_plugins(plugin or [])
    loaded = space_on(space, data_ref(dataset, data, size))
    screens.out(pages.preflight_page(loaded, check(loaded, draws=draws, seed=seed)))


@app.command(cls=Grouped)
def sample(
    space: SpaceName,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=1_000_000, help="How many.")
    ] = 5,
    seed: Seed = 0,
    dataset: Dataset = None,
    data: Data = "",
    size: Size = 0,
    plugin: Plugin = None,
) -> None:
    """Draw random architectures: fingerprint, params, MACs and pattern, tab-separated. Those that
    break the space's constraints, which a search leaves out, are counted."""
    import sys

    from nas.cli.options import data_ref, load_plugins
    from nas.cli.patterns import space_on

    load_plugins(plugin or [])
    loaded = space_on(space, data_ref(dataset, data, size))
    over = 0
    for i in range(count):
        drawn = loaded.sample(seed + i)
        over += bool(loaded.excess(drawn))
        print(drawn.fingerprint, drawn.params, drawn.macs, drawn, sep="\t")
    if over:
        print(f"nas: {over:,} of {count:,} break the space's constraints", file=sys.stderr)
