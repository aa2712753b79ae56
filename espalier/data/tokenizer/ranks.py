"""Byte-pair vocabularies as tables of ranks: encoding with tiktoken, reading files, and JSON."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tiktoken

from espalier.data.tokenizer.base import END_OF_TEXT, Ids, checked, scrub
from espalier.errors import UserError

Ranks = dict[bytes, int]


class RankTokenizer:
    """Byte-pair encoding by a table of ranks and a splitting pattern.

    Subclasses add only how they came to be: `bpe` trained here, `tiktoken` by name.
    """

    def __init__(self, name: str, ranks: Ranks, pattern: str, special: dict[str, int]):
        self.ranks = ranks
        self.pattern = pattern
        self.special = special
        self.eot: int | None = special.get(END_OF_TEXT)
        self.vocab_size = max([*ranks.values(), *special.values()]) + 1
        self._encoding = tiktoken.Encoding(
            name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
        )

    def encode(self, text: str) -> Ids:
        ids = self._encoding.encode_to_numpy(scrub(text), disallowed_special=())
        return np.asarray(ids, np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        # One call over the joined texts beats one call each by 40 % on short documents. The joint
        # is a special token, which the encoder splits at before anything else.
        if self.eot is None or any(END_OF_TEXT in text for text in texts):
            return [self.encode(text) for text in texts]
        joined = scrub(END_OF_TEXT.join(texts))
        found = self._encoding.encode_to_numpy(joined, allowed_special={END_OF_TEXT})
        ids = np.asarray(found, np.int64)
        joints = np.flatnonzero(ids == self.eot)
        edges = [-1, *joints.tolist(), len(ids)]
        return [ids[edges[i] + 1 : edges[i + 1]] for i in range(len(texts))]

    def decode(self, ids: Sequence[int] | Ids) -> str:
        try:
            return self._encoding.decode(checked(ids, self.vocab_size).tolist())
        except KeyError as error:  # some published vocabularies have holes
            raise UserError(f"token id {error.args[0]} has no text in this vocabulary") from None

    def spec(self) -> dict[str, Any]:
        return {
            "pattern": self.pattern,
            "special": self.special,
            "ranks": write_ranks(self.ranks),
            "sha256": digest(self.ranks),
        }


def write_ranks(ranks: Ranks) -> str:
    """Base64 tokens in order of rank, separated by spaces; ranks must be 0, 1, 2 ..."""
    ordered = sorted(ranks, key=ranks.__getitem__)
    if [ranks[token] for token in ordered] != list(range(len(ordered))):
        raise UserError("the ranks of this vocabulary have holes: it cannot be stored")
    return " ".join(base64.b64encode(token).decode("ascii") for token in ordered)


def read_spec(spec: dict[str, Any]) -> tuple[Ranks, str, dict[str, int]]:
    """Ranks, pattern and special tokens of a stored tokenizer; its hash is checked."""
    ranks = {base64.b64decode(item): rank for rank, item in enumerate(spec["ranks"].split(" "))}
    if digest(ranks) != spec["sha256"]:
        raise UserError("the stored tokenizer does not match its own hash: the file was changed")
    return ranks, spec["pattern"], spec["special"]


def digest(ranks: Ranks) -> str:
    """SHA-256 of the tokens in order of rank."""
    return hashlib.sha256(write_ranks(ranks).encode("ascii")).hexdigest()


def read_merges(text: str) -> Ranks:
    """GPT-2's `vocab.bpe` as ranks: printable bytes, the other bytes, then one token per merge."""
    alias = byte_aliases()
    ranks = {bytes([b]): i for i, b in enumerate(alias.values())}
    for line in text.split("\n")[1:-1]:
        first, second = line.split()
        ranks[bytes(alias[c] for c in first + second)] = len(ranks)
    return ranks


def byte_aliases() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes: the printable ones themselves come first."""
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def read_ranks(text: str) -> Ranks:
    """A `.tiktoken` file: base64 token, space, rank, on each line."""
    lines = (line.split() for line in text.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}
