"""Rectified linear unit."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class ReluConfig(ActivationConfig):
    """max(x, 0)"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Relu()


class Relu(Part):
    special = {"compare": 1}

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.relu(x)
