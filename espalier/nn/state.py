"""One call of a model (`Pass`) and what parts remember between calls (`State`).

A state belongs to a call, not to a module: `now.state(make, ...)` hands out the n-th state of the
present frame in call order, and stacks call layers only through `now.run`, which gives each layer a
frame of its own. Shared layers, a second pass and parallel neurons need no code for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from espalier.nn.slots import Position

S = TypeVar("S")

Image = tuple[Tensor, Tensor | None]
"""Pixels in [-1, 1]: the whole (3, side, side), and its tiles (rows, columns, 3, side, side)."""


class State:
    """What a part remembers: batch-first tensors, changed in place; all zeros is empty."""

    def _named(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    def tensors(self) -> list[Tensor]:
        return [value for value in self._named().values() if isinstance(value, Tensor)]

    def clear(self, rows: Tensor) -> None:
        """Forget the given rows."""
        for tensor in self.tensors():
            tensor[rows] = 0

    def pick(self, rows: Tensor | slice) -> Self:
        """A new state whose row i is a copy of `rows[i]`; a slice gives views, not copies."""
        chosen = {k: v[rows] if isinstance(v, Tensor) else v for k, v in self._named().items()}
        return type(self)(**chosen)


Frame = list[Any]  # State | Frame, in call order


class Pass:
    """One call of the model. `positions` (batch, time): below 0 stands no token (right padding).

    A plain class on purpose: FSDP2 copies the dataclasses, dicts and lists it is given, and what is
    written to a copy is lost.
    """

    def __init__(
        self,
        positions: Tensor,
        states: Frame | None = None,
        length: int = 0,
        *,
        fresh: bool = True,
        packed: bool = False,
        checkpoint: bool = False,
        listening: bool = False,
    ):
        self.positions = positions
        self.states = states  # None: nothing is remembered (training, scoring)
        self.length = length  # capacity of the states
        self.fresh = fresh  # no row has a past: attend to this chunk only
        self.packed = packed  # positions restart at 0 inside a row: documents
        self.checkpoint = checkpoint  # recompute each layer in the backward pass
        self.source: Tensor | None = None  # (batch,): the corpus a row is of; None: the first
        self.position: Position | None = None  # the trunk's, for attention to turn and bias with
        self.tables: tuple[Tensor, ...] = ()  # what `position` computed once for this pass
        self.ids: Tensor | None = None  # the trunk's, for stacks that look tokens up again
        self.images: Sequence[Image] = ()  # of all rows, in order
        self.slots: Tensor | None = None  # (batch, time): which feature of theirs; -1: the token
        self.values: Tensor | None = None  # (batch, time, features) that attention adds to its own
        self.tokens: Tensor | None = None  # of a flat pass, those an expert is given; None: all
        self.losses: dict[str, Tensor] = {}
        self.told: dict[str, list[Tensor]] | None = {} if listening else None
        self.cursor = 0

    def state(self, make: Callable[..., S], *args: Any) -> S | None:
        """This frame's next state, made by `make(*args)` on the first pass; None without states."""
        if self.states is None:
            return None
        assert not torch.is_grad_enabled(), "states hold no graph: step under torch.no_grad()"
        if self.cursor == len(self.states):
            self.states.append(make(*args))
        found: S = self.states[self.cursor]
        self.cursor += 1
        return found

    def lose(self, name: str, loss: Tensor) -> None:
        """Add an auxiliary loss to this pass."""
        self.losses[name] = self.losses[name] + loss if name in self.losses else loss

    def tell(self, name: str, measure: Callable[[], Tensor]) -> None:
        """Tell whoever listens a figure of this call, such as a share; measured only then.

        `told` holds a figure's values in call order, detached and on the device.
        """
        if self.told is not None:
            with torch.no_grad():
                self.told.setdefault(name, []).append(measure())

    def run(self, layer: nn.Module, x: Tensor, values: Tensor | None = None) -> Tensor:
        """Call a layer in a frame of its own; what it loses and tells comes back as outputs.

        The layer's attention adds `values` to its own.
        """
        frame = self.state(_new_frame)
        if self.checkpoint and torch.is_grad_enabled():
            x, losses, told = checkpoint(_run, layer, x, values, self, frame, use_reentrant=False)
        else:
            x, losses, told = _run(layer, x, values, self, frame)
        for name, loss in losses.items():
            self.lose(name, loss)
        if self.told is not None:
            for name, figures in told.items():
                self.told.setdefault(name, []).extend(figures)
        return x

    def _inner(self, frame: Frame | None) -> Pass:
        inner = Pass(
            self.positions,
            frame,
            self.length,
            fresh=self.fresh,
            packed=self.packed,
            listening=self.told is not None,
        )
        inner.source = self.source
        inner.position, inner.tables = self.position, self.tables
        return inner


def _new_frame() -> Frame:
    return []


def _run(
    layer: nn.Module, x: Tensor, values: Tensor | None, now: Pass, frame: Frame | None
) -> tuple[Tensor, dict[str, Tensor], dict[str, list[Tensor]]]:
    inner = now._inner(frame)
    inner.values = values
    x = layer(x, inner)
    assert frame is None or inner.cursor == len(frame), (
        "a layer must ask for the same states in the same order every pass"
    )
    return x, inner.losses, inner.told or {}


