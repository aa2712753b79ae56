"""Speculative decoding: a draft model proposes, the model accepts, its own distribution stays.

Leviathan et al. 2023 (arXiv:2211.17192): a proposal x drawn from q is kept with probability
min(1, p(x) / q(x)); the first that is not is drawn anew from max(p - q, 0), normalised; after the
last a token comes from p for nothing. The model reads all proposals in one pass, which costs little
more than one token where the bytes of its weights take the time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from espalier.engine.generate import Generation, Options, Step, evaluating, padded, steppable
from espalier.engine.sampling import RowStreams, allowed, desk, probabilities, stream_name
from espalier.engine.weights import empty_states
from espalier.errors import UserError
from espalier.nn.gpt import GPT
from espalier.nn.state import KV, Frame, Pass, leaves, pick

AHEAD = 4


@dataclass(frozen=True)
class Draft:
    """A smaller model over the same ids, and how many tokens it proposes at a time."""

    model: GPT
    block_size: int
    ahead: int = AHEAD

    def __post_init__(self) -> None:
        if self.ahead < 1:
            raise UserError(f"a draft proposes at least 1 token at a time, got {self.ahead}")


def judge(
    probs: Float[Tensor, "n vocab"],
    guesses: Sequence[Float[Tensor, " vocab"]],
    proposed: Sequence[int],
    chance: RowStreams,
) -> tuple[int, int]:
    """How many of n - 1 proposals stay, and the token that follows them.

    `guesses[i]` is what `proposed[i]` was drawn from, `probs[i]` what the model would draw from.
    """
    for i, (token, guess) in enumerate(zip(proposed, guesses, strict=True)):
        if chance.uniform() * guess[token] < probs[i, token]:
            continue
        rest = (probs[i] - guess).clamp(min=0)
        return i, draw(rest if rest.sum() > 0 else probs[i], chance)
    return len(proposed), draw(probs[-1], chance)


def draw(weights: Float[Tensor, " vocab"], chance: RowStreams) -> int:
    """One token with probability in proportion to its weight."""
    return int(chance.draw(weights[None].cpu(), [0]))


class Speculation:
    """One row that grows by up to `ahead + 1` tokens a pass; otherwise as a `Generation` of one.

    Its tokens have the distribution of a `Generation`'s (greedy: they are the same), not its draws.
    Past the smaller of both blocks it goes on without the draft.
    """

    looped: Collection[int] = ()

    def __init__(
        self, model: GPT, block_size: int, prompt: Sequence[int], options: Options, draft: Draft
    ):
        if not prompt:
            raise UserError("an empty prompt: give at least one token")
        if options.sampling.rng != "rows":
            raise UserError("a draft cannot draw nanoGPT's tokens: use rng=rows")
        if options.cosine is not None:
            raise UserError("a draft knows no cosine penalty: leave one of the two out")
        if options.no_repeat is not None or options.stop_loops:
            raise UserError("a draft knows nothing of loops: leave it or no_repeat, stop_loops out")
        if options.record:
            raise UserError("a draft's steps are not recorded: leave the draft or record out")
        options.rule.check(block_size)
        self.model, self.block_size, self.options, self.draft = model, block_size, options, draft
        self.history = [list(prompt)]
        self.live = [0]
        self.limit = min(block_size, draft.block_size)
        self.passes = self.proposed = self.accepted = 0
        room = padded(min(self.limit, len(prompt) + options.max_new_tokens + draft.ahead))
        self._big = _Reader(model, min(room, block_size))
        self._small = _Reader(draft.model, min(room, draft.block_size))
        stream = f"{stream_name(prompt, options.first)}/speculative"
        self._chance = RowStreams(options.sampling.seed, [stream], torch.device("cpu"))

    def stop(self, rows: Collection[int]) -> None:
        """The row grows no further."""
        self.live = [row for row in self.live if row not in rows]

    def __iter__(self) -> Iterator[Step]:
        drawn = 0
        while self.live and drawn < self.options.max_new_tokens:
            left = self.options.max_new_tokens - drawn
            if len(self.history[0]) > self.limit:
                yield from self._alone(left)
                return
            for token, logits in self._round(left):
                self.history[0].append(token)
                drawn += 1
                if token in self.options.stop_ids:
                    self.stop([0])
                yield Step([0], [token], logits[None])
                if not self.live:
                    return

    def _alone(self, left: int) -> Iterator[Step]:
        rest = Generation(
            self.model,
            self.block_size,
            self.history,
            replace(self.options, max_new_tokens=left, num_samples=1),
            self._chance,
        )
        for step in rest:
            self.history[0].append(step.tokens[0])
            self.live = list(rest.live)
            yield step
            rest.stop({0} - set(self.live))

    @torch.no_grad()
    def _round(self, left: int) -> list[tuple[int, Tensor]]:
        """The tokens that one pass of the model settles, each with the logits it came from."""
        ids = list(self.history[0])
        known = len(ids)
        # the first pass reads the prompt, and tells the vocabulary that the draft must fit
        first = self._big.vocab_size == 0
        count = 0 if first else min(self.draft.ahead, self.limit - known, left - 1)
        self._big.mark()
        self._small.mark()
        guesses = []
        for _ in range(count):
            guesses.append(self._distribution(self._small, ids, 1)[0][0])
            ids.append(draw(guesses[-1], self._chance))
        probs, logits = self._distribution(self._big, ids, count + 1)
        kept, token = judge(probs, guesses, ids[known:], self._chance)
        self.passes, self.proposed = self.passes + 1, self.proposed + count
        self.accepted += kept
        self._big.forget(known + kept)
        self._small.forget(known + kept)
        return list(zip([*ids[known : known + kept], token], logits, strict=False))

    def _distribution(
        self, reader: _Reader, ids: list[int], last: int
    ) -> tuple[Float[Tensor, "last vocab"], Float[Tensor, "last vocab"]]:
        """Probabilities (fp64) and logits of what follows each of the last tokens of `ids`."""
        logits = reader.read(ids, last).to(desk(reader.device))
        wide = self._big.vocab_size
        fitted = logits.new_full((last, wide), -torch.inf)
        fitted[:, : logits.shape[-1]] = logits[:, :wide]
        seen = None
        if self.options.sampling.repetition_penalty != 1:
            seen = torch.zeros(last, wide, dtype=torch.bool, device=logits.device)
            for i in range(last):
                seen[i, torch.tensor(ids[: len(ids) - last + 1 + i])] = True
        limited = allowed(fitted, self.options.vocab_size)
        return probabilities(limited.double(), self.options.sampling, seen), fitted


class _Reader:
    """What one model has read of the row."""

    def __init__(self, model: GPT, length: int):
        self.model, self.length = model, length
        self.device = next(model.parameters()).device
        self.count = 0  # tokens that stand in the states
        self._states: Frame | None = None
        self._steps = steppable(model)
        self._marked: tuple[Frame, int] | None = None
        self.vocab_size = 0

    def read(self, ids: list[int], last: int) -> Float[Tensor, "last vocab"]:
        """Read what is new in `ids`; logits after each of its `last` tokens."""
        fresh = self.count == 0
        if fresh and self._steps:
            self._states = empty_states(self.model, 1, self.length, self.device)
        new = torch.tensor([ids[self.count :]], device=self.device)
        positions = torch.arange(self.count, len(ids), device=self.device)[None]
        with evaluating(self.model):
            hidden = self.model.trunk(new, Pass(positions, self._states, self.length, fresh=fresh))
            logits = self.model.head(hidden[0, -last:]).float()
        self.count = len(ids) if self._steps else 0
        self.vocab_size = logits.shape[-1]
        return logits

    def mark(self) -> None:
        """All that was read stays; from here on `forget` may be asked for."""
        if self._states is not None and not self._rewinds():
            row = torch.zeros(1, dtype=torch.long, device=self.device)
            self._marked = (pick(self._states, row), self.count)

    def forget(self, count: int) -> None:
        """Keep the first `count` tokens at most.

        Keys and values by position need nothing: no query looks ahead, and the next tokens are
        written over what was read in vain. Other states go back to the mark.
        """
        if count >= self.count:
            return
        if self._states is None or self._rewinds():
            self.count = count
        elif self._marked is None:
            self.count = 0
        else:
            self._states, self.count = self._marked

    def _rewinds(self) -> bool:
        assert self._states is not None
        return all(isinstance(leaf, KV) and not leaf.ring for leaf in leaves(self._states))
