r"""A vocabulary of one's own: a list of texts, of which the longest that fits is taken.

Files: a text file with a token on each line (`\n`, `\t`, `\r` and `\\` stand for a line's end, a
tab, a carriage return and a backslash), or JSON, an array of tokens or a mapping from token to id.
With byte fallback, what no token fits is written in bytes, an id for each; else it is refused.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espalier.data.tokenizer.base import END_OF_TEXT, Ids, checked, scrub, unknown
from espalier.errors import UserError

BYTES = tuple(range(256))
HEAD = 3  # characters that say which lengths of tokens are worth looking up
LARGEST = 2**31 - 1
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\"}


class CustomTokenizer:
    """`tokens` with their ids; `byte_ids`, where there are any, write what no token fits.

    `unread` are tokens that are decoded and never matched in a text. `eot`, where there is one, is
    the id of `<|endoftext|>` in `tokens`, or an id of its own. `fallback` says of each id whether
    it stands for a byte; None without byte fallback.
    """

    def __init__(
        self,
        tokens: Mapping[str, int],
        byte_ids: Sequence[int] | None = None,
        unread: Collection[str] = (),
        eot: int | None = None,
    ):
        taken = [*tokens.values(), *(byte_ids or ())]
        _check(tokens, taken)
        self.tokens = dict(tokens)
        self.byte_ids = None if byte_ids is None else tuple(byte_ids)
        self.unread = frozenset(unread)
        self.eot = tokens.get(END_OF_TEXT, eot)
        self.vocab_size = max([*taken, -1 if self.eot is None else self.eot]) + 1
        self._table = {token: i for token, i in tokens.items() if token not in self.unread}
        self._table.pop(END_OF_TEXT, None)  # in a text it is text
        self._lengths, self._short = _lengths(self._table)
        self.fallback: np.ndarray[Any, np.dtype[np.bool_]] | None = None
        if self.byte_ids is not None:
            self.fallback = np.zeros(self.vocab_size, bool)
            self.fallback[list(self.byte_ids)] = True
        self._texts: list[bytes | None] = [None] * self.vocab_size
        for token, i in tokens.items():
            self._texts[i] = token.encode("utf-8")
        for value, i in enumerate(self.byte_ids or ()):
            self._texts[i] = bytes([value])
        if self.eot is not None:
            self._texts[self.eot] = END_OF_TEXT.encode("ascii")

    def encode(self, text: str) -> Ids:
        return np.array(self._walk(scrub(text)), np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | Ids) -> str:
        wanted = checked(ids, self.vocab_size).tolist()
        parts = [self._texts[i] for i in wanted]
        if None in parts:
            hole = wanted[parts.index(None)]
            raise UserError(f"token id {hole} has no text in this vocabulary")
        return b"".join(part for part in parts if part is not None).decode("utf-8", "replace")

    def spec(self) -> dict[str, Any]:
        return {
            "name": "custom",
            "tokens": self.tokens,
            "byte_ids": self.byte_ids,
            "unread": sorted(self.unread),
            "eot": self.eot,
        }

    def _walk(self, text: str) -> list[int]:
        """Ids from left to right, the longest token each time."""
        found: list[int] = []
        strange: list[int] = []
        table, lengths, short = self._table, self._lengths, self._short
        at, end = 0, len(text)
        while at < end:
            for length in lengths.get(text[at : at + HEAD], short):
                token = text[at : at + length]
                if token in table:
                    found.append(table[token])
                    at += len(token)
                    break
            else:
                if self.byte_ids is None:
                    strange.append(at)
                else:
                    found += [self.byte_ids[value] for value in text[at].encode("utf-8")]
                at += 1
        if strange:
            raise UserError(unknown(text, np.array(strange, np.int64), "in the list of tokens"))
        return found


def from_spec(spec: dict[str, Any]) -> CustomTokenizer:
    """The stored tokenizer."""
    return CustomTokenizer(spec["tokens"], spec["byte_ids"], spec["unread"], spec["eot"])


def read_lines(file: Path) -> list[str]:
    """The tokens of a text file, one on each line; blank lines are none."""
    return [_unescaped(line) for line in _read(file).split("\n") if line]


def read_json(file: Path) -> list[str] | dict[str, int]:
    """The tokens of a JSON file: an array, or a mapping from token to id."""
    try:
        found = json.loads(_read(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}") from None
    if isinstance(found, list) and all(isinstance(token, str) for token in found):
        return found
    if isinstance(found, dict) and all(type(i) is int for i in found.values()):
        return found
    raise UserError(f"{file} is neither an array of texts nor a mapping from texts to ids")


def listed(file: Path, end: int | None = None) -> CustomTokenizer:
    """The lines of a file as tokens 0, 1, 2 …; other text is refused."""
    tokens = _numbered(file, read_lines(file), 0)
    return CustomTokenizer(tokens, eot=None if end is None else len(tokens))


def with_bytes(file: Path, end: int | None = None) -> CustomTokenizer:
    """256 bytes, then the tokens of a file of lines."""
    tokens = _numbered(file, read_lines(file), 256)
    return CustomTokenizer(tokens, BYTES, eot=None if end is None else 256 + len(tokens))


def of_json(file: Path, end: int | None = None) -> CustomTokenizer:
    """256 bytes, then an array's tokens; or a mapping's tokens, then 256 bytes.

    A mapping that has `<0x00>` … `<0xFF>`, as SentencePiece names bytes, brings its own.
    """
    found = read_json(file)
    if isinstance(found, list):
        tokens, byte_ids = _numbered(file, found, 256), BYTES
    else:
        tokens = dict(found)
        named = [tokens.pop(f"<0x{value:02X}>", None) for value in BYTES]
        kept = tuple(i for i in named if i is not None)
        if len(kept) not in (0, 256):
            raise UserError(f"{file} names {len(kept)} bytes (<0x00> …): all 256, or none")
        first = max(tokens.values(), default=-1) + 1
        byte_ids = kept or tuple(range(first, first + 256))
    taken = max([*tokens.values(), *byte_ids])
    try:
        return CustomTokenizer(tokens, byte_ids, eot=None if end is None else taken + 1)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def shadowed(tokens: Iterable[str]) -> frozenset[str]:
    """Tokens that never match where the first of the list is taken: an earlier one begins them.

    Among the others the longest that fits is also the first that fits.
    """
    seen: set[str] = set()
    hidden: set[str] = set()
    for token in tokens:
        if any(token[:length] in seen for length in range(1, len(token))):
            hidden.add(token)
        seen.add(token)
    return frozenset(hidden)


def _numbered(file: Path, tokens: Sequence[str], first: int) -> dict[str, int]:
    if not tokens:
        raise UserError(f"{file} lists no token")
    found: dict[str, int] = {}
    for number, token in enumerate(tokens, start=1):
        if token in found:
            raise UserError(f"{file}: token {number} is there already: {token!r}")
        found[token] = first + number - 1
    return found


def _check(tokens: Mapping[str, int], taken: Sequence[int]) -> None:
    if not taken:
        raise UserError("a list of tokens needs at least one")
    if "" in tokens:
        raise UserError("a token without text cannot be written")
    if any(scrub(token) != token for token in tokens):
        raise UserError("a token holds half of a surrogate pair, which no text has")
    if min(taken) < 0 or max(taken) > LARGEST:
        raise UserError(f"ids lie from 0 to {LARGEST}, got {min(taken)} to {max(taken)}")
    if len(set(taken)) != len(taken):
        double = next(i for i, times in Counter(taken).items() if times > 1)
        raise UserError(f"id {double} is given twice")


def _lengths(tokens: Iterable[str]) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Lengths of tokens, longest first: by the first HEAD characters, and those below HEAD."""
    short: set[int] = set()
    by_head: dict[str, set[int]] = {}
    for token in tokens:
        if len(token) < HEAD:
            short.add(len(token))
        else:
            by_head.setdefault(token[:HEAD], set()).add(len(token))
    ordered = {head: tuple(sorted(found | short)[::-1]) for head, found in by_head.items()}
    return ordered, tuple(sorted(short)[::-1])


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8: byte {error.start}") from None


def _unescaped(line: str) -> str:
    return re.sub(r"\\[ntr\\]", lambda found: _ESCAPES[found[0]], line)
