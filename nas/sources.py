"""Digests of a user's code: of a module and the user's own modules that it imports.

Results of an evaluator or a plug-in are comparable only while its digest stays the same.
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
    """16 hexadecimal digits that identify the files of these imported modules and of those that
    they import, without installed packages and this one; empty without any file.

    Cached, as the process keeps running the code that it has imported.
    """
    files: dict[str, tuple[str, bytes]] = {}
    for name in names:
        _collect(name, files, root=True)
    hasher = hashlib.sha256()
    for file, text in sorted(files.values()):
        hasher.update(f"{file} {len(text)} ".encode() + text)
    return hasher.hexdigest()[:16] if files else ""


def _collect(name: str, files: dict[str, tuple[str, bytes]], root: bool = False) -> None:
    """Adds a module's file name and content to ``files``, and those of the modules it imports."""
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
    """Every imported name in a file that may be a module, and the packages that contain it."""
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
