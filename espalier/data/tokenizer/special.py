"""Special tokens read from the text, because somebody asked for it: `--special FILE`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espalier.data.tokenizer.base import END_OF_TEXT, Ids, Tokenizer, checked, fallback
from espalier.data.tokenizer.custom import read_json, read_lines
from espalier.errors import UserError


class SpecialTokenizer:
    """Another tokenizer, and texts that are one id each wherever they stand.

    Where several fit, the longest is taken. An id that `inner` has too means the special token.
    """

    def __init__(self, inner: Tokenizer, special: Mapping[str, int]):
        self.inner = inner
        self.special = dict(special)
        self.vocab_size = max([inner.vocab_size - 1, *special.values()]) + 1
        self.eot = inner.eot if inner.eot is not None else special.get(END_OF_TEXT)
        self._named = {i: token for token, i in special.items()}
        longest_first = sorted(special, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        bytes_ = fallback(inner)
        self.fallback = None if bytes_ is None else np.resize(bytes_, self.vocab_size)
        if self.fallback is not None:
            self.fallback[inner.vocab_size :] = False

    def encode(self, text: str) -> Ids:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        cut = [self._pattern.split(text) for text in texts]  # text, token, text, …, text
        ordinary = iter(self.inner.encode_batch([part for parts in cut for part in parts[::2]]))
        found = []
        for parts in cut:
            ids = [next(ordinary)]
            for token in parts[1::2]:
                ids += [np.array([self.special[token]], np.int64), next(ordinary)]
            found.append(np.concatenate(ids))
        return found

    def decode(self, ids: Sequence[int] | Ids) -> str:
        wanted = checked(ids, self.vocab_size)
        places = np.flatnonzero(np.isin(wanted, list(self._named)))
        parts, begin = [], 0
        for place in places.tolist():
            parts += [self.inner.decode(wanted[begin:place]), self._named[int(wanted[place])]]
            begin = place + 1
        return "".join([*parts, self.inner.decode(wanted[begin:])])

    def spec(self) -> dict[str, Any]:
        return {"name": "special", "tokens": self.special, "inner": self.inner.spec()}


def from_spec(spec: dict[str, Any]) -> SpecialTokenizer:
    """The stored tokenizer."""
    from espalier.data.tokenizer import load

    return SpecialTokenizer(load(spec["inner"]), spec["tokens"])


def with_special(inner: Tokenizer, file: Path) -> SpecialTokenizer:
    """`inner` and the special tokens of a file of lines, a JSON array or a JSON mapping.

    Without an id of its own a token has that of `inner`'s special token of the same text, or the
    next behind `inner`'s. UserError for an id that `inner` uses for something else.
    """
    found = read_json(file) if file.suffix == ".json" else read_lines(file)
    known: Mapping[str, int] = getattr(inner, "special", {})
    if isinstance(found, list):
        new = [token for token in found if token not in known]
        ids = {token: known[token] for token in found if token in known}
        found = ids | {token: inner.vocab_size + i for i, token in enumerate(dict.fromkeys(new))}
    if not found or "" in found:
        raise UserError(f"{file} must list special tokens, each with some text")
    if len(set(found.values())) != len(found):
        raise UserError(f"{file} gives an id twice")
    for token, i in found.items():
        if i < inner.vocab_size and known.get(token) != i:
            raise UserError(
                f"{file}: id {i} of {token!r} is the tokenizer's already; free from "
                f"{inner.vocab_size} on"
            )
    return SpecialTokenizer(inner, found)
