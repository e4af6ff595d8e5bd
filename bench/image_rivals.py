"""Small networks of other families for pictures: a CNN, a vision transformer and an MLP-Mixer.

They take normalised pictures (b, height, width, channels) and give logits (b, n_outputs). The last
two cut them into 4 x 4 patches as our image networks do, and average their tokens, or, of the
transformer, read all of them by our networks' own head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Mixer", "ResNet", "VisionTransformer"]

_PATCH, _HEADS, _MLP_RATIO = 4, 4, 2


class _Patches(nn.Module):
    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        height, columns, channels = shape
        self.grid = (height // _PATCH, _PATCH, columns // _PATCH, _PATCH, channels)
        self.count = self.grid[0] * self.grid[2]
        self.embed = nn.Linear(_PATCH * _PATCH * channels, width)

    def forward(self, pictures: Tensor) -> Tensor:
        patches = pictures.reshape(-1, *self.grid).transpose(2, 3)
        tokens: Tensor = self.embed(patches.flatten(3).flatten(1, 2))
        return tokens


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, _MLP_RATIO * width), nn.GELU(), nn.Linear(_MLP_RATIO * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, _HEADS, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        # Written out: for a few dozen tokens the fused operation is slower on CPUs.
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        mixed = weights @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """After A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021: pre-norm, learned
    positions, here with the tokens' mean in place of a class token, or with `head_width` all tokens
    into so many hidden values."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        n_outputs: int,
        width: int,
        depth: int,
        head_width: int = 0,
    ) -> None:
        super().__init__()
        self.patches = _Patches(shape, width)
        self.positions = nn.Parameter(0.02 * torch.randn(self.patches.count, width))
        self.blocks = nn.Sequential(*(_Attention(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, n_outputs)
        self.hidden = None
        if head_width:
            self.hidden = nn.Linear(self.patches.count * width, head_width)
            self.head = nn.Linear(head_width, n_outputs)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.patches(pictures) + self.positions))
        read = x.mean(1) if self.hidden is None else functional.relu(self.hidden(x.flatten(1)))
        out: Tensor = self.head(read)
        return out


class _Mixing(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.along = nn.Sequential(nn.Linear(tokens, tokens), nn.GELU(), nn.Linear(tokens, tokens))
        self.across = nn.Sequential(
            nn.Linear(width, _MLP_RATIO * width), nn.GELU(), nn.Linear(_MLP_RATIO * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.along(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.across(self.norm2(x))
        return out


class Mixer(nn.Module):
    """After I. Tolstikhin et al., "MLP-Mixer", 2021."""

    def __init__(self, shape: tuple[int, int, int], n_outputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.patches = _Patches(shape, width)
        self.blocks = nn.Sequential(*(_Mixing(self.patches.count, width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, n_outputs)

    def forward(self, pictures: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.blocks(self.patches(pictures))).mean(1))
        return out


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Sequential()
        if stride != 1 or inputs != outputs:
            # Pixels are left out first: a 1x1 convolution by strides of fewer than 8 channels
            # hangs or aborts in oneDNN 3.12 with AVX2.
            self.skip = nn.Sequential(
                nn.AvgPool2d(1, stride),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.skip(x))


class ResNet(nn.Module):
    """ResNet-8: three stages of a residual block, `width`, 2 `width` and 4 `width` channels wide.

    After K. He et al., "Deep Residual Learning for Image Recognition", 2016, section 4.2, but with
    1x1 convolutions where sizes change.
    """

    def __init__(self, channels: int, n_outputs: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        stages: list[nn.Module] = []
        inputs = width
        for stage in range(3):
            outputs = width << stage
            stages.append(_Block(inputs, outputs, stride=2 if stage > 0 else 1))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, n_outputs)

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        out: Tensor = self.head(self.stages(self.stem(x)).mean((2, 3)))
        return out
