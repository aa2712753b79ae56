"""One neuron: branches that attend and integrate in time, each by itself, and a soma for them all.

a = attention, a head per branch; c = a + convolution(a); r = a + down(act(up(c))), per branch;
s = mix(norm(r)), norm per branch; out(s + W2 act(W1 norm'(s))).
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from espalier.nn.attend import Rules
from espalier.nn.attention.causal import Heads
from espalier.nn.cortex.branches import BranchConv, BranchLinear, BranchNorm, join, split
from espalier.nn.cortex.trace import Trace
from espalier.nn.slots import Part, drop
from espalier.nn.state import Pass


class Dendrites(NamedTuple):
    """What each branch does with what its head attends to."""

    conv: BranchConv
    up: BranchLinear
    activation: Part
    down: BranchLinear
    norm: BranchNorm


class Maps(NamedTuple):
    """The soma's matrices."""

    mix: Part
    up: Part
    down: Part
    out: Part


class Soma(Part):
    """Sums the branches, works on the sum and sends it on: s = mix(x); out(s + ffn(norm(s)))."""

    def __init__(self, maps: Maps, norm: Part, activation: Part, dropout: float):
        super().__init__()
        self.mix, self.up, self.down, self.out = maps
        self.norm, self.activation, self.dropout = norm, activation, dropout

    def forward(
        self, x: Float[Tensor, "batch time width"], now: Pass
    ) -> Float[Tensor, "batch time d"]:
        s = drop(self.mix(x, now), self.dropout, self.training)
        h = self.activation(self.up(self.norm(s, now), now), now)
        y = self.down(drop(h, self.dropout, self.training), now)
        return self.out(s + drop(y, self.dropout, self.training), now)


class Neuron(Heads):
    """(batch, time, d) -> the same, with the state of its heads, its trace and its convolution."""

    def __init__(
        self,
        qkv: Part,
        score: Part,
        dendrites: Dendrites,
        soma: Soma,
        rules: Rules,
        trace: Trace | None,
    ):
        branches = dendrites.conv.branches
        super().__init__(qkv, score, (branches, branches), rules)
        self.conv, self.up, self.activation, self.down, self.norm = dendrites
        self.soma, self.trace = soma, trace

    @property
    def shape(self) -> tuple[int, int]:
        """Branches and the width of each."""
        return self.heads, self.norm.weight.numel() // self.heads

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        q, k, v = self.project(x, now)
        if self.trace is not None and not self.trace.unused:
            v = self.trace(v.flatten(2), now).reshape(v.shape)
        a = self.attend(q, k, v, now)
        h = self.activation(join(self.up(self.conv(a, now), now)), now)
        h = split(drop(h, self.dropout, self.training), self.heads)
        r = split(a, self.heads) + self.down(h, now)
        return self.soma(join(self.norm(r, now)), now)
