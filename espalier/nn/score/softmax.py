"""Softmax over the keys a query may see."""

from jaxtyping import Bool, Float
from torch import Tensor

from espalier.nn.slots import Dims, Part, ScoreConfig
from espalier.nn.state import Pass


class SoftmaxConfig(ScoreConfig):
    """exp(s) / sum exp(s)"""

    def build(self, dims: Dims, layer: int) -> Part:
        return Softmax()


class Softmax(Part):
    special = {"max": 1, "exp": 1, "divide": 1}
    passes = 3

    def forward(
        self, scores: Float[Tensor, "*batch key"], mask: Bool[Tensor, "*#batch key"], now: Pass
    ) -> Float[Tensor, "*batch key"]:
        return scores.masked_fill(~mask, float("-inf")).softmax(-1)
