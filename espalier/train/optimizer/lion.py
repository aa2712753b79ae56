"""Lion, the sign of an interpolated momentum (arXiv:2302.06675)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from espalier.train.rule import Memory, Rule, zeros
from espalier.train.slots import Decayed, Named, Optimizer, OptimizerConfig


class LionConfig(OptimizerConfig):
    """p -= lr * (sign(beta1 m + (1 - beta1) g) + decay * p); m = beta2 m + (1 - beta2) g

    Each entry moves by the whole learning rate: take 3 to 10 times less of it than for AdamW, and
    as many times more weight decay.
    """

    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    decay: Decayed = ("matrix",)

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        return Lion(self, parameters, weight_decay)


class Lion(Rule):
    def __init__(self, config: LionConfig, parameters: list[Named], weight_decay: float):
        self.config = config
        super().__init__(parameters, weight_decay, config.decay)

    def blank(self, weight: Tensor) -> Memory:
        return zeros(weight, "exp_avg")

    def direction(self, grad: Tensor, weight: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        mean = memory["exp_avg"]
        way = torch.lerp(mean, grad, 1 - self.config.beta1).sign()
        return way, {"exp_avg": torch.lerp(mean, grad, 1 - self.config.beta2)}
