"""Stochastic gradient descent with momentum (Sutskever et al. 2013), decay apart from it."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from espalier.train.rule import Memory, Rule, zeros
from espalier.train.slots import Decayed, Named, Optimizer, OptimizerConfig


class SGDConfig(OptimizerConfig):
    """b = momentum * b + g; p -= lr * (b + decay * p); Nesterov: lr * (g + momentum * b + …)"""

    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    decay: Decayed = ("matrix",)

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        return SGD(self, parameters, weight_decay)


class SGD(Rule):
    """Equal to torch.optim.SGD but for the decay, which here is not part of the momentum."""

    def __init__(self, config: SGDConfig, parameters: list[Named], weight_decay: float):
        self.config = config
        super().__init__(parameters, weight_decay, config.decay)

    def blank(self, weight: Tensor) -> Memory:
        return zeros(weight, "momentum") if self.config.momentum else {}

    def direction(self, grad: Tensor, weight: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        if not self.config.momentum:
            return grad, {}
        buffer = self.config.momentum * memory["momentum"] + grad
        way = grad + self.config.momentum * buffer if self.config.nesterov else buffer
        return way, {"momentum": buffer}
