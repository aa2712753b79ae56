"""Sophia-G: momentum over a clipped diagonal of the Gauss-Newton matrix (arXiv:2305.14342)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from espalier.train.rule import Memory, Rule, zeros
from espalier.train.slots import Decayed, Named, Optimizer, OptimizerConfig


class SophiaGConfig(OptimizerConfig):
    """p -= lr * (clip(m / max(gamma h, eps), 1) + decay * p); m = beta1 m + (1 - beta1) g

    Every k steps h = beta2 h + (1 - beta2) B g^ * g^, the Gauss-Newton-Bartlett estimate: g^ is the
    gradient of the mean loss of the batch's B tokens with targets drawn from the model. That is a
    second forward and backward pass, a k-th more work.
    """

    beta1: float = Field(0.965, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    gamma: float = Field(0.05, gt=0)
    """the more, the fewer entries are clipped; the paper aims at 10 to 50 % that are not"""
    every: int = Field(10, ge=1)
    """k"""
    eps: float = Field(1e-12, gt=0)
    decay: Decayed = ("matrix",)

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        return SophiaG(self, parameters, weight_decay)


class SophiaG(Rule):
    def __init__(self, config: SophiaGConfig, parameters: list[Named], weight_decay: float):
        self.config = config
        self.asked = torch.zeros((), dtype=torch.int64)  # on the host: asking waits for nothing
        super().__init__(parameters, weight_decay, config.decay)

    def blank(self, weight: Tensor) -> Memory:
        return zeros(weight, "exp_avg", "hessian")

    def curious(self) -> bool:
        due = int(self.asked) % self.config.every == 0
        self.asked += 1
        return due

    @torch.no_grad()
    def observe(self, scale: Tensor, count: int) -> None:
        for piece, memory in zip(self.pieces, self.memories, strict=True):
            if piece.grad is None:
                continue
            seen = count * (piece.grad / scale).square()
            seen = torch.where(seen.isfinite().all(), seen, memory["hessian"])
            memory["hessian"].lerp_(seen, 1 - self.config.beta2)

    def direction(self, grad: Tensor, weight: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        mean = torch.lerp(memory["exp_avg"], grad, 1 - self.config.beta1)
        curve = torch.clamp(self.config.gamma * memory["hessian"], min=self.config.eps)
        return torch.clamp(mean / curve, -1.0, 1.0), {"exp_avg": mean}

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"asked": self.asked}
