"""Normalise before each half, add after it (GPT-2)."""

from jaxtyping import Float
from torch import Tensor

from espalier.config import default
from espalier.nn.slots import AttentionConfig, BlockConfig, Dims, FfnConfig, NormConfig, Part
from espalier.nn.state import Pass


class PrenormConfig(BlockConfig):
    """x += attention(norm(x)); x += ffn(norm(x))"""

    norm: NormConfig = default("layer")
    attention: AttentionConfig = default("causal")
    ffn: FfnConfig = default("mlp")

    def build(self, dims: Dims, layer: int) -> Part:
        return Prenorm(
            self.norm.build(dims.n_embd, dims, layer),
            self.attention.build(dims, layer),
            self.norm.build(dims.n_embd, dims, layer),
            self.ffn.build(dims, layer),
        )

    def last_norm(self) -> NormConfig:
        return self.norm


class Prenorm(Part):
    def __init__(self, norm_1: Part, attention: Part, norm_2: Part, ffn: Part):
        super().__init__()
        self.norm_1, self.attention, self.norm_2, self.ffn = norm_1, attention, norm_2, ffn

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        x = x + self.attention(self.norm_1(x, now), now)
        return x + self.ffn(self.norm_2(x, now), now)
