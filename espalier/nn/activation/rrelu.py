"""Rectifier with a random slope below zero in training, their mean after (arXiv:1505.00853)."""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from espalier.errors import ConfigError
from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class RreluConfig(ActivationConfig):
    """x above 0, a x below, a uniform on [lower, upper]"""

    lower: float = Field(1 / 8, ge=0)
    upper: float = Field(1 / 3, ge=0)

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        if self.lower > self.upper:
            raise ConfigError(
                f"activation.lower={self.lower} must not be above activation.upper={self.upper}"
            )
        return Rrelu(self.lower, self.upper)


class Rrelu(Part):
    special = {"compare": 1}

    def __init__(self, lower: float, upper: float):
        super().__init__()
        self.lower, self.upper = lower, upper

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.rrelu(x, self.lower, self.upper, self.training)
