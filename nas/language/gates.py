"""The torch module of ``layers.SqueezeExcite``, imported when a network has one."""

from __future__ import annotations

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """Scales each channel of a map (batch, channels, height, width) by gates computed from the
    pooled channels (Hu et al. 2018, equations 2 to 4). Parameters have torchvision's names, whose
    own class takes 0.3 to 1.2 s to import."""

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
