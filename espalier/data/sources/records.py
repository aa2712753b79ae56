"""Documents that are fields of records: one field of each line, row or example."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from espalier.data import pieces
from espalier.data.pieces import Mark, Piece, boundary
from espalier.data.tokenizer.base import scrub
from espalier.errors import UserError

BadRecords = Literal["refuse", "skip"]
TEXT_KEY = "text"


@dataclass(frozen=True)
class Rule:
    """Which field is the text, and what happens to a record without usable text."""

    text_key: str = TEXT_KEY
    bad: BadRecords = "refuse"
    errors: Literal["strict", "replace"] = "strict"
    min_chars: int = 1
    """Documents with fewer characters, white space at both ends apart, are left out."""

    def text(self, record: Any, where: str, tally: Counter[str]) -> str | None:
        """The record's text; None when it is left out; UserError when it is unusable."""
        try:
            found = self._text(record, where, tally)
        except UserError:
            if self.bad == "refuse":
                raise
            tally["skipped"] += 1
            return None
        if len(found.strip()) < self.min_chars:
            tally["blank"] += 1
            return None
        return found

    def _text(self, record: Any, where: str, tally: Counter[str]) -> str:
        if not isinstance(record, Mapping):
            raise UserError(f"{where}: not a record but {_kind(record)} (--skip-bad leaves it out)")
        if self.text_key not in record:
            keys = ", ".join(map(str, record)) or "none"
            raise UserError(
                f"{where}: no '{self.text_key}'. Keys there: {keys}. Use --text-key KEY."
            )
        text = record[self.text_key]
        if not isinstance(text, str):
            raise UserError(
                f"{where}: '{self.text_key}' is {_kind(text)}, not text (--skip-bad leaves it out)"
            )
        clean = scrub(text)
        if clean != text:
            if self.errors == "strict":
                raise UserError(
                    f"{where}: half of a surrogate pair, which no UTF-8 can carry "
                    "(--errors replace puts U+FFFD there, --skip-bad leaves the record out)"
                )
            tally["replaced"] += clean.count("\ufffd") - text.count("\ufffd")
        return clean


def document(text: str, mark: Mark | None) -> Iterator[Piece]:
    """The pieces of a document held in memory; only the last can carry `mark`."""
    data = text.encode("utf-8")
    key = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
    if len(data) <= pieces.PIECE:
        yield Piece(text, key, 0, True, mark)
        return
    at = 0
    while len(data) - at > pieces.PIECE:
        end = at + boundary(data[at : at + pieces.PIECE])
        yield Piece(data[at:end].decode("utf-8"), key, at, False, None)
        at = end
    yield Piece(data[at:].decode("utf-8"), key, at, True, mark)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(
        type(value), "a mapping" if isinstance(value, Mapping) else type(value).__name__
    )
