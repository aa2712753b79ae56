"""Exppolymax: an exponential below zero, a power of equal value and slope above (ReaLLMASIC).

The original's power starts at 1.25 where its exponential ends at 1; here the two meet.
"""

import math

import torch
from pydantic import Field
from torch import Tensor

from espalier.nn.rows import Alone, power
from espalier.nn.slots import Dims, Part, ScoreConfig


class ExppolymaxConfig(ScoreConfig):
    """(base^s below 0; (s + c)^power + 1 - c^power above) / divisor

    c = (ln base / power)^(1 / (power - 1))
    """

    variants = ({"base": 2.0, "power": 3.0},)

    base: float = Field(math.e, gt=1)
    power: float = Field(2.0, gt=1)
    divisor: float = Field(1000.0, gt=0)
    by_length: bool = False
    """divide by the number of visible keys too"""

    def build(self, dims: Dims, layer: int) -> Part:
        return Exppolymax(self.base, self.power, self.divisor, self.by_length)


class Exppolymax(Alone):
    special = {"compare": 1, "exp": 1}

    def __init__(self, base: float, exponent: float, divisor: float, by_length: bool):
        super().__init__(divisor, by_length)
        self.base, self.exponent = base, exponent
        self.start = (math.log(base) / exponent) ** (1 / (exponent - 1))

    def weigh(self, scores: Tensor) -> Tensor:
        low = power(self.base, scores.clamp(max=0))
        high = (scores.clamp(min=0) + self.start) ** self.exponent
        return torch.where(scores < 0, low, high + 1 - self.start**self.exponent)
