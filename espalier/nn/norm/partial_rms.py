"""RMS norm with the root mean square of the first features only (pRMSNorm, arXiv:1910.07467)."""

import math

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from espalier.nn.slots import Dims, NormConfig, Part
from espalier.nn.state import Pass


class PartialRmsConfig(NormConfig):
    """gain * x / sqrt(mean(x_1..x_k ^2) + eps), k = ceil(fraction * width)"""

    fraction: float = Field(0.0625, gt=0, le=1)
    at_least: int = Field(8, ge=1)
    """features, where that fraction of a narrow row would be too few to tell its size"""
    eps: float = Field(1e-5, gt=0)

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        count = max(self.at_least, math.ceil(self.fraction * width))
        return PartialRms(width, min(count, width), self.eps)


class PartialRms(Part):
    special = {"sqrt": 0, "divide": 0}
    passes = 2

    def __init__(self, width: int, count: int, eps: float):
        super().__init__()
        self.count, self.eps = count, eps
        self.weight = nn.Parameter(torch.empty(width))

    def reset(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        some = x[..., : self.count]
        square = (some.float() if x.dtype.itemsize < 4 else some).square().mean(-1, keepdim=True)
        return (self.weight * x * (square + self.eps).rsqrt()).to(x.dtype)
