"""Rectifier with a ceiling of six (A. Krizhevsky, 2010)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class Relu6Config(ActivationConfig):
    """min(max(x, 0), 6)"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Relu6()


class Relu6(Part):
    special = {"compare": 2}

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.relu6(x)
