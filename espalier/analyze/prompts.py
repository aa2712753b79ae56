"""Pairs of prompts that differ in what decides between two answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.analyze.views import Seen
from espalier.data.tokenizer.base import Tokenizer
from espalier.errors import UserError
from espalier.tree import read_yaml

ROWS = 16  # random pairs
LONGEST = 16  # random tokens before they repeat
FIELDS = ("clean", "corrupted", "answer", "wrong")


@dataclass(frozen=True)
class Prompts:
    """`clean` and `corrupted` (rows, time); `answer` and `wrong` (rows,), what should follow."""

    clean: Tensor
    corrupted: Tensor
    answer: Tensor
    wrong: Tensor

    def difference(self, logits: Tensor) -> Tensor:
        """(rows,): the last position's logit of the answer minus that of the wrong one."""
        last = logits[:, -1]
        both = torch.stack([self.answer, self.wrong], 1)
        return last.gather(1, both).diff(dim=1).neg()[:, 0]

    def to(self, device: torch.device) -> Prompts:
        return Prompts(*(getattr(self, name).to(device) for name in FIELDS))


def chosen(seen: Seen) -> Prompts:
    """Those of the file that was asked for, or random ones."""
    file = seen.asked.prompts
    if file is None:
        found = random(seen.vocab_size, seen.block_size, seen.asked.seed)
    else:
        found = from_file(file, seen.tokenizer(), seen.block_size)
    return found.to(next(seen.model.parameters()).device)


def random(vocab_size: int, block_size: int, seed: int, rows: int = ROWS) -> Prompts:
    """r_0 ... r_(n-1) r_0 ... r_m, which r_(m+1) should follow; different random tokens.

    Corrupted, another token stands in the place of the first r_(m+1), and it is the wrong answer.
    """
    n = min(LONGEST, vocab_size - 1, block_size * 2 // 3)
    if n < 2:
        raise UserError(
            "random prompts need a vocabulary and a block of at least 3: --prompts FILE"
        )
    m = n // 2 - 1
    chance = torch.Generator().manual_seed(seed)
    once = [torch.randperm(vocab_size, generator=chance)[: n + 1] for _ in range(rows)]
    drawn = torch.stack(once)
    first, other = drawn[:, :n], drawn[:, n]
    clean = torch.cat([first, first[:, : m + 1]], 1)
    corrupted = clean.clone()
    corrupted[:, m + 1] = other
    return Prompts(clean, corrupted, first[:, m + 1], other)


def from_file(file: Path, tokenizer: Tokenizer, block_size: int) -> Prompts:
    """YAML, prompts: [{clean, corrupted, answer, wrong}, ...]; of answers the first token counts.

    UserError for what is missing, and for prompts of different length in tokens.
    """
    entries = read_yaml(file).tree.get("prompts")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{file} has no list prompts: [{{clean, corrupted, answer, wrong}}, ...]")
    rows = [_row(file, number, entry, tokenizer) for number, entry in enumerate(entries, 1)]
    lengths = {len(row[name]) for row in rows for name in ("clean", "corrupted")}
    if len(lengths) > 1 or max(lengths) > block_size:
        told = ", ".join(
            f"{n}: {len(row['clean'])} and {len(row['corrupted'])}" for n, row in enumerate(rows, 1)
        )
        raise UserError(
            f"{file}: all prompts need one number of tokens, at most {block_size}. They have {told}"
        )
    pairs = [torch.tensor([row[name] for row in rows]) for name in FIELDS[:2]]
    answers = [torch.tensor([row[name][0] for row in rows]) for name in FIELDS[2:]]
    return Prompts(pairs[0], pairs[1], answers[0], answers[1])


def _row(file: Path, number: int, entry: Any, tokenizer: Tokenizer) -> Mapping[str, list[int]]:
    if not isinstance(entry, dict) or set(entry) != set(FIELDS):
        raise UserError(f"{file}: prompt {number} needs {', '.join(FIELDS)}, and nothing else")
    row = {name: tokenizer.encode(str(entry[name])).tolist() for name in FIELDS}
    for name, found in row.items():
        if not found:
            raise UserError(f"{file}: prompt {number} has an empty {name}")
    return row
