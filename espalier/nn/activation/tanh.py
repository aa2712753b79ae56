"""Hyperbolic tangent."""

from jaxtyping import Float
from torch import Tensor

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class TanhConfig(ActivationConfig):
    """tanh(x)"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Tanh()


class Tanh(Part):
    special = {"tanh": 1}

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return x.tanh()
