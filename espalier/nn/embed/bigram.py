"""A learned vector per token and one per pair of tokens (modded-nanoGPT's bigram embedding)."""

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.slots import Dims, Embed, EmbedConfig
from espalier.nn.state import Pass, Tail


class BigramConfig(EmbedConfig):
    """x = table[token] + pairs[previous, token]; nothing is added where a text begins"""

    variants = ({"size": 97},)

    size: int = Field(65536, ge=2)
    """rows for pairs; where there are more pairs than rows, they share rows by a hash"""

    def build(self, dims: Dims) -> Embed:
        return Bigram(dims, min(self.size, dims.vocab_size**2))


class Bigram(Embed):
    role = {"weight": "embedding", "pairs": "embedding"}

    def __init__(self, dims: Dims, rows: int):
        super().__init__()
        self.vocab_size, self.rows, self.std = dims.vocab_size, rows, dims.std
        self.weight = nn.Parameter(torch.empty(dims.vocab_size, dims.n_embd))
        self.pairs = nn.Parameter(torch.empty(rows, dims.n_embd))

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        nn.init.zeros_(self.pairs)

    def forward(self, ids: Int[Tensor, "batch time"], now: Pass) -> Float[Tensor, "batch time d"]:
        state = now.state(Tail.empty, ids[..., None], 1)
        if state is None:
            previous = F.pad(ids, (1, 0))[:, :-1]
        else:
            previous = state.extend(ids[..., None], now.positions)[:, :-1, 0]
        pair = F.embedding(self.row(previous, ids), self.pairs)
        return F.embedding(ids, self.weight) + pair * (now.positions > 0)[..., None]

    def row(self, previous: Tensor, ids: Tensor) -> Tensor:
        """Where a pair stands: every pair its own row, or (multiplicative hashing) a shared one."""
        pair = previous * self.vocab_size + ids
        return pair if self.rows == self.vocab_size**2 else pair * 2654435761 % self.rows

    def logits(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        return F.linear(hidden, self.weight)
