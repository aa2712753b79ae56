"""The plain matrix product; its bias follows `model.bias`."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.slots import Dims, LinearConfig, Part
from espalier.nn.state import Pass


class DenseConfig(LinearConfig):
    """x W^T + b"""

    def build(self, n_in: int, n_out: int, dims: Dims, layer: int) -> Part:
        return Dense(n_in, n_out, dims.std, bias=dims.bias)


class Dense(Part):
    def __init__(self, n_in: int, n_out: int, std: float, bias: bool):
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.empty(n_out)) if bias else None

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*batch n_in"], now: Pass) -> Float[Tensor, "*batch n_out"]:
        return F.linear(x, self.weight, self.bias)
