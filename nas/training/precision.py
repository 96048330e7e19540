"""Lower precision in ONNX: float16, and int8 by static quantisation on training images.

Neither answers as float32 does, so neither is held to its tolerance: what it costs and gains is
measured instead, as accuracy and latency beside float32's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas import data
from nas.errors import NasError, brief
from nas.job import DataRef
from nas.training.evaluation import evaluate, fitting
from nas.training.models import Model
from nas.training.onnx import OnnxModel, given, needs, to_onnx
from nas.training.predict import sized

PRECISIONS = ("fp16", "int8")
CALIBRATION = 512  # images: the ranges of the activations hardly change with more
ROUNDS = 30  # of the latency, the least of which counts


@dataclass(frozen=True, slots=True)
class Measured:
    """Accuracy on the test images, latency of one image in ONNX Runtime here, and bytes."""

    precision: str
    accuracy: float
    ms: float
    size: int


def lowered(model: Model, precision: str, ref: DataRef) -> tuple[bytes, tuple[Measured, ...]]:
    """The ONNX file of a model in that precision, and what it and float32's measure.

    ``model`` is as deployed. ``ref`` has the images to calibrate on (train) and to score on (test).
    Raises NasError.
    """
    needs("onnx", "onnxscript", "onnxruntime")
    if precision not in PRECISIONS:
        raise NasError(f"--precision {precision}: must be one of fp32, {', '.join(PRECISIONS)}")
    ref = fitting(ref, model.input)
    whole = to_onnx(model)
    try:
        made = _half(whole) if precision == "fp16" else _int8(whole, model, ref)
    except NasError:
        raise
    except Exception as error:  # of the converters, nearly anything
        message = brief(str(error))
        raise NasError(f"the network cannot be had in {precision}: {message}") from error
    held = {"fp32": whole, precision: made}
    return made, tuple(_measured(name, file, ref) for name, file in held.items())


def _half(whole: bytes) -> bytes:
    """float16 inside; the input stays uint8 and the answer float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    proto = onnx.load_model_from_string(whole)
    made = convert_float_to_float16(proto, keep_io_types=True)
    content: bytes = made.SerializeToString()
    return content


def _int8(whole: bytes, model: Model, ref: DataRef) -> bytes:
    """int8 weights, a scale for each channel of them, and activations, by the ranges that they
    have on training images (Jacob et al. 2018, "Quantization and training of neural networks for
    efficient integer-arithmetic-only inference")."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, made = (Path(folder, f"{name}.onnx") for name in ("plain", "ready", "made"))
        plain.write_bytes(whole)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            made,
            _Images(model, ref),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        proto = onnx.load(made)
    # Not all of the steps keep it.
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, model.card.metadata())
    content: bytes = proto.SerializeToString()
    return content


class _Images:
    """Training images for ONNX Runtime's calibration, which asks for one batch after another."""

    def __init__(self, model: Model, ref: DataRef) -> None:
        train = data.load(ref, "train")
        chosen = np.random.default_rng(0).permutation(train.rows)[:CALIBRATION]
        self.batches = iter(np.array_split(chosen, max(1, len(chosen) // 32)))
        self.train, self.model = train, model

    def get_next(self) -> dict[str, Any] | None:
        rows = next(self.batches, None)
        if rows is None:
            return None
        return given(sized(self.train, rows, self.model.input))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.get_next, None)


def _measured(precision: str, file: bytes, ref: DataRef) -> Measured:
    session = OnnxModel(file, precision)
    accuracy = evaluate(session, ref).accuracy
    pixels = torch.zeros(1, *session.input, dtype=torch.uint8)
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        session.logits(pixels)
        best = min(best, time.perf_counter() - began)
    return Measured(precision, accuracy, 1000 * best, len(file))
