"""Several small networks, mixed for each token as the token asks (ReaLLMASIC's gated LSVs)."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from espalier.config import default
from espalier.errors import ConfigError
from espalier.nn.slots import ActivationConfig, Dims, LinearConfig, Part, SteeringConfig
from espalier.nn.state import Pass
from espalier.nn.steering.mlp import Each


class MixtureConfig(SteeringConfig):
    """x + alpha * sum_i gate(G x)_i mlp_i(x)"""

    variants = ({"gate": "sigmoid"}, {"gate": "top", "sources": 3, "width": 5})

    layer: int = Field(0, ge=0)
    """after which layer"""
    sources: int = Field(2, ge=1)
    """networks; no corpus is tied to one"""
    gate: Literal["softmax", "sigmoid", "top"] = "softmax"
    """each by itself (sigmoid), all shared out, or shared out among the `top` likeliest"""
    top: int = Field(2, ge=1)
    width: int = Field(64, ge=1)
    """of the hidden layers"""
    alpha: float = 1.0
    activation: ActivationConfig = default("gelu")
    linear: LinearConfig = default("dense")

    def build(self, dims: Dims) -> Part:
        if self.gate == "top" and self.top > self.sources:
            raise ConfigError(
                f"steering.top={self.top} cannot be more than steering.sources={self.sources}"
            )
        act = self.activation.build(self.width, dims, self.layer)
        router = self.linear.build(dims.n_embd, self.sources, dims, self.layer)
        each = Each(self.sources, self.width, dims, act)
        return Mixture(each, router, self.gate, self.top, self.alpha)


class Mixture(Part):
    special = {"exp": 1, "divide": 1}

    def __init__(self, each: Each, router: Part, gate: str, top: int, alpha: float):
        super().__init__()
        self.each, self.router = each, router
        self.gate, self.top, self.alpha = gate, top, alpha

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        return x + self.alpha * self.each.mixed(x, self.shares(self.router(x, now)), now)

    def shares(self, wanted: Tensor) -> Tensor:
        """(..., sources) scores to shares."""
        if self.gate == "sigmoid":
            return torch.sigmoid(wanted)
        if self.gate == "top":
            least = wanted.topk(self.top, dim=-1).values[..., -1:]
            wanted = wanted.masked_fill(wanted < least, float("-inf"))
        return wanted.softmax(-1)
