"""Logits from the embedding's own table, transposed (arXiv:1608.05859)."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from espalier.nn.slots import Dims, Embed, HeadConfig, Part


class TiedConfig(HeadConfig):
    """hidden table^T, or c tanh(. / c) of it with a softcap c (Gemma 2, arXiv:2408.00118)"""

    variants = ({"softcap": 2.0},)

    softcap: float | None = Field(None, gt=0)

    def build(self, dims: Dims, embed: Embed) -> Part:
        return Tied(embed, self.softcap)


class Tied(Part):
    def __init__(self, embed: Embed, softcap: float | None):
        super().__init__()
        self.owner = (embed,)  # in a tuple, so that the table is registered once, by its owner
        self.softcap = softcap
        self.special = {} if softcap is None else {"tanh": 1}

    def forward(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        return cap(self.owner[0].logits(hidden), self.softcap)


def cap(logits: Tensor, limit: float | None) -> Tensor:
    """Bend logits into (-limit, limit)."""
    return logits if limit is None else limit * torch.tanh(logits / limit)
