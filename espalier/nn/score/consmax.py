"""ConSmax: learned constants in place of softmax's maximum and sum (arXiv:2402.10930)."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from espalier.nn.rows import Alone, power
from espalier.nn.slots import Dims, Part, ScoreConfig


class ConsmaxConfig(ScoreConfig):
    """base^(s - beta) / gamma, with beta and gamma learned for a layer or for each head"""

    variants = ({"per": "head"}, {"base": 2.0, "by_length": True})

    base: float = Field(math.e, gt=1)
    beta: float = 2.5
    """at the start, as gamma"""
    gamma: float = Field(100.0, gt=0)
    per: Literal["layer", "head"] = "layer"
    by_length: bool = False
    """divide by the number of visible keys too"""

    def build(self, dims: Dims, layer: int) -> Part:
        shape = (dims.n_head, 1, 1) if self.per == "head" else ()
        return Consmax(self.base, (self.beta, self.gamma), shape, self.by_length)


class Consmax(Alone):
    special = {"exp": 1}
    role = {"beta": "vector", "gamma": "vector"}

    def __init__(
        self, base: float, start: tuple[float, float], shape: tuple[int, ...], by_length: bool
    ):
        super().__init__(1.0, by_length)
        self.base, self.start = base, start
        self.beta, self.gamma = (nn.Parameter(torch.empty(shape)) for _ in start)

    def reset(self) -> None:
        nn.init.constant_(self.beta, self.start[0])
        nn.init.constant_(self.gamma, self.start[1])

    def weigh(self, scores: Tensor) -> Tensor:
        return power(self.base, scores - self.beta) / self.gamma
