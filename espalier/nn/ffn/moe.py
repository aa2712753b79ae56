"""A mixture of experts: a router sends each token to few of many feed-forward parts.

Sparsely gated (arXiv:1701.06538), with the load-balancing loss of Switch (arXiv:2101.03961),
E sum_e f_e P_e: the share of choices and the mean probability of each expert, 1 when balanced. No
token is dropped, so that a row's result does not depend on the others in its batch; what capacity
that takes is told. The original has no such loss, and its noisy router raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.config import default
from espalier.errors import ConfigError
from espalier.nn.linear.dense import Dense
from espalier.nn.slots import ActivationConfig, Dims, FfnConfig, Part, drop, fused
from espalier.nn.state import Pass


class MoeConfig(FfnConfig):
    """sum_e g_e down_e(activation(up_e(x))) over the k best of router(x); g their softmax"""

    variants = (
        {"experts": 4, "top": 3, "glu": True, "activation": "silu"},
        {"experts": 3, "noise": True},
    )

    experts: int = Field(8, ge=1)
    top: int = Field(2, ge=1)
    """experts of each token; the weight of a single one is its softmax over all (Switch)"""
    width: int | None = Field(None, ge=1)
    """hidden features of an expert; so that a token costs what mlp costs when left out"""
    glu: bool = False
    """experts are gated: down(activation(gate(x)) * up(x))"""
    activation: ActivationConfig = default("gelu")
    balance: float = Field(0.01, ge=0)
    """of the balance loss, in the loss"""
    noise: bool = False
    """add noise of a learned size to the router while training"""

    def build(self, dims: Dims, layer: int) -> Part:
        if self.top > self.experts:
            raise ConfigError(f"ffn.top={self.top} is more than ffn.experts={self.experts}")
        d, each = dims.n_embd, 3 if self.glu else 2
        width = self.width or -(-8 * d // (each * self.top))
        up = Bank(self.experts, d, width * (each - 1), dims, dims.std)
        fused(up, [width] * (each - 1) * self.experts)  # gate and up are two
        down = Bank(self.experts, width, d, dims, dims.residual_std)
        activation = self.activation.build(width, dims, layer)
        return Moe(
            Router(d, self.experts, self.top, noise=self.noise),
            Experts(up, activation, down, "glu" if self.glu else "mlp"),
            self.balance,
            dims.dropout,
        )


class Bank(Part):
    """One matrix for each expert (or network, or corpus), on top of each other."""

    role = {"bias": "vector"}

    def __init__(self, experts: int, n_in: int, n_out: int, dims: Dims, std: float):
        super().__init__()
        self.experts, self.std = experts, std
        self.weight = nn.Parameter(torch.empty(experts * n_out, n_in))
        self.bias = nn.Parameter(torch.empty(experts * n_out)) if dims.bias else None
        fused(self, [n_out] * experts)

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def of(self) -> list[tuple[Tensor, Tensor | None]]:
        """Each expert's matrix and bias."""
        biases = [None] * self.experts if self.bias is None else self.bias.chunk(self.experts)
        return list(zip(self.weight.chunk(self.experts), biases, strict=True))


class Experts(Part):
    def __init__(self, up: Bank, activation: Part, down: Bank, kind: Literal["mlp", "glu"]):
        super().__init__()
        self.up, self.activation, self.down, self.kind = up, activation, down, kind

    def each(
        self, groups: list[Float[Tensor, "_ d"]], now: Pass, tokens: Sequence[Tensor] = ()
    ) -> list[Float[Tensor, "_ d"]]:
        """What each expert makes of its group; `tokens` tells who listens which it is made of."""
        made = []
        for i, up, down in zip(range(len(groups)), self.up.of(), self.down.of(), strict=True):
            if tokens:
                now.tokens = tokens[i]
            made.append(F.linear(self._hidden(F.linear(groups[i], *up), now), *down))
        now.tokens = None
        return made

    def _hidden(self, h: Tensor, now: Pass) -> Tensor:
        if self.kind == "mlp":
            return self.activation(h, now)
        gate, up = h.chunk(2, -1)
        return self.activation(gate, now) * up


