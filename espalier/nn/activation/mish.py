"""Mish (arXiv:1908.08681)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class MishConfig(ActivationConfig):
    """x * tanh(ln(1 + e^x))"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Mish()


class Mish(Part):
    special = {"exp": 1, "log": 1, "tanh": 1}

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.mish(x)
