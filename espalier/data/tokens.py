"""One split of a corpus: token shards on disk, read as one long sequence."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, DTypeLike, NDArray

from espalier.data.answers import Answers
from espalier.errors import UserError

if TYPE_CHECKING:
    from espalier.data.sights import Sights

Ints = NDArray[np.int64]
Words = NDArray[np.unsignedinteger]


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """Little-endian uint16 where every id fits (up to 65,536 of them), else uint32."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


class Tokens:
    """Token ids of several shards, memory-mapped, in the order of the shards."""

    def __init__(self, files: Sequence[Path], dtype: DTypeLike, vocab_size: int):
        self.files = tuple(files)
        self.dtype = np.dtype(dtype)
        self.vocab_size = vocab_size
        # plain arrays over the maps: a memmap's own slices cost more than what is read
        self._shards = [np.asarray(np.memmap(file, self.dtype, mode="r")) for file in self.files]
        self._edges = np.cumsum([0, *(len(shard) for shard in self._shards)])
        self._length = int(self._edges[-1])
        self._views: dict[tuple[int, int], Words] = {}
        self.answers: Answers | None = None  # of conversations: what of them is learnt
        self.ends: int | None = None  # likewise: the token behind each; rows restart there
        self.sights: Sights | None = None  # of samples with images: how they become windows

    def __len__(self) -> int:
        return self._length

    def first(self, most: int) -> Self:
        """These tokens, ending after `most` of them; all where there are fewer."""
        found = copy.copy(self)
        ends = zip(self._shards, self._edges, strict=False)
        found._shards = [shard[: max(0, most - edge)] for shard, edge in ends]
        found._edges = np.minimum(self._edges, most)
        found._length, found._views = int(found._edges[-1]), {}
        return found

    def gather(self, starts: ArrayLike, length: int) -> Ints:
        """Windows of `length` tokens at `starts`, int64 [len(starts), length]; see `windows`."""
        return self.windows(starts, length).astype(np.int64)

    def windows(self, starts: ArrayLike, length: int) -> Words:
        """Windows of `length` tokens at `starts`, [len(starts), length] in the corpus' own dtype.

        A window may run over the edge between two shards. UserError for an id that is not in the
        vocabulary; IndexError for a window outside the corpus.
        """
        wanted = np.atleast_1d(np.asarray(starts, np.int64))
        if wanted.size and (wanted.min() < 0 or wanted.max() + length > len(self)):
            raise IndexError(f"windows of {length} outside the {len(self)} tokens of this split")
        alone = len(self._shards) == 1 and wanted.size
        found = self._view(0, length)[wanted] if alone else self._from_many(wanted, length)
        if found.size and (largest := int(found.max())) >= self.vocab_size:
            raise UserError(_too_large(self.files[0], largest, self.vocab_size))
        return found

    def _view(self, shard: int, length: int) -> Words:
        """All windows of a shard, without a copy."""
        if (shard, length) not in self._views:
            self._views[shard, length] = sliding_window_view(self._shards[shard], length)
        return self._views[shard, length]

    def _from_many(self, wanted: Ints, length: int) -> Words:
        found = np.empty((len(wanted), length), self.dtype)
        homes = np.searchsorted(self._edges, wanted, side="right") - 1
        crossing = wanted + length > self._edges[homes + 1]
        for home in np.unique(homes[~crossing]).tolist():
            rows = (homes == home) & ~crossing
            found[rows] = self._view(home, length)[wanted[rows] - self._edges[home]]
        for row in np.flatnonzero(crossing).tolist():
            found[row] = self._across(int(wanted[row]), length)
        return found

    def _across(self, start: int, length: int) -> Words:
        parts: list[Words] = []
        for shard, edge in zip(self._shards, self._edges.tolist(), strict=False):
            first, last = max(start - edge, 0), min(start + length - edge, len(shard))
            if first < last:
                parts.append(shard[first:last])
        return np.concatenate(parts)

    def sample(self, blocks: int = 64, block: int = 1 << 18) -> Ints:
        """At most `blocks` evenly spaced blocks of tokens: the whole split when it is small."""
        if len(self) <= blocks * block:
            return np.concatenate([np.asarray(shard, np.int64) for shard in self._shards])
        starts = np.linspace(0, len(self) - block, blocks).astype(np.int64)
        seen = [self._across(start, block) for start in starts.tolist()]
        return np.concatenate(seen).astype(np.int64)

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
