"""Layers run several times, late ones speaking back to early ones (BioGPT, L. Hamond 2026)."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from espalier.config import default
from espalier.errors import ConfigError
from espalier.nn.cortex import layout
from espalier.nn.linear.dense import Dense
from espalier.nn.slots import Dims, NormConfig, Part, StackConfig, retire
from espalier.nn.state import Pass

Pair = tuple[int, int]


class FeedbackConfig(StackConfig):
    """sum_i softmax(mix)_i pass_i(x); a pass hears, through gates, what layers said in the last"""

    variants = (
        {"passes": 2, "links": [[1, 0]]},
        {"passes": 3, "links": [[1, 0], [1, 1], [0, 0]], "inject": "embedding"},
        {"links": [[1, 0]], "compat": "published"},
    )

    passes: int = Field(1, ge=1)
    """runs through the same layers; 1 has no feedback"""
    links: tuple[Pair, ...] | None = None
    """[[source, target], ...], layers from 0; the last third to the first when left out"""
    inject: Literal["target", "embedding"] = "target"
    """where a link ends: at its target's input, or (as published) before the first layer"""
    compat: Literal["published"] | None = None
    """published: build the links even where there is one pass, and no pass reads them"""
    norm: NormConfig = default("layer")
    """of what a link carries"""

    def build(self, dims: Dims, blocks: Sequence[Part]) -> Part:
        depth = len(blocks)
        pairs = layout.links(depth) if self.links is None else self.links
        for pair in pairs:
            if not all(0 <= layer < depth for layer in pair):
                raise ConfigError(
                    f"stack.links: {list(pair)} names a layer that is not among 0 to {depth - 1}"
                )
        if self.passes == 1 and not self.compat:
            pairs = ()
        links = [self._link(dims, pair[1]) for pair in pairs]
        if self.passes == 1:
            links = [retire(link) for link in links]
        return Feedback(blocks, links, pairs, self.passes, self.inject)

    def _link(self, dims: Dims, target: int) -> Part:
        d = dims.n_embd
        gate = Dense(2 * d, d, dims.std, bias=dims.bias)
        return Link(Dense(d, d, dims.std, bias=False), gate, self.norm.build(d, dims, target))


class Link(Part):
    """x + sigmoid(gate [x, f]) * norm(f), where f = project(said)."""

    special = {"exp": 1, "divide": 1}

    def __init__(self, project: Part, gate: Part, norm: Part):
        super().__init__()
        self.project, self.gate, self.norm = project, gate, norm

    def forward(
        self,
        x: Float[Tensor, "batch time d"],
        said: Float[Tensor, "batch time d"],
        now: Pass,
    ) -> Float[Tensor, "batch time d"]:
        f = self.project(said, now)
        gate = torch.sigmoid(self.gate(torch.cat([x, f.to(x.dtype)], -1), now))
        return x + gate * self.norm(f, now)


class Feedback(Part):
    def __init__(
        self,
        blocks: Sequence[Part],
        links: Sequence[Part],
        pairs: Sequence[Pair],
        passes: int,
        inject: str,
    ):
        super().__init__()
        self.blocks, self.links = nn.ModuleList(blocks), nn.ModuleList(links)
        self.pairs, self.runs, self.inject = tuple(pairs), passes, inject
        self.mix = nn.Parameter(torch.empty(passes)) if passes > 1 else None

    def reset(self) -> None:
        if self.mix is not None:
            nn.init.zeros_(self.mix)

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        said: list[Tensor] = []
        last = self._pass(x, said, now)
        if self.mix is None:
            return last
        shares = torch.softmax(self.mix, 0).to(x.dtype)
        y = shares[0] * last
        for i in range(1, self.runs):
            y = y + shares[i] * self._pass(x, said, now)
        return y

    def _pass(self, x: Tensor, said: list[Tensor], now: Pass) -> Tensor:
        """The last layer's output; `said`, each layer's in the pass before, becomes this one's."""
        heard = list(said)
        said.clear()
        for layer, block in enumerate(self.blocks):
            for link, (source, target) in zip(self.links, self.pairs, strict=True):
                ends = target if self.inject == "target" else 0
                if heard and ends == layer:
                    x = link(x, heard[source], now)
            x = now.run(block, x)
            said.append(x)
        return x

    def describe(self) -> dict[str, int | str | list[str]]:
        runs = f"{self.runs} pass" + "es" * (self.runs > 1)
        pairs = [f"{source} -> {target}" for source, target in self.pairs]
        if self.runs > 1 and pairs:
            return {"feedback": runs, "links": pairs, "injected at": self.inject}
        if pairs:
            return {"feedback": f"unused ({runs})", "links": pairs}
        return {"feedback": f"none ({runs})"}
