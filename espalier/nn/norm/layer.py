"""Layer normalisation (arXiv:1607.06450); its shift follows `model.bias`, as in nanoGPT."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.slots import Dims, NormConfig, Part
from espalier.nn.state import Pass


class LayerConfig(NormConfig):
    """gain * (x - mean) / sqrt(var + eps) + shift"""

    eps: float = Field(1e-5, gt=0)

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        return Layer(width, self.eps, shift=dims.bias)


class Layer(Part):
    special = {"sqrt": 0, "divide": 0}
    passes = 2

    def __init__(self, width: int, eps: float, shift: bool):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if shift else None

    def reset(self) -> None:
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
