"""The order in which a run reads its corpus: a pure function of (seed, epoch, index).

Every epoch moves the grid of windows by a fresh shift and walks it in a fresh permutation, so each
window is seen exactly once per epoch, at any batch size and world size, and a run resumes from one
integer. Nothing is stored: the permutation is a Feistel network (Black and Rogaway 2002, "Ciphers
with arbitrary finite domains"), here over a rectangle that is hardly larger than its domain.
"""

import hashlib
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from espalier.errors import UserError

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
ROUNDS = 8
AHEAD = 4096  # starts worked out at once: a call costs as much as a thousand of them


class Order:
    """Starts of training windows of `block_size` inputs and their targets, one token further.

    `len(order)` windows make an epoch; index i belongs to epoch i // len(order).
    """

    def __init__(self, n_tokens: int, block_size: int, seed: int):
        if n_tokens < block_size + 1:
            raise UserError(
                f"the corpus has {n_tokens} tokens, a window of block_size={block_size} needs "
                f"{block_size + 1}: use a smaller block_size or more text"
            )
        self.n_tokens = n_tokens
        self.block_size = block_size
        self.seed = seed
        self.windows = max(1, (n_tokens - block_size) // block_size)
        self.shifts = min(block_size, n_tokens - self.windows * block_size)
        self._begin, self._ahead = 0, np.empty(0, np.int64)

    def __len__(self) -> int:
        return self.windows

    def starts(self, indices: ArrayLike) -> Ints:
        """Window starts of global sample indices; start + block_size + 1 <= n_tokens."""
        wanted = np.atleast_1d(np.asarray(indices, np.int64))
        epochs, places = np.divmod(wanted, self.windows)
        found = np.empty_like(wanted)
        for epoch in np.unique(epochs).tolist():
            keys = epoch_keys(self.seed, epoch)
            mine = epochs == epoch
            shift = keys.shift % self.shifts
            found[mine] = shift + self.block_size * permute(places[mine], self.windows, keys.rounds)
        return found

    def run(self, first: int, rows: int) -> Ints:
        """`starts` of first .. first+rows-1, worked out ahead; not to be written to."""
        at = first - self._begin
        if not 0 <= at <= len(self._ahead) - rows:
            count = max(rows, min(AHEAD, self.windows))  # few epochs: each is a call of its own
            self._ahead = self.starts(np.arange(first, first + count))
            self._begin, at = first, 0
        return self._ahead[at : at + rows]


class Packed(Order):
    """Windows at given places, every one once an epoch, in a fresh permutation each time."""

    def __init__(self, places: Ints, block_size: int, seed: int):
        self.places, self.block_size, self.seed = places, block_size, seed
        self.windows = len(places)
        self._begin, self._ahead = 0, np.empty(0, np.int64)

    def starts(self, indices: ArrayLike) -> Ints:
        wanted = np.atleast_1d(np.asarray(indices, np.int64))
        epochs, places = np.divmod(wanted, self.windows)
        found = np.empty_like(wanted)
        for epoch in np.unique(epochs).tolist():
            mine = epochs == epoch
            rounds = epoch_keys(self.seed, epoch).rounds
            found[mine] = self.places[permute(places[mine], self.windows, rounds)]
        return found


class Keys(NamedTuple):
    """What one epoch draws: a large number for the shift, a word for each round."""

    shift: int
    rounds: tuple[int, ...]


@lru_cache(maxsize=8)
def epoch_keys(seed: int, epoch: int) -> Keys:
    """Keys of (seed, epoch), from SHA-256; the same on every machine."""
    words = [
        int.from_bytes(hashlib.sha256(f"{seed}/{epoch}/{i}".encode()).digest()[:8], "little")
        for i in range(ROUNDS + 1)
    ]
    return Keys(words[0], tuple(words[1:]))


def permute(places: Ints, size: int, keys: tuple[int, ...]) -> Ints:
    """A keyed bijection of 0 .. size-1, applied to each of `places`.

    The network permutes a rectangle of height x width >= size cells; a value that falls outside the
    domain is sent through again until it is inside, which keeps the whole a bijection.
    """
    height = math.isqrt(size - 1) + 1
    width = -(-size // height)
    values = _rounds(places.astype(np.uint64), height, width, keys)
    while (outside := values >= size).any():
        values[outside] = _rounds(values[outside], height, width, keys)
    return values.astype(np.int64)


def _rounds(values: Words, height: int, width: int, keys: tuple[int, ...]) -> Words:
    tall, wide = np.uint64(height), np.uint64(width)
    row, column = values // wide, values % wide
    for i in range(0, len(keys), 2):
        row = (row + mixed(column, keys[i]) % tall) % tall
        column = (column + mixed(row, keys[i + 1]) % wide) % wide
    return row * wide + column


def mixed(values: Words, key: int) -> Words:
    """The finaliser of splitmix64, keyed (Steele, Lea and Flood 2014)."""
    x = values ^ np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
