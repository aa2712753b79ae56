"""Several next tokens from one trunk (arXiv:2404.19737): further heads add to the loss.

Head 1 predicts the next token, as ever, and generation uses it alone. Each further head is a layer
of its own on the trunk's normed output; all share one way to the vocabulary. The paper gives the
first head a layer too, taken from the trunk.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.config import default
from espalier.nn.slots import BlockConfig, Dims, Embed, Head, HeadConfig, Part
from espalier.nn.state import Pass


class MultiTokenConfig(HeadConfig):
    """logits = head(h); in training also weight sum_k cross_entropy(head(block_k(h)), token t+k)"""

    variants = ({"tokens": 3, "head": "untied"},)

    tokens: int = Field(4, ge=1)
    """that a position predicts, the next one included"""
    weight: float = Field(1.0, gt=0)
    """of each further head's loss"""
    head: HeadConfig = default("tied")
    block: BlockConfig = default("prenorm")

    def build(self, dims: Dims, embed: Embed) -> Part:
        layers = [self.block.build(dims, dims.n_layer) for _ in range(self.tokens - 1)]
        return MultiToken(self.head.build(dims, embed), layers, self.weight)


class MultiToken(Head):
    def __init__(self, head: Part, layers: Sequence[Part], weight: float):
        super().__init__()
        self.head, self.layers, self.weight = head, nn.ModuleList(layers), weight

    def forward(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        return self.head(hidden)

    def ahead(self, hidden: Float[Tensor, "batch time d"], now: Pass) -> list[Tensor]:
        """Logits of the further heads: of the second next token, the third ..."""
        return [self.head(now.run(layer, hidden)) for layer in self.layers]

    def learn(
        self, hidden: Float[Tensor, "batch time d"], ids: Int[Tensor, "batch time"], now: Pass
    ) -> None:
        for k, logits in enumerate(self.ahead(hidden, now), 2):
            if k >= ids.shape[1]:
                return
            same = now.positions[:, k:] == now.positions[:, :-k] + k  # one text, no padding
            wanted = ids[:, k:].masked_fill(~same | (now.positions[:, k:] < 0), -1)
            losses = F.cross_entropy(
                logits[:, :-k].flatten(0, 1), wanted.flatten(), ignore_index=-1, reduction="sum"
            )
            now.lose("multi token", self.weight * losses / (wanted >= 0).sum().clamp(min=1))
