"""The second half hears the first, each layer its mirror image (U-net; modded-nanoGPT, 2024)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from espalier.nn.slots import Dims, Part, StackConfig
from espalier.nn.state import Pass


class UnetConfig(StackConfig):
    """x_i = block_i(x_(i-1) + w_i x_j), j = L - 1 - i in the first half; w learned"""

    variants = ({"start": 0.0},)

    start: float = 1.0
    """of each weight"""

    def build(self, dims: Dims, blocks: Sequence[Part]) -> Part:
        return Unet(blocks, self.start)


class Unet(Part):
    """A layer in the middle of an odd number has no skip."""

    def __init__(self, blocks: Sequence[Part], start: float):
        super().__init__()
        self.start, self.skipping = start, len(blocks) // 2
        self.blocks = nn.ModuleList(blocks)
        self.skips = nn.Parameter(torch.empty(self.skipping)) if self.skipping else None

    def reset(self) -> None:
        if self.skips is not None:
            nn.init.constant_(self.skips, self.start)

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        said: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            mirror = len(self.blocks) - 1 - layer
            if self.skips is not None and mirror < self.skipping:
                x = x + self.skips[mirror].to(x.dtype) * said[mirror]
            x = now.run(block, x)
            said.append(x)
        return x
