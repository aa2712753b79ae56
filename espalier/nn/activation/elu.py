"""Exponential linear unit (arXiv:1511.07289)."""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class EluConfig(ActivationConfig):
    """x above 0, alpha (e^x - 1) below"""

    alpha: float = Field(1.0, gt=0)

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Elu(self.alpha)


class Elu(Part):
    special = {"compare": 1, "exp": 1}

    def __init__(self, alpha: float):
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.elu(x, self.alpha)
