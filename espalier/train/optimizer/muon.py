"""Muon (K. Jordan 2024, kellerjordan.github.io/posts/muon): orthogonalised momentum."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from espalier.train.optimizer.adamw import AdamW
from espalier.train.slots import Decayed, Named, Optimizer, OptimizerConfig

# Each iteration takes singular values s to a s + b s^3 + c s^5.
COEFFICIENTS = {
    "quintic": ((3.4445, -4.7750, 2.0315),),  # steepest at zero; values end near 1
    "polar_express": (  # the best for each iteration in turn (arXiv:2505.16932)
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ),
}


class MuonConfig(OptimizerConfig):
    """W -= lr * scale * orthogonalise(momentum of the gradient); AdamW for what is no matrix"""

    momentum: float = Field(0.95, ge=0, lt=1)
    nesterov: bool = True
    ns_steps: int = Field(5, ge=1, lt=100)
    """Newton-Schulz iterations"""
    coefficients: Literal["quintic", "polar_express"] = "quintic"
    scale: Literal["original", "match_rms"] = "original"
    """sqrt(max(1, rows / columns)), or 0.2 sqrt(max(rows, columns)): AdamW's size (2502.16982)"""
    rest: float = Field(0.1, gt=0)
    """learning rate of what is no matrix, as a share of train.learning_rate"""
    embedding: float | None = Field(None, gt=0)
    """of embeddings and heads, where it is another than `rest`"""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    decay: Decayed = ("matrix",)

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        return Muon(self, parameters, weight_decay)


class Muon(Optimizer):
    """Equal to torch.optim.Muon on matrices; those of one shape are worked on together.

    A fused projection counts as the matrices it holds (`Named.split`).
    """

    by_matrix = True

    def __init__(self, config: MuonConfig, parameters: list[Named], weight_decay: float):
        self.config = config
        self.matrices = [named for named in parameters if named.role == "matrix"]
        self.weight_decay = weight_decay if "matrix" in config.decay else 0.0
        self.momenta = [torch.zeros_like(named.tensor) for named in self.matrices]
        betas = config.beta1, config.beta2
        shares = {"vector": config.rest, "embedding": config.embedding or config.rest}
        self.others = [
            (share, AdamW(chosen, weight_decay, betas, config.eps, config.decay))
            for role, share in shares.items()
            if (chosen := [named for named in parameters if named.role == role])
        ]

    @torch.no_grad()
    def step(self, learning_rate: float, scale: Tensor, skip: Tensor) -> None:
        for share, optimizer in self.others:
            optimizer.step(learning_rate * share, scale, skip)
        if skip.device.type != "cpu":
            self._matrices(learning_rate, scale, skip)
        elif not skip.item():
            self._matrices(learning_rate, scale, None)

    def _matrices(self, learning_rate: float, scale: Tensor, skip: Tensor | None) -> None:
        """Update what is a matrix; with `skip`, a tensor nobody waits for, not where it is 1."""
        shrink: Any = learning_rate * self.weight_decay
        if skip is not None:
            shrink = shrink * (1 - skip)
        for group in self._by_shape().values():
            tensors, grads, momenta = (list(column) for column in zip(*group, strict=True))
            torch._foreach_mul_(tensors, 1 - shrink)
            updates = self._updates(grads, momenta, scale, skip)
            factors = [-learning_rate * self._factor(tensor) for tensor in tensors]
            torch._foreach_mul_(updates, factors)
            if skip is not None:
                torch._foreach_mul_(updates, 1 - skip)
            torch._foreach_add_(tensors, updates)

    def _updates(
        self, grads: list[Tensor], momenta: list[Tensor], scale: Tensor, skip: Tensor | None
    ) -> list[Tensor]:
        torch._foreach_div_(grads, scale)
        if skip is not None:  # a momentum that moves towards itself stays
            pairs = zip(grads, momenta, strict=True)
            grads = [torch.where(skip > 0, mean, grad) for grad, mean in pairs]
        torch._foreach_lerp_(momenta, grads, 1 - self.config.momentum)
        chosen = momenta
        if self.config.nesterov:
            chosen = list(torch._foreach_lerp(grads, momenta, self.config.momentum))
        flat = [matrix.flatten(1) for matrix in chosen]
        wide = torch.stack([m.mT if m.shape[0] > m.shape[1] else m for m in flat])
        found = orthogonalise(wide, self.config.ns_steps, self.config.coefficients).to(wide.dtype)
        turned = [u.mT if m.shape[0] > m.shape[1] else u for u, m in zip(found, flat, strict=True)]
        return [update.reshape(grad.shape) for update, grad in zip(turned, grads, strict=True)]

    def _factor(self, matrix: Tensor) -> float:
        rows, columns = matrix.shape[0], matrix[0].numel()
        if self.config.scale == "match_rms":
            return 0.2 * math.sqrt(max(rows, columns))
        return math.sqrt(max(1.0, rows / columns))

    def _by_shape(self) -> Mapping[tuple[int, int], list[tuple[Tensor, Tensor, Tensor]]]:
        """(weights, gradient, momentum) of each matrix, by its sides, the shorter first."""
        found: dict[tuple[int, int], list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
        for named, momentum in zip(self.matrices, self.momenta, strict=True):
            if named.tensor.grad is None:
                continue
            whole = named.tensor, named.tensor.grad, momentum
            pieces = [torch.split(t, list(named.split) or [t.shape[0]]) for t in whole]
            for tensor, grad, mean in zip(*pieces, strict=True):
                rows, columns = tensor.shape[0], tensor[0].numel()
                found[min(rows, columns), max(rows, columns)].append((tensor, grad, mean))
        return found

    def state(self) -> dict[str, Tensor]:
        pairs = zip(self.matrices, self.momenta, strict=True)
        found = {f"{named.name}.momentum": buffer for named, buffer in pairs}
        for _, optimizer in self.others:
            found |= optimizer.state()
        return found


def orthogonalise(matrices: Tensor, steps: int, coefficients: str = "quintic") -> Tensor:
    """Nearly U V^T of each (count, rows <= columns) = U S V^T; in bf16, as the reference does."""
    table = COEFFICIENTS[coefficients]
    x = matrices.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for step in range(steps):
        a, b, c = table[min(step, len(table) - 1)]
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
