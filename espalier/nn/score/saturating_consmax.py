"""ConSmax that stops growing (ReaLLMASIC); the original falls from 592.8 to 0.135 where it does."""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from espalier.nn.rows import Alone, power
from espalier.nn.slots import Dims, Part, ScoreConfig


class SaturatingConsmaxConfig(ScoreConfig):
    """base^(min(s, saturation) - beta) / gamma; beta and gamma are learned"""

    base: float = Field(math.e, gt=1)
    beta: float = 2.5
    """at the start, as gamma"""
    gamma: float = Field(100.0, gt=0)
    saturation: float | None = None
    """the score from which weights stay the same; 11 + beta at the start when left out"""
    by_length: bool = False
    """divide by the number of visible keys too"""

    def build(self, dims: Dims, layer: int) -> Part:
        most = 11 + self.beta if self.saturation is None else self.saturation
        return SaturatingConsmax(self.base, (self.beta, self.gamma), most, self.by_length)


class SaturatingConsmax(Alone):
    special = {"compare": 1, "exp": 1}

    def __init__(self, base: float, start: tuple[float, float], saturation: float, by_length: bool):
        super().__init__(1.0, by_length)
        self.base, self.start, self.saturation = base, start, saturation
        self.beta, self.gamma = (nn.Parameter(torch.empty(())) for _ in start)

    def reset(self) -> None:
        nn.init.constant_(self.beta, self.start[0])
        nn.init.constant_(self.gamma, self.start[1])

    def weigh(self, scores: Tensor) -> Tensor:
        return power(self.base, scores.clamp(max=self.saturation) - self.beta) / self.gamma
