"""Rectifier with a slope below zero (A. Maas et al., 2013)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class LeakyReluConfig(ActivationConfig):
    """x above 0, slope x below"""

    slope: float = 0.01

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return LeakyRelu(self.slope)


class LeakyRelu(Part):
    special = {"compare": 1}

    def __init__(self, slope: float):
        super().__init__()
        self.slope = slope

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.leaky_relu(x, self.slope)
