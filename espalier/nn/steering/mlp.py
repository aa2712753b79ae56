"""A small network for each corpus, whose output is added (ReaLLMASIC's one-hot MLP LSV)."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from espalier.config import default
from espalier.nn.slots import ActivationConfig, Dims, Part, SteeringConfig
from espalier.nn.state import Pass
from espalier.nn.steered import sources


class MlpConfig(SteeringConfig):
    """x + alpha * mlp[source](x)"""

    variants = ({"sources": 3, "width": 5},)

    layer: int = Field(0, ge=0)
    """after which layer"""
    sources: int = Field(2, ge=1)
    """corpora, each with a network of its own"""
    width: int = Field(64, ge=1)
    """of the hidden layer"""
    alpha: float = 1.0
    activation: ActivationConfig = default("gelu")

    def build(self, dims: Dims) -> Part:
        act = self.activation.build(self.width, dims, self.layer)
        return Mlp(Each(self.sources, self.width, dims, act), self.alpha)


class Each(Part):
    """Several networks side by side, down[i](act(up[i](x)))."""

    role = {"up_bias": "vector"}

    def __init__(self, count: int, width: int, dims: Dims, activation: Part):
        super().__init__()
        self.std, self.residual_std = dims.std, dims.residual_std
        self.up = nn.Parameter(torch.empty(count, width, dims.n_embd))
        self.up_bias = nn.Parameter(torch.empty(count, width))
        self.activation = activation
        self.down = nn.Parameter(torch.empty(count, dims.n_embd, width))

    def reset(self) -> None:
        nn.init.normal_(self.up, std=self.std)
        nn.init.zeros_(self.up_bias)
        nn.init.normal_(self.down, std=self.residual_std)

    def chosen(self, x: Tensor, which: Tensor, now: Pass) -> Tensor:
        """(batch, time, d) through the network `which` (batch,) names for each row."""
        up, down = self.up[which].transpose(1, 2), self.down[which].transpose(1, 2)
        return self.activation(x @ up + self.up_bias[which][:, None], now) @ down

    def mixed(self, x: Tensor, shares: Tensor, now: Pass) -> Tensor:
        """Their outputs, added by shares (batch, time, count)."""
        hidden = torch.einsum("btd,nwd->btnw", x, self.up) + self.up_bias
        hidden = self.activation(hidden, now) * shares[..., None].to(x.dtype)
        return torch.einsum("btnw,ndw->btd", hidden, self.down)


class Mlp(Part):
    def __init__(self, each: Each, alpha: float):
        super().__init__()
        self.each, self.alpha = each, alpha

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        return x + self.alpha * self.each.chosen(x, sources(now, x), now)
