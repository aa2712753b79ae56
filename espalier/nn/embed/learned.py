"""A learned vector per token."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.errors import ConfigError
from espalier.nn.slots import Dims, Embed, EmbedConfig
from espalier.nn.state import Pass

Start = Literal["gaussian", "corners", "distinct_corners", "cube", "sphere", "onehot"]


class LearnedConfig(EmbedConfig):
    """x = table[token]"""

    variants = (
        {"start": "corners"},
        {"start": "distinct_corners"},
        {"start": "cube"},
        {"start": "sphere"},
        {"start": "onehot"},
    )

    start: Start = "gaussian"
    """where vectors start, each with a mean square of std^2: normal numbers; corners of a cube (no
    two alike: distinct_corners) or points in it; points on a sphere; one axis for each token"""

    def build(self, dims: Dims) -> Embed:
        if self.start == "distinct_corners" and dims.vocab_size > 2**dims.n_embd:
            raise ConfigError(
                f"embed.start=distinct_corners: model.n_embd={dims.n_embd} has only "
                f"{2**dims.n_embd} corners for model.vocab_size={dims.vocab_size}"
            )
        return Learned(dims.vocab_size, dims.n_embd, dims.std, self.start)


class Learned(Embed):
    role = {"weight": "embedding"}

    def __init__(self, vocab_size: int, width: int, std: float, start: Start = "gaussian"):
        super().__init__()
        self.std, self.start = std, start
        self.weight = nn.Parameter(torch.empty(vocab_size, width))

    def reset(self) -> None:
        table = self.weight
        if self.start == "gaussian":
            nn.init.normal_(table, std=self.std)
        elif self.start == "cube":
            nn.init.uniform_(table, -self.std * 3**0.5, self.std * 3**0.5)
        elif self.start == "sphere":
            nn.init.normal_(table)
            table.mul_(self.std * table.shape[1] ** 0.5 / table.norm(dim=1, keepdim=True))
        elif self.start == "onehot":
            token = torch.arange(len(table))
            table.zero_()[token, token % table.shape[1]] = self.std * table.shape[1] ** 0.5
        else:
            table.bernoulli_(0.5)
            if self.start == "distinct_corners":
                bits = (len(table) - 1).bit_length()
                table[:, :bits] = (
                    (torch.arange(len(table))[:, None] >> torch.arange(bits)) & 1
                ).to(table)
            table.mul_(2 * self.std).sub_(self.std)

    def forward(self, ids: Int[Tensor, "batch time"], now: Pass) -> Float[Tensor, "batch time d"]:
        return F.embedding(ids, self.weight)

    def logits(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        return F.linear(hidden, self.weight)
