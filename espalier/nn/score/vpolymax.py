"""Polymax with its line turned round, so that weights rise on both sides of 0 (ReaLLMASIC).

Experimental: at x0 it falls from 2 y0 to 0.
"""

from torch import Tensor

from espalier.nn.score.polymax import Polymax, PolymaxConfig
from espalier.nn.slots import Dims, Part


class VpolymaxConfig(PolymaxConfig):
    """(s^power + y0 above 0; y0 (1 + s / x0) from x0 to 0; 0 below x0) / divisor"""

    def build(self, dims: Dims, layer: int) -> Part:
        return Vpolymax((self.x0, self.y0), self.power, self.divisor, self.by_length)


class Vpolymax(Polymax):
    def line(self, scores: Tensor) -> Tensor:
        return (self.y0 * (1 + scores / self.x0)).masked_fill(scores < self.x0, 0.0)
