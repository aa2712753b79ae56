"""Adafactor: second moments of a matrix from its rows' and its columns' (arXiv:1804.04235)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from espalier.train.rule import Memory, Rule, clock
from espalier.train.slots import Decayed, Named, Optimizer, OptimizerConfig


class AdafactorConfig(OptimizerConfig):
    """v = r c / mean(r); u = g / sqrt(v), its RMS at most `clip`; p -= lr * (s u + decay * p)

    r and c are means of g^2 over rows and columns, averaged with beta2 = 1 - step^-0.8; s is 1, or
    with `relative` the size of the parameter. Vectors keep all of v.
    """

    power: float = Field(0.8, gt=0, le=1)
    """of the decay rate: beta2 = 1 - step^-power"""
    clip: float = Field(1.0, gt=0)
    """largest root mean square of a tensor's update"""
    relative: float | None = Field(1e-3, gt=0)
    """steps as shares of a parameter's root mean square, which counts as at least this; null: no"""
    eps: float = Field(1e-30, gt=0)
    """added to g^2"""
    decay: Decayed = ("matrix",)

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        return Adafactor(self, parameters, weight_decay)


class Adafactor(Rule):
    """Without momentum: for a matrix it remembers rows + columns numbers."""

    by_matrix = True

    def __init__(self, config: AdafactorConfig, parameters: list[Named], weight_decay: float):
        self.config = config
        super().__init__(parameters, weight_decay, config.decay)

    def blank(self, weight: Tensor) -> Memory:
        if weight.ndim < 2:
            return clock(weight) | {"exp_avg_sq": torch.zeros_like(weight)}
        rows, columns = torch.zeros_like(weight[:, 0]), torch.zeros_like(weight[0])
        return clock(weight) | {"rows": rows, "columns": columns}

    def direction(self, grad: Tensor, weight: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        step = memory["step"] + 1
        fresh = step**-self.config.power
        square = grad.square() + self.config.eps
        if grad.ndim < 2:
            second = torch.lerp(memory["exp_avg_sq"], square, fresh.to(square))
            way = grad * second.rsqrt()
            later = {"step": step, "exp_avg_sq": second}
        else:
            rows = torch.lerp(memory["rows"], square.mean(1), fresh.to(square))
            columns = torch.lerp(memory["columns"], square.mean(0), fresh.to(square))
            # root by root: the product of two of size eps is no number any more
            way = grad * (rows / rows.mean()).rsqrt()[:, None] * columns.rsqrt()
            later = {"step": step, "rows": rows, "columns": columns}
        way = way / torch.clamp(rms(way) / self.config.clip, min=1.0)
        if self.config.relative is not None:
            way = way * torch.clamp(rms(weight), min=self.config.relative)
        return way, later


def rms(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()
