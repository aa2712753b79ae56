"""No attention: what comes in goes out, and no token hears of another."""

from jaxtyping import Float
from torch import Tensor

from espalier.nn.slots import AttentionConfig, Dims, Part
from espalier.nn.state import Pass


class IdentityConfig(AttentionConfig):
    """x"""

    def build(self, dims: Dims, layer: int) -> Part:
        return Identity()


class Identity(Part):
    places_tokens = False

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        return x
