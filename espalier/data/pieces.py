"""Text in pieces of bounded size, cut where no tokenizer's result depends on the cut.

A byte-pair pattern of the GPT family never joins a character that is no white space with a space
that follows it, so a cut between the two gives the same ids as no cut (and so does one behind a
single newline). Where a stretch of text has neither, the cut falls between two characters.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Protocol

Side = Literal["train", "val"]
PIECE = 1 << 20  # bytes
LOOK_BACK = 1 << 16

_BEFORE_SPACE = re.compile(rb"[\x21-\xff](?= [\x21-\xff])")
_BEHIND_NEWLINE = re.compile(rb"[\x21-\xff]\n(?=[\x21-\xff])")


class Mark(NamedTuple):
    """A place to go on from: the source's cursor, how far it is, and what was counted so far."""

    cursor: dict[str, Any]
    done: float
    tally: dict[str, int]


class Piece(NamedTuple):
    """A stretch of one document."""

    text: str
    key: int
    """The first 64 bits of the document's SHA-256."""
    at: int
    """Bytes of the document before this piece."""
    last: bool
    """Whether the document ends here."""
    mark: Mark | None
    """Where reading goes on after this piece; None where it cannot be taken up again."""
    side: Side | None = None
    """Where its source wants it; None: the split decides."""


class Source(Protocol):
    """Something that gives documents, always the same in the same order."""

    @property
    def one(self) -> bool:
        """A single document, split by position; otherwise many, split by their hashes."""
        ...

    @property
    def size(self) -> float | None:
        """The whole in `unit`s, the measure of `Mark.done`; None when nobody knows."""
        ...

    @property
    def unit(self) -> str: ...

    @property
    def text_bytes(self) -> int | None:
        """An upper estimate of the bytes of text, for the disk."""
        ...

    def identity(self) -> dict[str, Any]:
        """What it is, in JSON: equal identities give equal documents."""
        ...

    def read(self, cursor: dict[str, Any] | None, tally: Counter[str]) -> Iterator[Piece]:
        """The pieces after `cursor` (None: all of them); what is left out is counted in `tally`."""
        ...


def boundary(data: bytes) -> int:
    """Where to cut `data` so that the part before can be encoded alone; more text follows it."""
    tail = max(0, len(data) - LOOK_BACK)
    for pattern in (_BEFORE_SPACE, _BEHIND_NEWLINE):
        ends = [match.end() for match in pattern.finditer(data, tail)]
        if ends:
            return ends[-1]
    end = len(data) - 1
    while end > 0 and data[end] & 0xC0 == 0x80:
        end -= 1
    return end or len(data)
