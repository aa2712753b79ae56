"""Texts and windows as views look at them: ids on the model's device, and tokens in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from espalier.analyze import record
from espalier.analyze.views import Seen
from espalier.errors import MachineError, UserError


def ids(seen: Seen, longest: int) -> tuple[Tensor, list[str]]:
    """One row of at most `longest` tokens, of the text asked for or the first window, in words."""
    longest = min(longest, seen.block_size)
    if seen.asked.text is None:
        tokens, starts = seen.text("val")
        found = tokens.gather(starts[:1], longest)[0].tolist()
    else:
        found = list(seen.tokenizer().encode(seen.asked.text))[:longest]
    if not found:
        raise UserError("--text is empty")
    row = torch.tensor([found], device=next(seen.model.parameters()).device)
    return row, words(seen, found)


def words(seen: Seen, tokens: Sequence[int]) -> list[str]:
    """Tokens as text, or as their numbers where there is no tokenizer."""
    try:
        tokenizer = seen.tokenizer()
    except (UserError, MachineError):
        return [str(token) for token in tokens]
    return [shown(tokenizer.decode([token])) for token in tokens]


def shown(text: str) -> str:
    """White space made visible."""
    return text.replace("\n", "\\n").replace("\t", "\\t").replace(" ", "·")


def batches(seen: Seen, split: str = "val") -> Iterator[tuple[Tensor, Tensor]]:
    """The chosen windows: inputs and next tokens (rows, block) on the model's device."""
    device = next(seen.model.parameters()).device
    return record.batches(*seen.text(split), seen.block_size, device)
