"""nas: neural architecture search over block patterns.

    import nas
    architecture = nas.parse("INPUT(3, 32, 32) -> [CONV(16) -> BN -> RELU -> POOL]*2 -> FC(10)")
    architecture.params, architecture.macs, architecture.shapes
    module = nas.build(architecture)
    space = nas.load_space("resnet_like")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.architecture import Architecture, parse

if TYPE_CHECKING:
    from nas.network import build
    from nas.space import Space, load_space

__all__ = ["Architecture", "Space", "build", "load_space", "parse"]
__version__ = "0.1.0"

# What needs torch or yaml is imported when it is asked for.
_LAZY = {"build": "nas.network", "Space": "nas.space", "load_space": "nas.space"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
