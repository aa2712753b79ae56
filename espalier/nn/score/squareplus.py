"""Squareplus (arXiv:2112.11687): softplus without exponential or logarithm."""

import math

from pydantic import Field
from torch import Tensor

from espalier.nn.rows import Alone
from espalier.nn.slots import Dims, Part, ScoreConfig


class SquareplusConfig(ScoreConfig):
    """(s + sqrt(s^2 + 4 ln^2 2)) / 2 / divisor"""

    variants = ({"by_length": True},)

    divisor: float = Field(100.0, gt=0)
    by_length: bool = False
    """divide by the number of visible keys too"""

    def build(self, dims: Dims, layer: int) -> Part:
        return Squareplus(self.divisor, self.by_length)


class Squareplus(Alone):
    special = {"sqrt": 1}

    def weigh(self, scores: Tensor) -> Tensor:
        return (scores + (scores.square() + 4 * math.log(2) ** 2).sqrt()) / 2
