"""AdamS: the momentum is its own normaliser, no second moment is kept (arXiv:2505.16363)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from espalier.train.rule import Memory, Rule, zeros
from espalier.train.slots import Decayed, Named, Optimizer, OptimizerConfig


class AdamSConfig(OptimizerConfig):
    """m' = beta1 m + (1 - beta1) g; p -= lr * (m' / (sqrt(beta2 m^2 + (1 - beta2) g^2) + eps) + …)

    The m under the root is the former one, as in the paper.
    """

    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    decay: Decayed = ("matrix",)

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        return AdamS(self, parameters, weight_decay)


class AdamS(Rule):
    """Not what pytorch_optimizer calls AdamS: Adam with stable weight decay, of another paper."""

    def __init__(self, config: AdamSConfig, parameters: list[Named], weight_decay: float):
        self.config = config
        super().__init__(parameters, weight_decay, config.decay)

    def blank(self, weight: Tensor) -> Memory:
        return zeros(weight, "exp_avg")

    def direction(self, grad: Tensor, weight: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        before = memory["exp_avg"]
        mean = torch.lerp(before, grad, 1 - self.config.beta1)
        size = torch.lerp(before.square(), grad.square(), 1 - self.config.beta2).sqrt()
        return mean / (size + self.config.eps), {"exp_avg": mean}
