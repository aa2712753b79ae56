"""Generation through a cache: rows of token ids that grow by one token a step."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from espalier.engine import recorded
from espalier.engine.loops import NoRepeat, loops
from espalier.engine.repel import Cosine, Repulsion, table
from espalier.engine.sampling import Sampling, Source, allowed, choose, desk, source, stream_name
from espalier.engine.sights import joined
from espalier.engine.weights import empty_states
from espalier.engine.window import CROP, Rule
from espalier.errors import UserError
from espalier.nn.gpt import GPT
from espalier.nn.sight import Sight, look
from espalier.nn.state import Frame, Pass, leaves, pick

BUCKET = 64  # capacities are multiples, so that few shapes occur


@dataclass(frozen=True)
class Options:
    """What to generate. Raises UserError for a value that has no meaning."""

    max_new_tokens: int = 256
    num_samples: int = 1
    """rows for each prompt; its tokens are read once"""
    first: int = 0
    """number of the first of them, so that many can be made in groups"""
    sampling: Sampling = field(default_factory=Sampling)
    rule: Rule = CROP
    """which tokens are seen past the block"""
    stop_ids: Collection[int] = ()
    """a row ends after one of these"""
    vocab_size: int | None = None
    """ids at or above it are never drawn (a vocabulary padded for speed)"""
    never: Collection[int] = ()
    """ids that are never drawn: that of an image, which only stands for features"""
    no_repeat: NoRepeat | None = None
    """forbid n-grams that stand there already"""
    stop_loops: bool = False
    """a row ends where it goes round in a loop"""
    cosine: Cosine | None = None
    """first of all, push away tokens like those that just stood there"""
    record: bool = False
    """on a CUDA device, record a step once as a graph and replay it, where the parts allow it"""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0:
            raise UserError(f"max_new_tokens must be 0 or more, got {self.max_new_tokens}")
        if self.num_samples < 1:
            raise UserError(f"num_samples must be at least 1, got {self.num_samples}")


@dataclass(frozen=True)
class Step:
    """One new token for each row that was still growing."""

    rows: list[int]
    tokens: list[int]
    logits: Float[Tensor, "rows vocab"]
    """the model's own, before temperature and filters"""


