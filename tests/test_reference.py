"""docs/reference.md equals the registries: layers, blocks, recipe fields, metrics, data sets.

    python tests/test_reference.py > docs/reference.md

writes it anew after a change.
"""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nas.data import DATASETS
from nas.job import Recipe
from nas.job.recipe import RECIPES
from nas.language.blocks import BLOCKS
from nas.language.elements import parameters
from nas.language.layers import LAYERS
from nas.metrics import METRICS
from nas.samplers import SAMPLERS

FIELDS = dataclasses.fields(Recipe)
PAGE = Path(__file__).parent.parent / "docs" / "reference.md"
HEAD = """# Reference

Everything that can be written in patterns, spaces and recipes, with defaults. Generated from the
code's registries.
"""


def reference() -> str:
    parts = [
        HEAD,
        "## Layers\n",
        *elements(LAYERS),
        "## Blocks\n",
        "A block that is a mere sequence of layers, such as `PLAIN`, is shown as these layers, so "
        "that equal networks have one text; a block with branches keeps its name.\n",
        *elements(BLOCKS),
        "## The recipe\n",
        "`--recipe NAME=VALUE`, or under `recipe:` in a space file, fixed or searched.\n",
        paragraphs(Recipe),
        "",
        table(
            "setting", "default", ((f.name, told(f.default)) for f in dataclasses.fields(Recipe))
        ),
        "`--recipe NAME` starts from one of these:\n",
        table(
            "recipe", "differs in", ((name, differs(recipe)) for name, recipe in RECIPES.items())
        ),
        "## Metrics\n",
        "For objectives and constraints. An evaluator may return others.\n",
        table("metric", "meaning", ((name, about(name)) for name in METRICS)),
        "## Data sets\n",
        table("name", "contents", ((name, kind.about) for name, kind in DATASETS.items())),
        "## Samplers\n",
        ", ".join(f"`{name}`" for name in SAMPLERS) + "\n",
    ]
    return "\n".join(parts)


def elements(registry: Any) -> Iterator[str]:
    for name, make in registry.items():
        written = [p for p in parameters(name) if p.name != "classes"]
        yield f"### {name}\n"
        if text := paragraphs(make):
            yield f"{text}\n"
        if written:
            yield table(
                "argument", "default", "must be",
                ((p.name, "required" if p.required else told(p.default), p.rule) for p in written),
            )  # fmt: skip


def paragraphs(make: Callable[..., Any] | type) -> str:
    """The docstring, unless it is what dataclass writes by itself."""
    text = inspect.getdoc(make) or ""
    return "" if text.startswith(f"{getattr(make, '__name__', '')}(") else text.replace("``", "`")


def told(value: Any) -> str:
    shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
    return "" if shown is None or shown == "" else f"`{shown}`"


def differs(recipe: Recipe) -> str:
    fields = dataclasses.asdict(recipe).items()
    changed = {k: v for k, v in fields if v != getattr(Recipe(), k)}
    return ", ".join(f"{k}={told(v)}" for k, v in changed.items()) or "as above"


def about(name: str) -> str:
    metric = METRICS[name]
    how = "computed" if metric.arithmetic else "measured"
    weighed = ", on a logarithmic scale" if metric.logarithmic else ""
    return f"{metric.about}; usually {metric.direction}; {how}{weighed}"


def table(*told: Any) -> str:
    *head, rows = told
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join([f"`{row[0]}`", *row[1:]]) + " |" for row in rows]
    return "\n".join([*lines, ""])


def test_the_reference_is_what_the_registries_hold() -> None:
    # By itself: other tests register layers and blocks of their own.
    told = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True)
    assert PAGE.read_text() == told.stdout, (
        "run: python tests/test_reference.py > docs/reference.md"
    )


if __name__ == "__main__":
    print(reference(), end="")
