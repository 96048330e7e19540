"""The rooms' imports: which room may import which, and what each may load."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

import nas

ROOT = Path(nas.__file__).parent

# From the ground up: a room knows those before it, never those after it. Files without a room come
# first: what every room may use.
GROUND = [
    "errors",
    "fields",
    "files",
    "text",
    "processes",
    "interrupts",
    "failpoints",
    "artifacts",
    "plugins",
    "sources",
    "durations",
    "version",
]
ROOMS = ["job", "language", "metrics", "pareto", "spaces", "data", "training", "store", "samplers",
         "driver", "workers", "report", "cli"]  # fmt: skip

RULES = [
    *((f"nas.{name}", {"torch", "ray", "optuna", "sqlalchemy"})
      for name in ("job", "language.symbols", "spaces.preflight", "spaces.zoo", "data", "errors",
                   "training.footprint", "layers", "blocks")),
    ("nas", {"torch", "ray", "optuna", "sqlalchemy"}),
    ("nas.driver.loop", {"torch", "ray"}),
    ("nas.store", {"torch", "ray", "optuna"}),
    ("nas.samplers", {"ray"}),
    ("nas.cli", {"torch", "ray", "optuna"}),
    ("nas.report.spaces", {"torch", "ray", "optuna", "sqlalchemy"}),
]  # fmt: skip


@pytest.mark.parametrize(("module", "banned"), RULES, ids=[module for module, _ in RULES])
def test_a_module_loads_nothing_it_has_no_business_with(module, banned):
    code = f"import sys, {module}; print(*(set({sorted(banned)}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_nas_help_loads_no_torch_no_ray_no_optuna():
    code = (
        "import sys\n"
        "sys.argv = ['nas', '--help']\n"
        "from nas.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('loaded:', *({'torch', 'ray', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


def test_a_search_loads_no_torch_in_its_driver(tmp_path):
    code = """
import sys
import nas.workers
from nas.cli.app import main

def opened(*told, **more):
    print("torch" in sys.modules)
    raise SystemExit

nas.workers.open_pool = opened
main()
"""
    command = [sys.executable, "-c", code, "search", "--space", "lenet_like"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, the workers' among them."""
    found = {}
    for folder in (ROOT, *(path for path in ROOT.iterdir() if path.is_symlink())):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(["nas", *(p for p in parts if p != "__init__")])] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of this package that a file imports anywhere, those for annotations left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(whole & set(known) or {node.module})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found & set(known)


@functools.cache  # 2 s of processor time, which only who runs these tests should pay
def graph() -> dict[str, set[str]]:
    """The modules that each one imports."""
    known = modules()
    return {name: imports(path, known) - {name} for name, path in known.items()}


def room(module: str) -> int:
    """The place of a module's room among ``GROUND`` and ``ROOMS``."""
    name = module.split(".")[1] if "." in module else ""
    return 1 + ROOMS.index(name) if name in ROOMS else 0


def test_every_module_is_in_a_room():
    doors = {"", "api", "layers", "blocks"}  # what plug-ins and users import
    outside = {name.partition(".")[2] for name in graph() if not room(name)} - doors
    assert outside - {n for n in outside if n.startswith("search_spaces")} == {*GROUND}


def test_arrows_between_rooms_go_one_way():
    back = [
        f"{name} -> {other}"
        for name, others in graph().items()
        for other in others
        if name not in ("nas", "nas.api", "nas.layers", "nas.blocks")
        and (other == "nas" or room(other) > room(name))
    ]
    assert back == []


def test_no_circle_of_modules():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in graph()[name] - {"nas"}:
                visit(other, (*path, name))
            done.add(name)

    for name in graph():
        visit(name, ())


def test_nothing_of_ours_is_a_top_level_name_but_the_package(tmp_path):
    """A person's own workers.py and search_spaces.py are theirs."""
    for name in ("workers", "search_spaces"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is not yours')")
    command = [sys.executable, "-m", "nas.cli", "search", "--space", "lenet_like", "--trials", "1",
               "--epochs", "1", "--workers", "0"]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=3 * PATIENCE)
