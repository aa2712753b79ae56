"""What a corpus looks like as tokens: how many there are, how they are spread, what they cover."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from espalier.data.corpus import Corpus
from espalier.data.tokens import Tokens

CHUNK = 1 << 22  # tokens counted at a time


@dataclass(frozen=True)
class Statistics:
    """Of one split. `types` are the different ids that occur; `counts[i]` is how often i does."""

    tokens: int
    types: int
    type_token_ratio: float
    bytes_per_token: float | None
    """None where the corpus does not say its bytes (nanoGPT's directories)."""
    entropy: float
    """Bits per token of the frequencies alone: what a model without context can reach."""
    counts: NDArray[np.int64]

    def histogram(self) -> list[tuple[int, int, int]]:
        """Types by how often they occur: (least, most, types), in powers of ten; 0 has its own."""
        seen = self.counts[self.counts > 0]
        powers = Counter(len(str(count)) - 1 for count in seen.tolist())
        rows = [(10**p, 10 ** (p + 1) - 1, n) for p, n in sorted(powers.items())]
        return [(0, 0, int((self.counts == 0).sum())), *rows]

    def commonest(self, most: int) -> list[tuple[int, int]]:
        """The ids that occur most, with their counts; the lower id first where they are equal."""
        order = np.argsort(-self.counts, kind="stable")[: min(most, self.types)]
        return [(int(i), int(self.counts[i])) for i in order]


def statistics(corpus: Corpus, split: str) -> Statistics:
    """Count every token of a split, `train` or `val`."""
    tokens = corpus.train if split == "train" else corpus.val
    counts = _counted(tokens)
    total = int(counts.sum())
    shares = counts[counts > 0] / total
    size = corpus.meta.get("bytes")
    return Statistics(
        tokens=total,
        types=len(shares),
        type_token_ratio=len(shares) / total,
        bytes_per_token=None if size is None else size[split] / total,
        entropy=float(-(shares * np.log2(shares)).sum()),
        counts=counts,
    )


def _counted(tokens: Tokens) -> NDArray[np.int64]:
    counts = np.zeros(tokens.vocab_size, np.int64)
    for begin in range(0, len(tokens), CHUNK):
        ids = tokens.gather([begin], min(CHUNK, len(tokens) - begin))[0]
        counts += np.bincount(ids, minlength=tokens.vocab_size)
    return counts
