"""Training-free scores of a network at initialisation, from one batch: higher promises more.

Each is ``f(module, x, y) -> float`` on a network as ``nas.build`` makes it, images x (batch,
channels, height, width) and labels y (batch,); the module is left as it was.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules import activation


def synflow(module: nn.Module, x: Tensor, y: Tensor) -> float:
    """The logarithm of the sum over all weights of R's derivative times the weight, where R is the
    sum of the outputs for an input of ones, every weight taken by its absolute value (Tanaka et al.
    2020, algorithm 1, objective and score; summed over the network by Abdelfattah et al. 2021,
    section 3.2).

    In doubles, as the product over the layers overflows floats. In evaluation mode batch
    normalisation changes nothing at initialisation; biases, which R does not have, are left out.
    """
    linear = copy.deepcopy(module).double().eval()
    weights = [p for p in linear.parameters() if p.ndim > 1]
    with torch.no_grad():
        for parameter in linear.parameters():
            if parameter.ndim > 1:
                parameter.abs_()
        for layer in linear.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                layer.bias.zero_()
    output = linear(torch.ones_like(x[:1], dtype=torch.float64))
    gradients = torch.autograd.grad(output.sum(), weights)
    total = sum(float((g * w).sum().detach()) for g, w in zip(gradients, weights, strict=True))
    return math.log(total) if total > 0 else -math.inf


def naswot(module: nn.Module, x: Tensor, y: Tensor) -> float:
    """The logarithm of the determinant of the kernel that holds, for each two images, how many
    activations agree on the sign of their input (Mellor et al. 2021, section 3: K_H and the score).

    Minus infinity where two images cannot be told apart, as without any activation.
    """
    kernel = torch.zeros(len(x), len(x), dtype=torch.float64, device=x.device)

    def agree(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        on = (inputs[0] > 0).flatten(1).float()
        kernel.add_(on @ on.T + (1 - on) @ (1 - on).T)

    untrained = at_first_step(module)
    for layer in untrained.modules():
        if type(layer).__module__ == activation.__name__:
            layer.register_forward_pre_hook(agree)
    with torch.no_grad():
        untrained(x)
    sign, logarithm = torch.linalg.slogdet(kernel)
    return float(logarithm) if sign > 0 else -math.inf


def gradient_norm(module: nn.Module, x: Tensor, y: Tensor) -> float:
    """The sum over the parameters of the Euclidean norm of the loss's gradient (Abdelfattah et al.
    2021, section 3.2, "grad_norm")."""
    untrained = at_first_step(module)
    output = untrained(x)
    logits = output[0] if isinstance(output, tuple) else output
    parameters = list(untrained.parameters())
    gradients = torch.autograd.grad(cross_entropy(logits, y), parameters, allow_unused=True)
    return float(sum(g.norm() for g in gradients if g is not None))


def at_first_step(module: nn.Module) -> nn.Module:
    """A copy that normalises by the batch, as in training, but drops nothing out."""
    copied = copy.deepcopy(module).train()
    for layer in copied.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    return copied


INDICATORS: Mapping[str, Callable[[nn.Module, Tensor, Tensor], float]] = {
    "synflow": synflow,
    "naswot": naswot,
    "gradient norm": gradient_norm,
}
