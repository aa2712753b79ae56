"""Batches from memory-mapped tokens."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from espalier.data.order import Order, Packed
from espalier.data.tokens import Tokens
from espalier.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from espalier.data.sights import Seen


def batch(
    tokens: Tokens, order: Order, first: int, rows: int, block_size: int
) -> "tuple[Tensor, Tensor]":
    """Samples first .. first+rows-1 of the order: inputs and targets, int64 [rows, block_size]."""
    return pairs(tokens, order.run(first, rows), block_size)


def pairs(tokens: Tokens, starts: NDArray[np.int64], block_size: int) -> "tuple[Tensor, Tensor]":
    """Windows at `starts`: inputs and targets (the next token), int64 [len(starts), block_size].

    Of conversations, a target that is not learnt is -1. UserError where there are images.
    """
    if tokens.sights is not None:
        raise UserError(f"{tokens.files[0]} goes with images, and this reads text alone")
    inputs, targets = parted(tokens.windows(starts, block_size + 1))
    if tokens.answers is not None:
        import torch

        learnt = tokens.answers.learnt(np.asarray(starts, np.int64), block_size)
        targets[torch.from_numpy(~learnt)] = -1
    return inputs, targets


def seen(tokens: Tokens, starts: NDArray[np.int64], block_size: int) -> "Seen":
    """As `pairs`, of any corpus: with images, where they stand, and each document's positions."""
    if tokens.sights is not None:
        return tokens.sights.rows(starts.tolist(), block_size)
    from espalier.data.sights import text

    return text(*pairs(tokens, starts, block_size), tokens.ends)


def ordered(tokens: Tokens, block_size: int, seed: int) -> Order:
    """The order of a split's windows; of conversations, those that hold them whole."""
    if tokens.sights is not None:
        return Packed(windows(tokens, block_size), block_size, seed)
    if tokens.answers is None:
        return Order(len(tokens), block_size, seed)
    return Packed(tokens.answers.bins(block_size).read, block_size, seed)


def parted(rows: NDArray[np.integer]) -> "tuple[Tensor, Tensor]":
    """Rows of tokens as inputs and targets, one token shorter, int64."""
    import torch

    inputs, targets = rows[:, :-1].astype(np.int64), rows[:, 1:].astype(np.int64)
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def windows(tokens: Tokens, block_size: int) -> NDArray[np.int64]:
    """Starts of all non-overlapping windows, in order; what is left at the end fills none.

    Of conversations, the windows that hold them whole; of samples with images, their numbers.
    """
    if tokens.sights is not None:
        return np.arange(len(tokens.sights.bins(block_size).samples))
    if tokens.answers is not None:
        return tokens.answers.bins(block_size).read
    count = (len(tokens) - 1) // block_size
    if count < 1:
        raise UserError(
            f"this split has {len(tokens)} tokens, a window of block_size={block_size} needs "
            f"{block_size + 1}: use a smaller block_size, more text, or a larger --val-fraction"
        )
    return np.arange(count, dtype=np.int64) * block_size