def seeing(now: Pass, images: Sequence[Image], slots: Tensor) -> Pass:
    """The pass with images in it: position (row, time) is their feature `slots[row, time]`.

    The features of all images are counted through; -1 stands for the token of `ids`.
    """
    now.images, now.slots = images, slots
    return now


def at(
    ids: Tensor, *, packed: bool = False, checkpoint: bool = False, listening: bool = False
) -> Pass:
    """A full pass over `ids` (batch, time) that remembers nothing."""
    positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape[0], -1)
    return Pass(positions, packed=packed, checkpoint=checkpoint, listening=listening)


@dataclass
class KV(State):
    """Keys and values of attention: (batch, slots + 1, heads, width); the last slot is a bin.

    A ring (`window` shorter than the capacity) keeps the newest `slots` positions.
    """

    keys: Tensor
    values: Tensor
    seen: Tensor  # (batch, slots + 1): position + 1; 0 is empty
    ring: bool

    @classmethod
    def empty(cls, k: Tensor, v: Tensor, length: int, window: int | None) -> Self:
        slots = min(length, window or length)
        keys, values = (t.new_zeros(t.shape[0], slots + 1, *t.shape[2:]) for t in (k, v))
        seen = torch.zeros(k.shape[0], slots + 1, dtype=torch.long, device=k.device)
        return cls(keys, values, seen, slots < length)

    def extend(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write new tokens; return all keys and values a query may see, and their positions."""
        if not (self.ring and k.shape[1] > 1):
            self.write(k, v, positions)
            return self.keys.to(k.dtype), self.values.to(v.dtype), self.seen - 1
        # a chunk in a ring would overwrite what its own first tokens still need
        keys = torch.cat([self.keys.to(k.dtype), k], 1)
        values = torch.cat([self.values.to(v.dtype), v], 1)
        where = torch.cat([self.seen - 1, positions], 1)
        self.write(k, v, positions)
        return keys, values, where

    def write(self, k: Tensor, v: Tensor, positions: Tensor) -> None:
        slots = self.seen.shape[1] - 1
        keep = (positions >= 0) & (positions > positions.amax(1, keepdim=True) - slots)
        slot = torch.where(keep, positions % slots, slots)
        row = torch.arange(k.shape[0], device=k.device)[:, None]
        self.keys[row, slot] = k.to(self.keys.dtype)
        self.values[row, slot] = v.to(self.values.dtype)
        self.seen[row, slot] = torch.where(keep, positions + 1, 0)


@dataclass
class Tail(State):
    """The last inputs of a causal convolution: (batch, taps - 1, channels), oldest first."""

    last: Tensor

    @classmethod
    def empty(cls, x: Tensor, count: int) -> Self:
        return cls(x.new_zeros(x.shape[0], count, x.shape[2]))

    def extend(self, x: Tensor, positions: Tensor) -> Tensor:
        past = torch.cat([self.last, x], 1)
        start = (positions >= 0).sum(1, keepdim=True)
        index = start + torch.arange(self.last.shape[1], device=x.device)
        self.last.copy_(past.gather(1, index[..., None].expand(-1, -1, x.shape[2])))
        return past


@dataclass
class Carry(State):
    """What a scan carries from token to token, in fp32 at least: (batch, ...)."""

    value: Tensor

    @classmethod
    def empty(cls, like: Tensor, *shape: int) -> Self:
        dtype = torch.promote_types(like.dtype, torch.float32)
        return cls(like.new_zeros(like.shape[0], *shape, dtype=dtype))


def visible(now: Pass, key_positions: Tensor | None, window: int | None) -> Tensor:
    """May the query see the key? (batch or 1, 1, query, key), True where it may.

    Without `key_positions` the pass looks at itself. Padding sees something, so that no row of a
    softmax is empty.
    """
    q = now.positions
    if key_positions is None:
        t = torch.arange(q.shape[1], device=q.device)
        gap = t[:, None] - t
        mask = (gap >= 0)[None]
        if now.packed:
            mask = mask & (gap <= q.clamp(min=0)[..., None])
    else:
        gap = q[..., None] - key_positions[:, None]
        mask = (gap >= 0) & (key_positions >= 0)[:, None]
        mask = mask | (q < 0)[..., None]
    return (mask & (gap < window) if window else mask)[:, None]


@torch.no_grad()
def allocate(model: nn.Module, rows: int, length: int, device: torch.device | str) -> Frame:
    """States of the right shape, dtype and device: one idle step of the model itself."""
    nothing = torch.zeros(rows, 1, dtype=torch.long, device=device)
    states: Frame = []
    model(nothing, Pass(nothing - 1, states, length))
    return states


def leaves(frame: Frame) -> list[State]:
    return [leaf for item in frame for leaf in (leaves(item) if isinstance(item, list) else [item])]


def pick(frame: Frame, rows: Tensor | slice) -> Frame:
    """Copies of the given rows of every state; views where the rows are a slice."""
    return [pick(item, rows) if isinstance(item, list) else item.pick(rows) for item in frame]
