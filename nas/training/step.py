"""What a training step is made of: the optimizer, the loss, what learns, and the average of the
weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from nas.job import Recipe

# What torch.compile wraps around these imports the compiler with the first call: 0.9 s of processor
# time in each process, as much as torch itself, for what is not compiled here.
UNCOMPILED: Mapping[str, Callable[..., Any]] = {
    name: inspect.unwrap(getattr(torch.optim.Optimizer, name))
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
}


def uncompiled(kind: type[torch.optim.Optimizer]) -> Any:
    """The same optimizer, to the bit, that torch.compile has not wrapped."""
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {**UNCOMPILED, "step": step})


SGD: type[torch.optim.SGD] = uncompiled(torch.optim.SGD)
AdamW: type[torch.optim.AdamW] = uncompiled(torch.optim.AdamW)


def optimizer_of(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW (Loshchilov and Hutter 2019) whose first beta is the
    momentum. Weight decay on matrices and kernels only: on biases and BN's scales it costs accuracy
    (He et al. 2019, "Bag of tricks", 3.1)."""
    weights = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return AdamW(groups, recipe.lr, betas=(recipe.momentum, 0.999), fused=True)
    optimizer = SGD(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        fused=True,  # 0.2 ms a step less than foreach, of 5 ms, for 20,000 parameters on one core
    )
    if recipe.momentum:
        # The same first step; but torch's fused one fails where some parameters, frozen until
        # then, have no momentum yet and others have.
        for parameter in module.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


class Average(AveragedModel):
    """An exponential moving average of the weights and of BN's statistics, a copy of the module:
    ``update_parameters`` once a step.

    The decay grows to ``decay`` as (1 + n) / (10 + n) over the n steps so far (TensorFlow's
    ExponentialMovingAverage), without which a training of a few epochs would average in where it
    began. torch's own update copies n to the device each time, for which a GPU is waited for, and
    averages BN's counts of batches one by one, in four kernels each: here they are the module's.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__(module, use_buffers=True)
        self._decay = decay
        self.requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        n = int(self.n_averaged)  # on the CPU: no device waits
        decay = min(self._decay, (1 + n) / (10 + n)) if n else 0.0
        pairs = list(zip(_numbers(self.module), _numbers(model), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        torch._foreach_lerp_([own for own, _ in floats], [new for _, new in floats], 1 - decay)
        if counts:
            torch._foreach_copy_([own for own, _ in counts], [new for _, new in counts])
        self.n_averaged += 1


def _numbers(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def loss_of(
    output: Tensor | tuple[Tensor, list[Tensor]],
    labels: Tensor,
    recipe: Recipe,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy with label smoothing, and the auxiliary classifiers' weighed by recipe.aux.

    ``labels``: class numbers, or of mixed images the probabilities of the classes. ``weights``:
    one for each class, as torch's cross-entropy has them.
    """
    logits, auxiliary = output if isinstance(output, tuple) else (output, [])
    smoothing = recipe.label_smoothing
    loss = cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    for aux in auxiliary:
        loss = loss + recipe.aux * cross_entropy(aux, labels, weights, label_smoothing=smoothing)
    return loss


def balanced(labels: npt.NDArray[np.int64], classes: int) -> Tensor:
    """A weight for each class, n / (k * n_c), with which all k classes that occur weigh the same
    (King and Zeng 2001; scikit-learn's "balanced"); 0 for one that does not."""
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(np.where(counts, weights, 0.0)).float()


def trainable(module: nn.Module, head_only: bool) -> list[nn.Parameter]:
    """Sets the module to train, whole or only its last layer with weights; the rest then stays as
    it is, BN's statistics included. Returns the parameters that learn."""
    module.train(not head_only)
    _, head = head_of(module)
    head.train()
    live = list((head if head_only else module).parameters())
    for parameter in module.parameters():
        parameter.requires_grad_(not head_only)
    for parameter in live:
        parameter.requires_grad_()
    return live


def head_of(module: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the last layer with weights."""
    return [(n, m) for n, m in module.named_modules() if [*m.parameters(recurse=False)]][-1]
