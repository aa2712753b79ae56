"""An embedding times sqrt(n_embd) (arXiv:1706.03762, section 3.4; Gemma), or a learned number."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from espalier.config import default
from espalier.nn.slots import Dims, Embed, EmbedConfig
from espalier.nn.state import Pass


class ScaledConfig(EmbedConfig):
    """x = s embed(token), s = sqrt(n_embd) at the start; logits are the inner embedding's"""

    variants = ({"learn": True, "embed": "factorised"}, {"scale": 3.0, "embed": "bigram"})

    embed: EmbedConfig = default("learned")
    scale: float | None = Field(None, gt=0)
    """s; sqrt(n_embd) when left out"""
    learn: bool = False

    def build(self, dims: Dims) -> Embed:
        return Scaled(self.embed.build(dims), self.scale or dims.n_embd**0.5, learn=self.learn)


class Scaled(Embed):
    scale: Tensor

    def __init__(self, embed: Embed, start: float, *, learn: bool):
        super().__init__()
        self.embed, self.start = embed, start
        if learn:
            self.scale = nn.Parameter(torch.empty(()))
        else:
            self.register_buffer("scale", torch.empty(()))

    def reset(self) -> None:
        nn.init.constant_(self.scale, self.start)

    def forward(self, ids: Int[Tensor, "batch time"], now: Pass) -> Float[Tensor, "batch time d"]:
        return self.embed(ids, now) * self.scale

    def logits(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        return self.embed.logits(hidden)

    def read(self) -> Sequence[nn.Parameter]:
        return self.embed.read()
