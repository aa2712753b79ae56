"""CLIP's image transformer (arXiv:2103.00020), fed by another encoder's map in place of pixels.

Its own patches' convolution stays for the published count, unused; the last norm is left out.
Parameter names are those of DeepSeek-OCR's checkpoint, "layrnorm" included.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.norm.layer import Layer
from espalier.nn.slots import Part, fused, retire
from espalier.nn.state import Pass
from espalier.nn.vision.layers import Conv, Table, dense, heads_of, resized, square, through

EPS = 1e-5


class Clip(Part):
    """A map (images, width, rows, rows) to a vector per position (images, rows * rows, width)."""

    def __init__(self, width: int, grid: int, patch: int, layers: Sequence[Part]):
        super().__init__()
        self.embeddings = Embeddings(width, grid, patch)
        self.pre_layrnorm = Layer(width, EPS, shift=True)
        self.transformer = Transformer(layers)

    def forward(
        self, local: Float[Tensor, "images width rows rows"], now: Pass
    ) -> Float[Tensor, "images positions width"]:
        x = self.pre_layrnorm(self.embeddings(local, now), now)
        return self.transformer(x, now)[:, 1:]


class Embeddings(Part):
    """The vector of the class, the map's vectors, and where each stands."""

    def __init__(self, width: int, grid: int, patch: int):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = retire(Conv(3, width, patch, stride=patch, bias=False))
        self.position_embedding = Table(grid * grid + 1, width)

    def reset(self) -> None:
        nn.init.normal_(self.class_embedding, std=len(self.class_embedding) ** -0.5)

    def forward(
        self, local: Float[Tensor, "images width rows rows"], now: Pass
    ) -> Float[Tensor, "images positions width"]:
        table = self.position_embedding.weight
        side = square(len(table) - 1)
        places = resized(table[1:].reshape(side, side, -1), local.shape[-1])
        first = self.class_embedding.expand(len(local), 1, -1).to(local.dtype)
        x = torch.cat([first, local.flatten(2).transpose(1, 2)], 1)
        return x + torch.cat([table[:1], places.flatten(0, 1)])


class Transformer(Part):
    def __init__(self, layers: Sequence[Part]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self, x: Float[Tensor, "images positions width"], now: Pass
    ) -> Float[Tensor, "images positions width"]:
        return through(self.layers, x, now)


class ClipLayer(Part):
    """x + attention(norm(x)), x + mlp(norm(x)); every position sees every other."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.layer_norm1 = Layer(width, EPS, shift=True)
        self.self_attn = SelfAttention(width, heads)
        self.layer_norm2 = Layer(width, EPS, shift=True)
        self.mlp = QuickMlp(width, hidden)

    def forward(
        self, x: Float[Tensor, "images positions width"], now: Pass
    ) -> Float[Tensor, "images positions width"]:
        x = x + self.self_attn(self.layer_norm1(x, now), now)
        return x + self.mlp(self.layer_norm2(x, now), now)


class SelfAttention(Part):
    """softmax(q k^T / sqrt(width)) v"""

    special = {"max": 1, "exp": 1, "divide": 1}
    passes = 3

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv_proj = fused(dense(width, 3 * width), [width] * 3)
        self.out_proj = dense(width, width)

    def forward(
        self, x: Float[Tensor, "images positions width"], now: Pass
    ) -> Float[Tensor, "images positions width"]:
        q, k, v = heads_of(self.qkv_proj(x, now), self.heads)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(y.transpose(1, 2).flatten(2), now)


class QuickMlp(Part):
    """W2 (h sigmoid(1.702 h)), h = W1 x"""

    special = {"exp": 1, "divide": 1}

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = dense(width, hidden), dense(hidden, width)

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        h = self.fc1(x, now)
        return self.fc2(h * torch.sigmoid(1.702 * h), now)
