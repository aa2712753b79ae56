"""Softermax: softmax to the base two, which a shifter can evaluate (arXiv:2103.09301)."""

import math

from jaxtyping import Bool, Float
from torch import Tensor

from espalier.nn.slots import Dims, Part, ScoreConfig
from espalier.nn.state import Pass


class SoftermaxConfig(ScoreConfig):
    """2^(s - max s) / sum 2^(s - max s)"""

    def build(self, dims: Dims, layer: int) -> Part:
        return Softermax()


class Softermax(Part):
    special = {"max": 1, "exp2": 1, "divide": 1}
    passes = 3

    def forward(
        self, scores: Float[Tensor, "*batch key"], mask: Bool[Tensor, "*#batch key"], now: Pass
    ) -> Float[Tensor, "*batch key"]:
        return (scores * math.log(2)).masked_fill(~mask, float("-inf")).softmax(-1)
