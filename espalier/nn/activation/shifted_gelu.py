"""Gelu of a learned shift (ReaLLMASIC)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class ShiftedGeluConfig(ActivationConfig):
    """gelu(x - shift), with one learned shift"""

    shift: float = 0.0
    """at the start"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return ShiftedGelu(self.shift)


class ShiftedGelu(Part):
    special = {"erf": 1}

    def __init__(self, shift: float):
        super().__init__()
        self.start = shift
        self.shift = nn.Parameter(torch.empty(()))

    def reset(self) -> None:
        nn.init.constant_(self.shift, self.start)

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.gelu(x - self.shift.to(x.dtype))
