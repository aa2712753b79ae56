"""What `espalier prepare` was asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from espalier.errors import UserError

BPE_SIZE = 2048


@dataclass(frozen=True)
class Request:
    """One corpus to make. None means: as the source has it."""

    source: str
    out: Path
    tokenizer: str | None = None
    vocab: Path | None = None
    """A local vocabulary file or folder for the tokenizer."""
    vocab_size: int | None = None
    """Ids of a bpe trained here; None: BPE_SIZE."""
    local: Path | None = None
    """A local copy of a built-in text."""
    fallback: tuple[str, ...] = ()
    """Other hf:ID sources, in order, for when the first does not answer."""
    val_fraction: float | None = None
    target_tokens: int | None = None
    shards: int = 1
    text_key: str | None = None
    """The field of a record that holds its text; None: text."""
    errors: Literal["strict", "replace"] = "strict"
    bad: Literal["refuse", "skip"] = "refuse"
    existing: Literal["keep", "overwrite"] = "keep"
    processes: int | None = 1
    """None: as many as are worth their start."""
    more: tuple[str, ...] = ()
    """After a plug-in its files and settings; else more sources for the same corpus."""
    special: Path | None = None
    """A list of texts that are one token each wherever they stand."""

    def __post_init__(self) -> None:
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UserError(f"--val-fraction must lie between 0 and 1, got {self.val_fraction}")
        for name, value in (
            ("--shards", self.shards),
            ("--target-tokens", self.target_tokens),
            ("--processes", self.processes),
        ):
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class Listener:
    """Who is told what happens: a remark, and progress as (done, total or None, unit)."""

    note: Callable[[str], None] = lambda text: None
    progress: Callable[[float, float | None, str], None] = lambda done, total, unit: None
