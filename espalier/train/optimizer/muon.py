"""Muon (K. Jordan 2024, kellerjordan.github.io/posts/muon): orthogonalised momentum."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from espalier.train.optimizer.adamw import AdamW, Decayed
from espalier.train.slots import Named, Optimizer, OptimizerConfig

COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # steepest at zero; singular values end near 1


class MuonConfig(OptimizerConfig):
    """W -= lr * scale * orthogonalise(momentum of the gradient); AdamW for what is no matrix"""

    momentum: float = Field(0.95, ge=0, lt=1)
    nesterov: bool = True
    ns_steps: int = Field(5, ge=1, lt=100)
    """Newton-Schulz iterations"""
    scale: Literal["original", "match_rms"] = "original"
    """sqrt(max(1, rows / columns)), or 0.2 sqrt(max(rows, columns)): AdamW's size (2502.16982)"""
    rest: float = Field(0.1, gt=0)
    """learning rate of embeddings and vectors, as a share of train.learning_rate"""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    decay: Decayed = ("matrix",)

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        return Muon(self, parameters, weight_decay)


class Muon(Optimizer):
    """Equal to torch.optim.Muon on matrices; those of one shape are worked on together."""

    def __init__(self, config: MuonConfig, parameters: list[Named], weight_decay: float):
        self.config = config
        self.matrices = [named for named in parameters if named.role == "matrix"]
        self.weight_decay = weight_decay if "matrix" in config.decay else 0.0
        self.momenta = [torch.zeros_like(named.tensor) for named in self.matrices]
        rest = [named for named in parameters if named.role != "matrix"]
        betas = config.beta1, config.beta2
        self.rest = AdamW(rest, weight_decay, betas, config.eps, config.decay)

    @torch.no_grad()
    def step(self, learning_rate: float, scale: Tensor, skip: Tensor) -> None:
        self.rest.step(learning_rate * self.config.rest, scale, skip)
        if skip.item():  # waits for the device, hidden by the long work that follows
            return
        for members in self._by_shape().values():
            tensors: list[Tensor] = [self.matrices[i].tensor for i in members]
            momenta = [self.momenta[i] for i in members]
            updates = self._updates([t.grad for t in tensors if t.grad is not None], momenta, scale)
            torch._foreach_mul_(tensors, 1 - learning_rate * self.weight_decay)
            rate = learning_rate * self._factor(tensors[0])
            torch._foreach_add_(tensors, updates, alpha=-rate)

    def _updates(self, grads: list[Tensor], momenta: list[Tensor], scale: Tensor) -> list[Tensor]:
        torch._foreach_div_(grads, scale)
        torch._foreach_lerp_(momenta, grads, 1 - self.config.momentum)
        chosen = momenta
        if self.config.nesterov:
            chosen = list(torch._foreach_lerp(grads, momenta, self.config.momentum))
        stacked = torch.stack(chosen).flatten(2)
        found = orthogonalise(stacked, self.config.ns_steps).to(stacked.dtype)
        return [update.view_as(grad) for update, grad in zip(found, grads, strict=True)]

    def _factor(self, matrix: Tensor) -> float:
        rows, columns = matrix.shape[0], matrix[0].numel()
        if self.config.scale == "match_rms":
            return 0.2 * math.sqrt(max(rows, columns))
        return math.sqrt(max(1.0, rows / columns))

    def _by_shape(self) -> Mapping[torch.Size, list[int]]:
        found: dict[torch.Size, list[int]] = defaultdict(list)
        for i, named in enumerate(self.matrices):
            if named.tensor.grad is not None:
                found[named.tensor.shape].append(i)
        return found

    def state(self) -> dict[str, Tensor]:
        pairs = zip(self.matrices, self.momenta, strict=True)
        return {f"{named.name}.momentum": buffer for named, buffer in pairs} | self.rest.state()


def orthogonalise(matrices: Tensor, steps: int) -> Tensor:
    """Nearly U V^T of each (count, rows, columns) = U S V^T; in bf16, as the reference does."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
