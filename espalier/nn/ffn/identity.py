"""No feed-forward part: what one is worth, seen by leaving it out (the original raises)."""

from jaxtyping import Float
from torch import Tensor

from espalier.nn.slots import Dims, FfnConfig, Part
from espalier.nn.state import Pass


class IdentityConfig(FfnConfig):
    """x"""

    def build(self, dims: Dims, layer: int) -> Part:
        return Identity()


class Identity(Part):
    def forward(self, x: Float[Tensor, "*batch d"], now: Pass) -> Float[Tensor, "*batch d"]:
        return x
