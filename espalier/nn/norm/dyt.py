"""Dynamic tanh in place of normalisation (arXiv:2503.10622)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from espalier.nn.slots import Dims, NormConfig, Part
from espalier.nn.state import Pass


class DytConfig(NormConfig):
    """gain * tanh(alpha * x) + bias, with one learned alpha"""

    alpha: float = 0.5
    """at the start"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Dyt(width, self.alpha, dims.bias)


class Dyt(Part):
    special = {"tanh": 1}

    def __init__(self, width: int, alpha: float, bias: bool):
        super().__init__()
        self.start = alpha
        self.alpha = nn.Parameter(torch.empty(()))
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None

    def reset(self) -> None:
        nn.init.constant_(self.alpha, self.start)
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        y = self.weight * torch.tanh(self.alpha * x)
        return (y if self.bias is None else y + self.bias).to(x.dtype)
