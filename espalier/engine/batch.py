"""Continuous batching: rows join and leave between steps, and share every pass of the model.

What a row gives does not depend on the others: it draws from its own stream and sees its own
window, so its tokens are those of running it alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from espalier.engine.generate import evaluating, steppable
from espalier.engine.sampling import RowStreams, Sampling, allowed, choose, desk, stream_name
from espalier.engine.sights import joined
from espalier.engine.weights import empty_states
from espalier.engine.window import CROP, Rule
from espalier.errors import UserError
from espalier.nn.gpt import GPT
from espalier.nn.sight import Sight, look
from espalier.nn.state import Pass, leaves, pick


@dataclass(frozen=True)
class Request:
    """One row: what to go on from, and how. Raises UserError for a value that has no meaning."""

    prompt: Sequence[int]
    max_new_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: Collection[int] = ()
    number: int = 0
    """of the prompt's sample: other numbers draw other tokens"""
    vocab_size: int | None = None
    """ids at or above it are never drawn"""
    sight: Sight | None = None
    """what the prompt sees, a row of its own"""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UserError("an empty prompt: give at least one token")
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.sampling.rng != "rows":
            raise UserError("rows that share a batch draw from streams of their own: rng=rows")


@dataclass(frozen=True)
class Grown:
    """A row's new token; `done` says that it was the last and the row has left."""

    ticket: int
    token: int
    done: bool


class Batch:
    """At most `rows` requests at a time, each stepped by one token a pass.

    `join` between steps, then `step` until `tickets` is empty. Rows that are in use stand at the
    front of the states, so that a pass costs what they need. Not for several threads at once.
    """

    def __init__(self, model: GPT, block_size: int, rows: int = 8, rule: Rule = CROP):
        if not steppable(model):
            raise UserError(
                "this model cannot be stepped through a cache: generate without a batch"
            )
        rule.check(block_size)
        self.model, self.block_size, self.rows, self.rule = model, block_size, rows, rule
        self.device = next(model.parameters()).device
        self._seats: list[_Seat] = []
        with torch.no_grad(), evaluating(model):
            self._states = empty_states(model, rows, block_size, self.device)
        self._next = 0

    @property
    def tickets(self) -> list[int]:
        """Those that are growing."""
        return [seat.ticket for seat in self._seats]

    def join(self, request: Request) -> int:
        """A ticket for the row, which is read at the next step. UserError when all are taken."""
        if len(self._seats) == self.rows:
            raise UserError(f"all {self.rows} rows are taken: wait until one has left")
        self._next += 1
        self._seats.append(_Seat(self._next, request, self.device))
        return self._next

    def leave(self, ticket: int) -> None:
        """The row ends now; unknown tickets have left already."""
        for place, seat in enumerate(self._seats):
            if seat.ticket == ticket:
                self._vacate(place)
                return

    @torch.no_grad()
    def step(self) -> list[Grown]:
        """One token for every row."""
        if not self._seats:
            return []
        with evaluating(self.model):
            logits = self.model.head(self._hidden()).float()
        grown = [seat.draw(logits[place : place + 1]) for place, seat in enumerate(self._seats)]
        for place in reversed(range(len(grown))):
            if grown[place].done:
                self._vacate(place)
        return grown

    def _hidden(self) -> Float[Tensor, "rows d"]:
        """The trunk at each row's newest token; new and moved windows are read, others stepped."""
        moved = {
            place
            for place, seat in enumerate(self._seats)
            if seat.moves(self.rule.start(len(seat.ids), self.block_size))
        }
        hidden = [
            self._read(place) if place in moved else None for place in range(len(self._seats))
        ]
        if len(moved) < len(self._seats):
            stepped = self._advance(moved)
            hidden = [stepped[i] if found is None else found for i, found in enumerate(hidden)]
        return torch.stack([found for found in hidden if found is not None])

    def _read(self, place: int) -> Float[Tensor, " d"]:
        """Read a row's window from its first token, alone."""
        seat = self._seats[place]
        ids = torch.tensor([seat.ids[seat.start :]], device=self.device)
        positions = torch.arange(ids.shape[1], device=self.device)[None]
        fresh = empty_states(self.model, 1, self.block_size, self.device)
        now = Pass(positions, fresh, self.block_size)
        if seat.request.sight is not None:
            sight = joined([(seat.request.sight, seat.start)], positions)
            look(now, self.model.trunk.front, sight)
        hidden = self.model.trunk(ids, now)
        for mine, new in zip(leaves(self._states), leaves(fresh), strict=True):
            for tensor, other in zip(mine.tensors(), new.tensors(), strict=True):
                tensor[place] = other[0]
        return hidden[0, -1]

    def _advance(self, idle: Collection[int]) -> Float[Tensor, "rows d"]:
        places = [-1 if i in idle else seat.place for i, seat in enumerate(self._seats)]
        ids = torch.tensor([seat.ids[-1:] for seat in self._seats], device=self.device)
        positions = torch.tensor(places, device=self.device)[:, None]
        front = pick(self._states, slice(len(self._seats)))
        return self.model.trunk(ids, Pass(positions, front, self.block_size, fresh=False))[:, 0]

    def _vacate(self, place: int) -> None:
        """The last row moves into the place, so that the front stays full."""
        last = self._seats.pop()
        end = len(self._seats)
        for state in leaves(self._states):
            if place < end:
                for tensor in state.tensors():
                    tensor[place] = tensor[end]
            state.clear(torch.tensor([end], device=self.device))
        if place < end:
            self._seats[place] = last


class _Seat:
    """A request on its way."""

    def __init__(self, ticket: int, request: Request, device: torch.device):
        self.ticket, self.request = ticket, request
        self.ids, self.start, self.drawn = list(request.prompt), -1, 0
        stream = stream_name(self.ids, request.number)
        self.desk = desk(device)
        self.chance = RowStreams(request.sampling.seed, [stream], self.desk)

    @property
    def place(self) -> int:
        """Of the newest token in the window."""
        return len(self.ids) - self.start - 1

    def moves(self, start: int) -> bool:
        """Does the window start elsewhere than the states know?"""
        moved, self.start = start != self.start, start
        return moved

    def draw(self, logits: Float[Tensor, "1 vocab"]) -> Grown:
        logits = allowed(logits.to(self.desk), self.request.vocab_size)
        seen = None
        if self.request.sampling.repetition_penalty != 1:
            seen = torch.zeros_like(logits, dtype=torch.bool)
            seen[0, torch.tensor(self.ids, device=self.desk)] = True
        token = int(choose(logits, self.request.sampling, self.chance, [0], seen))
        self.ids.append(token)
        self.drawn += 1
        done = self.drawn == self.request.max_new_tokens or token in self.request.stop_ids
        return Grown(self.ticket, token, done)
