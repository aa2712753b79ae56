"""Generation without a cache, one full pass for each token: what the fast way is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from espalier.engine.generate import Generation, Options, evaluating, pad
from espalier.engine.sampling import Sampling
from espalier.engine.sights import joined
from espalier.nn.gpt import GPT
from espalier.nn.sight import Sight, look
from espalier.nn.state import Pass

CLOSE = 1e-3  # logits as near as this may change places: sums are made in another order


class Compared(NamedTuple):
    """A prompt grown both ways, greedily."""

    tokens: int
    """that were drawn, all alike unless `parted` says otherwise"""
    parted: int | None
    """the first that differed"""
    gap: float
    """there, between the naive way's two likeliest logits; 0 without one"""
    error: float
    """the largest difference of any logit, over tokens that were alike"""

    @property
    def same(self) -> bool:
        """Did nothing part them but two logits as good as level?"""
        return self.parted is None or self.gap < CLOSE


def compare(
    model: GPT,
    block_size: int,
    prompt: Sequence[int],
    options: Options,
    sight: Sight | None = None,
) -> Compared:
    """Grow a prompt through the cache, and hold each of its steps against a full pass.

    Up to the first token that differs; greedy and freely, whatever `options` say of choosing.
    """
    sampling = Sampling(temperature=0.0)
    options = replace(options, num_samples=1, sampling=sampling, never=(), no_repeat=None)
    fast = Generation(model, block_size, [prompt], options, sights=[sight])
    ids, error = list(prompt), 0.0
    for step in fast:
        start = options.rule.start(len(ids), block_size)
        own = logits(model, ids[start:], sight, start)
        ranked = own[: options.vocab_size].topk(2)
        if step.tokens[0] != int(ranked.indices[0]):
            gap = float(ranked.values[0] - ranked.values[1])
            return Compared(fast.drawn, fast.drawn - 1, gap, error)
        error = max(error, float((own - step.logits[0].to(own.device)).abs().max()))
        ids.append(step.tokens[0])
    return Compared(fast.drawn, None, 0.0, error)


@torch.no_grad()
def logits(model: GPT, window: Sequence[int], sight: Sight | None, start: int) -> Tensor:
    """Of the next token, from a full pass over a window that begins with token `start`: [vocab]."""
    ids, positions = pad([window], next(model.parameters()).device)
    now = Pass(positions)
    if sight is not None:
        look(now, model.trunk.front, joined([(sight, start)], positions))
    with evaluating(model):
        found: Tensor = model.head(model.trunk(ids, now)[0, -1]).float()
    return found
