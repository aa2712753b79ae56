"""A learned vector for each corpus, added to the residual stream (ReaLLMASIC's LSV)."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from espalier.nn.slots import Dims, Part, SteeringConfig
from espalier.nn.state import Pass
from espalier.nn.steered import sources


class OneHotConfig(SteeringConfig):
    """x + alpha * M[source]"""

    variants = ({"layer": 1, "sources": 3, "alpha": 2.0},)

    layer: int = Field(0, ge=0)
    """after which layer"""
    sources: int = Field(2, ge=1)
    """corpora, each with a vector of its own"""
    alpha: float = 1.0

    def build(self, dims: Dims) -> Part:
        return OneHot(self.sources, self.alpha, dims)


class OneHot(Part):
    role = {"vectors": "embedding"}

    def __init__(self, sources: int, alpha: float, dims: Dims):
        super().__init__()
        self.alpha, self.std = alpha, dims.std
        self.vectors = nn.Parameter(torch.empty(sources, dims.n_embd))

    def reset(self) -> None:
        nn.init.normal_(self.vectors, std=self.std)

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        return x + self.alpha * self.vectors[sources(now, x)][:, None].to(x.dtype)
