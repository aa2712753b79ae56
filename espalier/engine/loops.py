"""Rows that go round in a loop: seen, ended, or kept from it.

Models that read pages fall into loops on tables and rules (of 600 pages that a user of DeepSeek-OCR
counted, one in eleven); its own program forbids n-grams that stand in the last tokens already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from espalier.errors import UserError

LONGEST = 64  # tokens once round
TIMES, LEAST = 4, 24  # so often round, and so many tokens in all


@dataclass(frozen=True)
class NoRepeat:
    """No `size` tokens in a row stand twice within the last `window` and the new one."""

    size: int
    window: int = 90

    def __post_init__(self) -> None:
        if self.size < 1 or self.window < self.size:
            raise UserError(
                f"no_repeat: an n-gram of {self.size} tokens within {self.window}; both must be at "
                "least 1, and the window no shorter"
            )

    def forbidden(self, ids: Sequence[int]) -> list[int]:
        """The tokens that would complete an n-gram that is there."""
        seen, rest = list(ids[-self.window :]), self.size - 1
        if len(seen) < self.size:
            return []
        last = seen[len(seen) - rest :]
        places = range(len(seen) - rest)
        return sorted({seen[i + rest] for i in places if seen[i : i + rest] == last})


def loops(ids: Sequence[int]) -> bool:
    """Does it end in the same tokens, at most LONGEST, over and over?"""
    return any(_round(ids, length) for length in range(1, min(LONGEST, len(ids) // TIMES) + 1))


def _round(ids: Sequence[int], length: int) -> bool:
    wanted = max(TIMES * length, LEAST)
    if len(ids) < wanted:
        return False
    tail = ids[len(ids) - wanted :]
    return all(tail[i] == tail[i - length] for i in range(length, wanted))
