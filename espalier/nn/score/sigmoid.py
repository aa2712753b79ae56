"""Sigmoid attention (arXiv:2409.04431); its paper adds a bias of -log(length), here `by_length`."""

from pydantic import Field
from torch import Tensor

from espalier.nn.rows import Alone
from espalier.nn.slots import Dims, Part, ScoreConfig


class SigmoidConfig(ScoreConfig):
    """sigmoid(s) / divisor"""

    variants = ({"by_length": True},)

    divisor: float = Field(256.0, gt=0)
    by_length: bool = False
    """divide by the number of visible keys too"""

    def build(self, dims: Dims, layer: int) -> Part:
        return Sigmoid(self.divisor, self.by_length)


class Sigmoid(Alone):
    special = {"exp": 1, "divide": 1}

    def weigh(self, scores: Tensor) -> Tensor:
        return scores.sigmoid()
