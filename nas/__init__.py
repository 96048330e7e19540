"""nas: neural architecture search over block patterns.

    import nas
    architecture = nas.parse("INPUT(3, 32, 32) -> [CONV(16) -> BN -> RELU -> POOL]*2 -> FC(10)")
    architecture.params, architecture.macs, architecture.shapes
    module = nas.build(architecture)
    space = nas.load_space("resnet_like")
    architecture = space.sample(seed=0)

    study = nas.search("resnet_like", data="photos", trials=40)
    model = nas.train(study.best, data="photos", output="photos.safetensors")
    model.predict("new.jpg")
    nas.evaluate(model, data="photos").accuracy

Each name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.version import __version__ as __version__

if TYPE_CHECKING:
    from nas.api import Study, evaluate, search, train
    from nas.language.architecture import Architecture, parse
    from nas.spaces.space import Space, load_space
    from nas.training.models import Model, load_model
    from nas.training.network import build
    from nas.training.weights import load_torchvision

# Imported on first use: `nas --help` needs none of them, and only some need torch.
_HOME = {
    "Architecture": "nas.language.architecture",
    "Model": "nas.training.models",
    "Study": "nas.api",
    "Space": "nas.spaces.space",
    "build": "nas.training.network",
    "evaluate": "nas.api",
    "load_model": "nas.training.models",
    "load_space": "nas.spaces.space",
    "load_torchvision": "nas.training.weights",
    "parse": "nas.language.architecture",
    "search": "nas.api",
    "train": "nas.api",
}

__all__ = [
    "Architecture",
    "Model",
    "Space",
    "Study",
    "build",
    "evaluate",
    "load_model",
    "load_space",
    "load_torchvision",
    "parse",
    "search",
    "train",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    try:
        return import_module(f"nas.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"nas.{name}":  # the module exists, but a package that it imports does not
            raise
        raise AttributeError(f"module 'nas' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    """The names above, and the modules that plug-ins import."""
    modules = ("blocks", "data", "errors", "layers", "samplers")
    return sorted({*__all__, *modules, *(name for name in globals() if name.startswith("__"))})
