"""Add, then normalise (the first transformer, arXiv:1706.03762; GPT-1)."""

from jaxtyping import Float
from torch import Tensor

from espalier.config import default
from espalier.nn.slots import AttentionConfig, BlockConfig, Dims, FfnConfig, NormConfig, Part
from espalier.nn.state import Pass


class PostnormConfig(BlockConfig):
    """x = norm(x + attention(x)); x = norm(x + ffn(x)); the trunk has no last norm"""

    norm: NormConfig = default("layer")
    attention: AttentionConfig = default("causal")
    ffn: FfnConfig = default("mlp")

    def build(self, dims: Dims, layer: int) -> Part:
        return Postnorm(
            self.attention.build(dims, layer),
            self.norm.build(dims.n_embd, dims, layer),
            self.ffn.build(dims, layer),
            self.norm.build(dims.n_embd, dims, layer),
        )


class Postnorm(Part):
    def __init__(self, attention: Part, norm_1: Part, ffn: Part, norm_2: Part):
        super().__init__()
        self.attention, self.norm_1, self.ffn, self.norm_2 = attention, norm_1, ffn, norm_2

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        x = self.norm_1(x + self.attention(x, now), now)
        return self.norm_2(x + self.ffn(x, now), now)
