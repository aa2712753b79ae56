"""Optimizers that are told by what they do to one tensor; the law of all of them stands here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from espalier.train.slots import Named, Optimizer

Memory = dict[str, Tensor]  # field -> what is remembered of one tensor


class Piece(NamedTuple):
    """A parameter, or one of the matrices that a fused projection holds."""

    name: str
    whole: Named
    first: int = 0  # row
    rows: int | None = None  # None: the parameter as it is

    @property
    def weight(self) -> Tensor:
        return self._part(self.whole.tensor.detach())

    @property
    def grad(self) -> Tensor | None:
        grad = self.whole.tensor.grad
        return None if grad is None else self._part(grad)

    def _part(self, tensor: Tensor) -> Tensor:
        if self.rows is None:
            return tensor
        return tensor[self.first : self.first + self.rows].flatten(1)


class Rule(Optimizer):
    """weight <- weight - learning rate * (direction + decay * weight), tensor by tensor.

    A subclass says what it remembers (`blank`) and which way it goes (`direction`); scaling,
    skipping, decay and the state are the same for all; by matrix, fused projections are taken
    apart. Nothing here waits for a GPU.
    """

    def __init__(self, parameters: Iterable[Named], weight_decay: float, decay: Iterable[str]):
        self.pieces = [p for named in parameters for p in pieces(named, self.by_matrix)]
        decayed = frozenset(decay)
        self.decays = [weight_decay * (p.whole.role in decayed) for p in self.pieces]
        self.memories = [self.blank(piece.weight) for piece in self.pieces]

    def blank(self, weight: Tensor) -> Memory:
        """What it remembers of a tensor before the first step."""
        raise NotImplementedError

    def direction(self, grad: Tensor, weight: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Which way to go, against which the weight moves, and what to remember; all new."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, learning_rate: float, scale: Tensor, skip: Tensor) -> None:
        if skip.device.type != "cpu":
            self._move(learning_rate, scale, skip)
        elif not skip.item():
            self._move(learning_rate, scale, None)

    def _move(self, learning_rate: float, scale: Tensor, skip: Tensor | None) -> None:
        """One step; with `skip`, a tensor nobody waits for, all stays as it is where it is 1."""
        for piece, decay, memory in zip(self.pieces, self.decays, self.memories, strict=True):
            grad = piece.grad
            if grad is None:
                continue
            if skip is not None:  # what is skipped must not stumble over its own NaN
                grad = torch.where(skip > 0, torch.zeros_like(grad), grad)
            weight = piece.weight
            way, later = self.direction(grad / scale, weight, memory)
            _settle(weight, weight * (1 - learning_rate * decay) - learning_rate * way, skip)
            for field, value in later.items():
                _settle(memory[field], value, skip)

    def state(self) -> dict[str, Tensor]:
        return {
            f"{piece.name}.{field}": tensor
            for piece, memory in zip(self.pieces, self.memories, strict=True)
            for field, tensor in memory.items()
        }


def _settle(old: Tensor, new: Tensor, skip: Tensor | None) -> None:
    old.copy_(new if skip is None else torch.where(skip > 0, old, new))


def pieces(named: Named, by_matrix: bool) -> Iterator[Piece]:
    """A parameter whole or, where it holds several matrices and they count, one by one."""
    matrix = by_matrix and named.tensor.ndim > 1
    if not matrix:
        yield Piece(named.name, named)
        return
    first = 0
    parts = named.split or (len(named.tensor),)
    for i, rows in enumerate(parts):
        name = f"{named.name}.{i}" if len(parts) > 1 else named.name
        yield Piece(name, named, first, rows)
        first += rows


def zeros(weight: Tensor, *fields: str) -> Memory:
    """Fields of the weight's shape."""
    return {field: torch.zeros_like(weight) for field in fields}


def clock(weight: Tensor) -> Memory:
    """The number of steps a tensor has taken: one without a gradient does not age."""
    return {"step": torch.zeros((), device=weight.device)}


def unbiased(mean: Tensor, beta: float, step: Tensor) -> Tensor:
    """An exponential mean that began at zero, corrected for it."""
    return mean / (1 - beta**step)


def averaged(memory: Mapping[str, Tensor], grad: Tensor, betas: tuple[float, float]) -> Memory:
    """Adam's two means, `exp_avg` and `exp_avg_sq`, and `step`, after one more gradient."""
    return {
        "step": memory["step"] + 1,
        "exp_avg": torch.lerp(memory["exp_avg"], grad, 1 - betas[0]),
        "exp_avg_sq": torch.lerp(memory["exp_avg_sq"], grad.square(), 1 - betas[1]),
    }


def adam(memory: Memory, betas: tuple[float, float], eps: float) -> Tensor:
    """The direction of Adam from its means."""
    first = unbiased(memory["exp_avg"], betas[0], memory["step"])
    second = unbiased(memory["exp_avg_sq"], betas[1], memory["step"])
    return first / (second.sqrt() + eps)
