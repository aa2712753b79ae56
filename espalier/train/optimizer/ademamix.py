"""AdEMAMix: Adam with a second, far slower mean of the gradients (arXiv:2409.03137)."""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from espalier.train.rule import Memory, Rule, averaged, clock, unbiased, zeros
from espalier.train.slots import Decayed, Named, Optimizer, OptimizerConfig


class AdEMAMixConfig(OptimizerConfig):
    """p -= lr * ((m1_hat + alpha m2) / (sqrt(v_hat) + eps) + decay * p); m2 decays by beta3

    alpha grows linearly and beta3 from beta1, its half-life linearly, over `growth` steps.
    """

    beta1: float = Field(0.9, gt=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    beta3: float = Field(0.9999, gt=0, lt=1)
    alpha: float = Field(5.0, ge=0)
    growth: int | None = Field(None, ge=1)
    """steps until alpha and beta3 are what they say; when left out, the horizon (the paper's)"""
    eps: float = Field(1e-8, gt=0)
    decay: Decayed = ("matrix",)

    def within(self, horizon: int) -> Self:
        return self if self.growth else self.model_copy(update={"growth": max(1, horizon)})

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        return AdEMAMix(self, parameters, weight_decay)


class AdEMAMix(Rule):
    def __init__(self, config: AdEMAMixConfig, parameters: list[Named], weight_decay: float):
        self.config, self.betas = config, (config.beta1, config.beta2)
        self.growth = config.growth or 1
        super().__init__(parameters, weight_decay, config.decay)

    def blank(self, weight: Tensor) -> Memory:
        return zeros(weight, "exp_avg", "exp_avg_sq", "exp_avg_slow") | clock(weight)

    def direction(self, grad: Tensor, weight: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        later = averaged(memory, grad, self.betas)
        alpha, beta3 = self._grown(later["step"])
        slow = later["exp_avg_slow"] = beta3 * memory["exp_avg_slow"] + (1 - beta3) * grad
        fast = unbiased(later["exp_avg"], self.betas[0], later["step"])
        size = unbiased(later["exp_avg_sq"], self.betas[1], later["step"]).sqrt()
        return (fast + alpha * slow) / (size + self.config.eps), later

    def _grown(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and beta3 of a step."""
        share = torch.clamp(step / self.growth, max=1.0)
        start, end = math.log(self.config.beta1), math.log(self.config.beta3)
        beta3 = torch.exp(start * end / ((1 - share) * end + share * start))
        return self.config.alpha * share, torch.clamp(beta3, max=self.config.beta3)
