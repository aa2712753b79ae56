"""What every tokenizer promises."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from espalier.errors import UserError

Ids = NDArray[np.int64]
END_OF_TEXT = "<|endoftext|>"


class Tokenizer(Protocol):
    """Text to ids and back.

    Special tokens are never read from text: `<|endoftext|>` inside a document is ordinary text,
    unless somebody asked for it (`special`). Whoever wants an end of text appends `eot`.
    """

    vocab_size: int
    eot: int | None

    def encode(self, text: str) -> Ids:
        """Ids of `text`, int64 [n]; UserError where the vocabulary cannot write it."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """`[encode(text) for text in texts]`, faster."""
        ...

    def decode(self, ids: "Sequence[int] | Ids") -> str:
        """The text of ids; U+FFFD for bytes that are no UTF-8, UserError for an id outside."""
        ...

    def spec(self) -> dict[str, Any]:
        """The whole tokenizer as JSON; `load(spec)` gives an equal one, on any machine, offline."""
        ...


def fallback(tokenizer: Tokenizer) -> "NDArray[np.bool_] | None":
    """Of each id, whether it stands for a byte that no token fits; None without such a fallback."""
    found: NDArray[np.bool_] | None = getattr(tokenizer, "fallback", None)
    return found


def checked(ids: "Sequence[int] | Ids", vocab_size: int) -> Ids:
    """`ids` as an int64 vector, or a UserError that names the first outside the vocabulary."""
    found = np.asarray(ids, dtype=np.int64).reshape(-1)
    outside = np.flatnonzero((found < 0) | (found >= vocab_size))
    if outside.size:
        where = int(outside[0])
        raise UserError(
            f"token id {found[where]} at position {where} is outside the vocabulary of {vocab_size}"
        )
    return found


def split_at(ids: Ids, lengths: Sequence[int]) -> list[Ids]:
    """Cut a concatenation back into its members."""
    return np.split(ids, np.cumsum(lengths[:-1], dtype=np.int64)) if len(lengths) else []


def scrub(text: str) -> str:
    """`text` with U+FFFD for lone surrogates, which no UTF-8 can carry."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def unknown(text: str, positions: Ids, where: str) -> str:
    """The sentence that names the first characters at `positions`, which are not `where`."""
    first: dict[str, int] = {}
    for position in positions[:100_000].tolist():
        first.setdefault(text[position], position)
        if len(first) == 6:
            break
    named = ", ".join(f"{symbol!r} at {position}" for symbol, position in list(first.items())[:5])
    more = " and more" if len(first) > 5 else ""
    return f"not {where}: {named}{more} ({len(positions)} places)"
