"""What goes on is a mixture of all layers' outputs (ReaLLMASIC's "ln_f input mixer").

Of the original's ways, "router_top1" cannot learn: an argmax without a weight has no gradient. Here
a router's choice is weighed by its softmax over the chosen. Depth is a learned number for each
layer, where the original turns keys as if depth were a position.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from espalier.errors import ConfigError
from espalier.nn.linear.dense import Dense
from espalier.nn.slots import Dims, Part, StackConfig
from espalier.nn.state import Pass

SURE = 4.0  # the last layer's lead at the start, in nats


class MixedConfig(StackConfig):
    """sum_l w_l x_l over the embedding x_0 and each layer's output x_1 .. x_L

    linear: w learned, 1 for the last at the start; router: softmax over the k best of router(x_L);
    attention: softmax over l of <query(x_L), key(x_l)> / sqrt(n_embd) + depth_l.
    """

    variants = ({"by": "router"}, {"by": "attention"})

    by: Literal["linear", "router", "attention"] = "linear"
    top: int = Field(2, ge=2)
    """layers that a router chooses"""

    def build(self, dims: Dims, blocks: Sequence[Part]) -> Part:
        count, d = len(blocks) + 1, dims.n_embd
        if self.by == "router" and self.top > count:
            raise ConfigError(
                f"stack.top={self.top}: there are only {count} outputs of {count - 1} layers"
            )
        mixer: Part
        if self.by == "linear":
            mixer = Linear(count)
        elif self.by == "router":
            mixer = Router(count, self.top, Dense(d, count, dims.std, bias=False))
        else:
            query, key = (Dense(d, d, dims.std, bias=False) for _ in range(2))
            mixer = Attention(count, query, key)
        return Mixed(blocks, mixer)


class Depths(Part):
    """A learned number for each output, 0 at the start but for the last."""

    last = SURE

    def __init__(self, count: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count))

    def reset(self) -> None:
        nn.init.zeros_(self.weight)[-1] = self.last


class Linear(Depths):
    last = 1.0

    def forward(
        self, outputs: Float[Tensor, "batch time depth d"], now: Pass
    ) -> Float[Tensor, "batch time d"]:
        return torch.einsum("l,btld->btd", self.weight.to(outputs.dtype), outputs)


class Router(Depths):
    special = {"exp": 1, "divide": 1, "compare": 1}

    def __init__(self, count: int, top: int, choose: Part):
        super().__init__(count)
        self.top, self.choose = top, choose

    def forward(
        self, outputs: Float[Tensor, "batch time depth d"], now: Pass
    ) -> Float[Tensor, "batch time d"]:
        best, chosen = (self.choose(outputs[:, :, -1], now) + self.weight).topk(self.top, -1)
        found = outputs.gather(2, chosen[..., None].expand(-1, -1, -1, outputs.shape[-1]))
        return torch.einsum("btl,btld->btd", torch.softmax(best, -1).to(found.dtype), found)


class Attention(Depths):
    special = {"exp": 1, "divide": 1}

    def __init__(self, count: int, query: Part, key: Part):
        super().__init__(count)
        self.query, self.key = query, key

    def forward(
        self, outputs: Float[Tensor, "batch time depth d"], now: Pass
    ) -> Float[Tensor, "batch time d"]:
        q, k = self.query(outputs[:, :, -1], now), self.key(outputs, now)
        scores = torch.einsum("btd,btld->btl", q, k) / q.shape[-1] ** 0.5 + self.weight
        weights = torch.softmax(scores, -1).to(outputs.dtype)
        return torch.einsum("btl,btld->btd", weights, outputs)


class Mixed(Part):
    def __init__(self, blocks: Sequence[Part], mixer: Part):
        super().__init__()
        self.blocks, self.mixer = nn.ModuleList(blocks), mixer

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        said = [x]
        for block in self.blocks:
            said.append(now.run(block, said[-1]))
        return self.mixer(torch.stack(said, 2), now)
