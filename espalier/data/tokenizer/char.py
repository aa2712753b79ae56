"""One id per character, in the order of the symbols (nanoGPT's shakespeare_char)."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from espalier.data.tokenizer.base import END_OF_TEXT, Ids, checked, split_at, unknown
from espalier.errors import UserError


class CharTokenizer:
    """`symbols[i]` has id i. `eot`, where there is one, is the id after the last symbol."""

    def __init__(self, symbols: str, eot: int | None = None):
        codes = _codes(symbols)
        if not len(codes) or len(np.unique(codes)) != len(codes):
            raise UserError("a character vocabulary needs distinct symbols, at least one")
        if eot not in (None, len(codes)):
            raise UserError(f"end of text must be id {len(codes)}, after the symbols; got {eot}")
        self.symbols = symbols
        self.eot = eot
        self.vocab_size = len(codes) + (eot is not None)
        # One entry past the largest symbol stands for every code point beyond it. The table is as
        # narrow as it can be: looking up, then widening, is several times as fast as a wide one.
        narrow = np.int16 if len(codes) < 2**15 else np.int32
        self._ids = np.full(int(codes.max()) + 2, -1, narrow)
        self._ids[codes] = np.arange(len(codes))
        self._symbols = np.array([*symbols, *[END_OF_TEXT] * (eot is not None)], dtype=object)

    def encode(self, text: str) -> Ids:
        ids = np.take(self._ids, _codes(text), mode="clip")
        if ids.size and ids.min() < 0:
            raise UserError(unknown(text, np.flatnonzero(ids < 0), "in the character vocabulary"))
        return ids.astype(np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return split_at(self.encode("".join(texts)), [len(text) for text in texts])

    def decode(self, ids: Sequence[int] | Ids) -> str:
        return "".join(self._symbols[checked(ids, self.vocab_size)])

    def spec(self) -> dict[str, Any]:
        return {"name": "char", "symbols": self.symbols, "eot": self.eot}


def from_spec(spec: dict[str, Any]) -> CharTokenizer:
    """The stored tokenizer."""
    return CharTokenizer(spec["symbols"], spec["eot"])


def _codes(text: str) -> np.ndarray[Any, np.dtype[np.uint32]]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))


def symbols(texts: Iterable[str]) -> str:
    """Every character of `texts`, sorted by code point."""
    seen = np.zeros(sys.maxunicode + 1, bool)
    for text in texts:
        seen[_codes(text)] = True
    return "".join(map(chr, np.flatnonzero(seen)))
