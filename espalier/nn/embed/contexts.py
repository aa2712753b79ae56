"""Several aligned streams of tokens, read and predicted side by side (ReaLLM-Forge's multicontext).

There a moment has K tokens, whose embeddings are summed and for which K tied heads have a loss
each. Here they are the digits of one id in a mixed radix, so that corpus, loss, cache and sampling
know nothing of it. An id's logit is the sum of its digits': the softmax over ids is the product of
the streams' own, and its cross entropy the sum of theirs (the original takes the mean).
"""

import math
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.errors import ConfigError
from espalier.nn.slots import Dims, Embed, EmbedConfig
from espalier.nn.state import Pass


class ContextsConfig(EmbedConfig):
    """x = sum_k table_k[digit k of the token]; tied logits = sum_k hidden . table_k[digit k]"""

    variants = ({"sizes": (7, 7)}, {"sizes": (2, 5, 5)})

    sizes: tuple[int, ...] | None = None
    """tokens of each stream, whose product is at most model.vocab_size: further tokens, such as an
    end of text, have rows of their own; one stream when left out"""

    def build(self, dims: Dims) -> Embed:
        sizes = self.sizes or (dims.vocab_size,)
        if min(sizes) < 1 or math.prod(sizes) > dims.vocab_size:
            raise ConfigError(
                f"embed.sizes={list(sizes)} make {math.prod(sizes):,} tokens, "
                f"model.vocab_size={dims.vocab_size} has room for no more than that"
            )
        return Contexts(dims, sizes)


class Contexts(Embed):
    role = {"weight": "embedding"}

    def __init__(self, dims: Dims, sizes: tuple[int, ...]):
        super().__init__()
        self.std, self.sizes, self.joint = dims.std, sizes, math.prod(sizes)
        self.firsts = [0, *accumulate(sizes)]  # the first row of each stream, then of the others
        self.steps = [math.prod(sizes[k + 1 :]) for k in range(len(sizes))]
        self.others = dims.vocab_size - self.joint
        self.weight = nn.Parameter(torch.empty(self.firsts[-1] + self.others, dims.n_embd))

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)

    def forward(self, ids: Int[Tensor, "batch time"], now: Pass) -> Float[Tensor, "batch time d"]:
        within = ids < self.joint
        streams = zip(self.firsts, self.steps, self.sizes, strict=False)
        rows = [first + ids // step % size for first, step, size in streams]
        other = ids - self.joint + self.firsts[-1]
        x = F.embedding(torch.where(within, rows[0], other), self.weight)
        for row in rows[1:]:
            x = x + F.embedding(row, self.weight) * within[..., None]
        return x

    def logits(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        parts = torch.split(F.linear(hidden, self.weight), [*self.sizes, self.others], -1)
        first, *streams, others = parts
        for stream in streams:
            first = (first[..., None] + stream[..., None, :]).flatten(-2)
        return torch.cat([first, others], -1)
