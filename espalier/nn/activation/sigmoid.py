"""Logistic function."""

from jaxtyping import Float
from torch import Tensor

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class SigmoidConfig(ActivationConfig):
    """1 / (1 + e^-x)"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Sigmoid()


class Sigmoid(Part):
    special = {"exp": 1, "divide": 1}

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return x.sigmoid()
