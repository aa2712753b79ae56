"""How probable a continuation is after a context: many at once, a shared context read once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from espalier.engine.generate import pad, padded, steppable
from espalier.engine.weights import empty_states
from espalier.errors import UserError
from espalier.evaluate.loss import Autocast, evaluating
from espalier.nn.gpt import GPT
from espalier.nn.state import Frame, Pass, pick
from espalier.train.objective import chunk_length

ROWS = 16
T = TypeVar("T")


class Likelihood(NamedTuple):
    """The log-probability of a continuation in nats, and whether each token was the likeliest."""

    total: float
    greedy: bool


class _Request(NamedTuple):
    place: int
    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Scorer:
    """Scores continuations, `rows` of them in a pass.

    What does not fit is cut from the left, so that context and continuation without its last token
    fill the block. Continuations of one context share its pass; each then goes on in a cache of its
    own. A model that cannot be stepped reads each pair whole.
    """

    def __init__(
        self,
        model: GPT,
        block_size: int,
        rows: int = ROWS,
        autocast: Autocast = contextlib.nullcontext,
    ):
        self.model, self.block_size, self.rows, self.autocast = model, block_size, rows, autocast
        self.device = next(model.parameters()).device
        self.passes = 0

    @torch.no_grad()
    def __call__(
        self,
        pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
        between: Callable[[int], None] = lambda done: None,
    ) -> list[Likelihood]:
        """One for each (context, continuation), in order; `between(pairs done)` may raise.

        UserError for an empty one and for a continuation longer than the block.
        """
        requests = [self._fit(i, *pair) for i, pair in enumerate(pairs)]
        together: dict[tuple[int, ...], list[_Request]] = {}
        for one in requests:
            together.setdefault(one.context, []).append(one)
        share = steppable(self.model)
        shared = [group for group in together.values() if share and len(group) > 1]
        alone = [
            one for group in together.values() if not (share and len(group) > 1) for one in group
        ]
        found: dict[int, Likelihood] = {}
        with evaluating(self.model), self.autocast():
            for batch in self._batches(alone, lambda one: len(one.context) + len(one.continuation)):
                found |= self._whole(batch)
                between(len(batch))
            for groups in self._batches(shared, lambda group: len(group[0].context)):
                part = self._branching(groups)
                found |= part
                between(len(part))
        return [found[i] for i in range(len(requests))]

    def _fit(self, place: int, context: Sequence[int], continuation: Sequence[int]) -> _Request:
        if not context or not continuation:
            raise UserError("nothing to score: a context and its continuation need a token each")
        if len(continuation) > self.block_size:
            raise UserError(
                f"a continuation of {len(continuation)} tokens does not fit the model, which reads "
                f"{self.block_size}"
            )
        whole = (*context, *continuation)[-(self.block_size + 1) :]
        return _Request(place, tuple(whole[: -len(continuation)]), tuple(continuation))

    def _batches(self, items: list[T], length: Callable[[T], int]) -> Iterator[list[T]]:
        """Long ones first, alike beside each other."""
        ordered = sorted(items, key=length, reverse=True)
        return (ordered[i : i + self.rows] for i in range(0, len(ordered), self.rows))

    def _whole(self, batch: list[_Request]) -> dict[int, Likelihood]:
        ids, positions = pad([(*r.context, *r.continuation[:-1]) for r in batch], self.device)
        hidden = self._trunk(ids, Pass(positions))
        ends = [len(r.context) + len(r.continuation) - 1 for r in batch]
        parts = [
            hidden[i, end - len(r.continuation) : end]
            for i, (r, end) in enumerate(zip(batch, ends, strict=True))
        ]
        return self._judge(batch, parts)

    def _branching(self, groups: list[list[_Request]]) -> dict[int, Likelihood]:
        """Read each context once, then its continuations behind it."""
        ids, positions = pad([group[0].context for group in groups], self.device)
        longest = max(len(r.context) + len(r.continuation) - 1 for group in groups for r in group)
        length, states = min(self.block_size, padded(longest)), None
        if any(len(r.continuation) > 1 for group in groups for r in group):
            states = empty_states(self.model, len(groups), length, self.device)
        hidden = self._trunk(ids, Pass(positions, states, length))
        last = [hidden[i, len(group[0].context) - 1][None] for i, group in enumerate(groups)]
        pairs = [(i, one) for i, group in enumerate(groups) for one in group]
        short = [(i, one) for i, one in pairs if len(one.continuation) == 1]
        found = self._judge([one for _, one in short], [last[i] for i, _ in short])
        long = [(i, one) for i, one in pairs if len(one.continuation) > 1]
        for batch in self._batches(long, lambda pair: len(pair[1].continuation)):
            assert states is not None
            requests = [one for _, one in batch]
            rest = self._go_on(states, length, batch)
            parts = [torch.cat([last[i], rest[row]]) for row, (i, _) in enumerate(batch)]
            found |= self._judge(requests, parts)
        return found

    def _go_on(self, states: Frame, length: int, batch: list[tuple[int, _Request]]) -> list[Tensor]:
        """The trunk at each continuation's tokens but the last, from copies of the contexts."""
        copies = pick(states, torch.tensor([i for i, _ in batch], device=self.device))
        ids, offsets = pad([one.continuation[:-1] for _, one in batch], self.device)
        begin = torch.tensor([len(one.context) for _, one in batch], device=self.device)
        positions = torch.where(offsets >= 0, offsets + begin[:, None], -1)
        hidden = self._trunk(ids, Pass(positions, copies, length, fresh=False))
        return [hidden[i, : len(one.continuation) - 1] for i, (_, one) in enumerate(batch)]

    def _trunk(self, ids: Tensor, now: Pass) -> Tensor:
        self.passes += 1
        hidden: Tensor = self.model.trunk(ids, now)
        return hidden

    def _judge(self, requests: list[_Request], parts: list[Tensor]) -> dict[int, Likelihood]:
        """From the hidden states that foresee each token of each continuation."""
        if not requests:
            return {}
        hidden = torch.cat(parts)
        targets = torch.tensor([t for r in requests for t in r.continuation], device=self.device)
        chunk = chunk_length(len(targets), self.model.head(hidden[:1]).shape[-1], self.device)
        values, hits = [], []
        for h, t in zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True):
            logits = self.model.head(h).float()
            values.append(logits.log_softmax(-1).gather(1, t[:, None])[:, 0])
            hits.append(logits.argmax(-1) == t)
        told, hit = torch.cat(values).cpu().double(), torch.cat(hits).cpu()
        ends = list(accumulate(len(r.continuation) for r in requests))
        return {
            r.place: Likelihood(
                float(told[end - len(r.continuation) : end].sum()),
                bool(hit[end - len(r.continuation) : end].all()),
            )
            for r, end in zip(requests, ends, strict=True)
        }
