"""One split of a corpus: token shards on disk, read as one long sequence."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, DTypeLike, NDArray

from espalier.errors import UserError

Ints = NDArray[np.int64]


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """Little-endian uint16 where every id fits (up to 65,536 of them), else uint32."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


class Tokens:
    """Token ids of several shards, memory-mapped, in the order of the shards."""

    def __init__(self, files: Sequence[Path], dtype: DTypeLike, vocab_size: int):
        self.files = tuple(files)
        self.dtype = np.dtype(dtype)
        self.vocab_size = vocab_size
        self._shards = [np.memmap(file, self.dtype, mode="r") for file in self.files]
        self._edges = np.cumsum([0, *(len(shard) for shard in self._shards)])

    def __len__(self) -> int:
        return int(self._edges[-1])

    def gather(self, starts: ArrayLike, length: int) -> Ints:
        """Windows of `length` tokens at `starts`, int64 [len(starts), length].

        A window may run over the edge between two shards. UserError for an id that is not in the
        vocabulary; IndexError for a window outside the corpus.
        """
        wanted = np.atleast_1d(np.asarray(starts, np.int64))
        if wanted.size and (wanted.min() < 0 or wanted.max() + length > len(self)):
            raise IndexError(f"windows of {length} outside the {len(self)} tokens of this split")
        found = np.empty((len(wanted), length), np.int64)
        homes = np.searchsorted(self._edges, wanted, side="right") - 1
        crossing = wanted + length > self._edges[homes + 1]
        for home in np.unique(homes[~crossing]).tolist():
            rows = (homes == home) & ~crossing
            view = sliding_window_view(self._shards[home], length)
            found[rows] = view[wanted[rows] - self._edges[home]]
        for row in np.flatnonzero(crossing).tolist():
            found[row] = self._across(int(wanted[row]), length)
        if found.size and (largest := int(found.max())) >= self.vocab_size:
            raise UserError(_too_large(self.files[0], largest, self.vocab_size))
        return found

    def _across(self, start: int, length: int) -> Ints:
        parts: list[NDArray[np.unsignedinteger]] = []
        for shard, edge in zip(self._shards, self._edges.tolist(), strict=False):
            first, last = max(start - edge, 0), min(start + length - edge, len(shard))
            if first < last:
                parts.append(shard[first:last])
        return np.concatenate(parts).astype(np.int64)

    def sample(self, blocks: int = 64, block: int = 1 << 18) -> Ints:
        """At most `blocks` evenly spaced blocks of tokens: the whole split when it is small."""
        if len(self) <= blocks * block:
            return np.concatenate([np.asarray(shard, np.int64) for shard in self._shards])
        starts = np.linspace(0, len(self) - block, blocks).astype(np.int64)
        return np.concatenate([self._across(start, block) for start in starts.tolist()])

    def check(self) -> None:
        """UserError when what `sample` sees cannot be ids of this vocabulary in this dtype."""
        seen = self.sample()
        if self.dtype.itemsize == 2 and len(seen) >= 4 and not seen[1::2].any() and seen.any():
            raise UserError(
                f"{self.files[0]}: every second uint16 is zero, which looks like uint32 tokens; "
                "prepare the text again with espalier prepare"
            )
        if seen.size and (largest := int(seen.max())) >= self.vocab_size:
            raise UserError(_too_large(self.files[0], largest, self.vocab_size))


def _too_large(file: Path, largest: int, vocab_size: int) -> str:
    return (
        f"{file}: token id {largest} is outside the vocabulary of {vocab_size}. Either this is "
        "another tokenizer's corpus, or it looks like uint32 tokens read as uint16 (or the reverse)"
    )
