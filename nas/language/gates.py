"""Torch's side of ``layers.SqueezeExcite``, imported when a network has one."""

from __future__ import annotations

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """Weighs each channel of a map (batch, channels, height, width) by what all of it says (Hu et
    al. 2018, equations 2 to 4). The names of its parameters are torchvision's, whose own costs the
    first such network of a process .3 to 1.2 s of imports."""

    def __init__(self, channels: int, squeezed: int, activation: nn.Module) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation
        self.scale_activation = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.fc1(self.avgpool(x)))
        gates: Tensor = self.scale_activation(self.fc2(y))
        return gates * x
