"""A narrow table and a map to the model's width (ALBERT, arXiv:1909.11942).

V E + E n parameters in place of V n. A tied head goes back through both, transposed.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.errors import ConfigError
from espalier.nn.slots import Dims, Embed, EmbedConfig
from espalier.nn.state import Pass


class FactorisedConfig(EmbedConfig):
    """x = table[token] U^T, logits = (x U) table^T; table (V, width), U (n_embd, width)"""

    width: int | None = Field(None, ge=1)
    """columns of the table; a quarter of n_embd when left out"""

    def build(self, dims: Dims) -> Embed:
        width = self.width or max(1, dims.n_embd // 4)
        if width > dims.n_embd:
            raise ConfigError(f"embed.width={width} is more than model.n_embd={dims.n_embd}")
        return Factorised(dims, width)


class Factorised(Embed):
    role = {"weight": "embedding"}

    def __init__(self, dims: Dims, width: int):
        super().__init__()
        self.std = dims.std
        self.weight = nn.Parameter(torch.empty(dims.vocab_size, width))
        self.up = nn.Parameter(torch.empty(dims.n_embd, width))

    def reset(self) -> None:
        """A feature of x varies by `std`, as from one table."""
        nn.init.normal_(self.weight, std=self.std)
        nn.init.normal_(self.up, std=self.up.shape[1] ** -0.5)

    def forward(self, ids: Int[Tensor, "batch time"], now: Pass) -> Float[Tensor, "batch time d"]:
        return F.linear(F.embedding(ids, self.weight), self.up)

    def logits(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        return F.linear(F.linear(hidden, self.up.mT), self.weight)

    def read(self) -> Sequence[nn.Parameter]:
        return self.weight, self.up
