"""Model and token loss together: from a micro-batch to a number that can be differentiated.

Logits of a large vocabulary are the largest tensor of a language model, so they are made, scored
and forgotten chunk by chunk, and their gradients are taken at once, not in the backward pass (the
idea of Liger's fused linear cross-entropy, arXiv:2410.10989, for any head and any token loss).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from espalier.nn.gpt import GPT
from espalier.nn.state import Pass, at
from espalier.train.hearing import Hearing
from espalier.train.slots import TokenLoss

Head = Callable[[Tensor], Tensor]
Told = dict[str, list[Tensor]]

# Bytes of fp32 logits kept at once. Each chunk adds to the head's whole gradient, so that on a CPU
# GPT-2's head takes 1.2 to 3 times as long in chunks: they save memory, not time.
ROOM = {"cpu": 2**29, "cuda": 2**32}


class Objective:
    """Sum of token losses and auxiliary losses of a micro-batch, over a number of tokens."""

    def __init__(
        self, model: GPT, token_loss: TokenLoss, vocab_size: int, *, checkpoint: bool = False
    ):
        self.model, self.token_loss, self.checkpoint = model, token_loss, checkpoint
        self.vocab_size = vocab_size
        self.hearing = Hearing()
        self.eager()

    def eager(self) -> None:
        self.whole: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Told]] = self._whole
        self.trunk: Callable[[Tensor], tuple[Tensor, Tensor, Told]] = self._trunk
        self.scored: TokenLoss = self._scored

    def compile(self) -> None:
        """Let torch compile the parts; the first call then takes long, or raises."""
        self.whole, self.trunk = torch.compile(self._whole), torch.compile(self._trunk)
        self.scored = torch.compile(self._scored)

    def __call__(self, ids: Tensor, targets: Tensor, count: int) -> Tensor:
        """The share of one micro-batch in the loss of an effective batch with `count` targets.

        ids, targets: int64 (batch, time), target -1 = none. The shares add up to the mean over the
        effective batch, however it was cut.
        """
        chunk = chunk_length(targets.numel(), self.vocab_size, ids.device)
        if chunk >= targets.numel():
            total, extra, told = self.whole(ids, targets)
        else:
            hidden, extra, told = self.trunk(ids)
            weights = _weights(self.model.head, hidden)
            total = chunked(self.scored, weights, hidden, targets, chunk)
        self.hearing.add(told, len(ids))
        return (total + extra * targets.numel()) / count

    def _whole(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Told]:
        hidden, extra, told = self._trunk(ids)
        logits = self.model.head(hidden)
        return self.token_loss(logits.flatten(0, -2), targets.flatten()), extra, told

    def _scored(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return self.token_loss(self.model.head(hidden), targets)

    def _trunk(self, ids: Tensor) -> tuple[Tensor, Tensor, Told]:
        now = at(ids, checkpoint=self.checkpoint, listening=True)
        return self.model.trunk(ids, now), auxiliary(now), now.told or {}


def auxiliary(now: Pass) -> Tensor:
    """The auxiliary losses that parts left in a pass, added up; each is a mean over its tokens."""
    zero = torch.zeros((), device=now.positions.device)
    return sum(now.losses.values(), zero)


def chunk_length(tokens: int, vocab_size: int, device: torch.device) -> int:
    """How many tokens' logits to hold at once; all when they have room."""
    fit = max(64, ROOM.get(device.type, ROOM["cpu"]) // (4 * vocab_size))
    if tokens <= fit:
        return tokens
    return -(-tokens // -(-tokens // fit))  # equal chunks


def chunked(
    scored: TokenLoss, weights: list[Tensor], hidden: Tensor, targets: Tensor, chunk: int
) -> Tensor:
    """`scored(hidden, targets)`, which reads `weights`, for at most `chunk` tokens at a time."""
    flat = hidden.flatten(0, -2)
    loss: Tensor = _Chunked.apply(  # type: ignore[no-untyped-call]
        scored, flat, targets.flatten(), chunk, *weights
    )
    return loss


class _Chunked(torch.autograd.Function):
    """Loss and gradients in one go; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        scored: TokenLoss,
        hidden: Tensor,
        targets: Tensor,
        chunk: int,
        *weights: Tensor,
    ) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        ctx.hidden = torch.empty_like(hidden)
        ctx.weights = [torch.zeros_like(weight) for weight in weights]
        for start in range(0, len(hidden), chunk):
            part = hidden[start : start + chunk].detach().requires_grad_()
            with torch.enable_grad():
                loss = scored(part, targets[start : start + chunk])
            first, *others = torch.autograd.grad(loss, (part, *weights))
            ctx.hidden[start : start + chunk] = first
            torch._foreach_add_(ctx.weights, others)
            total = total + loss.detach()
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        found = [ctx.hidden, *ctx.weights]
        torch._foreach_mul_(found, outputs[0])
        return None, found[0], None, None, *found[1:]


def _weights(head: Head, hidden: Tensor) -> list[Tensor]:
    """The parameters that a head reads, its own or (tied) another's: the leaves of its graph."""
    with torch.enable_grad():
        probe = head(hidden.detach().flatten(0, -2)[:1].requires_grad_())
    leaves = (node.variable for node in _graph(probe.grad_fn) if hasattr(node, "variable"))
    return [leaf for leaf in leaves if isinstance(leaf, nn.Parameter)]


def _graph(root: Any) -> Iterator[Any]:
    seen, todo = set(), [root]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            todo.extend(inner for inner, _ in node.next_functions)
