"""Is an imported model the original? Compared with the reference implementation on the same files.

Logits in fp32 differ by rounding, which grows with their size: GPT-2's are near -100, where one
last bit is already 1e-5. Where fp32 differs by more than LIMIT, the verdict is therefore taken in
fp64, in which a wrong weight stays wrong and rounding goes away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.errors import UserError, need
from espalier.pretrained.foreign import Foreign

LIMIT = 1e-4
WRITTEN = 16  # tokens of greedy text
ROWS, TIME = 4, 64  # of random ids, beside the prompts
PUBLISHED = frozenset({"gpt2", "gpt_neox", "llama", "nanochat"})
TEXTS = (
    "The capital of France is",
    "Once upon a time there was a",
    "def add(a, b):\n    return",
    "In 1905, Albert Einstein published",
)


@dataclass(frozen=True)
class Parity:
    """What the comparison found."""

    largest: float
    """difference of two logits, fp32"""
    exact: float | None
    """the same in fp64, where fp32 was above the limit"""
    agreeing: int
    """greedy tokens that are alike"""
    written: int
    """greedy tokens compared"""

    @property
    def passed(self) -> bool:
        return (self.largest if self.exact is None else self.exact) <= LIMIT

    def __str__(self) -> str:
        wide = "" if self.exact is None else f" ({self.exact:.1e} in fp64)"
        return (
            f"largest logit difference {self.largest:.1e}{wide}, greedy text "
            f"{self.agreeing} of {self.written} tokens alike"
        )


def compare(foreign: Foreign, prompts: Sequence[Sequence[int]]) -> Parity:
    """Our model of `foreign` beside the one that `transformers` makes of the same directory.

    `prompts` are token ids; random ones come on top.
    """
    assert foreign.config.vocab_size is not None
    block = foreign.config.block_size
    chance = torch.Generator().manual_seed(0)
    shape = ROWS, min(TIME, block)
    ids = torch.randint(foreign.config.vocab_size, shape, generator=chance)
    starts = [torch.tensor(one)[None, : max(1, block // 2)] for one in prompts if len(one)]
    starts += [row[None, : max(1, len(row) // 2)] for row in ids]
    count = min(WRITTEN, max(1, block // 2))
    theirs, ours = reference(foreign.path), foreign.build()
    with torch.no_grad():
        largest = _apart(ours, theirs, ids)
        texts = [[_greedy(model, start, count) for start in starts] for model in (ours, theirs)]
        exact = None
        if largest > LIMIT:
            exact = _apart(ours.double(), theirs.double(), ids)
    alike = sum(int((a == b).sum()) for a, b in zip(*texts, strict=True))
    return Parity(largest, exact, alike, count * len(starts))


def require(found: Parity, where: Path) -> None:
    """UserError for a model that computes something else than the original."""
    if not found.passed:
        raise UserError(
            f"{where} was read, but does not compute what transformers computes: {found}; at most "
            f"{LIMIT:g} is let through. Nothing was saved"
        )


def reference(folder: Path) -> Any:
    """The original in fp32 on the CPU, from local files; no code of the directory is run."""
    transformers = need("transformers", "hf")
    speech = transformers.utils.logging  # bars and remarks that would stand among our lines
    speech.disable_progress_bar()
    speech.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float32,
        attn_implementation="eager",
    )
    return model.eval()


def _logits(model: Any, ids: Tensor) -> Tensor:
    found = model(ids)
    logits: Tensor = found if isinstance(found, Tensor) else found.logits
    return logits


def _apart(ours: Any, theirs: Any, ids: Tensor) -> float:
    difference = (_logits(ours, ids) - _logits(theirs, ids)).abs().max()
    return float(difference) if difference.isfinite() else float("inf")


def _greedy(model: Any, start: Tensor, count: int) -> Tensor:
    ids = start
    for _ in range(count):
        ids = torch.cat([ids, _logits(model, ids)[:, -1:].argmax(-1)], 1)
    return ids[0, start.shape[1] :]
