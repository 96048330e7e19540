"""What runs a network when it is timed: an entry of ``RUNTIMES`` each.

All take the network in evaluation, float32, BN not folded by us (ONNX Runtime folds it), with its
weights as they are: how long a network takes does not go by their values.
"""

from __future__ import annotations

import copy
import io
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.errors import NasError, brief
from nas.training import timing
from nas.training.onnx import needs
from nas.training.timing import Call

COPIED = 64 << 20  # bytes of weights up to which each instance has its own
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Ready:
    """A network that can be timed: ``instance`` creates a copy with memory of its own, ``peak``
    returns the peak bytes of one inference, None where unknown."""

    instance: Callable[[], Call]
    peak: Callable[[], int | None]


@dataclass(frozen=True, slots=True)
class Runtime:
    """``prepare`` takes a module in eval mode on its device, its input shape with the batch, and
    the number of threads. ``lacks`` says why it does not work on a device; empty: it does."""

    about: str
    version: Callable[[], str]
    prepare: Callable[[nn.Module, tuple[int, ...], torch.device, int], Ready]
    lacks: Callable[[torch.device], str]


def _torch() -> str:
    return f"torch {torch.__version__}"


def _onnxruntime() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def timer(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> Call:
    """A function that runs the module once and returns the seconds until its output is there."""
    x = _zeros(shape, device)

    def on_cpu() -> float:
        began = time.perf_counter()
        module(x)
        return time.perf_counter() - began

    return on_cuda(lambda: module(x)) if device.type == "cuda" else on_cpu


def _zeros(shape: tuple[int, ...], device: torch.device) -> Tensor:
    x = torch.zeros(shape, device=device)
    return x.to(memory_format=torch.channels_last) if len(shape) == 4 else x


def on_cuda(run: Callable[[], object]) -> Call:
    """The stream is idle at the start, so launching counts: at batch 1 it is most of the time."""

    def call() -> float:
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000

    return call


def _cuda_peak(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> int | None:
    """Peak bytes on CUDA, weights included; None on the CPU, whose allocator keeps no count."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.inference_mode():
        timer(module, shape, device)()
    held = sum(p.nbytes for p in [*module.parameters(), *module.buffers()])
    return int(torch.cuda.max_memory_allocated(device)) - before + held


def eager(module: nn.Module, shape: tuple[int, ...], device: torch.device, threads: int) -> Ready:
    large = sum(p.nbytes for p in module.parameters()) > COPIED
    return Ready(
        lambda: timer(module if large else copy.deepcopy(module), shape, device),
        lambda: _cuda_peak(module, shape, device),
    )


def compiled(
    module: nn.Module, shape: tuple[int, ...], device: torch.device, threads: int
) -> Ready:
    made: nn.Module = torch.compile(module)  # type: ignore[assignment]
    return Ready(lambda: timer(made, shape, device), lambda: _cuda_peak(module, shape, device))


def captured(
    module: nn.Module, shape: tuple[int, ...], device: torch.device, threads: int
) -> Ready:
    """Launches once what eager launches layer by layer; warmed up beside the graph, as cuDNN
    allocates in its first calls."""

    def instance() -> Call:
        x = _zeros(shape, device)
        here, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(3):
                module(x)
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            module(x)

        def replay() -> Tensor:
            graph.replay()
            return x  # read by the graph, whose next one's capture gives back what nobody holds

        return on_cuda(replay)

    return Ready(instance, lambda: _cuda_peak(module, shape, device))


def onnx(module: nn.Module, shape: tuple[int, ...], device: torch.device, threads: int) -> Ready:
    graph, batch = to_graph(module, shape[1:]), shape[0]
    return Ready(
        lambda: timing.onnx_call(graph, threads, batch),
        lambda: timing.onnx_peak(graph, threads, batch),
    )


def to_graph(module: nn.Module, shape: tuple[int, ...]) -> bytes:
    """The network as ONNX, on floats that are normalised already, for any batch.

    By torch's older exporter: 0.3 to 0.9 s a network where the newer, which a deployed model is
    exported by, takes 5 to 7; ONNX Runtime makes the same kernels of both. Raises NasError where an
    operator is not to be had.
    """
    needs("onnx")
    file = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.to(CPU).eval(),
                (torch.zeros(2, *shape),),
                file,  # type: ignore[arg-type]
                dynamo=False,
                input_names=["x"],
                output_names=["y"],
                dynamic_axes={"x": {0: "images"}, "y": {0: "images"}},
            )
    except Exception as error:  # the exporter raises nearly anything
        raise NasError(f"the network cannot be exported to ONNX: {brief(str(error))}") from error
    return file.getvalue()


def _anywhere(device: torch.device) -> str:
    return ""


def _on_cuda(device: torch.device) -> str:
    return "" if device.type == "cuda" else "it needs a CUDA device"


def _with_onnx(device: torch.device) -> str:
    try:
        needs("onnx", "onnxruntime")
    except NasError as error:
        return str(error)
    return ""


RUNTIMES: Mapping[str, Runtime] = {
    "eager": Runtime("PyTorch, layer by layer", _torch, eager, _anywhere),
    "compile": Runtime("torch.compile", _torch, compiled, _on_cuda),
    "cudagraph": Runtime("PyTorch, captured as a CUDA graph", _torch, captured, _on_cuda),
    "onnx": Runtime("ONNX Runtime on the CPU", _onnxruntime, onnx, _with_onnx),
}
