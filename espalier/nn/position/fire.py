"""FIRE: a bias that is learned as a function of relative distance (arXiv:2310.04418).

A distance counts as a share of how far back the query can look, so that the function holds for
longer texts than it was trained on.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.slots import Dims, Part, Position, PositionConfig
from espalier.nn.state import Pass

LEAST = 1e-6  # of what a distance is divided by


class FireConfig(PositionConfig):
    """scores + mlp(psi(i - j) / psi(max(i, |m| L))), psi(x) = ln(1 + |c| x), c and m learned"""

    variants = ({"layers": "each", "threshold": 4}, {"width": 3})

    width: int = Field(32, ge=1)
    """of the mlp's hidden layer: 1 -> width -> n_head, relu"""
    c: float = Field(0.1, gt=0)
    """where c starts"""
    threshold: int = Field(512, ge=1)
    """L: up to m L (m starts at 1) a distance is not a share of the query's own position"""
    layers: Literal["shared", "each"] = "shared"
    """one function for all layers, or one for each"""

    def build(self, dims: Dims) -> Position:
        count = dims.n_layer if self.layers == "each" else 1
        shares = [Share(self.width, dims.n_head, self.c, self.threshold) for _ in range(count)]
        return Fire(shares, dims.n_head)


class Share(Part):
    """The function of one layer: positions of queries and keys to a bias for each head.

    Its mlp starts as torch's linear layers do, uniform within 1 / sqrt(inputs).
    """

    special = {"log": 1, "divide": 1}
    role = {"c": "vector", "m": "vector"}

    def __init__(self, width: int, heads: int, c: float, threshold: int):
        super().__init__()
        self.start, self.threshold = c, threshold
        self.c, self.m = (nn.Parameter(torch.empty(())) for _ in "cm")
        self.up, self.up_bias = (nn.Parameter(torch.empty(width)) for _ in "ub")
        self.down = nn.Parameter(torch.empty(heads, width))
        self.down_bias = nn.Parameter(torch.empty(heads))

    def reset(self) -> None:
        nn.init.constant_(self.c, self.start)
        nn.init.ones_(self.m)
        for parameter, inputs in (
            (self.up, 1),
            (self.up_bias, 1),
            (self.down, len(self.up)),
            (self.down_bias, len(self.up)),
        ):
            nn.init.uniform_(parameter, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))

    def forward(
        self, queries: Int[Tensor, "batch query"], keys: Int[Tensor, "#batch key"]
    ) -> Float[Tensor, "batch heads query key"]:
        queries = queries.clamp(min=0)[..., None]
        gap = (queries - keys[:, None]).clamp(min=0)
        reach = torch.maximum(queries, self.m.abs() * self.threshold)
        share = self._psi(gap) / self._psi(reach).clamp(min=LEAST)
        hidden = torch.relu(share[..., None] * self.up + self.up_bias)
        return F.linear(hidden, self.down, self.down_bias).permute(0, 3, 1, 2)

    def _psi(self, x: Tensor) -> Tensor:
        return torch.log1p(self.c.abs() * x)


class Fire(Position):
    def __init__(self, shares: list[Share], heads: int):
        super().__init__()
        self.shares, self.heads = nn.ModuleList(shares), heads

    def add(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        if len(self.shares) == 1 and now.fresh:  # each layer will ask for the same
            now.tables = (self._bias(now.positions, now.positions, 0),)
        return x

    def bias(self, now: Pass, key_positions: Int[Tensor, "batch key"], layer: int) -> Tensor:
        if now.tables and key_positions is now.positions:
            return now.tables[0]
        return self._bias(now.positions, key_positions, layer)

    def _bias(self, queries: Tensor, keys: Tensor, layer: int) -> Tensor:
        if queries.stride(0) == keys.stride(0) == 0:
            queries, keys = queries[:1], keys[:1]  # every row stands at the same places
        share = self.shares[min(layer, len(self.shares) - 1)]  # a head's own layers: the last's
        bias: Tensor = share(queries, keys)
        return bias
