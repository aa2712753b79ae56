"""Onto a sphere: only the direction is kept (after nGPT, arXiv:2410.01131)."""

import math

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from espalier.nn.slots import Dims, NormConfig, Part
from espalier.nn.state import Pass


class HypersphereConfig(NormConfig):
    """radius * x / |x|"""

    variants = ({"learn": True},)

    radius: float | None = Field(None, gt=0)
    """sqrt(width) when left out"""
    learn: bool = False
    """learn the radius"""
    eps: float = Field(1e-6, gt=0)
    """the least length"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Hypersphere(self.radius or math.sqrt(width), self.learn, self.eps)


class Hypersphere(Part):
    special = {"sqrt": 0, "divide": 1}
    passes = 2

    def __init__(self, radius: float, learn: bool, eps: float):
        super().__init__()
        self.start, self.eps = radius, eps
        self.radius: Tensor | float
        self.radius = nn.Parameter(torch.empty(())) if learn else radius

    def reset(self) -> None:
        if isinstance(self.radius, nn.Parameter):
            nn.init.constant_(self.radius, self.start)

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        length = torch.linalg.vector_norm(x.float() if x.dtype.itemsize < 4 else x, dim=-1)
        y: Tensor = self.radius * x / length.clamp(min=self.eps)[..., None]
        return y.to(x.dtype)
