"""docs/cli.md, the reference of the command line, equals the commands' help.

    python tests/test_docs.py > docs/cli.md

writes it anew after a change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from nas.cli.app import app

ROOT = Path(__file__).parent.parent
HEAD = """# The command line

Data goes to stdout, logs and progress to stderr. Exit status: 0 done, 2 wrong input, 3 no feasible
candidate, 130 interrupted (Ctrl-C or SIGTERM) and resumable, 1 anything else. Without `--storage`,
the record is named by `NAS_STORAGE`, then `OPTUNA_STORAGE`. This page is what `--help` prints.
"""


def commands(group: Any = None, path: str = "nas") -> Iterator[tuple[str, Any]]:
    """Every command with what is typed to run it."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
            if command.invoke_without_command:
                yield f"{path} {name}", command
        else:
            yield f"{path} {name}", command


def reference() -> str:
    def told(path: str) -> str:
        arguments = [*path.split()[1:], "--help"]
        environment = {"COLUMNS": "80", "NAS_STORAGE": "", "OPTUNA_STORAGE": ""}
        shown = CliRunner().invoke(app, arguments, prog_name="nas", env=environment).stdout
        return f"\n## {path}\n\n```text\n{shown.rstrip()}\n```\n"

    return HEAD + "".join(told(path) for path, _ in commands())


def test_the_reference_is_what_the_commands_say() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), (
        "run: python tests/test_docs.py > docs/cli.md"
    )


def test_every_command_and_option_says_what_it_is_for() -> None:
    for path, command in commands():
        assert command.help, path
        for option in command.params:
            if option.param_type_name == "option":
                assert option.help, f"{path} {option.opts[0]}"


def test_many_options_stand_in_groups() -> None:
    common = {"--seed", "--plugin", "--help"}
    for path, command in commands():
        options = [p for p in command.params if p.param_type_name == "option"]
        alone = {p.opts[0] for p in options if not p.rich_help_panel}
        assert len(options) < 9 or alone <= common, path
    shown = reference().partition("## nas search")[2].partition("\n## ")[0]
    groups = re.findall(r"^(\S.*):\n", shown, re.MULTILINE)
    assert groups[0] == "What to search"
    assert groups[-1] == "Options"
    assert len(groups) == len(set(groups)) == 6
    assert shown.index("What to search:") < shown.index("--space") < shown.index("The record:")


def test_what_the_readme_shows_exists() -> None:
    known = {path: {name for p in c.params for name in p.opts} for path, c in commands()}
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text()
        shown = [
            *re.findall(r"`(nas [^`\n]+)`", text),
            *re.findall(r"^\$? ?(nas [a-z].*)$", "\n".join(blocks(text)), re.MULTILINE),
        ]
        for line in shown:
            path = next((p for p in known if f"{line} ".startswith(f"{p} ")), None)
            groups = {"nas --help", *(" ".join(p.split()[:2]) for p in known)}
            assert path or line in groups, f"{page.name}: {line}"
            if path:
                own = line.partition(" -- ")[0]
                options = set(re.findall(r"(?<= )--?[a-z][a-z-]*", own))
                assert options <= known[path] | {"--help"}, f"{page.name}: {line}"


def blocks(text: str, kind: str = r"\w*") -> list[str]:
    """What stands in the code blocks of a page (of that kind), lines that go on joined."""
    found = re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ") for block in found]


if __name__ == "__main__":
    print(reference(), end="")
