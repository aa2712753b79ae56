"""Lookahead: slow weights that follow any other optimizer's (arXiv:1907.08610)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from espalier.config import default
from espalier.train.slots import Named, Optimizer, OptimizerConfig

INNER = "inner."  # before the names of the inner optimizer's state


class LookaheadConfig(OptimizerConfig):
    """every k steps of the inner optimizer: slow += alpha * (p - slow); p = slow"""

    inner: OptimizerConfig = default("adamw")
    every: int = Field(5, ge=1)
    """k"""
    alpha: float = Field(0.5, gt=0, le=1)

    def within(self, horizon: int) -> Self:
        return self.model_copy(update={"inner": self.inner.within(horizon)})

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        return Lookahead(self, parameters, self.inner.build(parameters, weight_decay))


class Lookahead(Optimizer):
    """What is evaluated and saved are the fast weights, which are the slow ones every k steps."""

    def __init__(self, config: LookaheadConfig, parameters: list[Named], inner: Optimizer):
        self.config, self.inner, self.by_matrix = config, inner, inner.by_matrix
        self.names = [named.name for named in parameters]
        self.fast = [named.tensor for named in parameters]
        self.slow: list[Tensor] = []
        self.taken = torch.zeros((), device=self.fast[0].device)

    @torch.no_grad()
    def step(self, learning_rate: float, scale: Tensor, skip: Tensor) -> None:
        slow = self._slow()
        self.inner.step(learning_rate, scale, skip)
        self.taken += 1 - skip
        due = (self.taken % self.config.every == 0) & (skip == 0)
        for fast, behind in zip(self.fast, slow, strict=True):
            met = torch.where(due, torch.lerp(behind, fast, self.config.alpha), behind)
            behind.copy_(met)
            fast.copy_(torch.where(due, met, fast))

    def _slow(self) -> list[Tensor]:
        """Copies of the weights as training begins, which may be another run's."""
        if not self.slow:
            self.slow = [tensor.detach().clone() for tensor in self.fast]
        return self.slow

    def curious(self) -> bool:
        return self.inner.curious()

    def observe(self, scale: Tensor, count: int) -> None:
        self.inner.observe(scale, count)

    def state(self) -> dict[str, Tensor]:
        slow = zip(self.names, self._slow(), strict=True)
        mine = {f"{name}.slow": tensor for name, tensor in slow}
        inner = {f"{INNER}{name}": tensor for name, tensor in self.inner.state().items()}
        return mine | {"taken": self.taken} | inner

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inner optimizer loads its own, for it may have a state only once it has stepped."""
        from espalier.train.checkpoint import fill

        own = {name: tensor for name, tensor in state.items() if not name.startswith(INNER)}
        behind = dict(zip((f"{name}.slow" for name in self.names), self._slow(), strict=True))
        fill(behind | {"taken": self.taken}, own, "the optimizer's state")
        inner = {name.removeprefix(INNER): state[name] for name in state if name.startswith(INNER)}
        self.inner.load(inner)
