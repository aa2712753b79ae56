"""What both transformers of an image encoder share."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from espalier.nn.linear.dense import Dense
from espalier.nn.norm.layer import Layer
from espalier.nn.slots import Part
from espalier.nn.state import Pass


def dense(n_in: int, n_out: int) -> Dense:
    """A linear map with torch's own spread, 1 / sqrt(3 n_in): 0.02 at the published widths."""
    return Dense(n_in, n_out, (3 * n_in) ** -0.5, bias=True)


class Conv(Part):
    """A convolution over squares of pixels; it starts at N(0, 1 / fan in), which keeps a spread."""

    def __init__(
        self, n_in: int, n_out: int, size: int, *, stride: int = 1, padding: int = 0, bias: bool
    ):
        super().__init__()
        self.stride, self.padding = stride, padding
        self.weight = nn.Parameter(torch.empty(n_out, n_in, size, size))
        self.bias = nn.Parameter(torch.empty(n_out)) if bias else None

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self, x: Float[Tensor, "images n_in height width"], now: Pass
    ) -> Float[Tensor, "images n_out rows columns"]:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class ChannelNorm(Layer):
    """Layer normalisation of (images, channels, height, width) over its channels."""

    def forward(
        self, x: Float[Tensor, "images channels height width"], now: Pass
    ) -> Float[Tensor, "images channels height width"]:
        return super().forward(x.movedim(1, -1), now).movedim(-1, 1)


class Table(Part):
    """A learned vector per position."""

    role = {"weight": "embedding"}

    def __init__(self, rows: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=0.02)


def resized(
    table: Float[Tensor, "height width channels"], side: int
) -> Float[Tensor, "side side channels"]:
    """A square of positions at another size: bicubic with antialiasing, in fp32."""
    if table.shape[0] == side:
        return table
    image = table.float().permute(2, 0, 1)[None]
    image = F.interpolate(image, (side, side), mode="bicubic", antialias=True)
    return image[0].permute(1, 2, 0).to(table.dtype)


def heads_of(x: Float[Tensor, "batch time width"], heads: int) -> Sequence[Tensor]:
    """Fused queries, keys and values apart: (batch, heads, time, head width) each."""
    return x.reshape(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def through(layers: nn.ModuleList, x: Tensor, now: Pass) -> Tensor:
    """One layer after the other; recomputed in the backward pass where the pass says so."""
    again = now.checkpoint and torch.is_grad_enabled()
    for layer in layers:
        x = checkpoint(layer, x, now, use_reentrant=False) if again else layer(x, now)
    return x


def square(count: int) -> int:
    """The side of a square of `count` positions."""
    side = math.isqrt(count)
    assert side * side == count, f"{count} positions are no square"
    return side
