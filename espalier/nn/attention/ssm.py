"""A selective state-space mixer in place of attention (Mamba-2, arXiv:2405.21060), in plain torch.

What it remembers does not grow with the text: a matrix a head, and the convolution's last inputs.
"""

import math

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.config import default
from espalier.errors import ConfigError
from espalier.nn.scan import scan, taps
from espalier.nn.slots import (
    AttentionConfig,
    Dims,
    LinearConfig,
    NormConfig,
    Part,
    drop,
    fused,
    onto_residual,
)
from espalier.nn.state import Pass, Tail

SLOWEST, FASTEST = 1e-3, 0.1  # of the steps that heads start with
DECAYS = (1.0, 16.0)


class SsmConfig(AttentionConfig):
    """S_t = exp(-a dt_t) S_(t-1) + B_t (dt_t x_t)^T; out norm((S_t^T C_t + D x_t) silu(z_t))"""

    variants = (
        {"head_width": 16, "state": 8, "groups": 2},
        {"expand": 1, "head_width": 8, "taps": 2},
    )

    expand: int = Field(2, ge=1)
    """inner width over n_embd"""
    head_width: int = Field(64, ge=1)
    """of x in a head; must divide the inner width"""
    state: int = Field(128, ge=1)
    """rows of S: what B writes to and C reads from"""
    groups: int = Field(1, ge=1)
    """of heads that share B and C"""
    taps: int = Field(4, ge=2)
    """of the convolution before it"""
    norm: NormConfig = default("rms")
    """before the way out"""
    linear: LinearConfig = default("dense")

    def build(self, dims: Dims, layer: int) -> Part:
        inner = self.expand * dims.n_embd
        heads = inner // self.head_width
        if inner % self.head_width or heads % self.groups:
            raise ConfigError(
                f"attention.head_width={self.head_width} must divide attention.expand * "
                f"model.n_embd={inner}, and attention.groups={self.groups} the heads"
            )
        outputs = [inner, inner, self.groups * self.state, self.groups * self.state, heads]
        return Ssm(
            fused(self.linear.build(dims.n_embd, sum(outputs), dims, layer), outputs),
            Convolution(inner + 2 * self.groups * self.state, self.taps),
            self.norm.build(inner, dims, layer),
            onto_residual(self.linear.build(inner, dims.n_embd, dims, layer), dims),
            (heads, self.head_width, self.groups, self.state),
            dims.dropout,
        )


class Convolution(Part):
    """silu(convolution of each channel by itself), starting as torch's convolutions do."""

    role = {"weight": "vector"}
    special = {"exp": 1, "divide": 1}

    def __init__(self, channels: int, taps: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, taps))
        self.bias = nn.Parameter(torch.empty(channels))

    def reset(self) -> None:
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        state = now.state(Tail.empty, x, self.weight.shape[1] - 1)
        past = None if state is None else state.extend(x, now.positions)
        return F.silu(taps(x, self.weight, past, now) + self.bias).to(x.dtype)


class Ssm(Part):
    """`shape` is (heads, width of a head, groups, rows of a state)."""

    places_tokens = False
    special = {"exp": 1, "divide": 1, "log": 0}

    def __init__(
        self,
        into: Part,
        convolution: Convolution,
        norm: Part,
        out: Part,
        shape: tuple[int, int, int, int],
        dropout: float,
    ):
        super().__init__()
        self.into, self.convolution, self.norm, self.out = into, convolution, norm, out
        self.heads, self.width, self.groups, self.state = shape
        self.dropout = dropout
        self.rate, self.step, self.skip = (nn.Parameter(torch.empty(self.heads)) for _ in "rsd")

    def reset(self) -> None:
        """`rate` is log a; `step`, what softplus turns into dt."""
        self.rate.uniform_(*DECAYS).log_()
        dt = self.step.uniform_(math.log(SLOWEST), math.log(FASTEST)).exp()
        self.step.copy_(dt + torch.log(-torch.expm1(-dt)))
        nn.init.ones_(self.skip)

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        inner, shared = self.heads * self.width, self.groups * self.state
        widths = [inner, inner + 2 * shared, self.heads]
        z, mixed, step = torch.split(self.into(x, now), widths, -1)
        v, b, c = torch.split(self.convolution(mixed, now), [inner, shared, shared], -1)
        dt = F.softplus(step + self.step)
        v = v.reshape(*v.shape[:2], self.heads, self.width)
        b, c = (self._spread(t) for t in (b, c))
        y = scan(c, b, v * dt[..., None], -self.rate.exp() * dt, now)
        y = (y + v * self.skip[:, None]).flatten(2).to(x.dtype)
        return drop(self.out(self.norm(y * F.silu(z), now), now), self.dropout, self.training)

    def _spread(self, shared: Tensor) -> Tensor:
        """What a group's heads share, to each of them: (batch, time, heads, state)."""
        each = shared.reshape(*shared.shape[:2], self.groups, self.state)
        return each.repeat_interleave(self.heads // self.groups, 2)
