"""Neurons that compete (BioGPT, L. Hamond 2026): a layer without a feed-forward part of its own.

Parameters, with d features, n neurons of b branches of width w = d / b, k taps and a soma e times
as wide: a neuron has (4 + 2e) d^2 + (k + 4) d w + (9 + e) d and its output d^2; the layer adds n
and a norm. Published with k = 5, e = 3; of the published (10 + e) d, one d is the unused trace.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from espalier.config import Config, default
from espalier.errors import ConfigError
from espalier.nn.attend import Rules
from espalier.nn.cortex import layout
from espalier.nn.cortex.branches import BranchConv, BranchLinear, BranchNorm
from espalier.nn.cortex.neuron import Dendrites, Maps, Neuron, Soma
from espalier.nn.cortex.trace import Trace
from espalier.nn.cortex.units import removable
from espalier.nn.slots import (
    ActivationConfig,
    BlockConfig,
    Dims,
    LinearConfig,
    NormConfig,
    Part,
    ScoreConfig,
    fused,
    onto_residual,
    retire,
)
from espalier.nn.state import Pass
from espalier.nn.units import Units


class NeuronConfig(Config):
    """One neuron; a bare number is its branches."""

    branches: int = Field(8, ge=1)
    branch_width: int | None = Field(None, ge=1)
    """features of a branch; n_embd / branches when left out. Pruned, they need not fill n_embd."""
    soma: int | None = Field(None, ge=1)
    """hidden features of its soma; expansion * n_embd when left out"""


def _neuron(value: object) -> object:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return {"branches": value} if whole else value


class CorticalConfig(BlockConfig):
    """x + sum_i softmax(competition)_i neuron_i(norm(x)), as many neurons as the layer has"""

    variants = (
        {"neurons": [4, 2, {"branches": 3, "branch_width": 8}], "nmda": True},
        {"neurons": [4, 4], "compat": "published", "taps": 1},
    )

    neurons: tuple[Annotated[NeuronConfig, BeforeValidator(_neuron)], ...] | None = Field(
        None, min_length=1
    )
    """[8, 6, 4] or [{branches: 8, branch_width: 96}, ...]; by the published rule when left out:
    two of 8 branches in early layers, 8, 6 and 4 in the middle, two of 4 in late ones"""
    taps: int = Field(5, ge=1)
    """tokens that a branch's convolution sees, the present one included"""
    expansion: float = Field(3.0, gt=0)
    """hidden features of a soma, in n_embd"""
    nmda: bool = False
    """add a fading trace of past values to each value"""
    compat: Literal["published"] | None = None
    """published: also hold the trace's parameters that no pass reads"""
    norm: NormConfig = default("layer")
    """before the neurons, and in each soma"""
    score: ScoreConfig = default("softmax")
    activation: ActivationConfig = default("gelu")
    """in each branch and in each soma"""
    linear: LinearConfig = default("dense")

    def build(self, dims: Dims, layer: int) -> Part:
        if self.nmda and self.compat:
            raise ConfigError(
                "block.nmda=true uses the trace that block.compat=published keeps unused: "
                "take one of the two"
            )
        neurons = [self._build(neuron, dims, layer) for neuron in self._chosen(dims, layer)]
        return Cortical(self.norm.build(dims.n_embd, dims, layer), neurons, (layer, dims.n_layer))

    def last_norm(self) -> NormConfig:
        return self.norm

    def _chosen(self, dims: Dims, layer: int) -> Sequence[NeuronConfig]:
        if self.neurons is not None:
            return self.neurons
        rule = layout.branches(layer, dims.n_layer, dims.n_embd)
        return [NeuronConfig(branches=n) for n in rule]

    def _shape(self, neuron: NeuronConfig, dims: Dims) -> tuple[int, int]:
        """Branches and their width."""
        d, n = dims.n_embd, neuron.branches
        if neuron.branch_width is None and d % n:
            near = ", ".join(str(m) for m in range(1, d + 1) if d % m == 0 and m <= 2 * n)
            raise ConfigError(
                f"block.neurons: {n} branches must divide model.n_embd={d} (possible: {near}), "
                "or say how wide each is: {branches: N, branch_width: W}"
            )
        return n, neuron.branch_width or d // n

    def _build(self, neuron: NeuronConfig, dims: Dims, layer: int) -> Neuron:
        branches, each = self._shape(neuron, dims)
        width, d = branches * each, dims.n_embd
        hidden = neuron.soma or int(self.expansion * d)
        bare = replace(dims, bias=False)
        dendrites = Dendrites(
            BranchConv(branches, each, self.taps, dims),
            BranchLinear(branches, each, 2 * each, dims),
            self.activation.build(2 * width, dims, layer),
            BranchLinear(branches, 2 * each, each, dims),
            BranchNorm(branches, each, dims),
        )
        maps = Maps(
            mix=self.linear.build(width, d, bare, layer),
            up=self.linear.build(d, hidden, dims, layer),
            down=self.linear.build(hidden, d, dims, layer),
            out=onto_residual(self.linear.build(d, d, bare, layer), dims),
        )
        soma = Soma(
            maps,
            self.norm.build(d, dims, layer),
            self.activation.build(hidden, dims, layer),
            dims.dropout,
        )
        trace = Trace(width) if self.nmda or self.compat else None
        if trace is not None and not self.nmda:
            retire(trace)
        qkv = fused(self.linear.build(d, 3 * width, bare, layer), [width] * 3)
        score = self.score.build(replace(dims, n_head=branches), layer)
        rules = Rules(dropout=dims.dropout, layer=layer)
        return Neuron(qkv, score, dendrites, soma, rules, trace)


class Cortical(Part):
    """`place` is (layer, layers in all)."""

    def __init__(self, norm: Part, neurons: Sequence[Neuron], place: tuple[int, int]):
        super().__init__()
        self.norm, self.place = norm, place
        self.neurons = nn.ModuleList(neurons)
        self.competition = nn.Parameter(torch.empty(len(neurons)))

    def reset(self) -> None:
        nn.init.zeros_(self.competition)

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        h, shares = self.norm(x, now), torch.softmax(self.competition, 0)
        for share, neuron in zip(shares, self.neurons, strict=True):
            x = x + share.to(x.dtype) * neuron(h, now)
        return x

    def removable(self) -> Sequence[Units]:
        return removable([neuron for neuron in self.neurons if isinstance(neuron, Neuron)])

    def describe(self) -> dict[str, int | str | list[str]]:
        shapes = [neuron.shape for neuron in self.neurons if isinstance(neuron, Neuron)]
        return {
            "zone": layout.zone(*self.place),
            "neurons": len(shapes),
            "branches": sum(branches for branches, _ in shapes),
            "shape": [f"{branches}x{width}" for branches, width in shapes],
        }
