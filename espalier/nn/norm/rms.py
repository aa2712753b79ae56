"""Root-mean-square normalisation (arXiv:1910.07467)."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.native import rms as native
from espalier.nn.slots import Dims, NormConfig, Part
from espalier.nn.state import Pass


class RmsConfig(NormConfig):
    """gain * x / sqrt(mean(x^2) + eps)"""

    variants = ({"gain": False},)

    eps: float = Field(1e-5, gt=0)
    gain: bool = True
    """learn a gain per feature (nanochat: none)"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Rms(width, self.eps, self.gain)


class Rms(Part):
    special = {"sqrt": 0, "divide": 0}
    passes = 2

    def __init__(self, width: int, eps: float, gain: bool):
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.empty(width)) if gain else None

    def reset(self) -> None:
        if self.weight is not None:
            nn.init.ones_(self.weight)

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        if native.serves(x):
            return native.normalise(x, self.weight, self.eps)
        gain = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, (self.width,), gain, self.eps)
