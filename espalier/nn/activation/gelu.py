"""Gaussian error linear unit (arXiv:1606.08415)."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class GeluConfig(ActivationConfig):
    """x * Phi(x), or the tanh approximation that OpenAI's GPT-2 uses"""

    variants = ({"approximate": "tanh"},)

    approximate: Literal["none", "tanh"] = "none"

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Gelu(self.approximate)


class Gelu(Part):
    def __init__(self, approximate: str):
        super().__init__()
        self.approximate = approximate
        self.special = {"erf" if approximate == "none" else "tanh": 1}

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.gelu(x, approximate=self.approximate)
