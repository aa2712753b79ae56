"""Layers one after another."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from espalier.nn.slots import Dims, Part, StackConfig
from espalier.nn.state import Pass


class PlainConfig(StackConfig):
    """block_L(... block_1(x))"""

    def build(self, dims: Dims, blocks: Sequence[Part]) -> Part:
        return Plain(blocks)


class Plain(Part):
    def __init__(self, blocks: Sequence[Part]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        for block in self.blocks:
            x = now.run(block, x)
        return x
