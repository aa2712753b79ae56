"""Adam with decoupled weight decay (arXiv:1711.05101), in torch's fused kernel."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor

from espalier.train.slots import Decayed, Named, Optimizer, OptimizerConfig


class AdamWConfig(OptimizerConfig):
    """p -= lr * (m_hat / (sqrt(v_hat) + eps) + decay * p)"""

    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    decay: Decayed = ("matrix",)
    """roles that decay; nanoGPT's habit is [matrix, embedding]"""

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        return AdamW(parameters, weight_decay, (self.beta1, self.beta2), self.eps, self.decay)


class AdamW(Optimizer):
    """Equal to torch.optim.AdamW, without its second of imports."""

    def __init__(
        self,
        parameters: list[Named],
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
        decay: Iterable[str],
    ):
        self.betas, self.eps = betas, eps
        decayed = frozenset(decay)
        split = (
            ([p for p in parameters if p.role in decayed], weight_decay),
            (
                [p for p in parameters if p.role not in decayed],
                0.0,
            ),
        )
        self.groups = [_Group(members, wanted) for members, wanted in split if members]

    @torch.no_grad()
    def step(self, learning_rate: float, scale: Tensor, skip: Tensor) -> None:
        for group in self.groups:
            tensors, grads, first, second, counts = group.live()
            if not tensors:
                continue
            torch._foreach_add_(counts, 1)
            torch._fused_adamw_(
                tensors,
                grads,
                first,
                second,
                [],
                counts,
                amsgrad=False,
                lr=learning_rate,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=group.weight_decay,
                eps=self.eps,
                maximize=False,
                grad_scale=scale,
                found_inf=skip,
            )
            torch._foreach_sub_(counts, [skip] * len(counts))

    def state(self) -> dict[str, Tensor]:
        return {
            f"{named.name}.{field}": tensor
            for group in self.groups
            for i, named in enumerate(group.members)
            for field, tensor in (
                ("exp_avg", group.first[i]),
                ("exp_avg_sq", group.second[i]),
                ("step", group.counts[i]),
            )
        }


class _Group:
    """Parameters that share a weight decay, and their moments."""

    def __init__(self, members: list[Named], weight_decay: float):
        self.members, self.weight_decay = members, weight_decay
        self.tensors: list[Tensor] = [member.tensor for member in members]
        self.first = [torch.zeros_like(tensor) for tensor in self.tensors]
        self.second = [torch.zeros_like(tensor) for tensor in self.tensors]
        # one count each: a parameter that gets no gradient in a step does not age
        self.counts = [torch.zeros((), device=tensor.device) for tensor in self.tensors]

    def live(self) -> tuple[list[Tensor], ...]:
        """Tensors, gradients, moments and counts of the members that have a gradient."""
        grads = [tensor.grad for tensor in self.tensors]
        if all(grad is not None for grad in grads):
            return self.tensors, grads, self.first, self.second, self.counts  # type: ignore[return-value]
        rows = [i for i, grad in enumerate(grads) if grad is not None]
        every = self.tensors, grads, self.first, self.second, self.counts
        return tuple([column[i] for i in rows] for column in every)  # type: ignore[misc]
