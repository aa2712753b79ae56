"""Sigmoid linear unit, also called swish (arXiv:1710.05941)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class SiluConfig(ActivationConfig):
    """x * sigmoid(x)"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Silu()


class Silu(Part):
    special = {"exp": 1, "divide": 1}

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.silu(x)
