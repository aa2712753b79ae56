"""Softsign: a tanh without exponential (X. Glorot, Y. Bengio, 2010)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class SoftsignConfig(ActivationConfig):
    """x / (1 + |x|)"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Softsign()


class Softsign(Part):
    special = {"divide": 1}

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.softsign(x)
