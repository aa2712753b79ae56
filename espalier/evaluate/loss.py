"""Loss over fixed windows: every token once, the same number at any training batch size."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from espalier.data.loader import pairs
from espalier.data.tokens import Tokens
from espalier.nn.gpt import GPT
from espalier.train.hearing import Hearing
from espalier.train.objective import apart, chunk_length

BUDGET = 8192  # tokens in one forward pass; a constant, so that sums are always made alike

Autocast = Callable[[], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True)
class Score:
    """Negative log-likelihood in nats, added up in fp64 over `tokens` targets."""

    nll: float
    tokens: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


@torch.no_grad()
def score(
    model: GPT,
    tokens: Tokens,
    starts: NDArray[np.int64],
    block_size: int,
    *,
    autocast: Autocast = contextlib.nullcontext,
    between: Callable[[int], None] = lambda done: None,
    hearing: Hearing | None = None,
    source: int | None = None,
) -> Score:
    """Score the windows at `starts`; `between(windows done)` is called now and then, may raise.

    `hearing` gathers what parts tell meanwhile; `source` is the corpus' place in a mixture.
    """
    device = next(model.parameters()).device
    rows = max(1, BUDGET // block_size)
    total, counted = torch.zeros((), dtype=torch.float64), 0
    if device.type == "cuda":
        total = total.to(device)
    with evaluating(model):
        for first in range(0, len(starts), rows):
            ids, targets = pairs(tokens, starts[first : first + rows], block_size)
            counted += int((targets >= 0).sum())
            there = ids.to(device), targets.to(device)
            with autocast():
                total += nll(model, *there, hearing, source, tokens.ends).to(total)
            between(min(first + rows, len(starts)))
    return Score(float(total), max(1, counted))


def nll(
    model: GPT,
    ids: Tensor,
    targets: Tensor,
    hearing: Hearing | None = None,
    source: int | None = None,
    ends: int | None = None,
) -> Tensor:
    """Sum over a batch, fp64 (fp32 on a device without it)."""
    wide = torch.float32 if ids.device.type == "mps" else torch.float64
    parts = token_losses(model, ids, targets, hearing, source, ends)
    return torch.stack([part.sum(dtype=wide) for part in parts]).sum()


def token_losses(
    model: GPT,
    ids: Tensor,
    targets: Tensor,
    hearing: Hearing | None = None,
    source: int | None = None,
    ends: int | None = None,
) -> list[Tensor]:
    """Of each token in nats, fp32, row after row in pieces; logits of one piece at a time.

    0 where the target is -1; documents of a row are apart behind the token `ends`.
    """
    now = apart(ids, ends, listening=hearing is not None)
    if source is not None:
        now.source = ids.new_full((len(ids),), source)
    hidden = model.trunk(ids, now).flatten(0, 1)
    if hearing is not None:
        hearing.add(now.told or {}, len(ids))
    wanted = targets.flatten()
    probe = model.head(hidden[:1])
    chunk = chunk_length(len(wanted), probe.shape[-1], ids.device)
    return [
        F.cross_entropy(model.head(h).float(), t, ignore_index=-1, reduction="none")
        for h, t in zip(torch.split(hidden, chunk), torch.split(wanted, chunk), strict=True)
    ]


def spread(starts: NDArray[np.int64], most: int | None) -> NDArray[np.int64]:
    """At most `most` of the windows, evenly spread; all when None."""
    if most is None or most >= len(starts):
        return starts
    return starts[np.arange(most) * len(starts) // most]


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Without dropout, and back to what it was."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
