"""A small network for each corpus, whose output is added (ReaLLMASIC's one-hot MLP LSV)."""

from dataclasses import replace

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from espalier.config import default
from espalier.nn.ffn.moe import Bank
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

    def __init__(self, count: int, width: int, dims: Dims, activation: Part):
        super().__init__()
        biased, bare = replace(dims, bias=True), replace(dims, bias=False)
        self.up = Bank(count, dims.n_embd, width, biased, dims.std)
        self.activation = activation
        self.down = Bank(count, width, dims.n_embd, bare, dims.residual_std)

    def chosen(self, x: Tensor, which: Tensor, now: Pass) -> Tensor:
        """(batch, time, d) through the network `which` (batch,) names for each row."""
        up, bias, down = (each[which] for each in self._each())
        return self.activation(x @ up.mT + bias[:, None], now) @ down.mT

    def mixed(self, x: Tensor, shares: Tensor, now: Pass) -> Tensor:
        """Their outputs, added by shares (batch, time, count)."""
        up, bias, down = self._each()
        hidden = torch.einsum("btd,nwd->btnw", x, up) + bias
        hidden = self.activation(hidden, now) * shares[..., None].to(x.dtype)
        return torch.einsum("btnw,ndw->btd", hidden, down)

    def _each(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each network: (count, width, d), (count, width) and (count, d, width)."""
        up, bias, down = self.up.weight, self.up.bias, self.down.weight
        assert bias is not None
        count = self.up.experts
        ups, downs = (weight.view(count, -1, weight.shape[1]) for weight in (up, down))
        return ups, bias.view(count, -1), downs


class Mlp(Part):
    def __init__(self, each: Each, alpha: float):
        super().__init__()
        self.each, self.alpha = each, alpha

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        return x + self.alpha * self.each.chosen(x, sources(now, x), now)
