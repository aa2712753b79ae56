"""A table rounded to few bits, a scale for each token, for training with quantisation.

The gradient passes straight through; the original's goes through the scale alone.
"""

from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.embed.learned import Learned
from espalier.nn.rounding import Codes, Grid, Scheme
from espalier.nn.slots import Dims, Embed, EmbedConfig
from espalier.nn.state import Pass


class FakeQuantisedConfig(EmbedConfig):
    """x = q(table[token]), logits = hidden q(table)^T; q: s round(x / s), s from each row"""

    variants = ({"bits": 4, "scheme": "affine"},)

    bits: int = Field(8, ge=2, le=16)
    scheme: Scheme = "symmetric"
    level: float = Field(1.0, ge=0, le=1)
    """how far each number moves to its rounded self"""

    def build(self, dims: Dims) -> Embed:
        return FakeQuantised(dims, Grid(self.bits, self.scheme, level=self.level))


class FakeQuantised(Learned):
    special = {"abs": 1, "max": 1, "round": 1, "divide": 1}
    rounds = True

    def __init__(self, dims: Dims, grid: Grid):
        super().__init__(dims.vocab_size, dims.n_embd, dims.std)
        self.grid = grid
        if grid.level == 1:
            self.stored = {"weight": grid.bits}

    def forward(self, ids: Int[Tensor, "batch time"], now: Pass) -> Float[Tensor, "batch time d"]:
        return self.grid(F.embedding(ids, self.weight))

    def logits(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        return F.linear(hidden, self.grid(self.weight))

    def integers(self) -> Codes:
        return self.grid.codes(self.weight)

    def inputs(self, x: Tensor) -> Codes | None:
        return None
