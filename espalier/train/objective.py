"""Model and token loss together: from a micro-batch to a number that can be differentiated.

Logits of a large vocabulary are the largest tensor of a language model, so they are made, scored
and forgotten chunk by chunk, and their gradients are taken at once, not in the backward pass (the
idea of Liger's fused linear cross-entropy, arXiv:2410.10989, for any head and any token loss).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.gpt import GPT
from espalier.nn.sight import Sight, look
from espalier.nn.state import Pass, at
from espalier.train.hearing import Hearing
from espalier.train.slots import GuidedLoss, TokenLoss

Head = Callable[[Tensor], Tensor]
Told = dict[str, list[Tensor]]

# Bytes of fp32 logits kept at once. Each chunk adds to the head's whole gradient, so that on a CPU
# GPT-2's head takes 1.2 to 3 times as long in chunks: they save memory, not time.
ROOM = {"cpu": 2**29, "cuda": 2**32}


class MicroBatch(NamedTuple):
    """A piece of the effective batch, on the device."""

    ids: Tensor
    """int64 (batch, time)"""
    targets: Tensor
    """likewise; -1 = none"""
    source: Tensor | None = None
    """int64 (batch): the corpus of each row"""
    sight: Sight | None = None
    few: Tensor | None = None
    """where, counted through, there are targets, if the head is to see nothing else"""


class Objective:
    """Sum of token losses and auxiliary losses of a micro-batch, over a number of tokens."""

    def __init__(
        self, model: GPT, token_loss: TokenLoss, vocab_size: int, *, checkpoint: bool = False
    ):
        self.model, self.token_loss, self.checkpoint = model, token_loss, checkpoint
        self.vocab_size = vocab_size
        self.head: Head = model.head
        self.ends: int | None = None  # documents that share a row are apart behind this token
        self.hearing = Hearing()
        self.eager()

    def eager(self) -> None:
        self.whole: Callable[..., tuple[Tensor, Tensor, Told]] = self._whole
        self.trunk: Callable[..., tuple[Tensor, Tensor, Told]] = self._trunk
        self.scored: TokenLoss = self._scored

    def compile(self) -> None:
        """Let torch compile the parts; the first call then takes long, or raises."""
        self.whole, self.trunk = torch.compile(self._whole), torch.compile(self._trunk)
        self.scored = torch.compile(self._scored)

    def __call__(self, batch: MicroBatch, count: int, places: int) -> Tensor:
        """The share of one micro-batch in the loss of an effective batch with `count` targets.

        `places` are its tokens in all, with a target or without, which auxiliary losses are of.
        The shares add up to the mean over the effective batch, however it was cut.
        """
        ids, targets, source, sight, few = batch
        if sight is not None or few is not None:
            total, extra, told = self._parted(batch)
        elif targets.numel() <= self._room(targets):
            total, extra, told = self.whole(ids, targets, source)
        else:
            hidden, extra, told = self.trunk(ids, source)
            total = self._chunked(hidden, targets)
        self.hearing.add(told, len(ids))
        return (total + extra * (targets.numel() * count / places)) / count

    def _parted(self, batch: MicroBatch) -> tuple[Tensor, Tensor, Told]:
        """The trunk, then the head where it is needed. Shapes vary, so images are not compiled."""
        ids, targets, source, sight, few = batch
        found = self.trunk(ids, source) if sight is None else self._trunk(ids, source, sight)
        hidden, extra, told = found
        flat, wanted = hidden.flatten(0, -2), targets.flatten()
        if few is not None:
            flat, wanted = flat[few], wanted[few]
        small = len(wanted) <= self._room(wanted)
        total = self._scored(flat, wanted) if small else self._chunked(flat, wanted)
        return total, extra, told

    def _room(self, targets: Tensor) -> int:
        return chunk_length(targets.numel(), self.vocab_size, targets.device)

    def _chunked(self, hidden: Tensor, targets: Tensor) -> Tensor:
        weights = _weights(self.head, hidden)
        return chunked(self.scored, weights, hidden, targets, self._room(targets))

    def _whole(
        self, ids: Tensor, targets: Tensor, source: Tensor | None
    ) -> tuple[Tensor, Tensor, Told]:
        hidden, extra, told = self._trunk(ids, source)
        logits = self.model.head(hidden)
        return self.token_loss(logits.flatten(0, -2), targets.flatten()), extra, told

    def _scored(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return self.token_loss(self.model.head(hidden), targets)

    def _trunk(
        self, ids: Tensor, source: Tensor | None, sight: Sight | None = None
    ) -> tuple[Tensor, Tensor, Told]:
        if sight is None:
            now = apart(ids, self.ends, checkpoint=self.checkpoint, listening=True)
        else:
            now = Pass(sight.positions, packed=True, checkpoint=self.checkpoint, listening=True)
            look(now, self.model.trunk.front, sight)
        now.source = source
        return self.model.trunk(ids, now), auxiliary(now), now.told or {}


class Drawn(Objective):
    """Cross entropy to targets that the model itself draws, where there are any; nothing else."""

    def __init__(self, model: GPT, vocab_size: int, *, checkpoint: bool = False):
        super().__init__(model, drawn, vocab_size, checkpoint=checkpoint)

    def _trunk(
        self, ids: Tensor, source: Tensor | None, sight: Sight | None = None
    ) -> tuple[Tensor, Tensor, Told]:
        hidden, extra, _ = super()._trunk(ids, source, sight)
        return hidden, torch.zeros_like(extra), {}


def drawn(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy to tokens drawn from the logits, in the places that have a target."""
    probabilities = logits.detach().float().softmax(-1)
    races = torch.empty_like(probabilities).exponential_()  # first of exponentials: a fair draw
    labels = (probabilities / races).argmax(-1)
    return F.cross_entropy(
        logits.float(), labels.where(targets >= 0, -1), ignore_index=-1, reduction="sum"
    )


