"""What stands behind a user's code: a digest of its module and of those of theirs it imports.

Two results by one name are of one evaluator or plug-in only while nothing of that has changed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

OURS = Path(__file__).resolve().parent
FIXED = tuple(Path(place).resolve() for place in (sys.prefix, sys.base_prefix))


@functools.cache
def digest(*names: str) -> str:
    """16 hexadecimal digits for the files of these modules, which are imported, and of those that
    they import, without installed packages and this one; empty without any file.

    Cached at the first call, as the process goes on with the code that it has imported.
    """
    files: dict[str, tuple[str, bytes]] = {}
    for name in names:
        _collect(name, files, root=True)
    hasher = hashlib.sha256()
    for file, text in sorted(files.values()):
        hasher.update(f"{file} {len(text)} ".encode() + text)
    return hasher.hexdigest()[:16] if files else ""


def _collect(name: str, files: dict[str, tuple[str, bytes]], root: bool = False) -> None:
    """Adds a module's file and contents, by the module's name, and those that it imports."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None or not file or name in files or not (root or _theirs(Path(file))):
        return
    text = Path(file).read_bytes()
    files[name] = Path(file).name, text
    for imported in _imports(text, module.__package__ or ""):
        _collect(imported, files)


def _theirs(file: Path) -> bool:
    place = file.resolve()
    installed = "site-packages" in place.parts or "dist-packages" in place.parts
    return not (installed or any(place.is_relative_to(fixed) for fixed in (OURS, *FIXED)))


def _imports(source: bytes, package: str) -> Iterator[str]:
    """The names that may be modules, of every import in a file, with the packages around them."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a compiled module
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _around(alias.name)
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, [parent, node.module]))
            yield from _around(base)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _around(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[:n]) for n in range(1, len(parts) + 1))
