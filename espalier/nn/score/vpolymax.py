"""Polymax with its line turned round, so that weights rise on both sides of 0 (ReaLLMASIC).

Experimental: at x0 it falls from 2 y0 to 0.
"""

from pydantic import Field
from torch import Tensor

from espalier.nn.score.polymax import Polymax
from espalier.nn.slots import Dims, Part, ScoreConfig


class VpolymaxConfig(ScoreConfig):
    """(s^power + y0 above 0; y0 (1 + s / x0) from x0 to 0; 0 below x0) / divisor"""

    x0: float = Field(-100.0, lt=0)
    """where the line ends"""
    y0: float = Field(1.0, ge=0)
    """the value at 0"""
    power: float = Field(2.0, gt=0)
    divisor: float = Field(1000.0, gt=0)
    by_length: bool = False
    """divide by the number of visible keys too"""

    def build(self, dims: Dims, layer: int) -> Part:
        return Vpolymax((self.x0, self.y0), self.power, self.divisor, self.by_length)


class Vpolymax(Polymax):
    def line(self, scores: Tensor) -> Tensor:
        return (self.y0 * (1 + scores / self.x0)).masked_fill(scores < self.x0, 0.0)
