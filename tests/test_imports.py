"""The import rules of the rooms, read from what a fresh interpreter has loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nas

ROOT = Path(nas.__file__).parent
CORE = ["pattern", "layers", "blocks", "elements", "architecture", "domains", "symbols", "plain",
        "space", "preflight", "job", "errors"]  # fmt: skip

RULES = [
    *((f"nas.{name}", {"torch", "ray", "optuna", "sqlalchemy"}) for name in CORE),
    ("nas", {"torch", "ray", "optuna", "sqlalchemy"}),
    ("nas.footprint", {"torch", "ray", "optuna", "sqlalchemy"}),
    ("nas.search", {"torch", "ray"}),
    ("nas.store", {"torch", "ray"}),
    ("nas.samplers", {"ray"}),
    ("nas.cli", {"torch", "ray", "optuna"}),
]


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


def imports(path: Path) -> set[str]:
    """The modules that a file imports at its top, those for annotations alone left out."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_core_imports_one_way():
    # layers <- pattern, blocks <- elements <- architecture <- space <- preflight
    order = ["errors", "layers", "blocks", "pattern", "elements", "architecture", "domains",
             "plain", "symbols", "space", "preflight"]  # fmt: skip
    for i, name in enumerate(order):
        later = {f"nas.{other}" for other in order[i:]}
        assert not imports(ROOT / f"{name}.py") & later, name


def test_the_library_knows_neither_its_workers_nor_its_command_line():
    for path in ROOT.rglob("*.py"):
        if path.stem not in ("cli", "run", "reports"):  # the command line, and what it calls
            told = imports(path)
            assert not any(name.split(".")[0] == "workers" for name in told), path
            assert "nas.cli" not in told, path
