"""ConSmax with constants for the layer and factors for each head (ReaLLMASIC's second)."""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from espalier.nn.rows import Alone, power
from espalier.nn.slots import Dims, Part, ScoreConfig


class ConsmaxV2Config(ScoreConfig):
    """base^(s - beta beta_h) / (gamma gamma_h); the exponent is clamped from above"""

    variants = ({"clamp": None, "base": 2.0},)

    base: float = Field(math.e, gt=1)
    beta: float = 2.5
    """at the start, as gamma; the factors of the heads start at one"""
    gamma: float = Field(100.0, gt=0)
    clamp: float | None = Field(80.0, gt=0)
    """the largest exponent (e^80 is near the end of fp32)"""
    by_length: bool = False
    """divide by the number of visible keys too"""

    def build(self, dims: Dims, layer: int) -> Part:
        start = self.beta, self.gamma
        return ConsmaxV2(self.base, start, dims.n_head, self.clamp, self.by_length)


class ConsmaxV2(Alone):
    special = {"exp": 1}
    role = {"beta_heads": "vector", "gamma_heads": "vector"}

    def __init__(
        self,
        base: float,
        start: tuple[float, float],
        heads: int,
        clamp: float | None,
        by_length: bool,
    ):
        super().__init__(1.0, by_length)
        self.base, self.start = base, start
        self.clamp = math.inf if clamp is None else clamp
        self.beta, self.gamma = (nn.Parameter(torch.empty(())) for _ in start)
        self.beta_heads, self.gamma_heads = (nn.Parameter(torch.empty(heads, 1, 1)) for _ in start)

    def reset(self) -> None:
        nn.init.constant_(self.beta, self.start[0])
        nn.init.constant_(self.gamma, self.start[1])
        nn.init.ones_(self.beta_heads)
        nn.init.ones_(self.gamma_heads)

    def weigh(self, scores: Tensor) -> Tensor:
        exponent = scores - self.beta * self.beta_heads
        return power(self.base, exponent.clamp(max=self.clamp)) / (self.gamma * self.gamma_heads)
