"""The output of ``nas space``: spaces and their preflights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from nas.language.domains import Choice, Domain, Floats, Ints, Progression
from nas.language.expression import show as shape_text
from nas.metrics import metric, percent
from nas.report.screens import heading, table
from nas.spaces.space import Space, load_space, shipped
from nas.text import counted

if TYPE_CHECKING:
    from nas.spaces.preflight import Preflight, Spread


def space_page(space: Space) -> RenderableType:
    """A space: its pattern, and the domain of each open symbol."""
    opened = table("symbol", "values", "a value for each")
    for key, domain in space.domains.items():
        opened.add_row(Text(key), Text(domain_text(domain)), each_text(domain))
    for key, domain in space.recipe.items():
        opened.add_row(Text(f"recipe.{key}"), Text(domain_text(domain)), "")
    lines = [heading(space), Text(""), Text(space.pattern)]
    goals = [f"{name} {direction}" for name, direction in space.objectives.items()]
    bounds = [f"{metric} {bound}" for metric, bound in space.constraints.items()]
    classes = counted(space.classes, "class", "classes")
    tail = [
        Text(f"data         {shape_text(space.input)}, {classes}"),
        Text(f"objectives   {', '.join(goals)}"),
        Text(f"constraints  {', '.join(bounds) or 'none'}"),
    ]
    return Group(*lines, Text(""), opened, Text(""), *tail)


def domain_text(domain: Domain) -> str:
    match domain.values:
        case Choice(values):
            return ", ".join(map(str, values))
        case Ints(low, high, step, log):
            return f"{low} to {high}{f' by {step}' * (step > 1)}{', logarithmic' * log}"
        case Floats(low, high, log):
            return f"{low:g} to {high:g}{', logarithmic' * log}"
        case Progression(start, times, most):
            first, factors = ", ".join(map(str, start)), ", ".join(f"{t:g}" for t in times)
            return f"{first}; then times {factors}; at most {most}"


def each_text(domain: Domain) -> str:
    """The repetitions for each of which a domain has a value."""
    return f"{', '.join(domain.per)}{f' (first {domain.first} only)' if domain.first else ''}"


def space_list() -> RenderableType:
    listed = table("name", "about")
    for name in shipped():
        listed.add_row(name, Text(load_space(name).about))
    return listed


def preflight_page(space: Space, result: Preflight) -> RenderableType:
    """A preflight's findings: how many networks, their sizes, which fit, what is idle."""
    facts = table("", "")
    facts.show_header = False
    settings, error = result.settings.value, result.settings.error
    if result.networks is not None:
        size = f"{result.networks:,} ({settings:,.0f} settings of the parameters), counted"
    elif math.isinf(settings):
        why = "a parameter is a real number, or they are more than 1e308"
        size = f"beyond counting ({why}), at least {result.seen:,}"
    else:
        most = f"about {_about(settings)} (± {_about(error)}) settings of the parameters"
        size = f"{result.seen:,} different in these draws, of {most}"
    bounds = ", ".join(f"{metric} {percent(share)}" for metric, share in result.shares.items())
    of = (
        f" of {result.requested:,}, as the networks are long"
        if result.draws < result.requested
        else ""
    )
    for name, text in {
        "draws": f"{result.draws:,}{of}, {percent(result.valid)} valid",
        "networks": size,
        "parameters": f"{' to '.join(map(str, dict.fromkeys(result.asked)))} asked for in a draw",
        "fit": f"{percent(result.fits)}{f'  ({bounds})' if bounds else ''}",
        "never matter": ", ".join(result.idle) or "none",
        "never asked": ", ".join(result.unasked) or "none",
    }.items():
        facts.add_row(name, Text(text))
    sizes = [spread_table(name, spread) for name, spread in result.sizes.items()]
    warnings = [Text(f"warning: {text}", style="yellow") for text in result.warnings]
    head = Text(f"{space.name} on {shape_text(space.input)}", style="bold")
    return Group(head, Text(""), facts, *sizes, *warnings)


def _about(number: float) -> str:
    return f"{float(f'{number:.2g}'):,.0f}" if number < 1e15 else f"{number:.2g}"


def spread_table(name: str, spread: Spread) -> RenderableType:
    """A metric's histogram by half decades, and its quantiles below."""
    title, print = metric(name).title, metric(name).shown
    bars = table("", "", "")
    bars.show_header = False
    most = max(spread.histogram.values(), default=1)
    for exponent, draws in sorted(spread.histogram.items()):
        span = f"{print(10**exponent)} to {print(10 ** (exponent + 0.5))}"
        bars.add_row(f"  {span}", Text("█" * max(1, round(40 * draws / most)), "cyan"), str(draws))
    least, _, low, median, high, _, top = map(print, spread.quantiles)
    line = f"{title}: {least} to {top}, median {median}, half of them {low} to {high}"
    return Group(Text(""), Text(line), bars)
