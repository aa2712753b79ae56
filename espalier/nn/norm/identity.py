"""No normalisation."""

from jaxtyping import Float
from torch import Tensor

from espalier.nn.slots import Dims, NormConfig, Part
from espalier.nn.state import Pass


class IdentityConfig(NormConfig):
    """x"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Identity()


class Identity(Part):
    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return x
