"""Text that a method looks at: from the training split, never what the model is judged on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espalier.data.corpus import Corpus
from espalier.data.loader import pairs, windows
from espalier.data.tokenizer.base import Tokenizer
from espalier.data.tokens import Tokens
from espalier.errors import UserError

TOKENS = 32768
PASSAGE = 64  # tokens in a row that count as the same text
MOST = 0.01  # share of passages that may stand in both


def from_split(tokens: Tokens, block_size: int) -> Tensor:
    """Windows spread evenly over the training split, about 32,768 tokens: (windows, time)."""
    starts = windows(tokens, block_size)
    count = min(len(starts), max(1, TOKENS // block_size))
    chosen = starts[np.arange(count) * len(starts) // count]
    return pairs(tokens, chosen, block_size)[0]


def from_place(place: Path, corpus: Corpus, tokenizer: Tokenizer, block_size: int) -> Tensor:
    """Windows of a text file, or of another corpus' training split.

    Raises UserError for another vocabulary, a text too short, and one that the model is judged on.
    """
    if place.is_dir():
        other = Corpus.open(place)
        if other.vocab_size != corpus.vocab_size:
            raise UserError(
                f"{place} has a vocabulary of {other.vocab_size}, {corpus.path} has "
                f"{corpus.vocab_size}: calibrate on text of the same tokenizer"
            )
        text = from_split(other.train, block_size)
    else:
        text = _read(place, tokenizer, block_size)
    shared = overlap(text, corpus.val)
    if shared > MOST:
        raise UserError(
            f"{shared:.0%} of the calibration text {place} stands in the validation text of "
            f"{corpus.path}, on which the model is judged. Take other text"
        )
    return text


def _read(file: Path, tokenizer: Tokenizer, block_size: int) -> Tensor:
    try:
        ids = np.asarray(tokenizer.encode(file.read_text(encoding="utf-8")), np.int64)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file} as text: {error}") from None
    count = min(len(ids) // block_size, max(1, TOKENS // block_size))
    if not count:
        raise UserError(f"{file} has {len(ids)} tokens, the model reads {block_size} at once")
    return torch.from_numpy(ids[: count * block_size]).view(count, block_size)


def overlap(text: Tensor, judged: Tokens) -> float:
    """Share of the text's passages of 64 tokens that stand in `judged` too."""
    theirs = judged.gather([0], len(judged))[0]
    mine = text.flatten().numpy()
    length = min(PASSAGE, len(theirs), len(mine))
    return float(np.isin(_hashes(mine, length), _hashes(theirs, length)).mean())


def _hashes(ids: NDArray[np.int64], length: int) -> NDArray[Any]:
    """A 64-bit hash of each run of `length` ids, by doubling: of 2n from those of n."""
    with np.errstate(over="ignore"):
        values = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        size = 1
        while size < length:
            step = min(size, length - size)
            first = values[:-step] if step else values
            values = first * np.uint64(0xBF58476D1CE4E5B9) ^ (
                values[step:] * np.uint64(0x94D049BB133111EB) + np.uint64(step)
            )
            values ^= values >> np.uint64(29)
            size += step
    return values
