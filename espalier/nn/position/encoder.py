"""A learned position encoder: layers of its own that tell the trunk where each token stands.

The modular nanoGPT's LPE takes the residual stream at one layer, sends it through a side stack and
adds the result at another; here both ends are the embedding.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.config import default
from espalier.errors import ConfigError
from espalier.nn.slots import BlockConfig, Dims, Part, Position, PositionConfig
from espalier.nn.state import Pass


class EncoderConfig(PositionConfig):
    """x + block_n(... block_1(x + table[position]))"""

    variants = ({"n_layer": 2, "n_head": 2}, {"n_head": 1, "block": "parallel"})

    n_layer: int = Field(1, ge=1)
    """blocks beside the trunk"""
    n_head: int | None = Field(None, ge=1)
    """of their attention; model.n_head when left out"""
    block: BlockConfig = default("prenorm")

    def build(self, dims: Dims) -> Position:
        heads = self.n_head or dims.n_head
        if dims.n_embd % heads:
            raise ConfigError(f"position.n_head={heads} must divide model.n_embd={dims.n_embd}")
        side = replace(dims, n_head=heads)
        return Encoder(dims, [self.block.build(side, layer) for layer in range(self.n_layer)])


class Encoder(Position):
    role = {"weight": "embedding"}

    def __init__(self, dims: Dims, blocks: Sequence[Part]):
        super().__init__()
        self.std = dims.std
        self.weight = nn.Parameter(torch.empty(dims.block_size, dims.n_embd))
        self.blocks = nn.ModuleList(blocks)

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)

    def add(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        side = x + F.embedding(now.positions.clamp(min=0), self.weight)
        for block in self.blocks:
            side = now.run(block, side)
        return x + side
