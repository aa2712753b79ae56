"""Attention and feed-forward read the same input and add up (GPT-J, GPT-NeoX, Pythia)."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from espalier.config import default
from espalier.nn.slots import AttentionConfig, BlockConfig, Dims, FfnConfig, NormConfig, Part
from espalier.nn.state import Pass


class ParallelConfig(BlockConfig):
    """x + attention(norm(x)) + ffn(norm(x))"""

    variants = ({"norms": 1},)

    norm: NormConfig = default("layer")
    norms: Literal[1, 2] = 2
    """two norms, one a half (GPT-NeoX), or one for both (GPT-J)"""
    attention: AttentionConfig = default("causal")
    ffn: FfnConfig = default("mlp")

    def build(self, dims: Dims, layer: int) -> Part:
        norm_1 = self.norm.build(dims.n_embd, dims, layer)
        norm_2 = self.norm.build(dims.n_embd, dims, layer) if self.norms == 2 else None
        attention = self.attention.build(dims, layer)
        return Parallel(norm_1, attention, norm_2, self.ffn.build(dims, layer))

    def last_norm(self) -> NormConfig:
        return self.norm


class Parallel(Part):
    def __init__(self, norm_1: Part, attention: Part, norm_2: Part | None, ffn: Part):
        super().__init__()
        self.norm_1, self.attention, self.norm_2, self.ffn = norm_1, attention, norm_2, ffn

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        first = self.norm_1(x, now)
        second = first if self.norm_2 is None else self.norm_2(x, now)
        return x + self.attention(first, now) + self.ffn(second, now)
