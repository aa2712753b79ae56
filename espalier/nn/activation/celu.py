"""Continuously differentiable exponential linear unit (arXiv:1704.07483)."""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class CeluConfig(ActivationConfig):
    """x above 0, alpha (e^(x / alpha) - 1) below"""

    alpha: float = Field(1.0, gt=0)

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Celu(self.alpha)


class Celu(Part):
    special = {"compare": 1, "exp": 1}

    def __init__(self, alpha: float):
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.celu(x, self.alpha)
