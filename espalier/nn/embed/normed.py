"""A learned vector per token, normed before the first layer, as nanochat's is."""

from jaxtyping import Float, Int
from torch import Tensor

from espalier.config import default
from espalier.nn.embed.learned import Learned, Start
from espalier.nn.slots import Dims, Embed, EmbedConfig, NormConfig, Part
from espalier.nn.state import Pass


class NormedConfig(EmbedConfig):
    """x = norm(table[token]); a tied head's logits are the table's"""

    variants = ({"norm": {"name": "rms", "gain": False}},)

    norm: NormConfig = default("rms")
    start: Start = "gaussian"
    """as of learned"""

    def build(self, dims: Dims) -> Embed:
        norm = self.norm.build(dims.n_embd, dims, 0)
        return Normed(dims.vocab_size, dims.n_embd, dims.std, self.start, norm)


class Normed(Learned):
    def __init__(self, vocab_size: int, width: int, std: float, start: Start, norm: Part):
        super().__init__(vocab_size, width, std, start)
        self.norm = norm

    def forward(self, ids: Int[Tensor, "batch time"], now: Pass) -> Float[Tensor, "batch time d"]:
        return self.norm(super().forward(ids, now), now)
