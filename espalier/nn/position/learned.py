"""A learned vector per position, added to the embedding (GPT-2)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.slots import Dims, Position, PositionConfig
from espalier.nn.state import Pass


class LearnedConfig(PositionConfig):
    """x + table[position]"""

    def build(self, dims: Dims) -> Position:
        return Learned(dims.block_size, dims.n_embd, dims.std)


class Learned(Position):
    role = {"weight": "embedding"}

    def __init__(self, block_size: int, width: int, std: float):
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(block_size, width))

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)

    def add(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        return x + F.embedding(now.positions.clamp(min=0), self.weight)
