"""Polymax: a power above zero, a line down to nothing below it (ReaLLMASIC)."""

import torch
from pydantic import Field
from torch import Tensor

from espalier.nn.rows import Alone
from espalier.nn.slots import Dims, Part, ScoreConfig


class PolymaxConfig(ScoreConfig):
    """(s^power + y0 above 0; y0 (1 - s / x0) from x0 to 0; 0 below x0) / divisor"""

    x0: float = Field(-100.0, lt=0)
    """where the line starts at nothing"""
    y0: float = Field(1.0, ge=0)
    """the value at 0"""
    power: float = Field(2.0, gt=0)
    divisor: float = Field(1000.0, gt=0)
    by_length: bool = False
    """divide by the number of visible keys too"""

    def build(self, dims: Dims, layer: int) -> Part:
        return Polymax((self.x0, self.y0), self.power, self.divisor, self.by_length)


class Polymax(Alone):
    special = {"compare": 2}

    def __init__(
        self, corner: tuple[float, float], exponent: float, divisor: float, by_length: bool
    ):
        super().__init__(divisor, by_length)
        (self.x0, self.y0), self.exponent = corner, exponent

    def weigh(self, scores: Tensor) -> Tensor:
        above = scores > 0
        # a root of a hidden branch would have an infinite gradient
        curve = torch.where(above, scores, 1.0) ** self.exponent
        return torch.where(above, self.y0 + curve, self.line(scores))

    def line(self, scores: Tensor) -> Tensor:
        """The weights of scores that are not above 0."""
        return self.y0 * (1 - scores.clamp(self.x0, 0) / self.x0)
