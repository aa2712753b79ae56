"""Text files: one of any size as one document, or many, a document each."""

import codecs
import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from espalier.data import pieces
from espalier.data.pieces import Mark, Piece, boundary
from espalier.errors import UserError

Errors = Literal["strict", "replace"]
NOT_TEXT = {
    b"\x1f\x8b": "gzip data: unpack it first (gunzip); only .jsonl.gz is read packed",
    b"PK\x03\x04": "a zip archive (or a document of an office program): unpack or export the text",
    b"%PDF": "a PDF: extract its text first (pdftotext)",
    b"PAR1": "parquet: give the file the ending .parquet",
    b"\x28\xb5\x2f\xfd": "zstd data: unpack it first",
    b"BZh": "bzip2 data: unpack it first",
    b"\xfd7zXZ": "xz data: unpack it first",
    codecs.BOM_UTF16_LE: "UTF-16 (byte order mark at byte 0): convert it, iconv -f UTF-16 -t UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16 (byte order mark at byte 0): convert it, iconv -f UTF-16 -t UTF-8",
}


class Survey(NamedTuple):
    """One pass over a file: bytes, SHA-256, characters per piece, all blank?, bytes replaced."""

    size: int
    sha256: str
    counts: tuple[int, ...]
    blank: bool
    replaced: int


@dataclass(frozen=True)
class TextFiles:
    """Files, each a document, or one file that is the only document.

    `edges` are byte positions of the only document that no piece runs across.
    """

    files: tuple[Path, ...]
    root: Path
    facts: tuple[tuple[str, Any], ...]
    errors: Errors = "strict"
    one: bool = False
    edges: tuple[int, ...] = ()
    unit: str = "bytes"

    @cached_property
    def surveys(self) -> tuple[Survey, ...]:
        """Every file is read once before anything is written, so that a bad one costs nothing."""
        found = tuple(survey(file, self.errors) for file in self.files)
        if all(item.blank for item in found):
            what = "is empty" if not any(item.size for item in found) else "has only blank lines"
            place = self.files[0] if self.one else self.root
            raise UserError(f"{place} {what}: there is nothing to learn from")
        return found

    @cached_property
    def size(self) -> float:
        return float(sum(item.size for item in self.surveys))

    @property
    def on_disk(self) -> int:
        """Bytes of all files, without reading them."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def text_bytes(self) -> int:
        return int(self.size)

    def identity(self) -> dict[str, Any]:
        names = [file.relative_to(self.root).as_posix() for file in self.files]
        if self.one:
            sha256 = self.surveys[0].sha256
        else:
            lines = [f"{s.sha256} {name}\n" for s, name in zip(self.surveys, names, strict=True)]
            sha256 = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
        return dict(self.facts) | {
            "files": len(names),
            "bytes": int(self.size),
            "sha256": sha256,
        }

    def divided(self, fractions: Sequence[float]) -> "TextFiles":
        """The only document with edges at these fractions of its characters, rounded down."""
        counts = self.surveys[0].counts
        positions = [int(sum(counts) * fraction) for fraction in fractions]
        return replace(self, edges=tuple(self._byte_of(position) for position in positions))

    def read(self, cursor: dict[str, Any] | None, tally: Counter[str]) -> Iterator[Piece]:
        start = cursor or {"file": 0, "at": 0}
        before = float(sum(item.size for item in self.surveys[: start["file"]]))
        for index in range(start["file"], len(self.files)):
            found = self.surveys[index]
            at = start["at"] if index == start["file"] else 0
            if at == 0:
                tally.update(blank=int(found.blank), replaced=found.replaced)
            if not found.blank:
                yield from self._pieces(index, at, before, tally)
            before += found.size

    def _pieces(self, index: int, at: int, before: float, tally: Counter[str]) -> Iterator[Piece]:
        found = self.surveys[index]
        key = int(found.sha256[:16], 16)
        for begin, data in slices(self.files[index], at, self.edges):
            end = begin + len(data)
            last = end >= found.size
            place = {"file": index + 1, "at": 0} if last else {"file": index, "at": end}
            mark = Mark(place, before + end, dict(tally))
            yield Piece(data.decode("utf-8", self.errors), key, begin, last, mark)

    def _byte_of(self, position: int) -> int:
        """The byte at which character number `position` of the only document begins."""
        for (begin, data), count in zip(slices(self.files[0]), self.surveys[0].counts, strict=True):
            if position < count:
                return begin + int(np.flatnonzero(_starts(data))[position])
            position -= count
        return self.surveys[0].size


def slices(file: Path, at: int = 0, edges: Sequence[int] = ()) -> Iterator[tuple[int, bytes]]:
    """Bytes of a file from `at` on, with their positions, cut at `edges` and at safe places.

    A byte order mark at the beginning is left out.
    """
    with file.open("rb") as stream:
        if at == 0 and stream.read(3) == codecs.BOM_UTF8:
            at = 3
        stream.seek(at)
        while data := _next(stream, at, edges):
            yield at, data
            at += len(data)
            stream.seek(at)


def _next(stream: BinaryIO, at: int, edges: Sequence[int]) -> bytes:
    ahead = bisect_right(edges, at)
    room = edges[ahead] - at if ahead < len(edges) else pieces.PIECE
    data = stream.read(min(room, pieces.PIECE))
    if len(data) < pieces.PIECE or not stream.peek(1):  # type: ignore[attr-defined]
        return data
    return data[: boundary(data)]


def survey(file: Path, errors: Errors) -> Survey:
    """Read a text file once; UserError when it is not UTF-8, with the byte (unless replaced)."""
    check_kind(file)
    counts: list[int] = []
    whole = hashlib.sha256()
    blank, end, replaced = True, 0, 0
    try:
        for begin, data in slices(file):
            whole.update(data)
            counts.append(int(_starts(data).sum()))
            text = data.decode("utf-8", errors)
            blank = blank and not text.strip()
            replaced += text.count("\ufffd") - data.count("\ufffd".encode())
            end = begin + len(data)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8: byte {begin + error.start} is 0x{data[error.start]:02x}. "
            "Convert it (iconv -t UTF-8), or pass --errors replace to put U+FFFD there."
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    return Survey(end, whole.hexdigest(), tuple(counts), blank, replaced)


def check_kind(file: Path) -> None:
    """UserError for a file whose first bytes say that it is no text."""
    try:
        with file.open("rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    for magic, what in NOT_TEXT.items():
        if head.startswith(magic):
            raise UserError(f"{file} is {what}")


def _starts(data: bytes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which bytes begin a character."""
    starts: np.ndarray[Any, np.dtype[np.bool_]] = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    return starts
