"""Which tokens of a split are learnt, and how whole conversations fill windows."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from espalier.errors import UserError

Ints = NDArray[np.int64]


class Bins(NamedTuple):
    """Windows, in order: where each is read from, and the tokens begin .. end - 1 it stands for.

    A window that would run over the end of the split is read from further ahead.
    """

    read: Ints
    begin: Ints
    end: Ints


class Answers:
    """One split's mask (a byte a token, 1 = learnt) and where its conversations begin.

    Conversations fill windows whole, in order, as many as fit; the rest of a window is read but not
    learnt. One longer than a window is cut to its beginning.
    """

    def __init__(self, masks: Path, starts: Path):
        self.mask = np.asarray(np.memmap(masks, np.uint8, mode="r"))
        self.starts: Ints = np.fromfile(starts, "<i8")
        self.bins = lru_cache(maxsize=4)(self._bins)

    def learnt(self, read: Ints, block_size: int) -> NDArray[np.bool_]:
        """Of each window's targets, whether it is learnt: [len(read), block_size]."""
        bins = self.bins(block_size)
        home = np.searchsorted(bins.read, read)
        at = read[:, None] + np.arange(1, block_size + 1)
        inside = (at > bins.begin[home, None]) & (at < bins.end[home, None])
        found: NDArray[np.bool_] = self.mask[at].astype(bool) & inside
        return found

    def _bins(self, block_size: int) -> Bins:
        total, length = len(self.mask), block_size + 1
        if total < length:
            raise UserError(
                f"these conversations have {total} tokens, a window of block_size={block_size} "
                f"needs {length}: use a smaller block_size or more of them"
            )
        edges = np.append(self.starts, total)
        found, i = [], 0
        while i < len(edges) - 1:
            begin = int(edges[i])
            j = int(np.searchsorted(edges, begin + length, side="right")) - 1
            found.append((begin, int(edges[j]) if j > i else begin + length))
            i = max(j, i + 1)
        begin, end = np.array(found, np.int64).T
        return Bins(np.minimum(begin, total - length), begin, end)