class Guided(Objective):
    """An objective whose token loss is also given the logits of a teacher, which stays as it is.

    The teacher's hidden states travel behind the student's, so that chunks have both.
    """

    def __init__(
        self,
        model: GPT,
        teacher: GPT,
        loss: GuidedLoss,
        vocab_size: int,
        *,
        checkpoint: bool = False,
    ):
        self.teacher, self.loss = teacher.eval().requires_grad_(False), loss
        super().__init__(model, self._alone, vocab_size, checkpoint=checkpoint)
        self.width = -1
        self.head = lambda both: model.head(both[..., : self.width])

    def _alone(self, logits: Tensor, targets: Tensor) -> Tensor:
        raise AssertionError("a guided loss is only taken beside its teacher")

    def _trunk(
        self, ids: Tensor, source: Tensor | None, sight: Sight | None = None
    ) -> tuple[Tensor, Tensor, Told]:
        hidden, extra, told = super()._trunk(ids, source, sight)
        with torch.no_grad():
            now = apart(ids, self.ends)
            if sight is not None:
                now = look(Pass(sight.positions, packed=True), self.teacher.trunk.front, sight)
            known = self.teacher.trunk(ids, now)
        self.width = hidden.shape[-1]
        return torch.cat((hidden, known), -1), extra, told

    def _whole(
        self, ids: Tensor, targets: Tensor, source: Tensor | None
    ) -> tuple[Tensor, Tensor, Told]:
        both, extra, told = self._trunk(ids, source)
        return self._scored(both.flatten(0, -2), targets.flatten()), extra, told

    def _scored(self, hidden: Tensor, targets: Tensor) -> Tensor:
        own, known = hidden[:, : self.width], hidden[:, self.width :]
        with torch.no_grad():
            wanted = self.teacher.head(known)
        return self.loss(self.model.head(own), targets, wanted)


def apart(
    ids: Tensor, ends: int | None, *, checkpoint: bool = False, listening: bool = False
) -> Pass:
    """A full pass over `ids` (batch, time), in which positions restart behind each token `ends`.

    So documents that share a row do not see each other. Without `ends` a row is one document.
    """
    if ends is None:
        return at(ids, checkpoint=checkpoint, listening=listening)
    t = torch.arange(ids.shape[1], device=ids.device)
    behind = F.pad(ids[:, :-1] == ends, (1, 0))
    begin = torch.where(behind, t, 0).cummax(1).values
    return Pass(t - begin, packed=True, checkpoint=checkpoint, listening=listening)


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
            if others:  # none where the head is frozen
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
