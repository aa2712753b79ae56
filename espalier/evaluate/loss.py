"""Loss over fixed windows: every token once, the same number at any training batch size."""

import contextlib
import functools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from espalier.data.loader import pairs, seen
from espalier.data.tokens import Tokens
from espalier.nn.gpt import GPT
from espalier.nn.sight import Sight, look
from espalier.nn.state import Pass
from espalier.train.hearing import Hearing
from espalier.train.objective import apart, chunk_length
from espalier.train.parallel.ranks import ALONE
from espalier.train.parallel.spread import Spread

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
    among: Spread | None = None,
) -> Score:
    """Score the windows at `starts`; `between(windows done)` is called now and then, may raise.

    `hearing` gathers what parts tell meanwhile; `source` is the corpus' place in a mixture. The
    ranks that the model is spread `among` take turns, and all get the score of one alone.
    """
    device = next(model.parameters()).device
    rows, ranks = max(1, BUDGET // block_size), ALONE if among is None else among.ranks
    firsts, counted = range(0, len(starts), rows), 0
    wide = torch.zeros(len(firsts), dtype=torch.float64)
    found = wide.to(device) if device.type == "cuda" else wide
    with evaluating(model):
        for turn in range(0, len(firsts), ranks.count):
            at = min(turn + ranks.rank, len(firsts) - 1)
            own = at == turn + ranks.rank  # the rest keeps company: layers may need all ranks
            first = firsts[at]
            ids, targets, sight = read_rows(tokens, starts[first : first + rows], block_size)
            counted += int((targets >= 0).sum()) if own else 0
            ids, targets = ids.to(device), targets.to(device)
            with autocast():
                now = begin(model, ids, tokens.ends, sight, listening=hearing is not None)
                if source is not None:
                    now.source = ids.new_full((len(ids),), source)
                inputs = model, ids, targets, now, hearing if own else None
                lost = nll(*inputs) if among is None else among.run(nll, *inputs)
            if own:
                found[at] = lost
            between(min(first + rows, len(starts)))
    if hearing is not None:
        hearing.meet(ranks)
    total = functools.reduce(operator.add, ranks.sum(found).tolist(), 0.0)  # one by one, in order
    return Score(total, max(1, ranks.total(counted)))


@torch.no_grad()
def window_losses(
    model: GPT,
    tokens: Tokens,
    starts: NDArray[np.int64],
    block_size: int,
    *,
    autocast: Autocast = contextlib.nullcontext,
    between: Callable[[int], None] = lambda done: None,
) -> NDArray[np.float64]:
    """Mean loss of each window at `starts`, nats per token; `between(done)` may raise."""
    device = next(model.parameters()).device
    rows = max(1, BUDGET // block_size)
    found: list[float] = []
    with evaluating(model):
        for first in range(0, len(starts), rows):
            ids, targets, sight = read_rows(tokens, starts[first : first + rows], block_size)
            ids = ids.to(device)
            with autocast():
                now = begin(model, ids, tokens.ends, sight)
                each = token_losses(model, ids, targets.to(device), now)
            sums = torch.cat(each).cpu().double().view(len(ids), -1).sum(1)
            found += (sums / (targets >= 0).sum(1).clamp(min=1)).tolist()
            between(len(found))
    return np.asarray(found)


def read_rows(
    tokens: Tokens, starts: NDArray[np.int64], block_size: int
) -> tuple[Tensor, Tensor, Sight | None]:
    """Inputs, targets (-1: none) and, of a corpus with images, what the rows see; on the host."""
    if tokens.sights is None:
        return *pairs(tokens, starts, block_size), None
    inputs, targets, positions, slots, images = seen(tokens, starts, block_size)
    return inputs, targets, Sight(images, slots, positions)


def begin(
    model: GPT, ids: Tensor, ends: int | None, sight: Sight | None, *, listening: bool = False
) -> Pass:
    """The pass in which `model` reads rows; documents of one are apart behind the token `ends`."""
    if sight is None:
        return apart(ids, ends, listening=listening)
    sight = sight.moved(lambda tensor: tensor.to(ids.device))
    return look(Pass(sight.positions, packed=True, listening=listening), model.trunk.front, sight)


def nll(
    model: GPT, ids: Tensor, targets: Tensor, now: Pass, hearing: Hearing | None = None
) -> Tensor:
    """Sum over a batch, fp64 (fp32 on a device without it)."""
    wide = torch.float32 if ids.device.type == "mps" else torch.float64
    parts = token_losses(model, ids, targets, now, hearing)
    return torch.stack([part.sum(dtype=wide) for part in parts]).sum()


def token_losses(
    model: GPT, ids: Tensor, targets: Tensor, now: Pass, hearing: Hearing | None = None
) -> list[Tensor]:
    """Of each token in nats, fp32, row after row in pieces; logits of one piece at a time.

    0 where the target is -1.
    """
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
