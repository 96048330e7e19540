"""nas: neural architecture search over block patterns.

    import nas
    architecture = nas.parse("INPUT(3, 32, 32) -> [CONV(16) -> BN -> RELU -> POOL]*2 -> FC(10)")
    architecture.params, architecture.macs, architecture.shapes
    module = nas.build(architecture)
    space = nas.load_space("resnet_like")
    architecture = space.sample(seed=0)

Each name is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.language.architecture import Architecture, parse
    from nas.spaces.space import Space, load_space
    from nas.training.network import build
    from nas.training.weights import load_torchvision

__version__ = "0.1.0"

# Imported when asked for: `nas --help` needs none of it, and only `build` needs torch.
_HOME = {
    "Architecture": "nas.language.architecture",
    "Space": "nas.spaces.space",
    "build": "nas.training.network",
    "load_space": "nas.spaces.space",
    "load_torchvision": "nas.training.weights",
    "parse": "nas.language.architecture",
}

__all__ = ["Architecture", "Space", "build", "load_space", "load_torchvision", "parse"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    try:
        return import_module(f"nas.{name}")
    except ModuleNotFoundError:
        raise AttributeError(f"module 'nas' has no attribute {name!r}") from None
