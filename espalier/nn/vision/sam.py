"""Segment Anything's image encoder (arXiv:2304.02643) and DeepSeek-OCR's 16x compressor.

A ViT (arXiv:2203.16527) whose layers see windows, every third one the whole image, each with
decomposed relative positions (arXiv:2112.01526); then a neck of two convolutions and two more with
stride 2, nothing between them (arXiv:2510.18234). Parameter names are the official checkpoint's.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.norm.layer import Layer
from espalier.nn.slots import Part, fused
from espalier.nn.state import Pass
from espalier.nn.vision.layers import ChannelNorm, Conv, dense, heads_of, resized, through

EPS = 1e-6


class Sam(Part):
    """Pixels (images, 3, side, side) to a map (images, channels, side / 64, side / 64)."""

    role = {"pos_embed": "embedding"}

    def __init__(self, patch: int, grid: int, blocks: Sequence[Part], channels: Sequence[int]):
        """`grid` patches to a side; `channels`: of the layers, neck, between, and of the map."""
        super().__init__()
        width, neck, between, last = channels
        self.patch_embed = Patches(patch, width)
        self.pos_embed = nn.Parameter(torch.empty(1, grid, grid, width))
        self.blocks = nn.ModuleList(blocks)
        self.neck = nn.ModuleList(
            [
                Conv(width, neck, 1, bias=False),
                ChannelNorm(neck, EPS, shift=True),
                Conv(neck, neck, 3, padding=1, bias=False),
                ChannelNorm(neck, EPS, shift=True),
            ]
        )
        self.net_2 = Conv(neck, between, 3, stride=2, padding=1, bias=False)
        self.net_3 = Conv(between, last, 3, stride=2, padding=1, bias=False)

    def reset(self) -> None:
        nn.init.normal_(self.pos_embed, std=0.02)

    def forward(
        self, pixels: Float[Tensor, "images 3 side side"], now: Pass
    ) -> Float[Tensor, "images channels rows rows"]:
        x = self.patch_embed(pixels.to(self.pos_embed.dtype), now).movedim(1, -1)
        x = through(self.blocks, x + resized(self.pos_embed[0], x.shape[1]), now).movedim(-1, 1)
        for part in (*self.neck, self.net_2, self.net_3):
            x = part(x, now)
        return x


class Patches(Part):
    def __init__(self, size: int, width: int):
        super().__init__()
        self.proj = Conv(3, width, size, stride=size, bias=True)

    def forward(
        self, pixels: Float[Tensor, "images 3 side side"], now: Pass
    ) -> Float[Tensor, "images width rows rows"]:
        return self.proj(pixels, now)


class SamLayer(Part):
    """x + attention(norm(x)), x + mlp(norm(x)); `window` 0 sees the whole image."""

    def __init__(self, width: int, heads: int, window: int, grid: int):
        super().__init__()
        self.window = window
        self.norm1 = Layer(width, EPS, shift=True)
        self.attn = SpatialAttention(width, heads, window or grid)
        self.norm2 = Layer(width, EPS, shift=True)
        self.mlp = Mlp(width, 4 * width)

    def forward(
        self, x: Float[Tensor, "images height width c"], now: Pass
    ) -> Float[Tensor, "images height width c"]:
        x = x + self.attended(self.norm1(x, now), now)
        return x + self.mlp(self.norm2(x, now), now)

    def attended(self, x: Tensor, now: Pass) -> Tensor:
        """Windows are filled up with zeros, and these are seen: the encoder learned it so."""
        if not self.window:
            return self.attn(x, now)
        images, height, width, c = x.shape
        side = self.window
        rows, columns = -(-height // side), -(-width // side)
        x = F.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
        x = x.reshape(images, rows, side, columns, side, c).transpose(2, 3)
        y = self.attn(x.reshape(-1, side, side, c), now)
        y = y.reshape(images, rows, columns, side, side, c).transpose(2, 3)
        return y.reshape(images, rows * side, columns * side, c)[:, :height, :width]


class SpatialAttention(Part):
    """softmax(q k^T / sqrt(width) + q Rh[h - h'] + q Rw[w - w']) v over a square of positions."""

    role = {"rel_pos_h": "embedding", "rel_pos_w": "embedding"}
    special = {"max": 1, "exp": 1, "divide": 1}
    passes = 3

    def __init__(self, width: int, heads: int, side: int):
        super().__init__()
        self.heads = heads
        self.qkv = fused(dense(width, 3 * width), [width] * 3)
        self.proj = dense(width, width)
        self.rel_pos_h = nn.Parameter(torch.empty(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.empty(2 * side - 1, width // heads))

    def reset(self) -> None:
        nn.init.zeros_(self.rel_pos_h)
        nn.init.zeros_(self.rel_pos_w)

    def forward(
        self, x: Float[Tensor, "batch height width c"], now: Pass
    ) -> Float[Tensor, "batch height width c"]:
        batch, height, width, _ = x.shape
        q, k, v = heads_of(self.qkv(x.flatten(1, 2), now), self.heads)
        at = q.reshape(batch, self.heads, height, width, -1)
        down = torch.einsum("bnhwc,hkc->bnhwk", at, between(self.rel_pos_h, height))
        across = torch.einsum("bnhwc,wkc->bnhwk", at, between(self.rel_pos_w, width))
        bias = (down[..., :, None] + across[..., None, :]).flatten(4).flatten(2, 3)
        y = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype))
        return self.proj(y.transpose(1, 2).reshape(x.shape), now)


def between(table: Float[Tensor, "offsets c"], side: int) -> Float[Tensor, "side side c"]:
    """The vector of each pair of rows, query - key; a table of another size is interpolated."""
    if len(table) != 2 * side - 1:
        stretched = F.interpolate(table.float().t()[None], size=2 * side - 1, mode="linear")
        table = stretched[0].t().to(table.dtype)
    row = torch.arange(side, device=table.device)
    return table[row[:, None] - row + side - 1]


class Mlp(Part):
    special = {"erf": 1}

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.lin1, self.lin2 = dense(width, hidden), dense(hidden, width)

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return self.lin2(F.gelu(self.lin1(x, now)), now)
