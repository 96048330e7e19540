"""Plug-in files: Python that registers layers, blocks and data sets in the same dicts as the
built-in ones.

    # my_blocks.py
    from nas.blocks import BLOCKS
    from nas.layers import BN, RELU, Conv, Node, Shape, Width

    def wide(x: Shape, *, width: Width) -> Node:
        return Conv(width, 5) >> BN >> RELU

    BLOCKS["WIDE"] = wide

A layer is a class such as those of ``nas.language.layers``, with its name in ``LAYERS``.
Driver and workers each run a file once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path

from nas.errors import NasError


def module_name(path: str | Path) -> str:
    """The module name of a plug-in file, the same in every process."""
    file = Path(path).resolve()
    return f"nas_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"


def load(path: str | Path) -> None:
    """Runs a plug-in file, once per process. Raises NasError where it is missing or fails."""
    file, name = Path(path).resolve(), module_name(path)
    if name in sys.modules:
        return
    if not file.is_file():
        raise NasError(f"plug-in {path}: no such file")
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise NasError(f"plug-in {path}: must be a Python file, with a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # annotations of its blocks are looked up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f.lineno for f in reversed(frames) if f.filename == str(file)), None)
        where = f", line {line}" if line else ""
        raise NasError(f"plug-in {path}{where}: {type(error).__name__}: {error}") from error
