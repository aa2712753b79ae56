"""Rectifier with a learned slope below zero (arXiv:1502.01852)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class PreluConfig(ActivationConfig):
    """x above 0, slope x below; the slope is learned"""

    variants = ({"per": "feature"},)

    slope: float = 0.25
    """at the start"""
    per: Literal["layer", "feature"] = "layer"

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Prelu((width,) if self.per == "feature" else (), self.slope)


class Prelu(Part):
    special = {"compare": 1}

    def __init__(self, shape: tuple[int, ...], slope: float):
        super().__init__()
        self.start = slope
        self.per_feature = ("slope",) if shape else ()
        self.slope = nn.Parameter(torch.empty(shape))

    def reset(self) -> None:
        nn.init.constant_(self.slope, self.start)

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return x.clamp(min=0) + self.slope.to(x.dtype) * x.clamp(max=0)
