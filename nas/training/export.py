"""Exports models: for each format a writer, and a reader that checks it.

Before a file is written, the export is compared with torch on random pixels and on photographs, and
refused if its outputs differ.
"""

from __future__ import annotations

import copy
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas import artifacts
from nas.data.augment import resize
from nas.errors import NasError, brief
from nas.training.models import Model, model_of, packed
from nas.training.network import AuxHead
from nas.training.onnx import OnnxModel, to_onnx
from nas.training.predict import Shape
from nas.training.python_source import python_source

TOLERANCE = 1e-4  # of the output's scale: float32 in another order differs by about 1e-6

Run = Callable[[Tensor], Tensor]  # pixels to logits


@dataclass(frozen=True, slots=True)
class Format:
    """``make`` gives the file, of a model and the path from the file's folder to the model's
    weights; ``run`` what answers logits, of that file and the folder; None: it needs a package
    that is not here."""

    about: str
    ending: str
    make: Callable[[Model, str], bytes]
    run: Callable[[bytes, Path], Run | None]


@dataclass(frozen=True, slots=True)
class Exported:
    """``difference`` is the largest from torch's logits, of the largest of those; None where
    nothing here could run the file."""

    file: Path
    difference: float | None


def export(model: Model, format: str, file: Path, weights: Path | None = None) -> Exported:
    """Writes a model to ``file`` in a format of FORMATS, once it answers as torch does.

    ``weights`` is the model's own file, which plain Python reads. Raises NasError.
    """
    kind = FORMATS[format]
    artifacts.reserve(file, sum(v.nbytes for v in model.state_dict().values()))
    plain = deployed(model)
    data = made(plain, format, file, weights)
    run = kind.run(data, file.absolute().parent)
    difference = None if run is None else compare(plain, run)
    if difference is not None and not difference <= TOLERANCE:
        raise NasError(
            f"{file} was not written: as {format} the network's outputs differ from torch's by "
            f"{difference:.1g} of the output's scale, more than {TOLERANCE:g}"
        )
    artifacts.replace(file, data)
    return Exported(file, difference)


def made(model: Model, format: str, file: Path, weights: Path | None = None) -> bytes:
    """What ``file`` is to hold."""
    beside = "" if weights is None else _relative(weights, file.absolute().parent)
    return FORMATS[format].make(model, beside)


def deployed(model: Model) -> Model:
    """A copy on the CPU, in evaluation, without auxiliary classifiers."""
    network = copy.deepcopy(model.network).cpu()
    for name, part in list(network.named_children()):
        if isinstance(part, AuxHead):
            setattr(network, name, nn.Identity())
    return Model(network.to(memory_format=torch.contiguous_format), model.card).eval()


def compare(model: Model, run: Run) -> float:
    """The largest difference of ``run`` from the model, of the model's largest logit, or in logits
    where all of those are 0. One image alone and several at once, random ones and photographs."""
    pixels = torch.cat([noise(model.input), photographs(model.input)])
    with torch.inference_mode():
        pairs = [(run(x), model(x)) for x in (pixels, pixels[-1:])]
    scale = max(float(expected.abs().max()) for _, expected in pairs) or 1.0
    if any(found.shape != expected.shape for found, expected in pairs):
        return float("inf")
    return max(float((found - expected).abs().max()) for found, expected in pairs) / scale


def noise(shape: Shape) -> Tensor:
    """Two images of random pixels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, *shape), dtype=torch.uint8, generator=generator)


def photographs(shape: Shape) -> Tensor:
    """The two that come with scikit-learn, in the model's shape."""
    from sklearn.datasets import load_sample_images

    pixels = torch.stack([torch.tensor(image) for image in load_sample_images().images])
    colours = resize(pixels.permute(0, 3, 1, 2), shape[1:]).round().clamp(0, 255).byte()
    return colours[:, [channel % 3 for channel in range(shape[0])]]


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path.absolute(), folder)


# --- the formats ---------------------------------------------------------------------------------


def _python(model: Model, weights: str) -> bytes:
    return python_source(model.architecture, model.card, weights).encode()


def _run_python(data: bytes, folder: Path) -> Run:
    # As from its file, but that is not there yet: the folder is all that it takes from its name.
    names: dict[str, Any] = {"__file__": str(folder / "model.py"), "__name__": "exported"}
    exec(compile(data, names["__file__"], "exec"), names)
    module = names["load"]()
    run: Run = lambda pixels: names["logits"](module, pixels)  # noqa: E731
    return run


def _pt2(model: Model, weights: str) -> bytes:
    example = torch.zeros(2, *model.input, dtype=torch.uint8)
    try:
        program = torch.export.export(
            model, (example,), dynamic_shapes={"pixels": {0: torch.export.Dim("images")}}
        )
        buffer = io.BytesIO()
        card = json.dumps(model.card.metadata(), ensure_ascii=False)
        torch.export.save(program, buffer, extra_files={"card.json": card})
    except Exception as error:  # torch.export raises nearly anything
        message = brief(str(error))
        raise NasError(f"the network cannot be exported by torch.export: {message}") from error
    return buffer.getvalue()


def _run_pt2(data: bytes, folder: Path) -> Run:
    run: Run = torch.export.load(io.BytesIO(data)).module()
    return run


def _onnx(model: Model, weights: str) -> bytes:
    return to_onnx(model)


def _run_onnx(data: bytes, folder: Path) -> Run | None:
    if find_spec("onnxruntime") is None:
        return None
    session = OnnxModel(data, "what was exported")
    return lambda pixels: torch.from_numpy(session.logits(pixels))


def _safetensors(model: Model, weights: str) -> bytes:
    return packed(model.network, model.card)


def _run_safetensors(data: bytes, folder: Path) -> Run:
    return model_of(data, "what was exported")


FORMATS: Mapping[str, Format] = {
    "python": Format("source that needs torch alone", ".py", _python, _run_python),
    "onnx": Format("ONNX, by torch's exporter", ".onnx", _onnx, _run_onnx),
    "pt2": Format("torch.export's program", ".pt2", _pt2, _run_pt2),
    "safetensors": Format("the weights", ".safetensors", _safetensors, _run_safetensors),
}
