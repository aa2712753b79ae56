"""Squared rectified linear unit (Primer, arXiv:2109.08668)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from espalier.native import relu2 as native
from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class Relu2Config(ActivationConfig):
    """max(x, 0)^2"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Relu2()


class Relu2(Part):
    special = {"compare": 1}

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return native.square(x) if native.serves(x) else F.relu(x).square()
