"""Strongermax: softmax with its base, temperature, shift and denominator free (ReaLLMASIC).

The denominator's constant lets a head attend to nothing (E. Miller, "Attention is off by one").
As published it stands beside the sum after the shift: with `shift: max` its share depends on the
row's maximum; with `shift: guess` or `none` it is a constant.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from espalier.errors import ConfigError
from espalier.nn.rows import power, wide
from espalier.nn.slots import Dims, Part, ScoreConfig
from espalier.nn.state import Pass


class StrongermaxConfig(ScoreConfig):
    """u = base^((s - m) / tau); u / (off_by_one + sum u) / divisor"""

    variants = (
        {"off_by_one": 1.0, "learn": "head"},
        {"shift": "guess", "denominator": False, "clamp": 10.0, "divisor": 4.0},
        {"shift": "none", "off_by_one": 1.0, "learn": "layer"},
    )

    base: float = Field(math.e, gt=1)
    tau: float = Field(1.0, gt=0)
    """temperature"""
    shift: Literal["max", "guess", "none"] = "max"
    """m: the row's maximum, `guess`, or nothing"""
    guess: float = 1.0
    clamp: float | None = None
    """the largest (s - m) / tau"""
    denominator: bool = True
    """divide by the sum"""
    off_by_one: float = Field(0.0, ge=0)
    """what is added to the sum"""
    learn: Literal["no", "layer", "head"] = "no"
    """learn it, for the layer or for each head"""
    divisor: float = Field(1.0, gt=0)

    def build(self, dims: Dims, layer: int) -> Part:
        if not self.denominator and (self.off_by_one or self.learn != "no"):
            raise ConfigError("score.off_by_one and score.learn need score.denominator=true")
        shape = {"no": None, "layer": (), "head": (dims.n_head, 1, 1)}[self.learn]
        shift = {"max": None, "guess": self.guess, "none": 0.0}[self.shift]
        total = Total(self.off_by_one, shape) if self.denominator else None
        return Strongermax(self.base, self.tau, shift, self.clamp, total, self.divisor)


class Total(Part):
    """The denominator: a constant, fixed or learned, and the row's sum."""

    role = {"extra": "vector"}

    def __init__(self, start: float, shape: tuple[int, ...] | None):
        super().__init__()
        self.start = start
        self.extra: Tensor | float
        self.extra = start if shape is None else nn.Parameter(torch.empty(shape))

    def reset(self) -> None:
        if isinstance(self.extra, nn.Parameter):
            nn.init.constant_(self.extra, self.start)

    def forward(self, weights: Tensor) -> Tensor:
        return weights.sum(-1, keepdim=True) + self.extra


class Strongermax(Part):
    def __init__(
        self,
        base: float,
        tau: float,
        shift: float | None,
        clamp: float | None,
        total: Total | None,
        divisor: float,
    ):
        super().__init__()
        self.base, self.tau, self.shift = base, tau, shift
        self.clamp = math.inf if clamp is None else clamp
        self.total, self.divisor = total, divisor
        over_row = (shift is None) + (total is not None)  # a maximum, a sum: a pass for each
        looks = ({"max": 1} if shift is None else {}) | ({"compare": 1} if clamp else {})
        self.special = looks | {"exp": 1} | ({"divide": 1} if total is not None else {})
        self.passes = 1 + over_row

    def forward(
        self, scores: Float[Tensor, "*batch key"], mask: Bool[Tensor, "*#batch key"], now: Pass
    ) -> Float[Tensor, "*batch key"]:
        seen = wide(scores).masked_fill(~mask, float("-inf"))
        top = seen.amax(-1, keepdim=True) if self.shift is None else self.shift
        exponent = ((wide(scores) - top) / self.tau).clamp(max=self.clamp)
        weights = power(self.base, exponent.masked_fill(~mask, 0.0)).masked_fill(~mask, 0.0)
        if self.total is not None:
            weights = weights / self.total(weights)
        return (weights / self.divisor).to(scores.dtype)
