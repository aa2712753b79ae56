"""ConSmax whose two constants are rounded to fixed point, with a straight-through gradient."""

import torch
from pydantic import Field
from torch import Tensor, nn

from espalier.nn.rounding import straight
from espalier.nn.rows import Alone
from espalier.nn.slots import Dims, Part, ScoreConfig


class ConsmaxQuantisedConfig(ScoreConfig):
    """exp(s - round(100 beta) / 100) / (round(10 gamma) / 10)"""

    beta: float = 2.5
    """at the start, as gamma"""
    gamma: float = Field(100.0, ge=0.1)
    beta_steps: float = Field(100.0, gt=0)
    """values of beta per unit, as of gamma"""
    gamma_steps: float = Field(10.0, gt=0)
    by_length: bool = False
    """divide by the number of visible keys too"""

    def build(self, dims: Dims, layer: int) -> Part:
        start, steps = (self.beta, self.gamma), (self.beta_steps, self.gamma_steps)
        return ConsmaxQuantised(start, steps, self.by_length)


class ConsmaxQuantised(Alone):
    special = {"exp": 1}

    def __init__(self, start: tuple[float, float], steps: tuple[float, float], by_length: bool):
        super().__init__(1.0, by_length)
        self.start, self.steps = start, steps
        self.beta, self.gamma = (nn.Parameter(torch.empty(())) for _ in start)

    def reset(self) -> None:
        nn.init.constant_(self.beta, self.start[0])
        nn.init.constant_(self.gamma, self.start[1])

    def weigh(self, scores: Tensor) -> Tensor:
        beta, gamma = (
            rounded(value, steps)
            for value, steps in zip((self.beta, self.gamma), self.steps, strict=True)
        )
        return torch.exp(scores - beta) / gamma


def rounded(x: Tensor, steps: float) -> Tensor:
    """To the nearest of `steps` values per unit; the gradient passes as if it were not there."""
    return straight(x, (x * steps).round() / steps)