class Router(Part):
    """Logits of all experts; in training perhaps with noise, normal * softplus(noise(x))."""

    special = {"exp": 1, "divide": 1, "compare": 1}  # softmax over the best of its logits

    def __init__(self, d: int, experts: int, top: int, *, noise: bool):
        super().__init__()
        self.top = top
        self.choose = Dense(d, experts, d**-0.5, bias=False)
        self.noise = Dense(d, experts, 0.0, bias=False) if noise else None

    def forward(self, x: Float[Tensor, "rows d"], now: Pass) -> Float[Tensor, "rows experts"]:
        logits = self.choose(x, now).float() if x.dtype.itemsize < 4 else self.choose(x, now)
        if self.noise is None or not self.training:
            return logits
        return logits + torch.randn_like(logits) * F.softplus(self.noise(x, now))


class Moe(Part):
    def __init__(self, router: Router, experts: Experts, balance: float, dropout: float):
        super().__init__()
        self.router, self.experts, self.balance, self.dropout = router, experts, balance, dropout
        self.fused = True

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        flat, count = x.flatten(0, -2), self.experts.up.experts
        logits = self.router(flat, now)
        shares = torch.softmax(logits, -1)
        best, chosen = logits.topk(self.router.top, -1)
        gates = torch.softmax(best, -1) if self.router.top > 1 else shares.gather(-1, chosen)
        self._balance(shares, chosen, now)
        if x.is_meta:
            y = self._evenly(flat, now)
        elif self.fused and not torch.compiler.is_compiling():
            y = self._grouped(flat, gates.to(x.dtype), chosen, now)
        else:
            every = self.experts.each([flat] * count, now)
            weights = torch.zeros_like(logits).scatter(-1, chosen, gates).to(x.dtype)
            y = torch.einsum("ne,end->nd", weights, torch.stack(every))
        return drop(y.to(x.dtype).reshape(x.shape), self.dropout, self.training)

    def _grouped(
        self, x: Tensor, gates: Tensor, chosen: Int[Tensor, "rows top"], now: Pass
    ) -> Tensor:
        """Tokens in the order of their experts, so that each is one product of matrices."""
        order = chosen.flatten().argsort(stable=True)
        rows, count = order // self.router.top, self.experts.up.experts
        counts = torch.bincount(chosen.flatten(), minlength=count).tolist()
        groups, tokens = (torch.split(t, counts) for t in (x[rows], rows))
        made = torch.cat(self.experts.each(list(groups), now, tokens))
        weighed = made * gates.flatten()[order, None].to(made.dtype)
        return torch.zeros_like(x, dtype=made.dtype).index_add(0, rows, weighed)

    def _evenly(self, x: Tensor, now: Pass) -> Tensor:
        """Where nothing is computed, only counted: as many tokens for each expert."""
        count, top = self.experts.up.experts, self.router.top
        sizes = [len(x) * top // count + (i < len(x) * top % count) for i in range(count)]
        made = self.experts.each(list(torch.split(x.repeat_interleave(top, 0), sizes)), now)
        return torch.cat(made).view(len(x), top, -1).sum(1)

    def _balance(self, shares: Tensor, chosen: Tensor, now: Pass) -> None:
        count = shares.shape[-1]
        real = (now.positions.flatten() >= 0).to(shares.dtype)
        real = real / real.sum().clamp(min=1)
        picks = F.one_hot(chosen, count).sum(1).to(shares.dtype)
        load = real @ picks / self.router.top
        if self.training and self.balance:
            now.lose("balance", self.balance * count * (load * (real @ shares)).sum())
        now.tell("expert capacity", lambda: load.amax() * count)
