"""Softplus: a smooth rectifier (C. Dugas et al., 2001)."""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class SoftplusConfig(ActivationConfig):
    """ln(1 + e^(beta x)) / beta"""

    beta: float = Field(1.0, gt=0)

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Softplus(self.beta)


class Softplus(Part):
    special = {"exp": 1, "log": 1}

    def __init__(self, beta: float):
        super().__init__()
        self.beta = beta

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.softplus(x, self.beta)
