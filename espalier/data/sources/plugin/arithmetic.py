"""Problems of arithmetic: additions with their carries, or sums modulo a number."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from espalier.data.sources.plugins import Document, PluginConfig
from espalier.errors import UserError

MOST = 10**7  # problems that are drawn without a count


class ArithmeticConfig(PluginConfig):
    """a+b=c for distinct pairs, drawn without replacement; c is a+b, or (a+b) mod `modulus`.

    No problem is in both splits: a document is one problem, and equal documents share a split.
    (a+b and b+a are two problems.)
    """

    task: Literal["addition", "modular"] = "addition"
    digits: int = Field(default=3, ge=1, le=9)
    """Of each number to be added."""
    modulus: int = Field(default=97, ge=2, le=10**9)
    count: int | None = Field(default=10_000, ge=2)
    """Problems; null: all there are."""
    answer: Literal["forward", "reversed"] = "forward"
    """reversed writes the last digit first, in the order in which carries arise."""
    seed: int = 0

    def documents(self, files: Sequence[Path], val_fraction: float) -> Iterator[Document]:
        size = 10**self.digits if self.task == "addition" else self.modulus
        pairs = range(size * size)
        if self.count is None and len(pairs) > MOST:
            raise UserError(f"arithmetic: {len(pairs):,} problems are too many: give a count")
        chance = random.Random(self.seed)
        count = len(pairs) if self.count is None else min(self.count, len(pairs))
        for pair in chance.sample(pairs, count):
            yield Document(self._problem(*divmod(pair, size)))

    def _problem(self, a: int, b: int) -> str:
        result = a + b if self.task == "addition" else (a + b) % self.modulus
        answer = str(result) if self.answer == "forward" else str(result)[::-1]
        return f"{a}+{b}={answer}"
