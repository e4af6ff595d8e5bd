"""A residual CNN for pictures, for training only: networks learn its answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["PictureTeacher"]


class PictureTeacher(nn.Module):
    """Eight convolutions and a classifier, `width` to 8 `width` channels, about equal work in each.

    After D. Page, "How to train your ResNet", 2018: pictures are halved three times, and of each
    channel the largest value is classified. Takes normalised pictures (b, height, width, channels),
    gives (b, n_outputs).
    """

    def __init__(self, channels: int, n_outputs: int, width: int) -> None:
        super().__init__()
        self.stem = _convolution(channels, width)
        self.narrow1 = _convolution(width, 2 * width, pool=True)
        self.residual1 = _residual(2 * width)
        self.narrow2 = _convolution(2 * width, 4 * width, pool=True)
        self.narrow3 = _convolution(4 * width, 8 * width, pool=True)
        self.residual2 = _residual(8 * width)
        self.head = nn.Linear(8 * width, n_outputs)

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        x = self.narrow1(self.stem(x))
        x = self.narrow3(self.narrow2(x + self.residual1(x)))
        x = x + self.residual2(x)
        # Largest values make large logits: a quarter keeps the first steps small.
        out: Tensor = self.head(x.amax((2, 3))) / 4
        return out


def _convolution(inputs: int, outputs: int, pool: bool = False) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    rest = [nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(convolution, *([nn.MaxPool2d(2)] if pool else []), *rest)


def _residual(channels: int) -> nn.Sequential:
    return nn.Sequential(_convolution(channels, channels), _convolution(channels, channels))
