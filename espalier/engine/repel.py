"""A penalty on tokens like those that just stood there, by the cosine of their embeddings.

logit(v) -= alpha * max over the last N tokens u of cos(embedding(v), embedding(u)): where the
repetition penalty knows only the same token, this one knows its kin too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from espalier.errors import UserError
from espalier.nn.gpt import GPT
from espalier.nn.state import at

CHUNK = 4096  # tokens embedded at once


@dataclass(frozen=True)
class Cosine:
    """How far back to look, and how strongly to push. UserError for values without a meaning."""

    last: int = 5
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.last < 1:
            raise UserError(f"a cosine penalty looks at 1 token or more, got {self.last}")
        if not math.isfinite(self.alpha):
            raise UserError(f"a cosine penalty's alpha must be a finite number, got {self.alpha}")


@torch.no_grad()
def directions(model: GPT, ids: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """What the model's embedding gives for each token alone, scaled to length 1."""
    embed = model.trunk.embed
    parts = torch.split(ids[:, None], CHUNK)
    return F.normalize(torch.cat([embed(one, at(one))[:, 0].float() for one in parts]), dim=-1)


@torch.no_grad()
def table(model: GPT) -> Float[Tensor, "vocab d"]:
    """The directions of all tokens that the head knows."""
    token = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
    size = model.head(model.trunk.embed(token, at(token))).shape[-1]
    return directions(model, torch.arange(size, device=token.device))


class Repulsion:
    """The penalty for one model; rows may differ in length."""

    def __init__(self, table: Float[Tensor, "vocab d"], cosine: Cosine):
        self.table, self.cosine = table, cosine

    def __call__(
        self, logits: Float[Tensor, "rows vocab"], histories: Sequence[Sequence[int]]
    ) -> Float[Tensor, "rows vocab"]:
        """Logits after the penalty; `histories` are the tokens of each row so far, at least one."""
        recent = [list(ids[-self.cosine.last :]) for ids in histories]
        most = max(map(len, recent))
        # a short row repeats its first token, which changes no maximum
        index = [[ids[0]] * (most - len(ids)) + ids for ids in recent]
        near = self.table[torch.tensor(index, device=self.table.device)]
        known = self.table[: logits.shape[-1]]
        likeness = torch.einsum("rnd,vd->rnv", near, known).amax(1)
        return logits - self.cosine.alpha * likeness.to(logits)


def divergence(
    before: Float[Tensor, "*rows vocab"], after: Float[Tensor, "*rows vocab"]
) -> Float[Tensor, "*rows"]:
    """KL(softmax(before) || softmax(after)) in nats; what cannot come counts for nothing."""
    p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    return torch.where(p.isfinite(), p.exp() * (p - q), 0.0).sum(-1)