class Generation:
    """Rows that grow together: `num_samples` for each prompt, a prompt's rows next to each other.

    Prompts may differ in length. What a row draws depends on the seed, its prompt and its number
    within the prompt, not on the rest of the batch. `chance` replaces that source, to carry one
    stream through several generations.
    """

    def __init__(
        self,
        model: GPT,
        block_size: int,
        prompts: Sequence[Sequence[int]],
        options: Options,
        chance: Source | None = None,
        sights: Sequence[Sight | None] = (),
    ):
        """`sights`: what each prompt sees, a row of its own; none: text."""
        if not prompts:
            raise UserError("no prompt: give at least one")
        if not all(prompts):
            raise UserError("an empty prompt: give at least one token")
        options.rule.check(block_size)
        self.model, self.block_size, self.options = model, block_size, options
        self.device = next(model.parameters()).device
        self.history = [list(prompt) for prompt in prompts for _ in range(options.num_samples)]
        self.live = list(range(len(self.history)))
        self.sights = list(sights) or [None] * len(prompts)
        self.looped: set[int] = set()  # rows that ended so
        self.drawn = 0
        numbers = [options.first + row % options.num_samples for row in self.live]
        streams = [stream_name(*one) for one in zip(self.history, numbers, strict=True)]
        self.desk = desk(self.device)
        self.chance = chance or source(options.sampling, streams, self.desk)
        longest = max(map(len, prompts)) + max(options.max_new_tokens, 1)
        self._length = min(block_size, padded(longest))
        self._cached = steppable(model)
        self._states: Frame | None = None  # its row i belongs to row live[i]
        self._starts = [-1] * len(self.live)  # where the cached window of live[i] starts
        self._seen: Tensor | None = None
        self._recorded: recorded.Recorded | None = None
        self._repulsion: Repulsion | None = None
        if options.cosine is not None:
            self._repulsion = Repulsion(table(model).to(self.desk), options.cosine)
        self._recording = options.record
        if options.record:
            recorded.check(self.device)

    def __iter__(self) -> Iterator[Step]:
        while (step := self.step()) is not None:
            yield step

    @torch.no_grad()
    def step(self) -> Step | None:
        """One token for every live row; None when there is nothing left to do."""
        if not self.live or self.drawn == self.options.max_new_tokens:
            return None
        with evaluating(self.model):
            logits = self.model.head(self._hidden()).float().to(self.desk)
        rows = list(self.live)
        tokens = self._draw(logits, rows)
        self.drawn += 1
        for row, token in zip(rows, tokens, strict=True):
            self.history[row].append(token)
        if self.options.stop_loops:
            self.looped |= {row for row in rows if loops(self.history[row][-self.drawn :])}
        ended = [r for r, t in zip(rows, tokens, strict=True) if t in self.options.stop_ids]
        self.stop([*ended, *self.looped])
        return Step(rows, tokens, logits)

    def stop(self, rows: Collection[int]) -> None:
        """These rows grow no further, and cost nothing from here on."""
        keep = [slot for slot, row in enumerate(self.live) if row not in rows]
        if len(keep) == len(self.live):
            return
        self.live = [self.live[slot] for slot in keep]
        self._starts = [self._starts[slot] for slot in keep]
        if self._states is not None and keep:
            self._states = pick(self._states, torch.tensor(keep, device=self.device))

    def _draw(self, logits: Float[Tensor, "rows vocab"], rows: list[int]) -> list[int]:
        options, sampling = self.options, self.options.sampling
        logits = allowed(logits, options.vocab_size)
        if options.never or options.no_repeat is not None:
            logits = self._forbid(logits.clone(), rows)
        if self._repulsion is not None:
            logits = self._repulsion(logits, [self.history[row] for row in rows])
        where, seen = torch.tensor(rows, device=self.desk), None
        if sampling.repetition_penalty != 1:
            if self._seen is None:
                self._seen = self._mark_seen(logits.shape[-1])
            seen = self._seen[where]
        tokens = choose(logits, sampling, self.chance, rows, seen)
        if self._seen is not None:
            self._seen[where, tokens] = True
        return [int(token) for token in tokens.tolist()]

    def _forbid(
        self, logits: Float[Tensor, "rows vocab"], rows: list[int]
    ) -> Float[Tensor, "rows vocab"]:
        """-inf for ids that a row may not draw, in place; repeating is better than nothing."""
        options = self.options
        logits[:, list(options.never)] = -math.inf
        for line, row in zip(logits, rows, strict=True):
            rule = options.no_repeat
            repeated = rule.forbidden(self.history[row]) if rule else []
            if repeated and line.isfinite().sum() > line[repeated].isfinite().sum():
                line[repeated] = -math.inf
        return logits

    def _mark_seen(self, vocab_size: int) -> Tensor:
        seen = torch.zeros(len(self.history), vocab_size, dtype=torch.bool, device=self.desk)
        for row, ids in enumerate(self.history):
            seen[row, torch.tensor(ids, device=self.desk)] = True
        return seen

    def _hidden(self) -> Float[Tensor, "rows d"]:
        """The trunk's output at the last token of each live row."""
        starts = [self._start(row) for row in self.live]
        moved = [i for i, start in enumerate(starts) if start != self._starts[i]]
        if not self._cached:
            moved = list(range(len(starts)))
        self._starts = starts
        if not moved:
            return self._advance(moved)
        fresh = self._read(moved)
        if len(moved) == len(self.live):
            return fresh
        hidden = self._advance(moved)
        hidden[torch.tensor(moved, device=self.device)] = fresh
        return hidden

    def _start(self, row: int) -> int:
        return self.options.rule.start(len(self.history[row]), self.block_size)

    def _read(self, slots: list[int]) -> Float[Tensor, "slots d"]:
        """Read the windows of these slots from their first token; equal windows are read once."""
        places = [(self.live[i], self._starts[i]) for i in slots]
        windows = [(tuple(self.history[row][at:]), self._view(row, at)) for row, at in places]
        distinct = list(dict.fromkeys(windows))
        number = {window: i for i, window in enumerate(distinct)}
        copies = torch.tensor([number[window] for window in windows], device=self.device)
        ids, positions = pad([window for window, _ in distinct], self.device)
        states = None
        # a window that moves at every token leaves nothing worth remembering
        stays = self.options.rule.drop > 1 or any(self._starts[i] == 0 for i in slots)
        if self._cached and stays and self.options.max_new_tokens - self.drawn > 1:
            states = empty_states(self.model, len(distinct), self._length, self.device)
        now = Pass(positions, states, self._length)
        if any(view for _, view in distinct):
            views = [(self.sights[view[0]], view[1]) if view else (None, 0) for _, view in distinct]
            look(now, self.model.trunk.front, joined(views, positions))
        hidden = self.model.trunk(ids, now)
        last = hidden[torch.arange(len(distinct), device=self.device), positions.amax(1)]
        if states is not None:
            self._keep(states if len(distinct) == len(slots) else pick(states, copies), slots)
        return last[copies]

    def _view(self, row: int, start: int) -> tuple[int, int] | None:
        """A row's prompt and where its window begins, if there is something to see."""
        prompt = row // self.options.num_samples
        return None if self.sights[prompt] is None else (prompt, start)

    def _keep(self, states: Frame, slots: list[int]) -> None:
        if len(slots) == len(self.live):
            self._states = states
            return
        assert self._states is not None
        rows = torch.tensor(slots, device=self.device)
        for mine, other in zip(leaves(self._states), leaves(states), strict=True):
            for tensor, new in zip(mine.tensors(), other.tensors(), strict=True):
                tensor[rows] = new

    def _advance(self, idle: list[int]) -> Float[Tensor, "rows d"]:
        """Feed the newest token of each live row but the `idle` slots to the cache."""
        resting = set(idle)
        places = [
            -1 if i in resting else len(self.history[row]) - self._starts[i] - 1
            for i, row in enumerate(self.live)
        ]
        # a full cache would wrap without a sign
        assert self._states is not None
        assert max(places) < self._length
        ids = torch.tensor([[self.history[row][-1]] for row in self.live], device=self.device)
        positions = torch.tensor(places, device=self.device)[:, None]
        return self._step(ids, positions, self._states)[:, 0]

    def _step(self, ids: Tensor, positions: Tensor, states: Frame) -> Float[Tensor, "rows 1 d"]:
        """The trunk on one token a row, from the recording where there is one."""
        if self._recording and (self._recorded is None or self._recorded.states is not states):
            try:
                self._recorded = recorded.Recorded(
                    self.model, states, self._length, len(ids), self.device
                )
            except RuntimeError:
                self._recording, self._recorded = False, None
        if self._recorded is not None:
            return self._recorded(ids, positions)
        return self.model.trunk(ids, Pass(positions, states, self._length, fresh=False))


