"""How a model saw each token of a text: its chance, its rank, and what else might have come.

The text is read again in whole windows, one pass for many tokens, so that this holds for any text:
a sample, however it was drawn, or a corpus. Windows are those of a `Rule`, as in generation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor

from espalier.engine.generate import evaluating, pad
from espalier.engine.repel import Repulsion, divergence
from espalier.engine.window import CROP, Rule
from espalier.errors import UserError
from espalier.nn.gpt import GPT
from espalier.nn.state import Pass

TOGETHER = 1024  # tokens in one pass


@dataclass(frozen=True)
class Look:
    """What to keep of the logits at each token."""

    temperature: float = 1.0
    """of the probabilities; 0 counts as 1"""
    vocab_size: int | None = None
    """ids at or above it cannot come"""
    candidates: int = 0
    """so many of the likeliest tokens are kept for each place"""
    repulsion: Repulsion | None = None
    """apply this cosine penalty first, and measure what it does"""


@dataclass(frozen=True)
class Trace:
    """A line for each token of a text from some place on; tensors on the CPU."""

    tokens: Int[Tensor, " n"]
    logit: Float[Tensor, " n"]
    log_probability: Float[Tensor, " n"]
    """over the whole vocabulary, before any filter"""
    rank: Int[Tensor, " n"]
    """1 is the likeliest"""
    low: Float[Tensor, " n"]
    high: Float[Tensor, " n"]
    """the smallest and the largest logit of any token"""
    candidates: Int[Tensor, "n k"]
    chances: Float[Tensor, "n k"]
    """their probabilities, largest first"""
    divergence: Float[Tensor, " n"]
    """KL(before || after the cosine penalty), of the model's own distributions; 0 without one"""

    @property
    def probability(self) -> Float[Tensor, " n"]:
        return self.log_probability.exp()

    @property
    def loss(self) -> Float[Tensor, " n"]:
        """Nats."""
        return -self.log_probability


@torch.no_grad()
def trace(
    model: GPT,
    ids: Sequence[int],
    first: int,
    block_size: int,
    *,
    rule: Rule = CROP,
    look: Look | None = None,
) -> Trace:
    """Every token of `ids` from index `first` on, each seen from its window before it."""
    look = look or Look()
    if not 1 <= first < len(ids):
        raise UserError(f"a text of {len(ids)} tokens has none to look at from {first} on")
    rule.check(block_size)
    with evaluating(model):
        parts = [
            _lines(logits, places, ids, look)
            for logits, places in _read(model, ids, first, (block_size, rule))
        ]
    return Trace(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _read(
    model: GPT, ids: Sequence[int], first: int, how: tuple[int, Rule]
) -> Iterator[tuple[Float[Tensor, "n vocab"], list[int]]]:
    """Logits before each place, and the places; a pass reads several windows."""
    block_size, rule = how
    device = next(model.parameters()).device
    spans = [
        (start, list(places))
        for start, places in groupby(
            range(first, len(ids)), lambda place: rule.start(place, block_size)
        )
    ]
    rows = max(1, TOGETHER // block_size)
    for number in range(0, len(spans), rows):
        here = spans[number : number + rows]
        windows = [ids[start : places[-1]] for start, places in here]
        inputs, positions = pad(windows, device)
        hidden = model.trunk(inputs, Pass(positions))
        row = [i for i, (_, places) in enumerate(here) for _ in places]
        column = [place - start - 1 for start, places in here for place in places]
        yield model.head(hidden[row, column]).float(), [p for _, places in here for p in places]


def _lines(
    logits: Float[Tensor, "n vocab"], places: list[int], ids: Sequence[int], look: Look
) -> tuple[Tensor, ...]:
    if look.vocab_size is not None:
        logits = logits[:, : look.vocab_size]
    tokens = torch.tensor([ids[place] for place in places], device=logits.device)
    changed = torch.zeros(len(places))
    if look.repulsion is not None:
        before = logits
        back = look.repulsion.cosine.last
        logits = look.repulsion(before, [ids[max(0, p - back) : p] for p in places])
        changed = divergence(before, logits).float()
    own = logits.gather(1, tokens[:, None])
    logs = (logits / (look.temperature or 1.0)).log_softmax(-1)
    likeliest = logs.topk(min(look.candidates, logs.shape[-1]))
    low, high = logits.aminmax(dim=-1)
    found = (
        tokens,
        own[:, 0],
        logs.gather(1, tokens[:, None])[:, 0],
        (logits > own).sum(-1) + 1,
        low,
        high,
        likeliest.indices,
        likeliest.values.exp(),
        changed,
    )
    return tuple(tensor.cpu() for tensor in found)
