"""Scaled exponential linear unit, which keeps mean 0 and variance 1 (arXiv:1706.02515)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class SeluConfig(ActivationConfig):
    """1.0507 * (x above 0, 1.6733 (e^x - 1) below)"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Selu()


class Selu(Part):
    special = {"compare": 1, "exp": 1}

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.selu(x)
