"""A model as ONNX: made by torch's exporter, run by ONNX Runtime.

The graph takes ``pixels``, uint8 (images, channels, height, width) as an image file is decoded, and
answers ``logits``, float32 (images, classes); any number of images. The normalisation is inside:
bytes, not floats, so that nobody gives it values from 0 to 1 and gets a wrong answer without an
error. The model's card is its metadata, ``classes`` as a JSON list among it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas.errors import NasError, brief
from nas.processes import cores
from nas.training.card import Card, Described
from nas.training.models import Model, read
from nas.training.predict import Probabilities

INSTALL = "pip install 'nas-patterns[onnx]'"


def needs(*packages: str) -> None:
    """Raises NasError that says what to install where a package is missing."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise NasError(f"ONNX needs {' and '.join(missing)}, not installed here: {INSTALL}")


def to_onnx(model: Model) -> bytes:
    """The file. Raises NasError where packages are missing or an operator is not to be had."""
    needs("onnx", "onnxscript")
    example = torch.zeros(2, *model.input, dtype=torch.uint8)
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["pixels"],
                output_names=["logits"],
                dynamic_shapes={"pixels": {0: torch.export.Dim("images")}},
            )
        assert program is not None
        program.model.metadata_props.update(model.card.metadata())
        made: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # the exporter raises nearly anything
        raise NasError(f"the network cannot be exported to ONNX: {brief(str(error))}") from error
    return made


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's messages for its developers, on optional packages and the like."""
    logger = logging.getLogger("torch.onnx")
    was = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(was)


def given(pixels: Tensor) -> dict[str, npt.NDArray[np.uint8]]:
    """Pixels as the graph takes them."""
    bytes_given = pixels if pixels.dtype == torch.uint8 else pixels.round().clamp(0, 255).byte()
    return {"pixels": bytes_given.numpy()}


class OnnxModel(Described):
    """A model of ours in ONNX Runtime, on the CPU: predicts as ``Model`` does.

    Raises NasError for what is no such model.
    """

    def __init__(self, data: bytes, where: str) -> None:
        needs("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of many kinds, all its own
            raise NasError(f"{where} is no model: {brief(str(error))}") from None
        self.card = Card.of(self.session.get_modelmeta().custom_metadata_map, where)
        self._check(where)

    def _check(self, where: str) -> None:
        """Raises NasError where the graph has other inputs or outputs than ours, as after an edit
        or a conversion by another tool."""
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()

        def fits(shape: Sequence[object], *sizes: int) -> bool:
            """Sizes may be left open, as names."""
            return len(shape) == len(sizes) and all(
                a == b for a, b in zip(shape, sizes, strict=True) if isinstance(a, int)
            )

        ours = [("pixels", "tensor(uint8)")]
        if [(i.name, i.type) for i in inputs] != ours or not fits(inputs[0].shape, 1, *self.input):
            takes = "; ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            sizes = ", ".join(map(str, self.input))
            raise NasError(
                f"{where} was changed since nas wrote it: it takes {brief(takes)}, and must take "
                f"pixels tensor(uint8) [images, {sizes}] alone"
            )
        gives = {o.name: o.shape for o in outputs}
        if not fits(gives.get("logits", ()), 1, len(self.classes)):
            raise NasError(
                f"{where} was changed since nas wrote it: it gives {brief(str(gives))}, and must "
                f"give logits [images, {len(self.classes)}]"
            )

    def logits(self, pixels: Tensor) -> npt.NDArray[np.float32]:
        """(images, classes) of pixels from 0 to 255."""
        few = self.session.get_inputs()[0].shape[0] == 1  # a cascade takes one image at a time
        parts = pixels.split(1 if few else max(1, len(pixels)))
        answers = [self.session.run(["logits"], given(part))[0] for part in parts]
        found: npt.NDArray[np.float32] = np.concatenate(answers)
        return found

    def probabilities(self, pixels: Tensor) -> Probabilities:
        found: Probabilities = torch.from_numpy(self.logits(pixels)).softmax(1).numpy()
        return found


def load_onnx(file: str | Path) -> OnnxModel:
    return OnnxModel(read(file), str(file))
