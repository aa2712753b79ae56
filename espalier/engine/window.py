"""Which tokens a model sees once a text has outgrown its block."""

from __future__ import annotations

from dataclasses import dataclass

from espalier.errors import UserError


@dataclass(frozen=True)
class Rule:
    """Past `block_size` tokens the oldest leave, `drop` at a time, and the rest is read anew.

    `drop` 1 is nanoGPT's rule (`crop`): the newest `block_size` tokens, recomputed at each token.
    A larger one (`refill:N`) recomputes every N tokens and steps through a cache between.
    """

    drop: int = 1

    def __post_init__(self) -> None:
        if self.drop < 1:
            raise UserError(f"rule refill:{self.drop}: must drop at least 1 token")

    @classmethod
    def parse(cls, text: str) -> Rule:
        """`crop` or `refill:N`; raises UserError for anything else."""
        name, _, number = text.partition(":")
        if text == "crop":
            return cls()
        if name == "refill" and number.isdecimal():
            return cls(int(number))
        raise UserError(
            f"no rule '{text}': crop (nanoGPT's), or refill:N to drop N tokens at a time"
        )

    def start(self, length: int, block_size: int) -> int:
        """Index of the first token that is seen when `length` stand there."""
        return -(-max(0, length - block_size) // self.drop) * self.drop

    def check(self, block_size: int) -> None:
        """Raise UserError where dropping so many would leave nothing."""
        if self.drop > block_size:
            raise UserError(f"rule {self}: drops more than the block of {block_size} tokens holds")

    def __str__(self) -> str:
        return "crop" if self.drop == 1 else f"refill:{self.drop}"


CROP = Rule()
