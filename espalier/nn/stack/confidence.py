"""Each layer weighs what it adds by how sure it is of it (ReaLLMASIC's learned confidence).

The original weighs attention and feed-forward apart; a whole layer's update fits any block.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from espalier.nn.slots import Dims, Part, StackConfig
from espalier.nn.state import Pass


class ConfidenceConfig(StackConfig):
    """x += y (<y, v> + c), y = block(x) - x, with a learned v for each layer"""

    variants = ({"start": "gaussian", "learn_constant": False},)

    start: Literal["zeros", "ones", "gaussian"] = "zeros"
    """of v; with zeros and a constant of 1 layers start as they are"""
    constant: float = 1.0
    """c, or where it starts"""
    learn_constant: bool = True

    def build(self, dims: Dims, blocks: Sequence[Part]) -> Part:
        std = {"zeros": 0.0, "ones": None, "gaussian": dims.std}[self.start]
        constant, learn = self.constant, self.learn_constant
        made = [Confidence(dims.n_embd, std, constant, learn=learn) for _ in blocks]
        return Confident(blocks, made)


class Confidence(Part):
    """y (<y, v> + c)"""

    constant: Tensor

    def __init__(self, width: int, std: float | None, constant: float, *, learn: bool):
        super().__init__()
        self.std, self.start = std, constant
        self.weight = nn.Parameter(torch.empty(width))
        if learn:
            self.constant = nn.Parameter(torch.empty(()))
        else:
            self.register_buffer("constant", torch.empty(()))

    def reset(self) -> None:
        nn.init.constant_(self.constant, self.start)
        if self.std is None:
            nn.init.ones_(self.weight)
        else:
            nn.init.normal_(self.weight, std=self.std)

    def forward(self, y: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        return y * ((y * self.weight).sum(-1, keepdim=True) + self.constant).to(y.dtype)


class Confident(Part):
    def __init__(self, blocks: Sequence[Part], confidences: Sequence[Part]):
        super().__init__()
        self.blocks, self.confidences = nn.ModuleList(blocks), nn.ModuleList(confidences)

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        for block, confidence in zip(self.blocks, self.confidences, strict=True):
            x = x + confidence(now.run(block, x) - x, now)
        return x
