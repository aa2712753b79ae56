"""SOAP: Adam in the slowly turning eigenbasis of Shampoo's preconditioner (arXiv:2409.11321)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from espalier.train.rule import Memory, Rule, adam, averaged, clock, zeros
from espalier.train.slots import Decayed, Named, Optimizer, OptimizerConfig


class SOAPConfig(OptimizerConfig):
    """G' = Q_L^T G Q_R; p -= lr * (Q_L Adam(G') Q_R^T + decay * p)

    Q_L, Q_R: eigenvectors of the means of G G^T and G^T G, found on the first gradient (which moves
    nothing) and then turned every `every` steps by one power iteration and a QR. What is no matrix,
    and a side longer than `largest`, is not turned: both sides so is AdamW.
    """

    beta1: float = Field(0.95, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    """of Adam's second mean and of the preconditioner"""
    every: int = Field(10, ge=1)
    largest: int = Field(4096, ge=1)
    eps: float = Field(1e-8, gt=0)
    decay: Decayed = ("matrix",)

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        return SOAP(self, parameters, weight_decay)


class SOAP(Rule):
    """Adam's first mean is kept unturned, so that turning the basis does not touch it."""

    by_matrix = True

    def __init__(self, config: SOAPConfig, parameters: list[Named], weight_decay: float):
        self.config, self.betas = config, (config.beta1, config.beta2)
        # On the host, for a QR is too dear to be made and thrown away: steps called for, of which
        # a GPU may have skipped some.
        self.called = torch.zeros((), dtype=torch.int64)
        super().__init__(parameters, weight_decay, config.decay)

    def blank(self, weight: Tensor) -> Memory:
        memory = zeros(weight, "exp_avg", "exp_avg_sq") | clock(weight)
        if weight.ndim < 2:
            return memory
        for side, size in zip(("left", "right"), weight.shape, strict=True):
            if size <= self.config.largest:
                eye = torch.eye(size, dtype=weight.dtype, device=weight.device)
                memory |= {side: torch.zeros_like(eye), f"{side}_basis": eye}
        return memory

    def _move(self, learning_rate: float, scale: Tensor, skip: Tensor | None) -> None:
        super()._move(learning_rate, scale, skip)
        self.called += 1

    def direction(self, grad: Tensor, weight: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        if "left" not in memory and "right" not in memory:
            later = averaged(memory, grad, self.betas)
            return adam(later, self.betas, self.config.eps), later
        means = self._preconditioner(grad, memory)
        called = int(self.called)
        if called == 0:
            return torch.zeros_like(grad), means | _bases(memory | means, _eigenvectors)
        step = memory["step"] + 1
        first = torch.lerp(memory["exp_avg"], grad, 1 - self.betas[0])
        turned = _turn(grad, memory)
        second = torch.lerp(memory["exp_avg_sq"], turned.square(), 1 - self.betas[1])
        later = {"step": step, "exp_avg": first, "exp_avg_sq": second}
        way = adam(later | {"exp_avg": _turn(first, memory)}, self.betas, self.config.eps)
        later |= means
        if called % self.config.every == 0:
            later |= _bases(memory | means, _nearer)
        return _turn_back(way, memory), later

    def _preconditioner(self, grad: Tensor, memory: Memory) -> Memory:
        fresh = 1 - self.betas[1]
        found: Memory = {}
        if "left" in memory:
            found["left"] = torch.lerp(memory["left"], grad @ grad.mT, fresh)
        if "right" in memory:
            found["right"] = torch.lerp(memory["right"], grad.mT @ grad, fresh)
        return found

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"called": self.called}


def _bases(memory: Memory, turn: Callable[[Tensor, Tensor], Tensor]) -> Memory:
    sides = [side for side in ("left", "right") if side in memory]
    return {f"{side}_basis": turn(memory[side], memory[f"{side}_basis"]) for side in sides}


def _nearer(mean: Tensor, basis: Tensor) -> Tensor:
    """One power iteration towards the eigenvectors, and orthogonal again."""
    found: Tensor = torch.linalg.qr(mean @ basis)[0]
    return found


def _eigenvectors(mean: Tensor, basis: Tensor) -> Tensor:
    """Largest first; a whisper on the diagonal keeps what is singular from failing."""
    whisper = 1e-30 * torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
    vectors: Tensor = torch.linalg.eigh(mean + whisper).eigenvectors
    return vectors.flip(1)


def _turn(matrix: Tensor, memory: Memory) -> Tensor:
    if "left" in memory:
        matrix = memory["left_basis"].mT @ matrix
    return matrix @ memory["right_basis"] if "right" in memory else matrix


def _turn_back(matrix: Tensor, memory: Memory) -> Tensor:
    if "left" in memory:
        matrix = memory["left_basis"] @ matrix
    return matrix @ memory["right_basis"].mT if "right" in memory else matrix
