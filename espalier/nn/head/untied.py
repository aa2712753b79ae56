"""Logits from a matrix of its own."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.head.tied import cap
from espalier.nn.slots import Dims, Embed, HeadConfig, Part


class UntiedConfig(HeadConfig):
    """hidden W^T, or c tanh(. / c) of it with a softcap c"""

    variants = ({"softcap": 2.0},)

    softcap: float | None = Field(None, gt=0)

    def build(self, dims: Dims, embed: Embed) -> Part:
        return Untied(dims.n_embd, dims.vocab_size, dims.std, self.softcap)


class Untied(Part):
    role = {"weight": "embedding"}

    def __init__(self, width: int, vocab_size: int, std: float, softcap: float | None):
        super().__init__()
        self.std, self.softcap = std, softcap
        self.special = {} if softcap is None else {"tanh": 1}
        self.weight = nn.Parameter(torch.empty(vocab_size, width))

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)

    def forward(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        return cap(F.linear(hidden, self.weight), self.softcap)
