"""A training step and a forward pass, on a GPU each as one CUDA graph.

The step of a small network is some hundred kernels of a few microseconds, which the processor
launches one by one: at a batch of 64 that takes it 5 to 10 times as long as an H100 computes. A
graph launches them all at once. It holds forward, loss, backward, clipping and the optimizer's
update; the learning rate is a tensor that it reads. What changes from step to step on the host (the
average's decay) stays outside.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nas.training.checkpoint import Training
from nas.training.step import loss_of
from nas.training.teacher import Teacher

log = logging.getLogger(__name__)

# A step on a batch (images, labels) at a learning rate; returns the loss, left on the device.
Step = Callable[[Tensor, Tensor, float | Tensor], Tensor]
Forward = Callable[[Tensor], Tensor]  # images to logits

# Steps before the capture: in the first, libraries take their workspaces, which may not be
# captured; in the second, all is as it will be. cuDNN's timing of its kernels (its ``benchmark``)
# stays off: on an H200 it took 3 to 5 s a network, and what it chose was 0 to 4 % faster.
WARM_UP = 2


def step_of(
    training: Training,
    live: list[nn.Parameter],
    bf16: bool,
    weights: Tensor | None = None,
    teacher: Teacher | None = None,
) -> Step:
    """The step of a training on its ``live`` parameters; ``weights``: of the classes, as in
    ``loss_of``. All its batches must be of one shape. With a ``teacher``, whose targets change
    from step to step, it is not captured."""
    step = eager(training, live, bf16, weights, teacher)
    if training.device.type == "cuda" and teacher is None:
        return Captured(step, training.device, training.optimizer)
    return step


def eager(
    training: Training,
    live: list[nn.Parameter],
    bf16: bool,
    weights: Tensor | None,
    teacher: Teacher | None = None,
) -> Step:
    recipe, optimizer = training.job.recipe, training.optimizer

    def step(x: Tensor, y: Tensor, rate: float | Tensor) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(training.device.type, torch.bfloat16, enabled=bf16):
            output = training.module(x)
            loss = loss_of(output, y, recipe, weights)
            if teacher:
                loss = teacher.loss(loss, output, x)
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(live, recipe.clip, foreach=True)
        optimizer.step()
        return loss.detach()

    return step


@functools.cache
def stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream on which steps are captured: cuBLAS keeps a workspace for each."""
    return torch.cuda.Stream(device)


class Captured:
    """``call`` as a CUDA graph from its third call on; as it is where it cannot be captured.

    Every call counts, those before the capture included. All calls are on tensors of the shapes of
    the first; a number among them is held as a tensor. Dropout's draws go on as they would: torch's
    own generator is part of the graph.
    """

    def __init__(
        self,
        call: Callable[..., Tensor],
        device: torch.device,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self._call, self._device = call, device
        self._groups = optimizer.param_groups if optimizer else []
        self._stream = stream(device)
        self._warm, self._graph = 0, torch.cuda.CUDAGraph()
        self._held: tuple[list[Tensor], Tensor] | None = None  # what the graph reads and gives

    def __call__(self, *given: Tensor | float) -> Tensor:
        if self._warm < WARM_UP:
            self._warm += 1
            return self._aside(*given)
        if self._warm == WARM_UP:
            self._warm += 1
            self._capture(*given)
        if self._held is None:
            return self._call(*given)
        inputs, output = self._held
        for held, new in zip(inputs, given, strict=True):
            held.copy_(new) if isinstance(new, Tensor) else held.fill_(new)
        self._graph.replay()
        return output.clone()

    def _aside(self, *given: Tensor | float) -> Tensor:
        """On the stream of the capture: autograd keeps what it made on another one apart."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            output = self._call(*given)
        here.wait_stream(self._stream)
        return output

    def _capture(self, *given: Tensor | float) -> None:
        """Records the call without running it."""
        inputs = [
            new.clone() if isinstance(new, Tensor) else torch.zeros((), device=self._device)
            for new in given
        ]
        for group in self._groups:
            group["capturable"] = True  # Adam asks for it, though its fused step always is
        try:
            # Of this thread alone: others read images ahead into pinned memory.
            with torch.cuda.graph(
                self._graph, stream=self._stream, capture_error_mode="thread_local"
            ):
                output = self._call(*inputs)
            self._held = inputs, output
        except RuntimeError as error:
            message = str(error).partition("\n")[0]
            log.warning("runs without a CUDA graph, which is slower: %s", message)
        finally:
            for group in self._groups:
                group["lr"], group["capturable"] = 0.0, False  # no tensor of the graph's


def forward_of(module: nn.Module, device: torch.device, bf16: bool) -> Forward:
    """The module's logits of a batch, without gradients; on a GPU as a graph of the first batch's
    size, to which smaller ones are filled up."""
    forward = eager_forward(module, device, bf16)
    if device.type != "cuda":
        return forward
    captured, rows = Captured(forward, device), 0

    def filled(x: Tensor) -> Tensor:
        nonlocal rows
        rows = max(rows, len(x))
        if len(x) == rows:
            return captured(x)
        return captured(pad(x, (0,) * 7 + (rows - len(x),)))[: len(x)]  # channels stay last

    return filled


def eager_forward(module: nn.Module, device: torch.device, bf16: bool) -> Forward:
    """As ``forward_of``, layer by layer: for what is asked once."""

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits: Tensor = module(x)
        return logits

    return forward
