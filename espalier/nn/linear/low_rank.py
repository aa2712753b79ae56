"""A matrix as the product of two thin ones (arXiv:1301.3584; of low rank from the start)."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.errors import ConfigError
from espalier.nn.slots import Dims, LinearConfig, Part
from espalier.nn.state import Pass


class LowRankConfig(LinearConfig):
    """(x V^T) U^T + b, U (n_out, rank), V (rank, n_in)"""

    rank: int | None = Field(None, ge=1)
    """a quarter of the shorter side when left out"""

    def build(self, n_in: int, n_out: int, dims: Dims, layer: int) -> Part:
        short = min(n_in, n_out)
        rank = self.rank or max(1, short // 4)
        if rank > short:
            raise ConfigError(f"linear.rank={rank} is more than the shorter side of {n_in}x{n_out}")
        return LowRank(n_in, n_out, rank, dims)


class LowRank(Part):
    def __init__(self, n_in: int, n_out: int, rank: int, dims: Dims):
        super().__init__()
        self.std = dims.std
        self.inner = nn.Parameter(torch.empty(rank, n_in))
        self.weight = nn.Parameter(torch.empty(n_out, rank))
        self.bias = nn.Parameter(torch.empty(n_out)) if dims.bias else None

    def reset(self) -> None:
        """An entry of the product varies by `std`, as in one matrix."""
        rank, n_in = self.inner.shape
        nn.init.normal_(self.inner, std=n_in**-0.5)
        nn.init.normal_(self.weight, std=self.std * (n_in / rank) ** 0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*batch n_in"], now: Pass) -> Float[Tensor, "*batch n_out"]:
        return F.linear(F.linear(x, self.inner), self.weight, self.bias)
