"""A learned vector per token."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.slots import Dims, Embed, EmbedConfig
from espalier.nn.state import Pass


class LearnedConfig(EmbedConfig):
    """x = table[token]"""

    def build(self, dims: Dims) -> Embed:
        return Learned(dims.vocab_size, dims.n_embd, dims.std)


class Learned(Embed):
    role = {"weight": "embedding"}

    def __init__(self, vocab_size: int, width: int, std: float):
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(vocab_size, width))

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)

    def forward(self, ids: Int[Tensor, "batch time"], now: Pass) -> Float[Tensor, "batch time d"]:
        return F.embedding(ids, self.weight)

    def logits(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        return F.linear(hidden, self.weight)