def generate(
    model: GPT,
    block_size: int,
    prompts: Sequence[Sequence[int]],
    options: Options | None = None,
    chance: Source | None = None,
    sights: Sequence[Sight | None] = (),
) -> list[list[int]]:
    """The new tokens of each row of a `Generation`."""
    options = options or Options()
    rows = Generation(model, block_size, prompts, options, chance, sights)
    for _ in rows:
        pass
    lengths = [len(prompt) for prompt in prompts for _ in range(options.num_samples)]
    return [ids[length:] for ids, length in zip(rows.history, lengths, strict=True)]


def steppable(model: torch.nn.Module) -> bool:
    """Can every part go on from its state? If not, each token takes a full pass."""
    return not any("steps" in getattr(module, "exempt", ()) for module in model.modules())


def padded(length: int) -> int:
    """A capacity of at least `length` tokens."""
    return -(-length // BUCKET) * BUCKET


def pad(
    windows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "rows time"], Int[Tensor, "rows time"]]:
    """Ids and positions, padded on the right (position -1)."""
    width = max(map(len, windows))
    ids = [[*window, *[0] * (width - len(window))] for window in windows]
    lengths = torch.tensor([len(window) for window in windows], device=device)
    positions = torch.arange(width, device=device).expand(len(windows), -1)
    positions = torch.where(positions < lengths[:, None], positions, -1)
    return torch.tensor(ids, device=device), positions


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off for a while."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
