"""A training step, on a GPU as one CUDA graph.

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

from nas.training.checkpoint import Training
from nas.training.step import loss_of
from nas.training.teacher import Teacher

log = logging.getLogger(__name__)

# A step on a batch (images, labels) at a learning rate; returns the loss, left on the device.
Step = Callable[[Tensor, Tensor, float | Tensor], Tensor]

# Steps before the capture: in the first, libraries take their workspaces and cuDNN times its
# kernels, neither of which may be captured; in the second, all is as it will be.
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
        return Captured(step, training.optimizer, training.device)
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
    """``step`` as a CUDA graph from its third call on; as it is where it cannot be captured.

    Every call is one step of the training, those before the capture included. Dropout's draws go on
    as they would: torch's own generator is part of the graph.
    """

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._step, self._optimizer = step, optimizer
        self._stream = stream(device)
        self._warm, self._graph = 0, torch.cuda.CUDAGraph()
        self._held: tuple[Tensor, Tensor, Tensor, Tensor] | None = None  # what the graph works on

    def __call__(self, x: Tensor, y: Tensor, rate: float | Tensor) -> Tensor:
        if self._warm < WARM_UP:
            self._warm += 1
            return self._aside(x, y, rate)
        if self._warm == WARM_UP:
            self._warm += 1
            self._capture(x, y)
        if self._held is None:
            return self._step(x, y, rate)
        images, labels, lr, loss = self._held
        images.copy_(x)
        labels.copy_(y)
        lr.fill_(rate)
        self._graph.replay()
        return loss.clone()

    def _aside(self, x: Tensor, y: Tensor, rate: float | Tensor) -> Tensor:
        """On the stream of the capture: autograd keeps what it made on another one apart."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            loss = self._step(x, y, rate)
        here.wait_stream(self._stream)
        return loss

    def _capture(self, x: Tensor, y: Tensor) -> None:
        """Records the step without running it."""
        images, labels, lr = x.clone(), y.clone(), torch.zeros((), device=x.device)
        groups = self._optimizer.param_groups
        for group in groups:
            group["capturable"] = True  # Adam asks for it, though its fused step always is
        try:
            # Of this thread alone: others read images ahead into pinned memory.
            with torch.cuda.graph(
                self._graph, stream=self._stream, capture_error_mode="thread_local"
            ):
                loss = self._step(images, labels, lr)
            self._held = images, labels, lr, loss
        except RuntimeError as error:
            self._optimizer.zero_grad()
            told = str(error).partition("\n")[0]
            log.warning("trained without a CUDA graph, which is slower: %s", told)
        finally:
            for group in groups:
                group["lr"], group["capturable"] = 0.0, False  # no tensor of the graph's
