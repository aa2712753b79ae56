"""Weights of -1, 0 and 1, activations of 8 bits (BitNet b1.58, arXiv:2402.17764).

The paper's layer also normalises its input; here that is the block's norm. Both roundings have a
straight-through gradient. ReaLLMASIC's "bitlinear" is another thing: it has no scale and rounds
nothing; this is its "bitlinear_1p58".
"""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.rounding import Codes, Grid, ternary, ternary_codes
from espalier.nn.slots import Dims, LinearConfig, Part
from espalier.nn.state import Pass


class BitnetConfig(LinearConfig):
    """q8(x) q3(W)^T + b; q3(W) = s clip(round(W / s)), s = mean|W|; q8 by each token's largest"""

    bits: int | None = Field(8, ge=2, le=16)
    """of activations; null: not rounded"""

    def build(self, n_in: int, n_out: int, dims: Dims, layer: int) -> Part:
        return Bitnet(n_in, n_out, dims, Grid(self.bits) if self.bits else None)


class Bitnet(Part):
    stored = {"weight": 1.6}  # five of three values fit into a byte: 3^5 = 243
    rounds = True
    entangled = True

    def __init__(self, n_in: int, n_out: int, dims: Dims, grid: Grid | None):
        super().__init__()
        self.std, self.grid = dims.std, grid
        if grid is not None:
            self.special, self.passes = {"abs": 1, "max": 1, "round": 1, "divide": 1}, 2
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.empty(n_out)) if dims.bias else None

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*batch n_in"], now: Pass) -> Float[Tensor, "*batch n_out"]:
        x = x if self.grid is None else self.grid(x)
        return F.linear(x, ternary(self.weight), self.bias)

    def integers(self) -> Codes:
        return ternary_codes(self.weight)

    def inputs(self, x: Float[Tensor, "*batch n_in"]) -> Codes | None:
        return None if self.grid is None else self.grid.codes(x)
